"""Trainers that augment otherwise, under upstream's names."""

from math import radians

from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunetv2.training import augmentation
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerNoMirroring(nnUNetTrainer):
    """Left stays left, in training and at prediction."""

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy_2d, initial_patch_size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, None


class nnUNetTrainer_onlyMirror01(nnUNetTrainer):
    """The last axis is not mirrored."""

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy_2d, initial_patch_size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        axes = tuple(range(len(self.configuration_manager.patch_size) - 1))
        self.inference_allowed_mirroring_axes = axes
        return rotation, dummy_2d, initial_patch_size, axes


class nnUNetTrainer_onlyMirror01_1500ep(nnUNetTrainer_onlyMirror01):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_epochs = 1500


class nnUNetTrainer_noDummy2DDA(nnUNetTrainer):
    """Rotation in all three planes, however thick the slices are."""

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, _, _, mirror_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch_size = self.configuration_manager.patch_size
        if len(patch_size) == 3:
            rotation = (-radians(30), radians(30))
        return rotation, False, list(augmentation.rotated_patch_size(patch_size, rotation[1], augmentation.MARGIN_FOR_SCALING)), mirror_axes


class nnUNetTrainerNoDA(nnUNetTrainer):
    """No augmentation, no mirroring."""

    @staticmethod
    def get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug,  # noqa: N803
                                use_mask_for_norm=None, is_cascaded=False, foreground_labels=None, regions=None, ignore_label=None):
        return nnUNetTrainer.get_validation_transforms(deep_supervision_scales, is_cascaded, foreground_labels, regions, ignore_label)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy_2d, _, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, self.configuration_manager.patch_size, None


class nnUNetTrainer_DASegOrd0(nnUNetTrainer):
    """Segmentations are rotated and scaled by nearest neighbour; a cascade's input is damaged in every label."""

    @staticmethod
    def get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug,  # noqa: N803
                                use_mask_for_norm=None, is_cascaded=False, foreground_labels=None, regions=None, ignore_label=None):
        previous = augmentation.previous_stage_transforms(foreground_labels, augmented=True, p_per_label=1) if is_cascaded else ()
        return ComposeTransforms([
            *augmentation.spatial_transforms(patch_size, rotation_for_DA, do_dummy_2d_data_aug, interpolate_seg=False),
            *augmentation.intensity_transforms(do_dummy_2d_data_aug),
            *augmentation.mirror_and_mask_transforms(mirror_axes, use_mask_for_norm),
            *augmentation.target_transforms(deep_supervision_scales, regions, ignore_label, previous)])


class nnUNetTrainer_DASegOrd0_NoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainer_DASegOrd0):
    pass


class nnUNetTrainer_onlyMirror01_DASegOrd0(nnUNetTrainer_onlyMirror01, nnUNetTrainer_DASegOrd0):
    pass
