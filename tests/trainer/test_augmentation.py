"""The augmentation pipeline: published sizes, probabilities and ranges, and the shortcut for unturned patches."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunetv2.training.augmentation import (
    AugmentationGeometry, GaussianBlurTransform, PatchAugmentation, intensity_transforms, mirror_and_mask_transforms, spatial_transforms, target_transforms,
    without_texture_changes)
from nnunetv2.training.dataloading.patch_batches import seeded_global_generators


@pytest.mark.parametrize(("patch", "initial", "dummy_2d", "degrees"), [
    # upstream 2.8.1, configure_rotation_dummyDA_mirroring_and_inital_patch_size
    ((128, 128, 128), (205, 205, 205), False, 30),
    ((64, 112, 192), (131, 227, 233), False, 30),
    ((64, 128, 192), (140, 243, 233), False, 30),
    ((40, 224, 192), (40, 263, 263), True, 180),
    ((512, 512), (602, 602), False, 180),
    ((256, 448), (427, 527), False, 15),
])
def test_geometry_is_upstreams(patch, initial, dummy_2d, degrees):
    geometry = AugmentationGeometry.from_patch_size(patch)
    assert (geometry.initial_patch_size, geometry.dummy_2d) == (initial, dummy_2d)
    assert geometry.rotation == pytest.approx((-np.deg2rad(degrees), np.deg2rad(degrees)))
    assert geometry.mirror_axes == tuple(range(len(patch)))


def test_intensity_transforms_follow_the_published_order_and_probabilities():
    steps = intensity_transforms(dummy_2d=False)
    assert [(type(step.transform).__name__, step.apply_probability) for step in steps] == [
        ("GaussianNoiseTransform", 0.1), ("GaussianBlurTransform", 0.2), ("MultiplicativeBrightnessTransform", 0.15),
        ("ContrastTransform", 0.15), ("SimulateLowResolutionTransform", 0.25), ("GammaTransform", 0.1), ("GammaTransform", 0.3)]
    assert [step.transform.p_invert_image for step in steps[-2:]] == [1, 0]


def test_texture_keeping_leaves_out_blur_low_resolution_and_gamma():
    kept = without_texture_changes(ComposeTransforms(intensity_transforms(dummy_2d=False)))
    names = [type(step.transform).__name__ for step in kept.transforms]
    assert names == ["GaussianNoiseTransform", "MultiplicativeBrightnessTransform", "ContrastTransform"]


def test_intensity_ranges():
    noise, blur, brightness, contrast, low_resolution, gamma, _ = [step.transform for step in intensity_transforms(dummy_2d=True)]
    assert noise.noise_variance == (0, 0.1) and blur.blur_sigma == (0.5, 1.0) and low_resolution.scale == (0.5, 1)
    ranges = [brightness.multiplier_range, contrast.contrast_range, gamma.gamma]
    assert all(isinstance(r, BGContrast) for r in ranges)
    assert [r.contrast_range for r in ranges] == [(0.75, 1.25), (0.75, 1.25), (0.7, 1.5)]
    assert low_resolution.ignore_axes == (0,)


def test_blur_does_not_depend_on_how_fast_the_machine_is():
    blur = intensity_transforms(dummy_2d=False)[1].transform
    assert blur.benchmark is False


@pytest.mark.slow
def test_rotation_and_scaling_are_drawn_as_often_and_as_far_as_published():
    geometry = AugmentationGeometry.from_patch_size((8, 8, 8))
    augmentation = PatchAugmentation(ComposeTransforms(spatial_transforms((8, 8, 8), geometry.rotation, False)), geometry.initial_patch_size)
    turned, scales = 0, []
    with seeded_global_generators(0):
        draws = [augmentation.draw_spatial() for _ in range(2000)]
    for draw in draws:
        if draw is not None:
            turned += 1
            scales.append(np.cbrt(np.linalg.det(draw["affine"])))
    assert turned / 2000 == pytest.approx(1 - 0.8 * 0.8, abs=4 * np.sqrt(0.36 * 0.64 / 2000))
    assert min(scales) == pytest.approx(0.7, abs=0.02) and max(scales) == pytest.approx(1.4, abs=0.02)
    changed = np.mean([abs(scale - 1) > 1e-9 for scale in scales])
    assert changed == pytest.approx(0.2 / 0.36, abs=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("patch_size", [(8, 12, 16), (4, 16, 16), (16, 24)])
def test_reading_the_middle_gives_what_the_whole_pipeline_gives(patch_size):
    """Same seed, with and without the margin: equal arrays for turned and unturned patches, 3D, dummy 2D and 2D."""
    geometry = AugmentationGeometry.from_patch_size(patch_size)
    target = target_transforms([[1.0] * len(patch_size), [0.5] * len(patch_size)])
    pipeline = ComposeTransforms([*spatial_transforms(geometry.patch_size, geometry.rotation, geometry.dummy_2d),
                                  *intensity_transforms(geometry.dummy_2d), *mirror_and_mask_transforms(geometry.mirror_axes, None), *target])
    augmentation = PatchAugmentation(pipeline, geometry.initial_patch_size)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(1, *geometry.initial_patch_size)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(-1, 3, (1, *geometry.initial_patch_size)).astype(np.int16))
    middle = tuple(slice(n // 2 - p // 2, n // 2 - p // 2 + p) for n, p in zip(geometry.initial_patch_size, patch_size))
    turned = set()
    for seed in range(12):
        with seeded_global_generators(seed):
            expected = pipeline(image=image.clone(), segmentation=labels.clone())
        with seeded_global_generators(seed):
            spatial = augmentation.draw_spatial()
            turned.add(spatial is not None)
            if spatial is None:
                patch = {"image": image[(0, *middle)][None].clone(), "segmentation": labels[(0, *middle)][None].clone()}
            else:
                patch = {"image": image.clone(), "segmentation": labels.clone()}
            found = augmentation(patch, spatial)
        torch.testing.assert_close(found["image"], expected["image"], rtol=0, atol=1e-5)  # sums over views round differently
        assert all(torch.equal(a, b) for a, b in zip(found["segmentation"], expected["segmentation"]))
    assert turned == {True, False}


def test_target_has_no_minus_one_and_one_scale_an_output():
    labels = torch.tensor([[-1, 0, 1, 2]], dtype=torch.int16).repeat(1, 4, 1)  # (1, 4, 4)
    targets = ComposeTransforms(target_transforms([[1.0, 1.0], [0.5, 0.5]]))(segmentation=labels)["segmentation"]
    assert [tuple(t.shape) for t in targets] == [(1, 4, 4), (1, 2, 2)]
    assert targets[0][0, 0].tolist() == [0, 0, 1, 2]
    assert targets[1][0, 0].tolist() == [0, 2]  # nearest-exact takes the voxels 1 and 3


def test_regions_with_ignore_label_end_in_an_ignore_channel():
    labels = torch.tensor([[[0, 1, 2, 3]]], dtype=torch.int16)
    target = ComposeTransforms(target_transforms(None, regions=[(1, 2), 2], ignore_label=3))(segmentation=labels)["segmentation"]
    assert target[:, 0].int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_voxels_outside_the_mask_are_zeroed_where_normalisation_used_it():
    step = mirror_and_mask_transforms((), use_mask_for_norm=[True, False])[-1]
    image, labels = torch.ones(2, 1, 1, 2), torch.tensor([[[[-1, 0]]]])
    assert step(image=image, segmentation=labels)["image"][:, 0, 0].tolist() == [[0, 1], [1, 1]]


def test_a_pipeline_that_begins_otherwise_gets_the_whole_box():
    """As custom trainers have them: nothing is known beforehand, everything runs on what was read."""
    pipeline = ComposeTransforms([*intensity_transforms(False), *target_transforms(None)])
    augmentation = PatchAugmentation(pipeline, (6, 6, 6))
    assert not augmentation.knows_spatial and augmentation.draw_spatial() is None
    patch = {"image": torch.rand(1, 6, 6, 6), "segmentation": torch.zeros(1, 6, 6, 6, dtype=torch.int16)}
    assert augmentation(patch, None)["image"].shape == (1, 6, 6, 6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 8, 8), (3, 8, 8)])
@pytest.mark.parametrize("sigma", [1.0, 1.5])
def test_patches_thinner_than_the_blurs_kernel_are_blurred_as_if_mirrored_on_and_on(shape, sigma):
    image = torch.rand(1, *shape)
    blur = GaussianBlurTransform((sigma, sigma), p_per_channel=1)
    mirrored = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (12, 12), (0, 0), (0, 0)), mode="reflect"))
    assert torch.allclose(blur(image=image.clone())["image"], blur(image=mirrored)["image"][:, 12:12 + shape[0]], atol=1e-6)


def test_a_blur_that_leaves_every_channel_alone_does():
    image = torch.rand(1, 2, 8, 8)
    assert torch.equal(GaussianBlurTransform((1.0, 1.0), p_per_channel=0)(image=image.clone())["image"], image)
