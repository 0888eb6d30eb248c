"""What a trainer's settings mean for its batches."""

from typing import TYPE_CHECKING

import numpy as np
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunetv2.preprocessing.case_store import list_cases
from nnunetv2.training.augmentation import AugmentationGeometry, PatchAugmentation, target_transforms
from nnunetv2.training.dataloading.patch_batches import ClassSampling, PatchBatches

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def make_batches(trainer: "nnUNetTrainer") -> dict[str, PatchBatches]:
    """"train" and "val" batches. Validation patches are neither augmented nor given class labels."""
    folder, labels = trainer.preprocessed_dataset_folder, trainer.label_manager
    missing = sorted({*trainer.train_cases, *trainer.val_cases} - set(list_cases(folder)))
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} cases of fold {trainer.fold}: {', '.join(missing)}. Run nnUNetv2_preprocess.")
    configuration = trainer.configuration_manager
    targets = target_transforms(trainer.deep_supervision_scales, labels.foreground_regions if labels.has_regions else None,
                                labels.ignore_label)
    texture_keeping = trainer.texture_keeping if trainer.texture_keeping is not None else trainer.class_task is not None
    geometry = AugmentationGeometry.from_patch_size(configuration.patch_size)
    trainer.log.print(f"Augmentation: {'without blur, low resolution and gamma' if texture_keeping else 'complete'}, {geometry}")
    positions = np.array_split(np.arange(configuration.batch_size), trainer.world_size)[trainer.local_rank]
    if len(positions) == 0:
        raise ValueError(f"A batch of {configuration.batch_size} cannot be shared by {trainer.world_size} GPUs. Use fewer.")
    shared = {
        "folder": folder, "seed": trainer.seed, "fold": trainer.fold, "patch_size": geometry.patch_size,
        "batch_size": configuration.batch_size, "positions": tuple(positions.tolist()), "target_transforms": ComposeTransforms(targets),
        "foreground_share": trainer.oversample_foreground_percent,
        "ignore_key": (-1, *labels.all_labels) if labels.has_ignore_label else None,
    }
    sampling = ClassSampling()
    if trainer.class_task is not None:
        settings = trainer.class_training
        sampling = ClassSampling(trainer.class_labels, trainer.class_task.lesion_labels, settings.lesion_share, settings.balance == "sampling")
    augmentation = PatchAugmentation(geometry, targets, configuration.use_mask_for_norm, texture_keeping)
    return {
        "train": PatchBatches(cases=tuple(trainer.train_cases), split="train", augmentation=augmentation, class_sampling=sampling, **shared),
        "val": PatchBatches(cases=tuple(trainer.val_cases or trainer.train_cases), split="val", **shared),
    }
