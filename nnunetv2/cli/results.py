"""Commands that evaluate, ensemble, post-process, share and draw."""

import os
from collections.abc import Sequence

from nnunetv2.cli.common import FIVE_FOLDS, fold, make_parser, processes
from nnunetv2.utilities.cluster import add_scheduler_flag, workers_of
from nnunetv2.utilities.commands import real_number, run, whole_number


def evaluate_folder(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("evaluate_folder", "summary.json for a folder of predictions, with labels read from dataset.json.",
                         "nnUNetv2_evaluate_folder labelsTs out -djfile dataset.json -pfile plans.json")
    parser.add_argument("gt_folder", help="reference masks")
    parser.add_argument("pred_folder", help="predicted masks")
    parser.add_argument("-djfile", required=True, help="dataset.json")
    parser.add_argument("-pfile", required=True, help="plans.json")
    parser.add_argument("-o", default=None, help="output file; default: pred_folder/summary.json")
    parser.add_argument("-np", type=processes, default=None, help="processes; default: one a core")
    parser.add_argument("--chill", action="store_true", help="missing predictions are left out instead of refused")
    add_scheduler_flag(parser)
    args = parser.parse_args(argv)
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2

    def evaluate() -> None:
        with workers_of(args.scheduler, args.np):
            folders = args.gt_folder, args.pred_folder
            if args.scheduler is not None:  # its workers have folders of their own
                folders = tuple(map(os.path.abspath, folders))
            compute_metrics_on_folder2(*folders, args.djfile, args.pfile, args.o, args.np, chill=args.chill)

    run(evaluate)


def evaluate_simple(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("evaluate_simple", "summary.json for a folder of predictions, with labels given by hand.",
                         "nnUNetv2_evaluate_simple labelsTs out -l 1 2", names_classes=False)
    parser.add_argument("gt_folder", help="reference masks")
    parser.add_argument("pred_folder", help="predicted masks")
    parser.add_argument("-l", nargs="+", type=whole_number(0), required=True, help="labels to score")
    parser.add_argument("-il", type=whole_number(0), default=None, help="ignore label")
    parser.add_argument("-o", default=None, help="output file; default: pred_folder/summary.json")
    parser.add_argument("-np", type=processes, default=None, help="processes; default: one a core")
    parser.add_argument("--chill", action="store_true", help="missing predictions are left out instead of refused")
    args = parser.parse_args(argv)
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple

    run(compute_metrics_on_folder_simple, args.gt_folder, args.pred_folder, args.l, output_file=args.o, num_processes=args.np, ignore_label=args.il,
        chill=args.chill)


def find_best_configuration(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("find_best_configuration", "Compare cross-validated configurations and their ensembles; decide on postprocessing.",
                         "nnUNetv2_find_best_configuration 777 -p nnUNetResEncUNetMPlans -c 3d_fullres -f 1 2 3 4 5")
    parser.add_argument("dataset_name_or_id", help="dataset id or name")
    parser.add_argument("-p", nargs="+", default=["nnUNetPlans"], help="plans names")
    parser.add_argument("-c", nargs="+", default=["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"], help="configurations; untrained ones are left out")
    parser.add_argument("-tr", nargs="+", default=["nnUNetTrainer"], help="trainers")
    parser.add_argument("-np", type=processes, default=None, help="processes; default: one a core")
    parser.add_argument("-f", nargs="+", type=fold, default=FIVE_FOLDS, help="folds")
    parser.add_argument("--disable_ensembling", action="store_true", help="single models only")
    parser.add_argument("--no_overwrite", action="store_true", help="keep accumulated results that are already there")
    parser.add_argument("--by_training_cases", action="store_true", help="(fork) let -f all choose, whose scores are of its training cases")
    args = parser.parse_args(argv)
    from nnunetv2.evaluation.find_best_configuration import find_best_configuration as find

    models = [{"plans": p, "configuration": c, "trainer": t} for t in args.tr for c in args.c for p in args.p]
    run(find, args.dataset_name_or_id, models, allow_ensembling=not args.disable_ensembling, num_processes=args.np,
        overwrite=not args.no_overwrite, folds=args.f, by_training_cases=args.by_training_cases)


def accumulate_crossval_results(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("accumulate_crossval_results", "Gather the folds' validation masks into one folder and score them together.",
                         "nnUNetv2_accumulate_crossval_results 777 -c 3d_fullres -p nnUNetResEncUNetMPlans -f 1 2 3 4 5")
    parser.add_argument("dataset_name_or_id", help="dataset id or name")
    parser.add_argument("-c", required=True, help="configuration")
    parser.add_argument("-o", default=None, help="output folder; default: inside the model's folder")
    parser.add_argument("-f", nargs="+", type=fold, default=FIVE_FOLDS, help="folds")
    parser.add_argument("-p", default="nnUNetPlans", help="plans name")
    parser.add_argument("-tr", default="nnUNetTrainer", help="trainer")
    args = parser.parse_args(argv)
    from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
    from nnunetv2.utilities.dataset_files import get_output_folder

    def go() -> None:
        trained = get_output_folder(args.dataset_name_or_id, args.tr, args.p, args.c)
        accumulate_cv_results(trained, args.o or trained / f"crossval_results_folds_{'_'.join(map(str, args.f))}", args.f)

    run(go)


def ensemble(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("ensemble", "Average the probabilities of several predictions (made with --save_probabilities).",
                         "nnUNetv2_ensemble -i out_a out_b -o out_ensemble")
    parser.add_argument("-i", nargs="+", required=True, help="prediction folders")
    parser.add_argument("-o", required=True, help="output folder")
    parser.add_argument("-np", type=processes, default=None, help="processes; default: one a core")
    parser.add_argument("--save_npz", action="store_true", help="also keep the averaged probabilities")
    args = parser.parse_args(argv)
    from nnunetv2.ensembling.ensemble import ensemble_folders

    run(ensemble_folders, args.i, args.o, save_merged_probabilities=args.save_npz, num_processes=args.np)


def determine_postprocessing(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("determine_postprocessing", "Decide by measurement for which labels only the largest component is kept.",
                         "nnUNetv2_determine_postprocessing -i crossval_results -ref labelsTr")
    parser.add_argument("-i", required=True, help="folder of predictions")
    parser.add_argument("-ref", required=True, help="folder of reference masks")
    parser.add_argument("-plans_json", default=None, help="plans.json; default: the one in -i")
    parser.add_argument("-dataset_json", default=None, help="dataset.json; default: the one in -i")
    parser.add_argument("-np", type=processes, default=None, help="processes; default: one a core")
    parser.add_argument("--remove_postprocessed", action="store_true", help="delete the post-processed masks afterwards")
    args = parser.parse_args(argv)
    from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing as determine

    run(determine, args.i, args.ref, plans_file_or_dict=args.plans_json, dataset_json_file_or_dict=args.dataset_json, num_processes=args.np,
        keep_postprocessed_files=not args.remove_postprocessed)


def apply_postprocessing(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("apply_postprocessing", "Apply a decided postprocessing to a folder of masks.",
                         "nnUNetv2_apply_postprocessing -i out -o out_pp -pp_pkl_file postprocessing.json")
    parser.add_argument("-i", required=True, help="folder of masks")
    parser.add_argument("-o", required=True, help="output folder")
    parser.add_argument("-pp_pkl_file", required=True, help="postprocessing.json of this fork, or upstream's postprocessing.pkl")
    parser.add_argument("-np", type=processes, default=None, help="processes; default: one a core")
    parser.add_argument("-plans_json", default=None, help="plans.json; default: the one in -i")
    parser.add_argument("-dataset_json", default=None, help="dataset.json; default: the one in -i")
    args = parser.parse_args(argv)
    from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing_to_folder

    run(apply_postprocessing_to_folder, args.i, args.o, args.pp_pkl_file, plans_file_or_dict=args.plans_json,
        dataset_json_file_or_dict=args.dataset_json, num_processes=args.np)


def export_model_to_zip(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("export_model_to_zip", "Pack trained models into one zip file.",
                         "nnUNetv2_export_model_to_zip -d 777 -o pancreas.zip -c 3d_fullres -p nnUNetResEncUNetMPlans -f 0", names_classes=False)
    parser.add_argument("-d", required=True, help="dataset id or name")
    parser.add_argument("-o", required=True, help="zip file to write")
    parser.add_argument("-c", nargs="+", default=["3d_lowres", "3d_fullres", "2d", "3d_cascade_fullres"], help="configurations")
    parser.add_argument("-tr", default="nnUNetTrainer", help="trainer")
    parser.add_argument("-p", default="nnUNetPlans", help="plans name")
    parser.add_argument("-f", nargs="+", type=fold, default=FIVE_FOLDS, help="folds")
    parser.add_argument("-chk", nargs="+", default=["checkpoint_final.pth"], help="checkpoints")
    parser.add_argument("--not_strict", action="store_true", help="leave out what is missing instead of refusing")
    parser.add_argument("--exp_cv_preds", action="store_true", help="pack the cross-validation predictions too")
    args = parser.parse_args(argv)
    from nnunetv2.model_sharing.model_export import export_pretrained_model

    run(export_pretrained_model, args.d, args.o, args.c, args.tr, args.p, args.f, strict=not args.not_strict,
        save_checkpoints=args.chk, export_crossval_predictions=args.exp_cv_preds)


def install_pretrained_model_from_zip(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("install_pretrained_model_from_zip", "Unpack a model zip into $nnUNet_results.",
                         "nnUNetv2_install_pretrained_model_from_zip pancreas.zip", names_classes=False)
    parser.add_argument("zip", help="zip file")
    args = parser.parse_args(argv)
    from nnunetv2.model_sharing.model_import import install_model_from_zip_file

    run(install_model_from_zip_file, args.zip)


def plot_overlay_pngs(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("plot_overlay_pngs", "One PNG a case: the slice with most foreground, labels in colour. Spacing is not shown.",
                         "nnUNetv2_plot_overlay_pngs -d 777 -o overlays --use_raw")
    parser.add_argument("-d", required=True, help="dataset id or name")
    parser.add_argument("-o", required=True, help="output folder")
    parser.add_argument("-np", type=processes, default=None, help="processes; default: one a core")
    parser.add_argument("-channel_idx", type=whole_number(0), default=0, help="image channel to show")
    parser.add_argument("--use_raw", action="store_true", help="draw raw instead of preprocessed cases")
    parser.add_argument("-p", default="nnUNetPlans", help="plans name, for preprocessed cases")
    parser.add_argument("-c", default=None, help="configuration, for preprocessed cases; default: 3d_fullres, else 2d")
    parser.add_argument("-overlay_intensity", type=real_number(0, 1), default=0.6, help="0 image only, 1 opaque labels")
    args = parser.parse_args(argv)
    from nnunetv2.utilities import overlay_plots

    if args.use_raw:
        run(overlay_plots.generate_overlays_from_raw, args.d, args.o, num_processes=args.np, channel_idx=args.channel_idx,
            overlay_intensity=args.overlay_intensity)
    else:
        run(overlay_plots.generate_overlays_from_preprocessed, args.d, args.o, num_processes=args.np, channel_idx=args.channel_idx,
            configuration=args.c, plans_identifier=args.p, overlay_intensity=args.overlay_intensity)


def verify(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("verify", "(fork) Compare a folder with its manifest: a trained model, predictions, a preprocessed or converted dataset, or the "
                         "results of a run. Says what fits and what does not; exit status 1 on any misfit.", "nnUNetv2_verify results/fold0")
    parser.add_argument("folder", help="folder to check")
    args = parser.parse_args(argv)
    from nnunetv2.verification import report

    run(report, args.folder)
