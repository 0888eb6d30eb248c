"""What a training is fed with: split, datasets, transforms and loaders, each a hook under nnU-Net's name."""

from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunetv2.training import augmentation
from nnunetv2.training.dataloading.batch_stream import BatchStream, augmentation_workers, endless_requests
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.dataloading.patch_batches import ClassSampling, PatchBatches
from nnunetv2.training.nnUNetTrainer.objective import deep_supervision_scales
from nnunetv2.utilities.errors import name_most
from nnunetv2.utilities.splits import load_split


class TrainingData:
    """The data side of nnUNetTrainer, which sets the attributes that are used here."""

    def _set_batch_size_and_oversample(self) -> None:
        """`batch_size` of this process: the plans', or this GPU's share of it."""
        self.batch_size = len(self._positions())

    def _positions(self) -> np.ndarray:
        """Which samples of the whole batch this process makes."""
        whole = self.configuration_manager.batch_size
        positions = np.array_split(np.arange(whole), self.world_size)[self.local_rank]
        if len(positions) == 0:
            raise ValueError(f"A batch of {whole} cannot be shared by {self.world_size} GPUs. Use fewer.")
        return positions

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        return deep_supervision_scales(self.configuration_manager.pool_op_kernel_sizes) if self.enable_deep_supervision else None

    def do_split(self) -> tuple[list[str], list[str]]:
        """(training cases, validation cases) of this fold."""
        return load_split(self.preprocessed_dataset_folder_base, self.fold)

    @property
    def train_cases(self) -> list[str]:
        return self._remembered_split()[0]

    @property
    def val_cases(self) -> list[str]:
        return self._remembered_split()[1]

    def _remembered_split(self) -> tuple[list[str], list[str]]:
        return self._split_anew() if self._split is None else self._split

    def _split_anew(self) -> tuple[list[str], list[str]]:
        """Of a `do_split` that may return arrays, tuples or views of dictionaries."""
        train, val = ([str(case) for case in part] for part in self.do_split())
        self._split = train, val
        return self._split

    def get_tr_and_val_datasets(self) -> tuple[nnUNetBaseDataset, nnUNetBaseDataset]:
        split = self._split_anew()
        folder = self.preprocessed_dataset_folder
        missing = sorted({case for part in split for case in part} - set(self.dataset_class.get_identifiers(folder)))
        if missing:
            raise FileNotFoundError(f"{folder} lacks {len(missing)} cases of fold {self.fold}: {name_most(missing)}. Run nnUNetv2_preprocess.")
        return tuple(self.dataset_class(folder, list(part), folder_with_segs_from_previous_stage=self.folder_with_segs_from_previous_stage) for part in split)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, list[int], tuple[int, ...] | None]:  # noqa: N802
        """(rotation, whether slices are augmented one by one, size to read from disk, axes to mirror). Inference mirrors the same axes."""
        geometry = augmentation.AugmentationGeometry.from_patch_size(self.configuration_manager.patch_size)
        self.inference_allowed_mirroring_axes = geometry.mirror_axes
        return geometry.rotation, geometry.dummy_2d, list(geometry.initial_patch_size), geometry.mirror_axes

    @staticmethod
    def get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug,  # noqa: N803
                                use_mask_for_norm=None, is_cascaded=False, foreground_labels=None, regions=None, ignore_label=None) -> ComposeTransforms:
        """The whole pipeline of a training patch: {"image" (C, ...), "segmentation" (1, ...)} of the size that was read -> network input and targets."""
        previous = augmentation.previous_stage_transforms(foreground_labels, augmented=True) if is_cascaded else ()
        return ComposeTransforms([
            *augmentation.spatial_transforms(patch_size, rotation_for_DA, do_dummy_2d_data_aug),
            *augmentation.intensity_transforms(do_dummy_2d_data_aug),
            *augmentation.mirror_and_mask_transforms(mirror_axes, use_mask_for_norm),
            *augmentation.target_transforms(deep_supervision_scales, regions, ignore_label, previous)])

    @staticmethod
    def get_validation_transforms(deep_supervision_scales, is_cascaded=False, foreground_labels=None, regions=None,
                                  ignore_label=None) -> ComposeTransforms:
        """The pipeline of a validation patch: targets alone."""
        previous = augmentation.previous_stage_transforms(foreground_labels, augmented=False) if is_cascaded else ()
        return ComposeTransforms(augmentation.target_transforms(deep_supervision_scales, regions, ignore_label, previous))

    def get_dataloaders(self) -> tuple[BatchStream, BatchStream]:
        """Training and validation batches: iterators over {"data", "target", "keys", "class_target", "has_lesion"}, without end."""
        configuration, labels = self.configuration_manager, self.label_manager
        scales, patch_size = self._get_deep_supervision_scales(), tuple(configuration.patch_size)
        rotation, dummy_2d, initial_patch_size, mirror_axes = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        meaning = {"is_cascaded": self.is_cascaded, "foreground_labels": labels.foreground_labels,
                   "regions": labels.foreground_regions if labels.has_regions else None, "ignore_label": labels.ignore_label}
        training = self.get_training_transforms(patch_size, rotation, scales, mirror_axes, dummy_2d,
                                                use_mask_for_norm=configuration.use_mask_for_norm, **meaning)
        if self.texture_keeping:
            training = augmentation.without_texture_changes(training)
            self.print_to_log_file("Augmentation without blur, low resolution and gamma")
        validation = self.get_validation_transforms(scales, **meaning)
        dataset_tr, dataset_val = self.get_tr_and_val_datasets()
        positions, whole = self._positions().tolist(), configuration.batch_size
        if self.batch_size != len(positions):  # a subclass set its own
            positions, whole = [self.local_rank * self.batch_size + i for i in range(self.batch_size)], self.batch_size * self.world_size
        shared = {"seed": self.seed, "fold": self.fold, "patch_size": patch_size, "batch_size": whole, "positions": tuple(positions),
                  "foreground_share": self.oversample_foreground_percent, "probabilistic_foreground": self.probabilistic_oversampling,
                  "ignore_key": (-1, *labels.all_labels) if labels.has_ignore_label else None}
        sampling = ClassSampling() if self.class_task is None else self.class_training.make_sampling(self.class_labels, self.class_task.lesion_labels)
        splits = {
            "train": PatchBatches(dataset_tr, "train", augmentation=augmentation.PatchAugmentation(training, initial_patch_size), class_sampling=sampling, **shared),
            "val": PatchBatches(dataset_val if dataset_val.identifiers else dataset_tr, "val",
                                augmentation=augmentation.PatchAugmentation(validation, patch_size), **shared)}
        lengths = {"train": self.num_iterations_per_epoch, "val": self.num_val_iterations_per_epoch}
        workers = augmentation_workers(self.device) if self.num_workers is None else self.num_workers
        return tuple(BatchStream(splits[split], endless_requests(self.current_epoch, lengths[split]),
                                 workers if split == "train" else (workers + 1) // 2, self.device.type == "cuda") for split in ("train", "val"))
