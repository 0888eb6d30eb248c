"""The planner: from a dataset's fingerprint to plans.json (spacing, patch, topology, batch size of each configuration)."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2 import paths
from nnunetv2.class_evidence.blocks import BLOCKS
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.experiment_planning.network_topology import MIN_EDGE, Topology, conv_feature_map_size, plan_topology
from nnunetv2.imageio.reader_writer_registry import TIFF, name_of_reader_writer, reader_writer_by_name, reader_writer_name
from nnunetv2.preprocessing.dataset_copies import copy_dataset_files
from nnunetv2.preprocessing.normalization import may_use_mask, scheme_of_channel
from nnunetv2.preprocessing.preprocessors import preprocessor_by_name
from nnunetv2.preprocessing.resampling import compute_new_shape, name_of_resampling_fn, resample_data_or_seg_to_shape
from nnunetv2.utilities.classification import ClassificationTask, classes_of_regions
from nnunetv2.utilities.dataset_files import example_image, get_filenames_of_train_images_and_targets
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import Fingerprint, Plans, RawDatasetJson
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.safe_names import plain_name

_OTHER_JSON_FILES = ("dataset", "dataset_fingerprint", "splits_final", "manifest")  # that lie beside the plans
INITIAL_PATCH_VOXELS = {2: 2048**2, 3: 256**3}  # by dimension; larger than any that fits
LOWRES_STEP = 1.03  # factor by which spacing grows in search of 3d_lowres
Resampling = tuple[Callable, dict[str, Any]]


def default_class_head(task: ClassificationTask, n_channels: int) -> dict[str, Any]:
    """Pooling of the finest stages inside the lesion, the foreground and the patch; null stands for all of it.

    Beside arch_kwargs, so that upstream builds its network from the same plans.
    """
    return {
        "n_classes": len(task.classes),
        "lesion_labels": list(task.lesion_labels),
        # what lies elsewhere, and the masks' size and shape, is measured in millimetres by the evidence blocks
        "regions": {"lesion": list(task.lesion_labels)},
        "stages": [0],  # texture, which decides, is gone further down
        "statistics": ["mean", "std"],
        "descriptors": False,
        "texture_of_channels": n_channels,
        "focus": True,
        "hidden": 0,
        "dropout": 0.1,
        "evidence": list(BLOCKS),  # what beside the network's features is measured; the refit weighs each
    }


class ExperimentPlanner:
    """nnU-Net's default planner, a plain convolutional U-Net for 8 GB.

    Subclasses change the constants, here or in their __init__, and override the methods that have a name of nnU-Net's:
    determine_* and get_plans_for_configuration, generate_data_identifier.
    """

    plans_name = "nnUNetPlans"
    UNet_class: type = PlainConvUNet
    UNet_blocks_per_stage_encoder = (2,) * 14  # convolutions (residual: blocks) a stage
    UNet_blocks_per_stage_decoder = (2,) * 13
    UNet_base_num_features = 32  # of the first stage; doubled each stage up to the maximum
    UNet_max_features_2d, UNet_max_features_3d = 512, 320
    UNet_featuremap_min_edge_length = MIN_EDGE
    # What fits the reference's GB: summed convolution outputs (network_topology.conv_feature_map_size) at this batch size.
    UNet_reference_val_corresp_GB = 8.0
    UNet_reference_val_2d, UNet_reference_val_3d = 85_000_000, 560_000_000
    UNet_reference_val_corresp_bs_2d, UNet_reference_val_corresp_bs_3d = 12, 2
    shrink_to_batch_size = {2: 2, 3: 2}  # the patch shrinks until such a batch fits
    UNet_min_batch_size = 2
    max_dataset_covered = 0.05  # share of the dataset's voxels that one batch may hold
    anisotropy_threshold = ANISO_THRESHOLD
    lowres_creation_threshold = 0.25  # 3d_lowres when the patch covers less of the median image

    def __init__(self, dataset_name_or_id: int | str, gpu_memory_target_in_gb: float | None = None,
                 preprocessor_name: str = "DefaultPreprocessor", plans_name: str | None = None,
                 overwrite_target_spacing: Sequence[float] | None = None, suppress_transpose: bool = False):
        """suppress_transpose: keep the axis order of the files, instead of the coarsest axis first."""
        if overwrite_target_spacing is not None and (len(overwrite_target_spacing) != 3 or min(overwrite_target_spacing) <= 0):
            raise ValueError(f"The target spacing {overwrite_target_spacing} must be three numbers > 0 (z y x, mm).")
        self.dataset_name = maybe_convert_to_dataset_name(dataset_name_or_id)
        self.raw_dataset_folder = paths.nnUNet_raw / self.dataset_name
        self.preprocessed_folder = paths.nnUNet_preprocessed / self.dataset_name
        self.dataset_json = load_json(self.raw_dataset_folder / "dataset.json", RawDatasetJson)
        fingerprint = self.preprocessed_folder / "dataset_fingerprint.json"
        if not fingerprint.is_file():
            raise FileNotFoundError(f"{fingerprint} does not exist. Run nnUNetv2_extract_fingerprint -d {self.dataset_name} first.")
        self.dataset_fingerprint = load_json(fingerprint, Fingerprint)
        self.UNet_vram_target_GB = gpu_memory_target_in_gb or self.UNet_reference_val_corresp_GB
        preprocessor_by_name(preprocessor_name, "-preprocessor_name")  # refused here if it is not known
        self.preprocessor_name = preprocessor_name
        self.plans_identifier = name_for_plans(self.plans_name if plans_name is None else plans_name, "-overwrite_plans_name")
        self.overwrite_target_spacing, self.suppress_transpose = overwrite_target_spacing, suppress_transpose
        self.plans: dict[str, Any] | None = None
        labels = LabelManager(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))
        self.foreground_labels = labels.foreground_labels
        self.task = ClassificationTask.from_dataset_json(self.dataset_json, self.foreground_labels)
        if problem := classes_of_regions(self.task, labels.has_regions):
            raise InputError(f"{self.dataset_name}, {problem}.")
        self.n_training_cases = self.dataset_json["numTraining"] - len(self.dataset_json.get("holdout", []))

    def plan_experiment(self) -> dict[str, Any]:
        """Plan every configuration, write plans.json and copy what training needs beside it. Returns the plans."""
        fullres_spacing = self.determine_fullres_target_spacing()
        transpose_forward, transpose_backward = self.determine_transpose()
        spacing = fullres_spacing[transpose_forward]
        spacings, shapes = np.array(self.dataset_fingerprint["spacings"]), np.array(self.dataset_fingerprint["shapes_after_crop"])
        resampled = [compute_new_shape(n, mm, fullres_spacing) for n, mm in zip(shapes, spacings)]
        median_shape = np.median(resampled, 0)[transpose_forward]
        n_voxels = float(np.prod(median_shape)) * self.n_training_cases

        estimates: dict = {}
        configurations = {"2d": self.get_plans_for_configuration(spacing[1:], median_shape[1:], self.generate_data_identifier("2d"), n_voxels, estimates)
                          | {"batch_dice": True}}
        if median_shape[0] != 1:
            fullres = self.get_plans_for_configuration(spacing, median_shape, self.generate_data_identifier("3d_fullres"), n_voxels, estimates)
            lowres = self._plan_lowres(fullres["patch_size"], spacing, median_shape, estimates)
            if lowres is not None:
                configurations["3d_lowres"] = lowres | {"batch_dice": False, "next_stage": "3d_cascade_fullres"}
            configurations["3d_fullres"] = fullres | {"batch_dice": lowres is not None}
            if lowres is not None:
                configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
        reader = self.determine_reader_writer()
        plans = {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_identifier,
            "original_median_spacing_after_transp": np.median(spacings, 0)[transpose_forward].tolist(),
            "original_median_shape_after_transp": [round(n) for n in np.median(shapes, 0)[transpose_forward].tolist()],
            "image_reader_writer": reader if isinstance(reader, str) else name_of_reader_writer(reader),
            "transpose_forward": list(transpose_forward),
            "transpose_backward": list(transpose_backward),
            "configurations": configurations,
            "experiment_planner_used": type(self).__name__,
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": self.dataset_fingerprint["foreground_intensity_properties_per_channel"],
        }
        plans = _as_read_back(plans)
        copy_dataset_files(self.dataset_name)
        self.plans = plans
        self.save_plans(plans)
        return plans

    @property
    def dataset(self) -> dict[str, dict]:
        """{case: {"images": [...], "label": file}} of the raw dataset."""
        return get_filenames_of_train_images_and_targets(self.raw_dataset_folder, self.dataset_json)

    def determine_reader_writer(self) -> str | type:
        """The reader of this dataset's files; a subclass may give its name alone."""
        example = None
        if self.dataset_json["file_ending"].lower() == TIFF:
            example = example_image(self.dataset)
        return reader_writer_by_name(reader_writer_name(self.dataset_json, example))

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        """Axis order of the plans, coarsest axis first, and the order that reverts it."""
        order = [0, 1, 2]
        if not self.suppress_transpose:
            order.insert(0, order.pop(int(np.argmax(self.determine_fullres_target_spacing()))))
        return order, np.argsort(order).tolist()

    def determine_resampling(self, *args: Any, **kwargs: Any) -> tuple[Callable, dict[str, Any], Callable, dict[str, Any]]:
        """(function, keywords) for images, then for segmentations; functions take data, new shape, current and new spacing."""
        return (*_splines(is_seg=False, order=3), *_splines(is_seg=True, order=1))

    def determine_segmentation_softmax_export_fn(self, *args: Any, **kwargs: Any) -> Resampling:
        """(function, keywords) for logits on their way back to the image's grid."""
        return _splines(is_seg=False, order=1)

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """Scheme of each channel, and whether only its non-zero voxels count: where cropping took much away, and the scheme can."""
        channels = list(self.dataset_json["channel_names"].values())
        mostly_cropped = self.dataset_fingerprint["median_relative_size_after_cropping"] < 3 / 4
        return [scheme_of_channel(channel) for channel in channels], [mostly_cropped and may_use_mask(channel) for channel in channels]

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """(3,) mm, untransposed: the median per axis.

        Where one axis is far coarser than the others and short (thick slices), its median would blur the cases with
        thinner slices: the 10th percentile then, but no finer than the other axes.
        """
        if self.overwrite_target_spacing is not None:
            return np.array(self.overwrite_target_spacing, dtype=float)
        spacings = np.array(self.dataset_fingerprint["spacings"])
        target = np.percentile(spacings, 50, 0)
        size = np.percentile(self.dataset_fingerprint["shapes_after_crop"], 50, 0)
        coarsest = int(np.argmax(target))
        others = [axis for axis in range(3) if axis != coarsest]
        coarsest_other = target[others].max()
        if target[coarsest] > self.anisotropy_threshold * coarsest_other and size[coarsest] * self.anisotropy_threshold < size[others].min():
            thin = np.percentile(spacings[:, coarsest], 10)
            target[coarsest] = thin if thin >= coarsest_other else coarsest_other + 1e-5  # stays the coarsest
        return target

    def get_plans_for_configuration(self, spacing: np.ndarray, median_shape: Sequence[float], data_identifier: str,
                                    approximate_n_voxels_dataset: float, _cache: dict) -> dict[str, Any]:
        """One configuration, 2D or 3D by the length of `spacing` (mm, transposed); `median_shape` is at that spacing.

        _cache: estimates of networks that were looked at before, filled here.
        """
        if min(spacing) <= 0:
            raise ValueError(f"{self.dataset_name}: spacing {list(spacing)} must be > 0.")
        dims = len(spacing)
        topology, estimate = self._fit_patch(spacing, median_shape, _cache)
        batch_size = round(self._reference(dims) / estimate * self._by_dimension("UNet_reference_val_corresp_bs", dims))
        cap = round(approximate_n_voxels_dataset * self.max_dataset_covered / prod(topology.patch_size))
        schemes, use_mask = self.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        resampling_data, data_kwargs, resampling_seg, seg_kwargs = self.determine_resampling()
        resampling_probabilities, probabilities_kwargs = self.determine_segmentation_softmax_export_fn()
        return {
            "data_identifier": data_identifier,
            "preprocessor_name": self.preprocessor_name,
            "batch_size": max(min(batch_size, cap), self.UNet_min_batch_size),
            "patch_size": topology.patch_size,
            "median_image_size_in_voxels": list(median_shape),
            "spacing": np.array(spacing),
            "normalization_schemes": schemes,
            "use_mask_for_norm": use_mask,
            "resampling_fn_data": name_of_resampling_fn(resampling_data), "resampling_fn_data_kwargs": data_kwargs,
            "resampling_fn_seg": name_of_resampling_fn(resampling_seg), "resampling_fn_seg_kwargs": seg_kwargs,
            "resampling_fn_probabilities": name_of_resampling_fn(resampling_probabilities), "resampling_fn_probabilities_kwargs": probabilities_kwargs,
            "architecture": self._architecture(topology),
        }

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Name of the folder with the configuration's preprocessed cases."""
        return f"{self.plans_identifier}_{configuration_name}"

    def _by_dimension(self, constant: str, dims: int) -> Any:
        return getattr(self, f"{constant}_{dims}d")

    def _reference(self, dims: int) -> float:
        return self._by_dimension("UNet_reference_val", dims) * (self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB)

    def _fit_patch(self, spacing: np.ndarray, median_shape: Sequence[float], cache: dict) -> tuple[Topology, int]:
        """The largest patch whose network fits the memory, and that network's estimate.

        Starts from the physically isotropic patch, no larger than the median image, and shortens the axis that is
        longest relative to the image.
        """
        dims = len(spacing)
        topology_of = partial(plan_topology, spacing, min_edge=self.UNet_featuremap_min_edge_length)
        inverse = 1 / np.asarray(spacing)
        isotropic = [round(n) for n in inverse * (INITIAL_PATCH_VOXELS[dims] / np.prod(inverse)) ** (1 / dims)]
        topology = topology_of([min(patch, image) for patch, image in zip(isotropic, median_shape)])
        limit = self._reference(dims) * self._by_dimension("UNet_reference_val_corresp_bs", dims) / self.shrink_to_batch_size[dims]
        while (estimate := self._estimate(topology, cache)) > limit:
            patch = list(topology.patch_size)
            axis = np.argsort([n / image for n, image in zip(patch, median_shape)])[-1]
            # One divisor less may allow one pooling less, and so a finer step: 256 -> 224, not 192.
            shorter = patch.copy()
            shorter[axis] -= topology.divisor[axis]
            patch[axis] -= topology_of(shorter).divisor[axis]
            if patch[axis] < 1:
                raise ValueError(f"No patch fits {self.UNet_vram_target_GB} GB for {self.dataset_name}; raise -gpu_memory_target.")
            topology = topology_of(patch)
        return topology, estimate

    def _estimate(self, topology: Topology, cache: dict) -> int:
        if topology not in cache:
            n_outputs = len(self.dataset_json["labels"])
            if self.UNet_class in (PlainConvUNet, ResidualEncoderUNet):  # counted from the numbers: no network is built
                cache[topology] = conv_feature_map_size(topology, self._features(topology), self.UNet_blocks_per_stage_encoder,
                                                        self.UNet_blocks_per_stage_decoder, n_outputs, self._is_residual)
            else:
                architecture = self._architecture(topology)
                cache[topology] = self.static_estimate_VRAM_usage(
                    topology.patch_size, len(self.dataset_json["channel_names"]), n_outputs, architecture["network_class_name"],
                    architecture["arch_kwargs"], architecture["_kw_requires_import"])
        return cache[topology]

    @staticmethod
    def static_estimate_VRAM_usage(patch_size: Sequence[int], input_channels: int, output_channels: int, arch_class_name: str,  # noqa: N802
                                   arch_kwargs: dict, arch_kwargs_req_import: Sequence[str]) -> int:
        """Values in all convolution outputs of a network for one patch; the network's class must count them."""
        network = get_network_from_plans(arch_class_name, arch_kwargs, arch_kwargs_req_import, input_channels, output_channels, allow_init=False)
        return network.compute_conv_feature_map_size(patch_size)

    def _features(self, topology: Topology) -> list[int]:
        maximum = self._by_dimension("UNet_max_features", len(topology.patch_size))
        return [min(maximum, self.UNet_base_num_features * 2**stage) for stage in range(topology.n_stages)]

    @property
    def _is_residual(self) -> bool:
        return issubclass(self.UNet_class, ResidualEncoderUNet)

    def _architecture(self, topology: Topology) -> dict[str, Any]:
        dims, n_stages = len(topology.patch_size), topology.n_stages
        architecture = {
            "network_class_name": f"{self.UNet_class.__module__}.{self.UNet_class.__name__}",
            "arch_kwargs": {
                "n_stages": n_stages,
                "features_per_stage": self._features(topology),
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": topology.kernel_sizes,
                "strides": topology.strides,
                "n_blocks_per_stage" if self._is_residual else "n_conv_per_stage": self.UNet_blocks_per_stage_encoder[:n_stages],
                "n_conv_per_stage_decoder": self.UNet_blocks_per_stage_decoder[: n_stages - 1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
        if self.task is not None:
            architecture["class_head"] = default_class_head(self.task, len(self.dataset_json["channel_names"]))
        return architecture

    def _plan_lowres(self, fullres_patch: Sequence[int], fullres_spacing: np.ndarray, median_shape: np.ndarray,
                     cache: dict) -> dict[str, Any] | None:
        """3d_lowres: spacing grown until the patch covers a quarter of the image.

        None when the full-resolution patch covers it already, or when the image would not even halve. Axes less than half
        as coarse as the coarsest grow first.
        """
        spacing, lowres, n_voxels = fullres_spacing.copy(), None, np.prod(median_shape)
        patch = fullres_patch
        while prod(patch) / n_voxels < self.lowres_creation_threshold:
            fine = spacing.max() / spacing > 2
            spacing[fine if fine.any() else slice(None)] *= LOWRES_STEP
            shape = fullres_spacing / spacing * median_shape
            n_voxels = np.prod(shape)
            lowres = self.get_plans_for_configuration(spacing, [round(n) for n in shape], self.generate_data_identifier("3d_lowres"),
                                                      float(n_voxels) * self.n_training_cases, cache)
            patch = lowres["patch_size"]
        return lowres if np.prod(median_shape) / n_voxels >= 2 else None

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write plans.json; configurations that an existing one has beyond ours stay (people add their own)."""
        plans.update(_as_read_back(plans))
        path = self.preprocessed_folder / f"{self.plans_identifier}.json"
        if path.is_file():
            added = load_json(path, Plans)["configurations"]
            plans["configurations"] |= {name: value for name, value in added.items() if name not in plans["configurations"]}
        save_json(plans, path)

    def load_plans(self, fname: str | os.PathLike) -> None:
        """Take `fname` for this planner's plans."""
        self.plans = load_json(fname, Plans)


def name_for_plans(name: object, flag: str) -> str:
    """`name` if plans can be written under it; InputError where it would be a path, or the name of another file beside the plans."""
    of_a_recipe = [name] if isinstance(name, str) and name.casefold().endswith(".recipe") else []
    return plain_name(name, "plans", flag, taken=(*_OTHER_JSON_FILES, *of_a_recipe))


def _as_read_back(plans: dict[str, Any]) -> dict[str, Any]:
    """Lists for tuples and arrays, Python's numbers for numpy's, which a planner of another author may hold: the same in memory as in the file."""

    def plain(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"The plans hold {value!r}, which is neither a number, a text nor a list of them; let the planner give such values alone.")

    return json.loads(json.dumps(plans, default=plain))


def _splines(is_seg: bool, order: int) -> Resampling:
    return resample_data_or_seg_to_shape, {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
