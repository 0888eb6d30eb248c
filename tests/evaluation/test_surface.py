import importlib
import os
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from evaluation.segmentation_metrics import dice, segmentation_metrics
from evaluation.surface import SURFACES, SurfaceDistances, boundary_voxels, corner_areas, surface_elements


def blob(seed: int, level: float = 0.3, shape: tuple[int, ...] = (12, 20, 24)) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return field > np.quantile(field, 0.5 + level / 2)


def test_two_single_voxels_two_millimetres_apart():
    reference, prediction = np.zeros((100, 100, 100), bool), np.zeros((100, 100, 100), bool)
    reference[50, 60, 70] = prediction[50, 60, 72] = True
    distances = SurfaceDistances.between(reference, prediction, (3, 2, 1))
    assert distances.directed_means() == pytest.approx((1.5, 1.5))
    assert distances.hausdorff(100) == pytest.approx(2.0)
    assert distances.nsd(1) == pytest.approx(0.5)
    assert dice(reference, prediction) == 0


@pytest.mark.slow
def test_half_blocks_that_differ_by_one_slice():
    reference, prediction = np.zeros((100, 100, 100), bool), np.zeros((100, 100, 100), bool)
    reference[:50] = prediction[:51] = True
    distances = SurfaceDistances.between(reference, prediction, (2, 1, 1))
    assert distances.directed_means() == pytest.approx((0.322, 0.339), abs=5e-4)
    assert distances.hausdorff(95) == pytest.approx(2.0)
    assert distances.nsd(1) == pytest.approx(0.836, abs=5e-4)
    assert dice(reference, prediction) == pytest.approx(0.990, abs=5e-4)


def test_square_and_square_with_a_cross_by_boundary_voxels():
    reference = np.zeros((11, 11), bool)
    reference[3:8, 3:8] = True
    prediction = reference.copy()
    prediction[5, 1:10] = prediction[1:10, 5] = True
    distances = SurfaceDistances.between(reference, prediction, (1, 1), "voxels")
    assert dice(reference, prediction) == pytest.approx(0.862, abs=5e-4)
    assert distances.assd() == pytest.approx(0.44, abs=5e-3)
    assert distances.masd() == pytest.approx(0.425)
    assert distances.nsd(1) == pytest.approx(0.89, abs=2e-3)
    assert distances.nsd(2) == 1.0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_costs_the_spacing_of_its_own_axis(axis):
    spacing = (2.5, 1.5, 0.5)
    reference, prediction = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    reference[4, 4, 4] = True
    prediction[tuple(5 if a == axis else 4 for a in range(3))] = True
    assert SurfaceDistances.between(reference, prediction, spacing).hausdorff(100) == pytest.approx(spacing[axis])


def test_area_of_a_flat_face_is_its_voxel_face():
    halves = sum(1 << k for k in range(4))  # the four corners with z = 0
    assert corner_areas((3.0, 2.0, 0.5))[halves] == pytest.approx(1.0)


def test_a_ball_has_its_analytic_area_and_the_stairs_of_its_voxels():
    z, y, x = np.ogrid[-20:21, -40:41, -40:41]
    ball = (2 * z) ** 2 + y ** 2 + x ** 2 <= 35 ** 2
    assert surface_elements(ball, (2, 1, 1))[1].sum() == pytest.approx(4 * np.pi * 35 ** 2 * 1.1, rel=0.05)


def test_boundary_voxels_of_a_cube_leave_out_its_inside():
    cube = np.zeros((7, 7, 7), bool)
    cube[1:6, 1:6, 1:6] = True
    assert len(boundary_voxels(cube, (1, 1, 1))[0]) == 125 - 27


def test_a_mask_at_the_border_of_the_array_has_a_surface_there():
    full = np.ones((2, 2, 2), bool)
    assert len(boundary_voxels(full, (1, 1, 1))[0]) == 8
    assert len(surface_elements(full, (1, 1, 1))[0]) == 26


def test_distances_refuse_an_empty_mask():
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="non-empty"):
        SurfaceDistances.between(mask, ~mask, (1, 1, 1))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from(sorted(SURFACES)))
def test_exchanging_the_masks_changes_nothing(seed_a, seed_b, definition):
    a, b = blob(seed_a, shape=(6, 8, 8)), blob(seed_b, shape=(6, 8, 8))
    there, back = (SurfaceDistances.between(*pair, (2, 1, 1), definition) for pair in ((a, b), (b, a)))
    assert (there.nsd(1), there.hausdorff(), there.masd()) == pytest.approx((back.nsd(1), back.hausdorff(), back.masd()))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(SURFACES)))
def test_a_mask_is_at_no_distance_from_itself(seed, definition):
    mask = blob(seed, shape=(6, 8, 8))
    distances = SurfaceDistances.between(mask, mask, (2, 1, 1), definition)
    assert (distances.nsd(0), distances.hausdorff(100), distances.masd()) == (1, 0, 0)


@pytest.mark.slow
def test_voxel_distances_equal_all_pairs_by_brute_force():
    a, b = blob(1), blob(2)
    points = [boundary_voxels(mask, (2, 0.7, 0.7))[0] for mask in (a, b)]
    pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    distances = SurfaceDistances.between(a, b, (2, 0.7, 0.7), "voxels")
    assert distances.masd() == pytest.approx((pairs.min(axis=1).mean() + pairs.min(axis=0).mean()) / 2)
    assert distances.hausdorff(100) == pytest.approx(max(pairs.min(axis=1).max(), pairs.min(axis=0).max()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_agrees_with_the_surface_distance_package(seed):
    """Google DeepMind's reference implementation of NSD, on random pairs; every seventh pair has an empty mask."""
    if not os.environ.get("CI"):
        pytest.importorskip("surface_distance", reason="pip install surface-distance absl-py")
    library = importlib.import_module("surface_distance")
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.5, 3, 3))
    reference, prediction = blob(seed, rng.uniform(0, 0.6)), blob(seed // 2 + 1000, rng.uniform(0, 0.6)) | blob(seed, 0.7)
    if seed % 7 == 0:
        (prediction if seed % 2 else reference)[:] = False
    ours = segmentation_metrics(reference, prediction, spacing)
    assert ours["dsc"] == pytest.approx(library.compute_dice_coefficient(reference, prediction))
    if seed % 7 == 0:  # the library has no finite distance here, its surface Dice is 0
        assert (ours["nsd_1mm"], ours["nsd_2mm"]) == (0, 0) and np.isnan(ours["hd95_mm"])
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it still calls scipy by old names
        theirs = library.compute_surface_distances(reference, prediction, spacing)
    assert ours["nsd_1mm"] == pytest.approx(library.compute_surface_dice_at_tolerance(theirs, 1), abs=1e-9)
    assert ours["nsd_2mm"] == pytest.approx(library.compute_surface_dice_at_tolerance(theirs, 2), abs=1e-9)
    assert ours["masd_mm"] == pytest.approx(np.mean(library.compute_average_surface_distance(theirs)))
    assert ours["hd95_mm"] == pytest.approx(library.compute_robust_hausdorff(theirs, 95))
