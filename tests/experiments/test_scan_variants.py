"""The same scan in other files lies in the same place, and masks come back to where they belong."""

import numpy as np
import pytest
import SimpleITK as sitk

from experiments.scan_variants import (
    AS_IS,
    UNSEEN,
    Scan,
    changed_intensities,
    cropped,
    on_grid_of,
    resampled,
    turned,
    variants_of,
)

AFFINE = np.array(
    [[-2.0, 0, 0, 10], [0, 0, -3.0, 20], [0, 1.5, 0, -30], [0, 0, 0, 1]]
)  # x to the left, y up, z to the back


@pytest.fixture
def scan():
    """Voxels of 2 x 1.5 x 3 mm, every one with a value of its own; (Z, Y, X) = (3, 4, 5)."""
    return Scan(np.arange(1, 61, dtype=np.float32).reshape(3, 4, 5), AFFINE)


def mask_of(scan, path):
    sitk.WriteImage(scan.image(scan.array.astype(np.uint8)), str(path))
    return path


def test_there_are_48_ways_to_store_the_axes_and_one_is_the_scans_own(scan):
    ways = list(turned(scan))
    assert len({way.name for way in ways}) == len({way.case for way in ways}) == 48
    (own,) = [way for way in ways if np.array_equal(way.scan.affine, AFFINE)]
    assert np.array_equal(own.scan.array, scan.array)


@pytest.mark.slow
def test_a_mask_of_each_of_them_comes_back_voxel_by_voxel(scan, tmp_path):
    for way in turned(scan):
        assert np.array_equal(on_grid_of(mask_of(way.scan, tmp_path / "mask.nii.gz"), scan), scan.array), way.name


def test_a_written_scan_is_read_as_it_was(scan, tmp_path):
    scan.write(tmp_path / "a.nii.gz")
    again = Scan.read(tmp_path / "a.nii.gz")
    assert np.array_equal(again.array, scan.array) and np.allclose(again.affine, scan.affine, atol=1e-5)
    assert np.allclose(again.spacing, (3, 1.5, 2))


def test_a_ramp_of_the_world_stays_one_at_another_voxel_size():
    z, y, x = np.indices((24, 24, 24))
    ramp = Scan(
        (10 * (2 * x + 5)).astype(np.float32),
        np.diag([2.0, 2, 2, 1]) + np.array([[0, 0, 0, 5], [0] * 4, [0] * 4, [0] * 4]),
    )  # 10 HU a mm from 0
    for variant in resampled(ramp):
        array, affine = variant.scan.array, variant.scan.affine
        assert np.allclose(np.diag(affine)[:3], float(variant.name.split()[0]))
        inner = array.shape[2] // 2
        assert array[inner, inner, inner] == pytest.approx(10 * (affine[0, 0] * inner + affine[0, 3]), abs=0.01)
        assert affine[0, 3] - affine[0, 0] / 2 == pytest.approx(5 - 1)  # both begin at the same corner


def test_a_crop_keeps_its_place_and_what_is_cut_off_is_not_seen(scan, tmp_path):
    crops = {variant.name: variant for variant in cropped(scan)}
    assert set(crops) == {f"{axis} {side}" for axis in "zyx" for side in ("low", "high")}
    back = on_grid_of(mask_of(crops["x low"].scan, tmp_path / "mask.nii.gz"), scan)
    assert np.array_equal(back[:, :, 1:], scan.array[:, :, 1:]) and (back[:, :, 0] == UNSEEN).all()
    back = on_grid_of(mask_of(crops["z high"].scan, tmp_path / "mask.nii.gz"), scan)
    assert np.array_equal(back[:-1], scan.array[:-1]) and (back[-1] == UNSEEN).all()


def test_intensities_change_by_what_is_said_and_nothing_moves(scan):
    found = {variant.name: variant.scan for variant in changed_intensities(scan)}
    assert np.array_equal(found["-20 HU"].array, scan.array - 20) and np.array_equal(
        found["+50 HU"].array, scan.array + 50
    )
    assert 35 < np.std(found["noise 50 HU"].array - scan.array) < 65
    assert all(np.array_equal(variant.affine, AFFINE) for variant in found.values())


def test_groups_choose_and_the_scan_itself_comes_first(scan):
    found = list(variants_of(scan, ("intensity",)))
    assert found[0].name == AS_IS and {variant.group for variant in found[1:]} == {"intensity"}
