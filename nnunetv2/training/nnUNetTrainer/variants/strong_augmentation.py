"""DA5: a longer list of stronger transforms, under upstream's names."""

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.local.brightness_gradient import BrightnessGradientAdditiveTransform
from batchgeneratorsv2.transforms.local.local_gamma import LocalGammaTransform
from batchgeneratorsv2.transforms.noise.blank_rectangle import BlankRectangleTransform
from batchgeneratorsv2.transforms.noise.median_filter import MedianFilterTransform
from batchgeneratorsv2.transforms.noise.sharpen import SharpeningTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform

from nnunetv2.training import augmentation
from nnunetv2.training.augmentation import GaussianBlurTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.augmentation import nnUNetTrainer_onlyMirror01

MARGIN_FOR_SCALING = 0.7


def local_scale(shape, axis) -> float:
    """Width of a local change along an axis: log-uniform between a sixth of it and all of it."""
    return np.exp(np.random.uniform(np.log(shape[axis] // 6), np.log(shape[axis])))


def gradient_strength(*_) -> float:
    """1 to 5 standard deviations, up or down."""
    return np.random.choice([-1, 1]) * np.random.uniform(1, 5)


def local_gamma() -> float:
    """Far from 1, on either side."""
    return np.random.uniform(0.01, 0.8) if np.random.uniform() < 0.5 else np.random.uniform(1.5, 4)


def _sometimes(probability: float, *transforms):
    wrapped = [RandomTransform(transform, probability) for transform in transforms]
    return wrapped[0] if len(wrapped) == 1 else OneOfTransform(wrapped)


def turns(patch_size) -> list:
    """Quarter turns and swaps of the axes of equal length, if there are any."""
    same = [sum(size == other for other in patch_size) for size in patch_size]
    if max(same) == 1:
        return []
    axes = {axis for axis, n in enumerate(same) if n == max(same)}
    return [_sometimes(0.5, Rot90Transform(num_axis_combinations=1, num_rot_per_combination=(0, 1, 2, 3), allowed_axes=axes)),
            _sometimes(0.5, TransposeAxesTransform(allowed_axes=axes))]


def intensities(dummy_2d: bool) -> list:
    contrast = {"contrast_range": BGContrast((0.5, 2)), "synchronize_channels": False, "p_per_channel": 0.5}
    gamma = {"gamma": BGContrast((0.7, 1.5)), "p_invert_image": 1, "synchronize_channels": False, "p_per_channel": 1, "p_retain_stats": 1}
    return [
        _sometimes(0.2, MedianFilterTransform((2, 8), p_same_for_each_channel=0, p_per_channel=0.5),
                   GaussianBlurTransform((0.3, 1.5), synchronize_channels=False, synchronize_axes=True, p_per_channel=0.5)),
        _sometimes(0.1, GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)),
        _sometimes(0.1, BrightnessAdditiveTransform(mu=0, sigma=0.5, synchronize_channels=False, p_per_channel=0.5)),
        _sometimes(0.2, ContrastTransform(preserve_range=True, **contrast), ContrastTransform(preserve_range=False, **contrast)),
        _sometimes(0.15, SimulateLowResolutionTransform(scale=(0.25, 1), synchronize_channels=False, synchronize_axes=True,
                                                        ignore_axes=(0,) if dummy_2d else None, p_per_channel=0.5)),
        _sometimes(0.1, GammaTransform(**gamma)), _sometimes(0.1, GammaTransform(**gamma)),  # twice, as published
    ]


def local_changes(patch_size) -> list:
    holes = BlankRectangleTransform(rectangle_size=[[max(1, size // 10), size // 3] for size in patch_size], rectangle_value=torch.mean,
                                    num_rectangles=(1, 5), force_square=False, p_per_channel=0.5)
    place = {"scale": local_scale, "loc": (-0.5, 1.5), "same_for_all_channels": False, "p_per_channel": 0.5}
    return [_sometimes(0.4, holes),
            _sometimes(0.3, BrightnessGradientAdditiveTransform(max_strength=gradient_strength, mean_centered=False, **place)),
            _sometimes(0.3, LocalGammaTransform(gamma=local_gamma, **place)),
            _sometimes(0.2, SharpeningTransform(strength=(0.1, 1), p_same_for_each_channel=0, p_per_channel=0.5))]


class nnUNetTrainerDA5(nnUNetTrainer):
    """Stronger augmentation for small datasets."""

    spatial_modes: dict[str, str] = {}  # interpolation of image and segmentation; the library's default is linear

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy_2d, _, mirror_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch_size = self.configuration_manager.patch_size
        initial = list(augmentation.rotated_patch_size(patch_size, rotation[1], MARGIN_FOR_SCALING))
        return rotation, dummy_2d, [patch_size[0], *initial[1:]] if dummy_2d else initial, mirror_axes

    @classmethod
    def get_training_transforms(cls, patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug,  # noqa: N803
                                use_mask_for_norm=None, is_cascaded=False, foreground_labels=None, regions=None, ignore_label=None):
        spatial = SpatialTransform(
            tuple(patch_size[1:] if do_dummy_2d_data_aug else patch_size), patch_center_dist_from_border=0, random_crop=False, p_elastic_deform=0,
            p_rotation=0.4, rotation=rotation_for_DA, p_rot_per_axis=0.5, p_scaling=0.2, scaling=(0.7, 1.43), p_synchronize_scaling_across_axes=0,
            bg_style_seg_sampling=False, border_mode_seg="constant", padding_value_seg=-1, **cls.spatial_modes)
        previous = augmentation.previous_stage_transforms(foreground_labels, augmented=True, p_per_label=1) if is_cascaded else ()
        return ComposeTransforms([
            *([Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()] if do_dummy_2d_data_aug else [spatial]),
            *turns(patch_size), *intensities(do_dummy_2d_data_aug),
            *([MirrorTransform(allowed_axes=tuple(mirror_axes))] if mirror_axes else []), *local_changes(patch_size),
            *augmentation.mirror_and_mask_transforms(None, use_mask_for_norm),
            *augmentation.target_transforms(deep_supervision_scales, regions, ignore_label, previous)])


class nnUNetTrainerDA5ord0(nnUNetTrainerDA5):
    """Nearest neighbour for image and segmentation."""

    spatial_modes = {"mode_image": "nearest", "mode_seg": "nearest"}


class nnUNetTrainerDA5Segord0(nnUNetTrainerDA5):
    """Nearest neighbour for the segmentation alone."""

    spatial_modes = {"mode_seg": "nearest"}


class nnUNetTrainerDA5_10epochs(nnUNetTrainerDA5):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_epochs = 10


class nnUNetTrainer_onlyMirror01_DA5(nnUNetTrainer_onlyMirror01, nnUNetTrainerDA5):
    pass
