"""Planning and preprocessing with nnU-Net's signatures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunetv2 import paths
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.experiment_planning.dataset_fingerprint import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.dataset_integrity import verify_dataset_integrity
from nnunetv2.experiment_planning.experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.network_topology import plan_topology
from nnunetv2.preprocessing.cropping import fill_holes
from nnunetv2.preprocessing.resampling import compute_new_shape, low_resolution_axis, resample_data_or_seg_to_shape
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name


def get_shape_must_be_divisible_by(net_numpool_per_axis: Sequence[int]) -> np.ndarray:
    """2 ** poolings of each axis."""
    return 2 ** np.array(net_numpool_per_axis)


def pad_shape(shape: Sequence[int], must_be_divisible_by: int | Sequence[int]) -> np.ndarray:
    """The next larger sizes that are divisible, one divisor for all axes or one an axis."""
    divisor = np.broadcast_to(np.asarray(must_be_divisible_by, int), len(shape))
    return -(-np.asarray(shape, int) // divisor) * divisor


def get_pool_and_conv_props(spacing: Sequence[float], patch_size: Sequence[int], min_feature_map_size: int, max_numpool: float) -> tuple:
    """(poolings an axis, strides a stage, kernels a stage, patch size, divisors) of a U-Net for a patch at `spacing`. Poolings are not limited:
    max_numpool must be at least what the sizes allow."""
    topology = plan_topology(spacing, patch_size, min_feature_map_size)
    n_pool = [divisor.bit_length() - 1 for divisor in topology.divisor]
    if max(n_pool) > max_numpool:
        raise ValueError(f"{max(n_pool)} poolings fit this patch, max_numpool is {max_numpool}; raise min_feature_map_size instead.")
    return n_pool, topology.strides, topology.kernel_sizes, topology.patch_size, np.array(topology.divisor)


def extract_fingerprint_dataset(dataset_id: int | str, fingerprint_extractor_class: type = DatasetFingerprintExtractor, num_processes: int | None = None,
                                check_dataset_integrity: bool = False, clean: bool = True, verbose: bool = True, show_progress_bar: bool = True) -> dict:
    """Fingerprint of one dataset, by an extractor of one's own if wanted."""
    dataset = maybe_convert_to_dataset_name(dataset_id)
    if check_dataset_integrity:
        verify_dataset_integrity(paths.nnUNet_raw / dataset, num_processes)
    return fingerprint_extractor_class(dataset, num_processes, verbose).run(overwrite_existing=clean)


def plan_experiment_dataset(dataset_id: int | str, experiment_planner_class: type[ExperimentPlanner] = ExperimentPlanner,
                            gpu_memory_target_in_gb: float | None = None, preprocess_class_name: str = "DefaultPreprocessor",
                            overwrite_target_spacing: Sequence[float] | None = None, overwrite_plans_name: str | None = None) -> tuple[dict, str]:
    """(plans, their identifier) of one dataset, by a planner of one's own if wanted."""
    planner = api.make_planner(experiment_planner_class, dataset_id, gpu_memory_target_in_gb, preprocess_class_name, overwrite_target_spacing, overwrite_plans_name)
    return planner.plan_experiment(), planner.plans_identifier


def preprocess_dataset(dataset_id: int | str, plans_identifier: str = "nnUNetPlans", configurations: Sequence[str] = ("2d", "3d_fullres", "3d_lowres"),
                       num_processes: int | Sequence[int] | None = None, verbose: bool = False, show_progress_bar: bool = True) -> None:
    """Preprocess one dataset."""
    api.preprocess([dataset_id], plans_identifier, configurations, num_processes, verbose)


def create_nonzero_mask(data: np.ndarray) -> np.ndarray:
    """(C, Z, Y, X) -> (Z, Y, X) bool: where any channel is not zero, holes filled."""
    return fill_holes((data != 0).any(0))


def get_do_separate_z(spacing: Sequence[float], anisotropy_threshold: float = ANISO_THRESHOLD) -> bool:
    """Whether the slices are so thick that they are resampled on their own."""
    return bool(max(spacing) / min(spacing) > anisotropy_threshold)


def get_lowres_axis(new_spacing: Sequence[float]) -> np.ndarray:
    """The coarsest axes."""
    return np.flatnonzero(np.asarray(new_spacing) == max(new_spacing))


def determine_do_sep_z_and_axis(force_separate_z: bool | None, current_spacing: Sequence[float], new_spacing: Sequence[float],
                                separate_z_anisotropy_threshold: float = ANISO_THRESHOLD) -> tuple[bool, int | None]:
    """(whether an axis is resampled on its own, that axis or None)."""
    axis = low_resolution_axis(current_spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    return axis is not None, axis


def resample_data_or_seg_to_spacing(data: np.ndarray, current_spacing: Sequence[float], new_spacing: Sequence[float], is_seg: bool = False,
                                    order: int = 3, order_z: int = 0, force_separate_z: bool | None = False,
                                    separate_z_anisotropy_threshold: float = ANISO_THRESHOLD) -> np.ndarray:
    """(C, Z, Y, X) on the grid of `new_spacing`; see resample_data_or_seg_to_shape."""
    shape = compute_new_shape(data.shape[1:], current_spacing, new_spacing)
    return resample_data_or_seg_to_shape(data, shape, current_spacing, new_spacing, is_seg, order, order_z, force_separate_z, separate_z_anisotropy_threshold)


def resample_data_or_seg(data: np.ndarray, new_shape: Sequence[int], is_seg: bool = False, axis: int | None = None, order: int = 3,
                         do_separate_z: bool = False, order_z: int = 0, dtype_out: Any = None) -> np.ndarray:
    """(C, Z, Y, X) -> (C, *new_shape), with `do_separate_z` slice by slice along `axis`; see resample_data_or_seg_to_shape.

    dtype_out: of the result, by default that of `data`. Data of the right shape come back as they are. ValueError when `do_separate_z`
    comes without an axis, and for segmentations of another order than 0 or 1, or of an order_z but 0.
    """
    if do_separate_z and axis not in (0, 1, 2):
        raise ValueError(f"do_separate_z needs the axis along which slices are thick, 0, 1 or 2; got {axis}.")
    if data.shape[1:] == tuple(new_shape):
        return data
    dtype = data.dtype if dtype_out is None else np.dtype(dtype_out)
    spacing = [2.0 if do_separate_z and i == axis else 1.0 for i in range(3)]  # the coarsest axis is the one that is treated apart
    source = data if is_seg else data.astype(np.result_type(data, dtype), copy=False)  # what is between two numbers is not rounded early
    return resample_data_or_seg_to_shape(source, new_shape, spacing, spacing, is_seg, order, order_z, force_separate_z=do_separate_z).astype(dtype, copy=False)


def list_of_io_classes() -> list[type]:
    """Upstream's order: the first whose endings fit is taken."""
    from nnunetv2.imageio.reader_writer_registry import reader_writer_by_name

    return [reader_writer_by_name(name) for name in ("NaturalImage2DIO", "SimpleITKIO", "Tiff3DIO", "NibabelIO", "NibabelIOWithReorient")]


def __getattr__(name: str) -> Any:
    if name == "LIST_OF_IO_CLASSES":
        return list_of_io_classes()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
