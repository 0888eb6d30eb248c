"""nnU-Net's training augmentation out of batchgeneratorsv2's transforms (Isensee et al. 2021, Suppl. Note 4).

Two things are added to the published pipeline. A patch that is neither rotated nor scaled (64 % of them) needs no margin,
so `PatchAugmentation` tells the loader beforehand whether it has to read one. And `without_texture_changes` takes blur, low
resolution and gamma out of any pipeline: they change the fine texture that a class may rest on.

Blur always convolves directly. The library's `benchmark=True` times convolution against FFT and keeps the faster one, so
the last bits of a batch would depend on how busy the machine was, and a resumed run would drift from an unbroken one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform as LibrarysBlur, _build_kernel
from batchgeneratorsv2.transforms.nnunet.random_binary_operator import ApplyRandomBinaryOperatorTransform
from batchgeneratorsv2.transforms.nnunet.remove_connected_components import RemoveRandomConnectedComponentFromOneHotEncodingTransform
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform

ANISOTROPY_THRESHOLD = 3  # a first axis this many times shorter than the longest: in-plane augmentation only
MARGIN_FOR_SCALING = 0.85  # the margin covers zooming out by 1 / .85 only; beyond it the patch is padded


@dataclass(frozen=True)
class AugmentationGeometry:
    """What the patch size alone decides. Sizes and axes in array order, (Z, Y, X) or (Y, X); angles in radians."""

    patch_size: tuple[int, ...]
    initial_patch_size: tuple[int, ...]  # read from disk, so that a rotated patch has no empty corners
    rotation: tuple[float, float]
    dummy_2d: bool  # rotate and scale within slices only
    mirror_axes: tuple[int, ...]

    @classmethod
    def from_patch_size(cls, patch_size: Sequence[int]) -> "AugmentationGeometry":
        patch_size = tuple(int(size) for size in patch_size)
        if len(patch_size) not in (2, 3):
            raise ValueError(f"patch_size must have 2 or 3 axes, got {patch_size}.")
        if len(patch_size) == 2:
            dummy_2d, degrees = False, 15 if max(patch_size) / min(patch_size) > 1.5 else 180
        else:
            dummy_2d = max(patch_size) / patch_size[0] > ANISOTROPY_THRESHOLD
            degrees = 180 if dummy_2d else 30
        initial = rotated_patch_size(patch_size, radians(degrees), MARGIN_FOR_SCALING)
        if dummy_2d:
            initial = (patch_size[0], *initial[1:])
        return cls(patch_size, initial, (-radians(degrees), radians(degrees)), dummy_2d, tuple(range(len(patch_size))))


def rotated_patch_size(patch_size: Sequence[int], angle: float, smallest_scale: float) -> tuple[int, ...]:
    """Box that holds the patch's far corner turned by `angle` (radians) about any one axis, over `smallest_scale`.

    Only the corner (p0, p1, ...) is turned, and only one way: less than the true bounding box, as in nnU-Net.
    """
    c, s = cos(min(angle, pi / 2)), sin(min(angle, pi / 2))
    n = len(patch_size)
    sizes = []
    for axis, size in enumerate(patch_size):
        reach = [size]
        if n == 3 or axis == 0:
            reach.append(size * c + patch_size[(axis + 1) % n] * s)
        if n == 3 or axis == 1:
            reach.append(abs(size * c - patch_size[axis - 1] * s))
        sizes.append(int(max(reach) / smallest_scale))
    return tuple(sizes)


def spatial_transforms(patch_size: Sequence[int], rotation: tuple[float, float], dummy_2d: bool, interpolate_seg: bool = True) -> list[BasicTransform]:
    """Rotation and scaling, cut down to `patch_size`; voxels from outside the image are labelled -1."""
    transform = SpatialTransform(
        tuple(patch_size[1:] if dummy_2d else patch_size), patch_center_dist_from_border=0, random_crop=False,
        p_elastic_deform=0, p_rotation=0.2, rotation=rotation, p_scaling=0.2, scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1, bg_style_seg_sampling=False, border_mode_seg="constant", padding_value_seg=-1,
        **({} if interpolate_seg else {"mode_seg": "nearest"}),
    )
    return [Convert3DTo2DTransform(), transform, Convert2DTo3DTransform()] if dummy_2d else [transform]


class GaussianBlurTransform(LibrarysBlur):
    """The library's blur, also of patches with few voxels along an axis: it cannot mirror those as far as its kernel reaches, three voxels at a sigma of 1."""

    def _apply_to_image(self, img: torch.Tensor, **params) -> torch.Tensor:
        widest = max(np.ravel(params["sigmas"]), default=0.0)
        reach = len(_build_kernel(widest, truncate=6)) // 2 if widest else 0  # as the library cuts it off
        thin = [axis for axis in range(1, img.ndim) if img.shape[axis] <= reach]
        wide = img
        for axis in thin:
            index = np.pad(np.arange(img.shape[axis]), reach, mode="reflect")
            wide = wide.index_select(axis, torch.from_numpy(index))
        blurred = super()._apply_to_image(wide, **params)
        for axis in thin:
            blurred = blurred.narrow(axis, reach, img.shape[axis])
        return blurred.contiguous() if thin else blurred


def intensity_transforms(dummy_2d: bool) -> list[BasicTransform]:
    """Noise, blur, brightness, contrast, low resolution and two kinds of gamma, as published."""
    noise = GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)
    blur = GaussianBlurTransform(blur_sigma=(0.5, 1.0), synchronize_channels=False, synchronize_axes=False,
                                 p_per_channel=0.5, benchmark=False)
    brightness = MultiplicativeBrightnessTransform(multiplier_range=BGContrast((0.75, 1.25)), synchronize_channels=False,
                                                   p_per_channel=1)
    contrast = ContrastTransform(contrast_range=BGContrast((0.75, 1.25)), preserve_range=True, synchronize_channels=False,
                                 p_per_channel=1)
    low_resolution = SimulateLowResolutionTransform(scale=(0.5, 1), synchronize_channels=False, synchronize_axes=True,
                                                    ignore_axes=(0,) if dummy_2d else None, allowed_channels=None,
                                                    p_per_channel=0.5)

    def gamma(p_invert: float) -> GammaTransform:
        return GammaTransform(gamma=BGContrast((0.7, 1.5)), p_invert_image=p_invert, synchronize_channels=False,
                              p_per_channel=1, p_retain_stats=1)

    return [RandomTransform(noise, 0.1), RandomTransform(blur, 0.2), RandomTransform(brightness, 0.15), RandomTransform(contrast, 0.15),
            RandomTransform(low_resolution, 0.25), RandomTransform(gamma(1), 0.1), RandomTransform(gamma(0), 0.3)]


def mirror_and_mask_transforms(mirror_axes: Sequence[int] | None, use_mask_for_norm: Sequence[bool] | None) -> list[BasicTransform]:
    """Mirroring, and zeros outside the non-zero mask in the channels that were normalised inside it."""
    transforms: list[BasicTransform] = [MirrorTransform(allowed_axes=tuple(mirror_axes))] if mirror_axes else []
    masked_channels = [channel for channel, masked in enumerate(use_mask_for_norm or ()) if masked]
    if masked_channels:
        transforms.append(MaskImageTransform(apply_to_channels=masked_channels, channel_idx_in_seg=0, set_outside_to=0))
    return transforms


def previous_stage_transforms(foreground_labels: Sequence[int], augmented: bool, p_per_label: float = 0.5) -> list[BasicTransform]:
    """The previous stage's segmentation, second channel of the target, as one channel per label behind the image; damaged in training."""
    move = MoveSegAsOneHotToDataTransform(source_channel_idx=1, all_labels=foreground_labels, remove_channel_from_source=True)
    if not augmented:
        return [move]
    channels = list(range(-len(foreground_labels), 0))
    morphology = ApplyRandomBinaryOperatorTransform(channel_idx=channels, strel_size=(1, 8), p_per_label=p_per_label)
    removal = RemoveRandomConnectedComponentFromOneHotEncodingTransform(
        channel_idx=channels, fill_with_other_class_p=0, dont_do_if_covers_more_than_x_percent=0.15, p_per_label=p_per_label)
    return [move, RandomTransform(morphology, 0.4), RandomTransform(removal, 0.2)]


def target_transforms(deep_supervision_scales: Sequence[Sequence[float]] | None, regions: Sequence | None = None,
                      ignore_label: int | None = None, previous_stage: Sequence[BasicTransform] = ()) -> list[BasicTransform]:
    """-1 -> 0, labels -> regions when the dataset has them, then one nearest-exact target per decoder output."""
    transforms: list[BasicTransform] = [RemoveLabelTansform(-1, 0), *previous_stage]
    if regions is not None:
        # the ignore label becomes the last region; the loss masks with it
        transforms.append(ConvertSegmentationToRegionsTransform(
            regions=[*regions, ignore_label] if ignore_label is not None else regions, channel_in_seg=0))
    if deep_supervision_scales is not None:
        transforms.append(DownsampleSegForDSTransform(ds_scales=deep_supervision_scales))
    return transforms


def without_texture_changes(transforms: ComposeTransforms) -> ComposeTransforms:
    """The pipeline without blur, low resolution and gamma, for a class that may rest on fine texture."""
    changing = (LibrarysBlur, SimulateLowResolutionTransform, GammaTransform)
    return ComposeTransforms([step for step in transforms.transforms
                              if not isinstance(step.transform if isinstance(step, RandomTransform) else step, changing)])


class PatchAugmentation:
    """Applies a pipeline to one patch, and says before it is read whether a margin around it is needed.

    That it can say where the pipeline begins with a spatial transform, as nnU-Net's does; any other gets the whole box of
    `initial_patch_size`. Draws in the order of the pipeline, so both ways give the same arrays from the same seed.
    """

    def __init__(self, transforms: ComposeTransforms, initial_patch_size: Sequence[int]):
        self.initial_patch_size = tuple(int(size) for size in initial_patch_size)
        steps = list(transforms.transforms)
        n_before = int(bool(steps) and isinstance(steps[0], Convert3DTo2DTransform))
        self.dummy_2d = bool(n_before)
        first = steps[n_before] if len(steps) > n_before else None
        self.spatial = first if type(first) is SpatialTransform else None  # a subclass may draw otherwise
        n_spatial = 0 if self.spatial is None else 2 * n_before + 1
        self.spatial_steps, self.rest = steps[:n_spatial], ComposeTransforms(steps[n_spatial:])

    @property
    def knows_spatial(self) -> bool:
        return self.spatial is not None

    def draw_spatial(self) -> dict | None:
        """Parameters of the rotation and scaling, or None when the patch stays as it is (p = .8 * .8) or nothing is known beforehand."""
        if self.spatial is None:
            return None
        size = self.initial_patch_size[1:] if self.dummy_2d else self.initial_patch_size
        parameters = self.spatial.get_parameters(image=torch.empty(1).expand(1, *size))  # only its shape is used
        return None if parameters["grid"] is None else parameters

    def __call__(self, patch: dict, parameters: dict | None) -> dict:
        """{image, segmentation}, both (C, *initial_patch_size), or without `parameters` (C, *patch_size), through the pipeline."""
        if parameters is not None:
            for step in self.spatial_steps:
                patch = step.apply(patch, **parameters) if step is self.spatial else step(**patch)
        return self.rest(**patch)
