"""Commands that plan and preprocess."""

import argparse
import os
from collections.abc import Sequence

from nnunetv2.cli.common import make_parser, processes
from nnunetv2.utilities.cluster import add_scheduler_flag, workers_of
from nnunetv2.utilities.commands import real_number, run

PLANNERS = "ExperimentPlanner, nnUNetPlannerResEncM, nnUNetPlannerResEncL, nnUNetPlannerResEncXL, or one below nnunetv2/experiment_planning"


def _add_dataset_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", nargs="+", required=True, metavar="ID", help="dataset ids or names, e.g. 777 or Dataset777_PancreasCT")


def _add_fingerprint_flags(parser: argparse.ArgumentParser, processes_flag: str) -> None:
    parser.add_argument("-fpe", default="DatasetFingerprintExtractor", choices=["DatasetFingerprintExtractor"], help="fingerprint extractor; there is one, the flag is kept for scripts")
    parser.add_argument(processes_flag, type=processes, default=None, help="processes for the fingerprint; default: one a core")
    parser.add_argument("--verify_dataset_integrity", action="store_true", help="check files, geometry and labels first; lists every bad case")
    parser.add_argument("--clean", action="store_true", help="recompute an existing fingerprint")


def _add_planner_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-pl", default="ExperimentPlanner", help=f"planner: {PLANNERS}")
    parser.add_argument("-gpu_memory_target", type=real_number(0, above=True), default=None, help="GPU memory the plan may use, GB; default: the planner's own")
    parser.add_argument("-preprocessor_name", default="DefaultPreprocessor", help="preprocessor named in the plans")
    parser.add_argument("-overwrite_target_spacing", nargs=3, type=real_number(0, above=True), default=None, metavar=("Z", "Y", "X"),
                        help="spacing of 3d_fullres, mm, in array order")
    parser.add_argument("-overwrite_plans_name", default=None, help="name of the plans, so that changed settings do not overwrite the default")


def _add_preprocess_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", nargs="+", default=["2d", "3d_fullres", "3d_lowres"], help="configurations; those the plans lack are left out")
    parser.add_argument("-np", nargs="+", type=processes, default=None, help="processes: one number, or one a configuration; default: one a core")


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="say more")
    parser.add_argument("--no_pbar", action="store_true", help="no progress bars")


def _quiet(args: argparse.Namespace) -> None:
    """tqdm reads this variable; set before it is imported."""
    if args.no_pbar:
        os.environ["TQDM_DISABLE"] = "1"


def extract_fingerprint(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("extract_fingerprint", "Spacings, shapes and foreground intensities of a raw dataset.", "nnUNetv2_extract_fingerprint -d 777")
    _add_dataset_ids(parser)
    _add_fingerprint_flags(parser, "-np")
    add_scheduler_flag(parser)
    _add_verbosity(parser)
    args = parser.parse_args(argv)
    _quiet(args)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    def extract() -> None:
        with workers_of(args.scheduler, args.np):
            api.extract_fingerprints(args.d, num_processes=args.np, check_dataset_integrity=args.verify_dataset_integrity, clean=args.clean, verbose=args.verbose)

    run(extract)


def plan_experiment(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("plan_experiment", "Plans (patch, topology, spacing) from a fingerprint.",
                     "nnUNetv2_plan_experiment -d 777 -pl nnUNetPlannerResEncM")
    _add_dataset_ids(parser)
    _add_planner_flags(parser)
    args = parser.parse_args(argv)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    run(api.plan_experiments, args.d, args.pl, args.gpu_memory_target, args.preprocessor_name,
         args.overwrite_target_spacing, args.overwrite_plans_name)


def preprocess(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("preprocess", "Crop, normalise and resample every case. Cases already done are kept.",
                     "nnUNetv2_preprocess -d 777 -plans_name nnUNetResEncUNetMPlans -c 3d_fullres")
    _add_dataset_ids(parser)
    parser.add_argument("-plans_name", default="nnUNetPlans", help="plans to use")
    _add_preprocess_flags(parser)
    add_scheduler_flag(parser)
    _add_verbosity(parser)
    args = parser.parse_args(argv)
    _quiet(args)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    def every_configuration() -> None:
        with workers_of(args.scheduler, max(args.np) if args.np else None):
            api.preprocess(args.d, args.plans_name, args.c, args.np, args.verbose)

    run(every_configuration)


def plan_and_preprocess(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("plan_and_preprocess", "Fingerprint, plans and preprocessing in one go.",
                     "nnUNetv2_plan_and_preprocess -d 777 -pl nnUNetPlannerResEncM -c 3d_fullres --verify_dataset_integrity")
    _add_dataset_ids(parser)
    _add_fingerprint_flags(parser, "-npfp")
    parser.add_argument("--no_pp", action="store_true", help="stop after planning")
    _add_planner_flags(parser)
    _add_preprocess_flags(parser)
    add_scheduler_flag(parser)
    _add_verbosity(parser)
    args = parser.parse_args(argv)
    _quiet(args)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    def everything() -> None:
        with workers_of(args.scheduler, max(args.np) if args.np else args.npfp):
            api.extract_fingerprints(args.d, num_processes=args.npfp, check_dataset_integrity=args.verify_dataset_integrity, clean=args.clean, verbose=args.verbose)
            plans_name = api.plan_experiments(args.d, args.pl, args.gpu_memory_target, args.preprocessor_name,
                                              args.overwrite_target_spacing, args.overwrite_plans_name)
            if not args.no_pp:
                api.preprocess(args.d, plans_name, args.c, args.np, args.verbose)

    run(everything)
