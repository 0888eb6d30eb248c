"""Fingerprint, plan and preprocess datasets, as the commands do it.

    extract_fingerprints([777], check_dataset_integrity=True)
    plans = plan_experiments([777], "nnUNetPlannerResEncM")
    preprocess([777], plans, ["3d_fullres"])
"""

from collections.abc import Sequence

from nnunetv2 import paths
from nnunetv2.experiment_planning.dataset_fingerprint import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.dataset_integrity import verify_dataset_integrity
from nnunetv2.experiment_planning.experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.planners import planner_by_name
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.safe_names import plain_name


def extract_fingerprints(dataset_ids: Sequence[int | str], fingerprint_extractor_class_name: str = "DatasetFingerprintExtractor",
                         num_processes: int | None = None, check_dataset_integrity: bool = False, clean: bool = True, verbose: bool = False,
                         show_progress_bar: bool = True) -> None:
    """Write each dataset's fingerprint; an existing one is recomputed only with `clean`.

    fingerprint_extractor_class_name: DatasetFingerprintExtractor. The last argument is upstream's and has no effect.
    """
    if fingerprint_extractor_class_name != DatasetFingerprintExtractor.__name__:
        raise ValueError(f"There is no fingerprint extractor {fingerprint_extractor_class_name!r}; known is {DatasetFingerprintExtractor.__name__}.")
    for dataset in map(maybe_convert_to_dataset_name, dataset_ids):
        if check_dataset_integrity:
            verify_dataset_integrity(paths.nnUNet_raw / dataset, num_processes)
        DatasetFingerprintExtractor(dataset, num_processes, verbose).run(overwrite_existing=clean)


def plan_experiments(dataset_ids: Sequence[int | str], experiment_planner_class_name: str = "ExperimentPlanner",
                     gpu_memory_target_in_gb: float | None = None, preprocess_class_name: str = "DefaultPreprocessor",
                     overwrite_target_spacing: Sequence[float] | None = None, overwrite_plans_name: str | None = None) -> str:
    """Plan each dataset from its fingerprint. Returns the plans' identifier, the file name without .json.

    `overwrite_target_spacing` (z y x, mm) is that of 3d_fullres; the other configurations follow from it.
    """
    if not dataset_ids:
        raise ValueError("No dataset was given.")
    for dataset in map(maybe_convert_to_dataset_name, dataset_ids):
        planner = make_planner(planner_by_name(experiment_planner_class_name), dataset, gpu_memory_target_in_gb, preprocess_class_name,
                               overwrite_target_spacing, overwrite_plans_name)
        plans = PlansManager(planner.plan_experiment())
        print(f"{dataset}, {planner.plans_identifier}:")
        for name in plans.available_configurations:
            configuration = plans.get_configuration(name)
            print(f"  {name:20s} patch {'x'.join(map(str, configuration.patch_size))}, batch {configuration.batch_size}, "
                  f"{len(configuration.pool_op_kernel_sizes)} stages, spacing {' x '.join(f'{mm:.4g}' for mm in configuration.spacing)} mm")
    return planner.plans_identifier


def make_planner(planner: type[ExperimentPlanner], dataset: int | str, gpu_memory_target_in_gb: float | None = None,
                 preprocess_class_name: str = "DefaultPreprocessor", overwrite_target_spacing: Sequence[float] | None = None,
                 overwrite_plans_name: str | None = None) -> ExperimentPlanner:
    """A planner of a dataset. Memory and name are handed over only where they are given, so that the planner's own defaults count, as in nnU-Net."""
    given = {"gpu_memory_target_in_gb": gpu_memory_target_in_gb, "plans_name": overwrite_plans_name}
    return planner(dataset, preprocessor_name=preprocess_class_name, overwrite_target_spacing=overwrite_target_spacing, suppress_transpose=False,
                   **{name: value for name, value in given.items() if value is not None})


def preprocess(dataset_ids: Sequence[int | str], plans_identifier: str = "nnUNetPlans",
               configurations: Sequence[str] = ("2d", "3d_fullres", "3d_lowres"), num_processes: int | Sequence[int] | None = None,
               verbose: bool = False, show_progress_bar: bool = True) -> None:
    """Preprocess every configuration that the plans have; others are named and left out.

    `num_processes`: one number, one a configuration, or None for the default.
    """
    counts = [num_processes] if num_processes is None or isinstance(num_processes, int) else list(num_processes)
    if len(counts) == 1:
        counts *= len(configurations)
    if len(counts) != len(configurations):
        raise ValueError(f"{len(counts)} process counts {counts} for {len(configurations)} configurations {list(configurations)}; "
                         "give one, or one a configuration.")
    for dataset in map(maybe_convert_to_dataset_name, dataset_ids):
        path = paths.nnUNet_preprocessed / dataset / f"{plain_name(plans_identifier, 'plans', '-plans_name')}.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. Run nnUNetv2_plan_experiment -d {dataset} first.")
        plans = PlansManager(path)
        if not set(configurations) & set(plans.available_configurations):
            raise InputError(f"{path} has none of the configurations {', '.join(configurations)}; it has {', '.join(plans.available_configurations) or 'none'}. Choose with -c.")
        for name, count in zip(configurations, counts):
            if name not in plans.available_configurations:
                print(f"{dataset}: {plans_identifier} has no configuration {name}; left out.")
                continue
            preprocessor = plans.get_configuration(name).preprocessor_class(verbose=verbose)
            preprocessor.run(dataset, name, plans_identifier, count)
