import errno
import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.whole_file import damage_of_written
from nnunetv2.utilities.errors import in_one_message
from nnunetv2.utilities.files import atomic_write
from tests.inference.full_disk import no_file_larger_than

MASK = np.random.default_rng(0).integers(0, 3, (20, 40, 40)).astype(np.uint8)
PROPERTIES = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())}}
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_mask_that_the_disk_does_not_take_is_an_error_and_leaves_nothing(tmp_path, ending):
    with no_file_larger_than(4096), pytest.raises(OSError) as caught:
        SimpleITKIO().write_seg(MASK, tmp_path / f"case{ending}", PROPERTIES)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / f"case{ending}")
    assert not list(tmp_path.iterdir())


def test_a_mask_that_the_disk_does_not_take_leaves_the_earlier_one(tmp_path):
    SimpleITKIO().write_seg(MASK, tmp_path / "case.nii.gz", PROPERTIES)
    before = (tmp_path / "case.nii.gz").read_bytes()
    with no_file_larger_than(4096), pytest.raises(OSError):
        SimpleITKIO().write_seg(MASK[::-1], tmp_path / "case.nii.gz", PROPERTIES)
    assert (tmp_path / "case.nii.gz").read_bytes() == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_whole_mask_has_no_damage(tmp_path, ending):
    SimpleITKIO().write_seg(MASK, tmp_path / f"case{ending}", PROPERTIES)
    assert damage_of_written(tmp_path / f"case{ending}") is None


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 1, 10, 200, 4000, -40, -8, -3, -1])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_mask_cut_anywhere_is_damaged(tmp_path, ending, keep):
    path = tmp_path / f"case{ending}"
    SimpleITKIO().write_seg(MASK, path, PROPERTIES)
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) in damage_of_written(path)


def test_a_file_that_holds_other_voxels_than_were_written_is_damaged(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(MASK), str(tmp_path / "case.mha"))
    assert "does not hold what was written" in damage_of_written(tmp_path / "case.mha", sitk.GetImageFromArray(MASK[::-1].copy()))


def test_a_gzip_file_of_anything_else_is_no_whole_mask(tmp_path):
    (tmp_path / "case.nii.gz").write_bytes(gzip.compress(b"text"))
    assert "no whole NIfTI header" in damage_of_written(tmp_path / "case.nii.gz")


def test_an_error_inside_the_block_names_the_file_that_was_meant(tmp_path):
    with no_file_larger_than(1000), pytest.raises(OSError) as caught, atomic_write(tmp_path / "table.csv") as temporary:
        temporary.write_bytes(bytes(2000))
    assert in_one_message(caught.value).startswith(f"{tmp_path / 'table.csv'}: File too large. ")
    assert not list(tmp_path.iterdir())


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "copy") as temporary:
        temporary.write_bytes((tmp_path / "original").read_bytes())
    assert caught.value.filename == str(tmp_path / "original")
