"""Commands that predict."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from nnunetv2.cli.common import FIVE_FOLDS, add_device_flag, add_model_flags, add_trained_folds_flags, device_from_name, fold, make_parser, model_folder
from nnunetv2.utilities.cluster import add_scheduler_flag, workers_of
from nnunetv2.utilities.commands import real_number, run, whole_number


def _threads(value: str) -> int:
    """Of a flag or an environment variable: a whole number from 0."""
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} must be a whole number from 0 (flag or environment variable)")
    return int(value)


def _add_predict_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", required=True, help="folder of images, each CASE_0000.nii.gz and so on by channel, or (fork) of DICOM series")
    parser.add_argument("-o", required=True, help="folder for masks, and for the class csv files if the model classifies")
    parser.add_argument("-f", nargs="+", type=fold, default=FIVE_FOLDS, help="folds to ensemble")
    parser.add_argument("-step_size", type=real_number(0, 1, above=True), default=None, help="tile step as a fraction of the patch; default 0.5")
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring; same as --tta 1")
    parser.add_argument("--verbose", action="store_true", help="say more")
    parser.add_argument("--save_probabilities", action="store_true", help="also write softmax volumes (.npz) for ensembling")
    parser.add_argument("--continue_prediction", action="store_true", help="keep cases whose files are there and whole")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint name")
    parser.add_argument("-npp", type=_threads, default=os.environ.get("nnUNet_npp", "1"),
                        help="cases to preprocess ahead; 0: each in its turn; default: $nnUNet_npp, else 1")
    parser.add_argument("-nps", type=_threads, default=os.environ.get("nnUNet_nps", "1"),
                        help="exports that may run beside the network; 0: each in its turn, and with -npp 0 no threads at all; default: $nnUNet_nps, else 1")
    parser.add_argument("-prev_stage_predictions", default=None, help="folder with predictions of the previous cascade stage")
    parser.add_argument("-num_parts", type=whole_number(1), default=1, help="split the cases over this many machines")
    parser.add_argument("-part_id", type=whole_number(0), default=0, help="which part this machine does, from 0")
    add_scheduler_flag(parser)
    add_device_flag(parser)
    parser.add_argument("--disable_progress_bar", action="store_true", help="no progress bars")
    parser.add_argument("--not_on_device", action="store_true", help="keep image and logits in main memory; without this they lie on a GPU that has room for them")
    dicom = parser.add_argument_group('DICOM (fork); needs pip install -c constraints.txt -e ".[dicom]" in the repository')
    dicom.add_argument("--dicom_seg", action="store_true", help="write CASE_seg.dcm, a DICOM segmentation object, beside each mask; -i holds DICOM series")
    dicom.add_argument("--dicom_images", metavar="FOLDER", default=None, help="where series are kept as images; default: OUTPUT_images beside -o")
    fast = parser.add_argument_group("speed (fork)")
    fast.add_argument("--mode", choices=("exact", "half", "fast"), default="exact",
                      help="exact: upstream's result; half: the same in reduced precision; fast: boxes from a coarse pass, then windows that are mirrored in turn, in reduced precision")
    fast.add_argument("--precision", choices=("fp32", "half", "int8", "reduced"), default=None,
                      help="override the mode's precision. half: fp16, on a CPU bf16 or 16-bit integers; int8: CPU, after nnUNetv2_quantize; reduced: the fastest")
    fast.add_argument("--tta", type=int, choices=(8, 4, 2, 1), default=None, help="override the number of mirrored passes of each window")
    fast.add_argument("--tiling", choices=("windows", "whole"), default=None, help="override: windows, or a case at its exact size where it fits")
    fast.add_argument("--roi", choices=("none", "coarse"), default=None, help="override: whole volume, or boxes from a coarse pass")
    fast.add_argument("-roi_model", default=None, metavar="FOLDER", help="folder of a model of a coarser configuration of the same plans (3d_lowres), which "
                      "finds the boxes; without it the model itself looks at a coarser grid, which on whole abdomens finds much else as well")
    fast.add_argument("--engine", choices=("auto", "torch", "openvino", "winograd"), default="auto",
                      help="network engine; auto: on the CPU winograd (needs g++; fp32 or 16-bit integers), else OpenVINO if installed")


def _predict(parser: argparse.ArgumentParser, argv: Sequence[str] | None, find_model_folder: Callable[[argparse.Namespace], str]) -> None:
    args = parser.parse_args(argv)
    if args.disable_tta and args.tta not in (None, 1):
        parser.error(f"--disable_tta and --tta {args.tta} contradict each other")
    if args.scheduler is not None and args.num_parts > 1:
        parser.error("--scheduler divides the cases itself; leave -num_parts out")
    device = device_from_name(args.device)
    from nnunetv2.inference.predict_from_raw_data import run_prediction

    def go() -> int | None:
        settings = dict(
            input_folder=args.i, output_folder=args.o, model_folder=find_model_folder(args), folds=args.f, checkpoint=args.chk, mode=args.mode,
            precision=args.precision, tta=1 if args.disable_tta else args.tta, tiling=args.tiling, roi=args.roi, engine=args.engine, roi_model=args.roi_model,
            tile_step_size=args.step_size, save_probabilities=args.save_probabilities, overwrite=not args.continue_prediction,
            num_processes_preprocessing=args.npp, num_processes_segmentation_export=args.nps,
            folder_with_segs_from_prev_stage=args.prev_stage_predictions, num_parts=args.num_parts, part_id=args.part_id,
            device=device, verbose=args.verbose, allow_tqdm=not args.disable_progress_bar, dicom_seg=args.dicom_seg, dicom_images=args.dicom_images,
            perform_everything_on_device=not args.not_on_device)
        if args.scheduler is None:
            return run_prediction(**settings)
        from nnunetv2.inference.cluster_prediction import predict_on_workers

        with workers_of(args.scheduler):
            return predict_on_workers(settings)

    run(go)


def predict(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("predict", "Segment (and classify) a folder of images with a trained model of $nnUNet_results.",
                     "nnUNetv2_predict -i imagesTs -o out -d 777 -c 3d_fullres -p nnUNetResEncUNetMPlans -f 0 --mode fast")
    add_model_flags(parser)
    _add_predict_flags(parser)
    _predict(parser, argv, model_folder)


def predict_from_modelfolder(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("predict_from_modelfolder", "The same with the model's folder given; needs no environment variables.",
                     "nnUNetv2_predict_from_modelfolder -i imagesTs -o out -m nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres -f 0")
    parser.add_argument("-m", required=True, help="folder that holds plans.json, dataset.json and fold_X")
    _add_predict_flags(parser)
    _predict(parser, argv, lambda args: args.m)


def quantize(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("quantize", "(fork) Prepare a trained model for int8 on CPUs with VNNI. --mode half and fast then use it on those without AVX-512 and AMX; "
                     "others take 16 bits, and int8 with --precision int8 alone. Ranges come from the fold's preprocessed training cases. Run it again after training or refitting. Needs the packages openvino and nncf.",
                     "nnUNetv2_quantize -d 777 -c 3d_fullres -f 0 -p nnUNetResEncUNetMPlans")
    add_trained_folds_flags(parser)
    parser.add_argument("-n", type=whole_number(1), default=8, help="training cases that show the ranges")
    args = parser.parse_args(argv)

    def every_fold() -> None:
        try:
            from nnunetv2.inference.quantization import quantise_model

            for fold in args.f:
                quantise_model(model_folder(args), fold, args.chk, args.n)
        except ModuleNotFoundError as error:
            sys.exit(f"error: nnUNetv2_quantize needs a package that is not installed ({error}); pip install openvino nncf")

    run(every_fold)


def serve(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("serve", "(fork) Keep a model in memory and segment images that are sent to it over HTTP; a page to drop a file on is at its address. For this "
                         "machine alone, unless --host and the environment variable nnUNet_serve_token say otherwise. Needs fastapi and uvicorn.",
                         "nnUNetv2_serve -m nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres -f 0 --mode half --jobs jobs")
    parser.add_argument("-m", required=True, help="folder that holds plans.json, dataset.json and fold_X")
    parser.add_argument("-f", nargs="+", type=fold, default=None, help="folds to ensemble; default: all that are there")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint name")
    add_device_flag(parser)
    parser.add_argument("--mode", choices=("exact", "half", "fast"), default="exact", help="as nnUNetv2_predict has it")
    parser.add_argument("--engine", choices=("auto", "torch", "openvino", "winograd"), default="auto", help="network engine")
    parser.add_argument("--jobs", required=True, metavar="FOLDER", help="where images, masks and results are kept; finished jobs are there after a restart")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=whole_number(1, 65535), default=8765, help="port to listen on")
    parser.add_argument("--max_waiting", type=whole_number(1), default=32, help="images that may wait; more are turned away")
    parser.add_argument("--keep", type=whole_number(1), default=1000, help="finished jobs that are kept; older ones are deleted")
    parser.add_argument("--max_mib", type=whole_number(1), default=1024, help="largest file taken, in MiB")
    args = parser.parse_args(argv)
    device = device_from_name(args.device)

    def go() -> None:
        try:
            from nnunetv2.inference.serving.app import checked_token, serve_model
        except ModuleNotFoundError as error:
            sys.exit(f"error: nnUNetv2_serve needs a package that is not installed ({error}); pip install fastapi uvicorn")
        checked_token(args.host, os.environ.get("nnUNet_serve_token") or None)  # before the model is loaded
        serve_model(args.m, args.f, args.chk, device, args.mode, args.engine, args.jobs, args.host, args.port, args.max_waiting, args.keep, args.max_mib * 2**20)

    run(go)
