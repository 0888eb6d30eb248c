"""What the blocks measure, on shapes whose answers are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import ConvexHull

from nnunetv2.class_evidence.blocks import BLOCKS, measure
from nnunetv2.class_evidence.case import Intensities, evidence_case
from nnunetv2.class_evidence.lesion_blocks import _solidity
from nnunetv2.class_evidence.measure import Measurement

HU = (Intensities(1.0, 0.0, -200.0, 1000.0),)


def ball(shape, centre_mm, radius_mm, spacing) -> np.ndarray:
    grid = np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing)), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre_mm)) <= radius_mm**2


def phantom(spacing=(2.0, 2.0, 2.0), along=0.5, radius=6.0, organ_hu=100.0, lesion_hu=40.0, duct=0.0):
    """A straight gland of 100 x 20 x 20 mm along x in a volume of 120 x 50 x 50 mm, the lesion in its middle line."""
    shape = tuple(round(mm / s) for mm, s in zip((50, 50, 120), spacing))
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing)), indexing="ij")
    organ = (abs(z - 25) <= 10) & (abs(y - 25) <= 10) & (abs(x - 60) <= 50)
    image = np.where(organ, organ_hu, -100.0)
    if duct:
        image[organ & (np.hypot(z - 25, y - 25) <= duct) & (x > 60)] = 10.0
    lesion = ball(shape, (25, 25, 10 + 100 * along), radius, spacing)
    image[lesion] = lesion_hu
    labels = organ.astype(np.uint8)
    labels[lesion] = 2
    image = image + np.random.default_rng(0).normal(0, 3, image.shape)
    return evidence_case(image[None].astype(np.float32), labels, [2], spacing, HU)


@pytest.mark.slow
def test_every_block_gives_the_same_names_for_every_case_and_no_infinity():
    cases = [phantom(), phantom((5.0, 1.0, 1.0), along=0.1), phantom(along=0.95, radius=3.0)]
    found = [measure(case, tuple(BLOCKS)) for case in cases]
    assert [{name: set(block) for name, block in one.items()} for one in found] == [{name: set(block) for name, block in found[0].items()}] * 3
    assert not any(np.isinf(value) for one in found for block in one.values() for value in block.values())


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (4.0, 1.0, 1.0)])
def test_size_is_in_millimetres(spacing):
    found = measure(phantom(spacing, radius=10.0), ["size"])["size"]
    assert np.exp(found["log_volume"]) == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.05)
    assert found["number"] == 1


def test_a_ball_is_round_and_a_rod_is_long():
    round_one = measure(phantom(radius=9.0), ["shape"])["shape"]
    labels = np.zeros((20, 20, 40), np.uint8)
    labels[8:12, 8:12, 4:36] = 1
    rod = measure(evidence_case(np.zeros((1, 20, 20, 40), np.float32), labels, [1], (1, 1, 1), HU), ["shape"])["shape"]
    assert abs(round_one["elongation"]) < 0.1 and rod["elongation"] == pytest.approx(np.log(8), abs=0.1)
    assert rod["sphericity"] < round_one["sphericity"]


@given(st.integers(0, 2**32 - 1), st.floats(0.4, 4.0))
@settings(max_examples=15, deadline=None)
def test_solidity_is_that_of_the_hull_of_all_voxel_corners(seed, z_mm):
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(10, 14, 16)), 2) > 0
    spacing = (z_mm, 0.7, 1.1)
    points = np.argwhere(mask) * np.array(spacing)
    corners = np.concatenate([points + (np.array(corner) - 0.5) * spacing for corner in np.ndindex(2, 2, 2)])
    volume = mask.sum() * np.prod(spacing)
    assert _solidity(points, spacing, volume) == pytest.approx(volume / ConvexHull(corners).volume, rel=1e-9)


def test_attenuation_of_lesion_and_organ():
    found = measure(phantom(), ["attenuation", "parenchyma"])
    assert found["attenuation"]["p50_0"] == pytest.approx(40, abs=2)
    assert found["attenuation"]["lesion_minus_organ_0"] == pytest.approx(-60, abs=3)
    assert found["parenchyma"]["median_left_0"] == pytest.approx(100, abs=2)


@pytest.mark.parametrize("along", [0.2, 0.5, 0.8])
def test_place_along_the_organ_is_counted_from_the_patients_right(along):
    assert measure(phantom(along=along), ["place"])["place"]["along"] == pytest.approx(along, abs=0.06)


@pytest.mark.slow
@given(st.permutations(range(3)), st.tuples(*[st.sampled_from((-1, 1))] * 3), st.permutations(range(3)))
@settings(max_examples=20, deadline=None)
def test_the_same_scan_stored_along_other_axes_has_the_same_features(stored, ways, plan_axes):
    """stored: the body's axes (superior, posterior, left) along which the file's z, y, x run; plan_axes: transpose_forward."""
    shape, spacing = (24, 30, 44), (3.0, 2.0, 2.5)
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    labels[8:16, 10:22, 4:40], labels[9:14, 12:18, 26:34] = 1, 2
    image = rng.normal(60, 20, shape).astype(np.float32)
    plain = Measurement((2,), spacing, HU)(image[None], labels, {"spacing": spacing}, tuple(BLOCKS))

    flips = [axis for axis in range(3) if ways[axis] < 0]
    file_image, file_labels = (np.flip(np.transpose(array, stored), flips) for array in (image, labels))
    direction = np.zeros((3, 3))  # rows: the body's left, posterior, superior; columns: the file's x, y, z
    for axis in range(3):
        direction[2 - stored[axis], 2 - axis] = ways[axis]
    file_spacing = [spacing[axis] for axis in stored]
    measurement = Measurement((2,), tuple(file_spacing[axis] for axis in plan_axes), HU, tuple(plan_axes))
    properties = {"spacing": file_spacing, "sitk_stuff": {"direction": tuple(direction.ravel())}}
    found = measurement(np.transpose(file_image, plan_axes)[None], np.transpose(file_labels, plan_axes), properties, tuple(BLOCKS))
    assert found.keys() == plain.keys()
    for block, features in plain.items():
        assert found[block] == pytest.approx(features, rel=1e-4, abs=1e-4, nan_ok=True), block


def test_a_wide_duct_is_seen_on_its_side_alone():
    wide, none = (measure(phantom(duct=duct), ["duct"])["duct"] for duct in (4.0, 0.0))
    assert wide["dark_share_left_0"] > 0.05 + none["dark_share_left_0"]
    assert wide["dark_share_right_0"] < 0.02


def test_calcium_stands_out_beyond_the_clipping_limit():
    case = phantom()
    stone = np.argwhere(case.lesion).mean(0).round().astype(int)
    case.image[(0, *stone)] = 999.9
    found = measure(case, ["calcification"])["calcification"]
    assert found["above_300_mm3_0"] == pytest.approx(np.log1p(8)) and found["clipped_mm3_0"] == pytest.approx(np.log1p(8))


def test_several_lesions_are_counted_and_specks_are_not():
    labels = np.zeros((20, 20, 60), np.uint8)
    labels[6:12, 6:12, 4:10] = labels[6:12, 6:12, 30:36] = 1
    labels[2, 2, 50] = 1
    found = measure(evidence_case(np.zeros((1, 20, 20, 60), np.float32), labels, [1], (1, 1, 1), HU), ["size"])["size"]
    assert found["number"] == 2


def test_satellites_too_small_to_be_measured_are_counted_by_volume():
    labels = np.zeros((30, 30, 60), np.uint8)
    labels[5:25, 5:25, 5:25] = 1  # 8000 mm3
    labels[5:11, 5:11, 30:36] = 1  # 216 mm3, 3 % of the largest
    labels[5:9, 5:9, 40:43] = 1  # 48 mm3
    labels[5:7, 5:7, 50:52] = 1  # 8 mm3, a speck
    case = evidence_case(np.zeros((1, 30, 30, 60), np.float32), labels, [1], (1, 1, 1), HU)
    found = measure(case, ["size"])["size"]
    assert [found[f"number_{least}mm3"] for least in (40, 150, 500)] == [3, 2, 1]
    assert case.lesion.sum() == 8000 and found["number"] == 1


@pytest.mark.parametrize("radius, seen", [(0.0, False), (1.0, False), (4.0, True)])
def test_a_solid_nodule_in_the_lesion_is_told_from_specks_of_calcium(radius, seen):
    spacing, shape = (1.6, 1.6, 1.6), (32, 32, 32)
    lesion, image = ball(shape, (25, 25, 25), 14, spacing), np.full(shape, 100.0)
    image[lesion] = 40
    for middle in ((25, 25, 20), (25, 20, 28)):
        image[ball(shape, middle, 1.0, spacing)] = 700  # specks
    image[ball(shape, (25, 30, 30), radius, spacing)] = 120
    found = measure(evidence_case(image[None].astype(np.float32), lesion, [1], spacing, HU), ["inner_parts"])["inner_parts"]
    assert found["bright_ball_2.5mm_0"] == pytest.approx(80 if seen else 0, abs=1)
    assert found["dark_ball_2.5mm_0"] == pytest.approx(0, abs=1)
    assert (found["bright_blob_2.5mm_0"] > 40) == seen


def test_without_a_lesion_there_is_no_case():
    assert evidence_case(np.zeros((1, 4, 4, 4), np.float32), np.ones((4, 4, 4), np.uint8), [2], (1, 1, 1), HU) is None


def test_a_lesion_that_fills_a_crop_is_measured():
    case = evidence_case(np.ones((1, 3, 4, 5), np.float32), np.ones((3, 4, 5), np.uint8), [1], (1, 1, 1), HU)
    assert np.isfinite(measure(case, ["size"])["size"]["log_volume"])
    measure(case, tuple(BLOCKS))


def test_a_lesion_in_a_picture_has_a_border_as_steep_as_its_image():
    labels = np.zeros((1, 40, 40), np.uint8)
    labels[:, 10:30, 10:30] = 1
    sharp, blurred = (measure(evidence_case(image[None].astype(np.float32), labels, [1], (999.0, 1.0, 1.0), (Intensities(),)), ["margin"])["margin"]
                      for image in (100.0 * labels, ndimage.gaussian_filter(100.0 * labels, (0, 3, 3))))
    assert sharp["steepness_mean_0"] > blurred["steepness_mean_0"] + np.log(2) > np.log(10)


@pytest.mark.parametrize("unit, as_in_a_body", [(0.001, 0.25), (60.0, 5.0)])
def test_voxels_of_a_microscope_are_measured_as_if_they_were_of_a_body(unit, as_in_a_body):
    image, labels = np.random.default_rng(0).normal(size=(1, 8, 24, 24)).astype(np.float32), np.zeros((8, 24, 24), np.uint8)
    labels[2:7, 4:20, 4:20] = 1
    labels[3:6, 8:14, 8:14] = 2
    found = []
    for finest in (unit, as_in_a_body):
        spacing = (2 * finest, finest, finest)
        found.append(Measurement((2,), spacing, (Intensities(),))(image, labels, {"spacing": spacing}, ("texture", "size", "organ", "shell")))
    for block, values in found[1].items():
        assert found[0][block] == pytest.approx(values, rel=1e-3, abs=1e-4, nan_ok=True)
