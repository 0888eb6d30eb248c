"""The planner: from a dataset's fingerprint to plans.json (spacing, patch, topology, batch size of each configuration)."""

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2 import paths
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.experiment_planning.network_topology import Topology, conv_feature_map_size, plan_topology
from nnunetv2.imageio.reader_writer_registry import reader_writer_name
from nnunetv2.preprocessing.normalization import MASKABLE_SCHEMES, scheme_of_channel
from nnunetv2.preprocessing.resampling import compute_new_shape
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.dataset_files import get_filenames_of_train_images_and_targets
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.files import atomic_write, load_json, save_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager


class ExperimentPlanner:
    """nnU-Net's default planner, a plain convolutional U-Net for 8 GB. Subclasses change the constants."""

    plans_name = "nnUNetPlans"
    network_class_name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    residual = False
    n_encoder = (2,) * 14  # convolutions (residual: blocks) a stage
    n_decoder = (2,) * 13
    base_features = 32  # of the first stage; doubled each stage up to the maximum
    max_features = {2: 512, 3: 320}  # by dimension
    # What fits memory_gb: summed convolution outputs (network_topology.conv_feature_map_size) at this batch size.
    memory_gb = 8.0
    reference_estimate = {2: 85_000_000, 3: 560_000_000}
    reference_batch_size = {2: 12, 3: 2}
    shrink_to_batch_size = {2: 2, 3: 2}  # the patch shrinks until such a batch fits
    min_batch_size = 2
    max_dataset_covered = 0.05  # share of the dataset's voxels that one batch may hold
    initial_patch_voxels = {2: 2048**2, 3: 256**3}  # larger than any that fits
    lowres_threshold = 0.25  # 3d_lowres when the patch covers less of the median image
    lowres_step = 1.03  # factor by which spacing grows in search of it

    def __init__(self, dataset_name_or_id: int | str, gpu_memory_target_in_gb: float | None = None,
                 preprocessor_name: str = "DefaultPreprocessor", plans_name: str | None = None,
                 overwrite_target_spacing: Sequence[float] | None = None):
        if overwrite_target_spacing is not None and (len(overwrite_target_spacing) != 3 or min(overwrite_target_spacing) <= 0):
            raise ValueError(f"The target spacing {overwrite_target_spacing} must be three numbers > 0 (z y x, mm).")
        self.dataset_name = maybe_convert_to_dataset_name(dataset_name_or_id)
        self.raw_folder = paths.nnUNet_raw / self.dataset_name
        self.preprocessed_folder = paths.nnUNet_preprocessed / self.dataset_name
        self.dataset_json = load_json(self.raw_folder / "dataset.json")
        fingerprint = self.preprocessed_folder / "dataset_fingerprint.json"
        if not fingerprint.is_file():
            raise FileNotFoundError(f"{fingerprint} does not exist. Run nnUNetv2_extract_fingerprint -d {self.dataset_name} first.")
        self.fingerprint = load_json(fingerprint)
        self.gpu_memory_target = gpu_memory_target_in_gb or self.memory_gb
        self.preprocessor_name = preprocessor_name
        self.plans_identifier = plans_name or self.plans_name
        self.target_spacing = overwrite_target_spacing
        labels = LabelManager(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))
        self.foreground_labels = labels.foreground_labels
        self.task = ClassificationTask.from_dataset_json(self.dataset_json, self.foreground_labels)
        if self.task is not None and labels.has_regions:
            raise ValueError(f"{self.dataset_name}: 'classification' needs labels that exclude each other, "
                             "but dataset.json defines regions.")
        self.n_training_cases = self.dataset_json["numTraining"] - len(self.dataset_json.get("holdout", []))

    def plan_experiment(self) -> dict[str, Any]:
        """Plan every configuration, write plans.json and copy what training needs beside it. Returns the plans."""
        fullres_spacing = self.determine_fullres_target_spacing()
        transpose_forward = [int(np.argmax(fullres_spacing))]  # coarsest axis first
        transpose_forward += [axis for axis in range(3) if axis not in transpose_forward]
        spacing = fullres_spacing[transpose_forward]
        spacings, shapes = np.array(self.fingerprint["spacings"]), np.array(self.fingerprint["shapes_after_crop"])
        resampled = [compute_new_shape(n, mm, fullres_spacing) for n, mm in zip(shapes, spacings)]
        median_shape = np.median(resampled, 0)[transpose_forward]
        n_voxels = float(np.prod(median_shape)) * self.n_training_cases

        configurations = {"2d": self.plan_configuration("2d", spacing[1:], median_shape[1:], n_voxels) | {"batch_dice": True}}
        if median_shape[0] != 1:
            fullres = self.plan_configuration("3d_fullres", spacing, median_shape, n_voxels)
            lowres = self._plan_lowres(fullres["patch_size"], spacing, median_shape)
            if lowres is not None:
                configurations["3d_lowres"] = lowres | {"batch_dice": False, "next_stage": "3d_cascade_fullres"}
            configurations["3d_fullres"] = fullres | {"batch_dice": lowres is not None}
            if lowres is not None:
                configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
        plans = {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_identifier,
            "original_median_spacing_after_transp": np.median(spacings, 0)[transpose_forward].tolist(),
            "original_median_shape_after_transp": [round(n) for n in np.median(shapes, 0)[transpose_forward].tolist()],
            "image_reader_writer": reader_writer_name(self.dataset_json),
            "transpose_forward": transpose_forward,
            "transpose_backward": np.argsort(transpose_forward).tolist(),
            "configurations": configurations,
            "experiment_planner_used": type(self).__name__,
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": self.fingerprint["foreground_intensity_properties_per_channel"],
        }
        plans = json.loads(json.dumps(plans))  # lists for tuples: the same in memory as read back
        self._copy_dataset_files()
        self._save(plans)
        return plans

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """(3,) mm, untransposed: the median per axis.

        Where one axis is far coarser than the others and short (thick slices), its median would blur the cases with
        thinner slices: the 10th percentile then, but no finer than the other axes.
        """
        if self.target_spacing is not None:
            return np.array(self.target_spacing, dtype=float)
        spacings = np.array(self.fingerprint["spacings"])
        target = np.percentile(spacings, 50, 0)
        size = np.percentile(self.fingerprint["shapes_after_crop"], 50, 0)
        coarsest = int(np.argmax(target))
        others = [axis for axis in range(3) if axis != coarsest]
        coarsest_other = target[others].max()
        if target[coarsest] > ANISO_THRESHOLD * coarsest_other and size[coarsest] * ANISO_THRESHOLD < size[others].min():
            thin = np.percentile(spacings[:, coarsest], 10)
            target[coarsest] = thin if thin >= coarsest_other else coarsest_other + 1e-5  # stays the coarsest
        return target

    def plan_configuration(self, name: str, spacing: np.ndarray, median_shape: Sequence[float],
                           n_voxels_dataset: float) -> dict[str, Any]:
        """One configuration, 2D or 3D by the length of `spacing` (mm, transposed); `median_shape` is at that spacing."""
        if min(spacing) <= 0:
            raise ValueError(f"{self.dataset_name}: spacing {list(spacing)} must be > 0.")
        dims = len(spacing)
        topology, estimate = self._fit_patch(spacing, median_shape)
        batch_size = round(self._reference(dims) / estimate * self.reference_batch_size[dims])
        cap = round(n_voxels_dataset * self.max_dataset_covered / prod(topology.patch_size))
        normalization = [scheme_of_channel(channel) for channel in self.dataset_json["channel_names"].values()]
        mostly_cropped = self.fingerprint["median_relative_size_after_cropping"] < 3 / 4  # then the surroundings do not count
        plan = {
            "data_identifier": self.data_identifier(name),
            "preprocessor_name": self.preprocessor_name,
            "batch_size": max(min(batch_size, cap), self.min_batch_size),
            "patch_size": topology.patch_size,
            "median_image_size_in_voxels": list(median_shape),
            "spacing": list(spacing),
            "normalization_schemes": normalization,
            "use_mask_for_norm": [mostly_cropped and scheme in MASKABLE_SCHEMES for scheme in normalization],
        }
        for key, is_seg, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1)):
            plan[f"resampling_fn_{key}"] = "resample_data_or_seg_to_shape"
            plan[f"resampling_fn_{key}_kwargs"] = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
        return plan | {"architecture": self._architecture(topology)}

    def data_identifier(self, configuration: str) -> str:
        """Name of the folder with the configuration's preprocessed cases."""
        return f"{self.plans_identifier}_{configuration}"

    def _reference(self, dims: int) -> float:
        return self.reference_estimate[dims] * (self.gpu_memory_target / self.memory_gb)

    def _fit_patch(self, spacing: np.ndarray, median_shape: Sequence[float]) -> tuple[Topology, int]:
        """The largest patch whose network fits the memory, and that network's estimate.

        Starts from the physically isotropic patch, no larger than the median image, and shortens the axis that is
        longest relative to the image.
        """
        dims = len(spacing)
        inverse = 1 / np.asarray(spacing)
        isotropic = [round(n) for n in inverse * (self.initial_patch_voxels[dims] / np.prod(inverse)) ** (1 / dims)]
        topology = plan_topology(spacing, [min(patch, image) for patch, image in zip(isotropic, median_shape)])
        limit = self._reference(dims) * self.reference_batch_size[dims] / self.shrink_to_batch_size[dims]
        while (estimate := self._estimate(topology)) > limit:
            patch = list(topology.patch_size)
            axis = np.argsort([n / image for n, image in zip(patch, median_shape)])[-1]
            # One divisor less may allow one pooling less, and so a finer step: 256 -> 224, not 192.
            shorter = patch.copy()
            shorter[axis] -= topology.divisor[axis]
            patch[axis] -= plan_topology(spacing, shorter).divisor[axis]
            if patch[axis] < 1:
                raise ValueError(f"No patch fits {self.gpu_memory_target} GB for {self.dataset_name}; raise -gpu_memory_target.")
            topology = plan_topology(spacing, patch)
        return topology, estimate

    def _estimate(self, topology: Topology) -> int:
        return conv_feature_map_size(topology, self._features(topology), self.n_encoder, self.n_decoder,
                                     n_outputs=len(self.dataset_json["labels"]), residual=self.residual)

    def _features(self, topology: Topology) -> list[int]:
        maximum = self.max_features[len(topology.patch_size)]
        return [min(maximum, self.base_features * 2**stage) for stage in range(topology.n_stages)]

    def _architecture(self, topology: Topology) -> dict[str, Any]:
        dims, n_stages = len(topology.patch_size), topology.n_stages
        architecture = {
            "network_class_name": self.network_class_name,
            "arch_kwargs": {
                "n_stages": n_stages,
                "features_per_stage": self._features(topology),
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": topology.kernel_sizes,
                "strides": topology.strides,
                "n_blocks_per_stage" if self.residual else "n_conv_per_stage": self.n_encoder[:n_stages],
                "n_conv_per_stage_decoder": self.n_decoder[: n_stages - 1],
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
            architecture["class_head"] = self._class_head(n_stages)
        return architecture

    def _class_head(self, n_stages: int) -> dict[str, Any]:
        """Pooling of the finest stages inside the lesion, the foreground and the patch; null stands for all of it.

        Beside arch_kwargs, so that upstream builds its network from the same plans.
        """
        return {
            "n_classes": len(self.task.classes),
            "lesion_labels": list(self.task.lesion_labels),
            # more regions and mask descriptors are more features than a few hundred cases can tell from noise
            "regions": {"lesion": list(self.task.lesion_labels)},
            "stages": [0],  # texture, which decides, is gone further down
            "statistics": ["mean", "std"],
            "descriptors": False,
            "texture_of_channels": len(self.dataset_json["channel_names"]),
            "focus": True,
            "hidden": 0,
            "dropout": 0.1,
        }

    def _plan_lowres(self, fullres_patch: Sequence[int], fullres_spacing: np.ndarray,
                     median_shape: np.ndarray) -> dict[str, Any] | None:
        """3d_lowres: spacing grown until the patch covers a quarter of the image.

        None when the full-resolution patch covers it already, or when the image would not even halve. Axes less than half
        as coarse as the coarsest grow first.
        """
        spacing, lowres, n_voxels = fullres_spacing.copy(), None, np.prod(median_shape)
        patch = fullres_patch
        while prod(patch) / n_voxels < self.lowres_threshold:
            fine = spacing.max() / spacing > 2
            spacing[fine if fine.any() else slice(None)] *= self.lowres_step
            shape = fullres_spacing / spacing * median_shape
            n_voxels = np.prod(shape)
            lowres = self.plan_configuration("3d_lowres", spacing, [round(n) for n in shape], float(n_voxels) * self.n_training_cases)
            patch = lowres["patch_size"]
        return lowres if np.prod(median_shape) / n_voxels >= 2 else None

    def _copy_dataset_files(self) -> None:
        """dataset.json and the classification labels always; splits_final.json only where none is."""
        _copy(self.raw_folder / "dataset.json", self.preprocessed_folder)
        if self.task is not None:
            training = set(get_filenames_of_train_images_and_targets(self.raw_folder, self.dataset_json))
            training -= set(self.dataset_json.get("holdout", []))
            self.task.read_labels(self.raw_folder, training)  # raises now, while correcting is cheap
            _copy(self.raw_folder / self.task.labels_file, self.preprocessed_folder)
        splits, existing = self.raw_folder / "splits_final.json", self.preprocessed_folder / "splits_final.json"
        if splits.is_file() and not existing.is_file():
            _copy(splits, self.preprocessed_folder)
        elif splits.is_file() and load_json(splits) != load_json(existing):
            warnings.warn(f"{existing} differs from {splits} and is kept; delete it to use the raw dataset's.", stacklevel=3)

    def _save(self, plans: dict[str, Any]) -> None:
        """Write plans.json; configurations that an existing one has beyond ours stay (people add their own)."""
        path = self.preprocessed_folder / f"{self.plans_identifier}.json"
        if path.is_file():
            added = load_json(path)["configurations"]
            plans["configurations"] |= {name: value for name, value in added.items() if name not in plans["configurations"]}
        save_json(plans, path)


def _copy(source: Path, folder: str | os.PathLike) -> None:
    with atomic_write(Path(folder) / source.name) as temporary:
        shutil.copyfile(source, temporary)
