"""Commands that bring datasets and models in from elsewhere."""

from collections.abc import Sequence

from nnunetv2.cli.common import make_parser, processes
from nnunetv2.utilities.commands import run, whole_number


def convert_MSD_dataset(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("convert_MSD_dataset", "Convert a Medical Segmentation Decathlon dataset into nnUNet_raw.",
                         "nnUNetv2_convert_MSD_dataset -i Downloads/Task04_Hippocampus", names_classes=False)
    parser.add_argument("-i", required=True, help="unpacked Decathlon folder with dataset.json, imagesTr, labelsTr")
    parser.add_argument("-overwrite_id", type=whole_number(1, 999), default=None, help="number of the new dataset; default: that of the task, from the folder's name")
    parser.add_argument("-np", type=processes, default=None, help="files converted at a time; default: one a core")
    args = parser.parse_args(argv)
    from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset

    def go() -> None:
        convert_msd_dataset(args.i, args.overwrite_id, args.np)

    run(go)


def convert_old_nnUNet_dataset(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("convert_old_nnUNet_dataset", "Convert a raw dataset of nnU-Net v1 into nnUNet_raw.",
                         "nnUNetv2_convert_old_nnUNet_dataset nnUNet_raw_data/Task005_Prostate Dataset005_Prostate", names_classes=False)
    parser.add_argument("input_folder", help="folder of the old task, with imagesTr, labelsTr and dataset.json")
    parser.add_argument("output_dataset_name", help="name of the new dataset, DatasetXXX_Name")
    args = parser.parse_args(argv)
    from nnunetv2.dataset_conversion.convert_raw_dataset_from_old_nnunet_format import convert

    run(convert, args.input_folder, args.output_dataset_name)


def move_plans_between_datasets(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("move_plans_between_datasets", "Copy plans from one dataset to another, for pretraining and fine-tuning.",
                         "nnUNetv2_move_plans_between_datasets -s 4 -t 777 -sp nnUNetPlans -tp nnUNetPlansFrom4")
    parser.add_argument("-s", required=True, help="dataset that has the plans, id or name")
    parser.add_argument("-t", required=True, help="dataset that gets them, id or name")
    parser.add_argument("-sp", required=True, help="plans to copy, the file's name without .json")
    parser.add_argument("-tp", default=None, help="their name at the target; default: the same")
    args = parser.parse_args(argv)
    from nnunetv2.experiment_planning.move_plans import move_plans_between_datasets as move

    run(move, args.s, args.t, args.sp, args.tp)


def download_pretrained_model_by_url(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("download_pretrained_model_by_url", "Download a packed model and install it into nnUNet_results. Mind the licence of the data "
                         "that it was trained on.", "nnUNetv2_download_pretrained_model_by_url https://example.org/model.zip --sha256 9f86d081...", names_classes=False)
    parser.add_argument("url", help="http or https address of the zip file")
    parser.add_argument("--sha256", default=None, help="(fork) refuse a file with another checksum")
    args = parser.parse_args(argv)
    from nnunetv2.model_sharing.model_download import download_and_install_from_url

    run(download_and_install_from_url, args.url, args.sha256)
