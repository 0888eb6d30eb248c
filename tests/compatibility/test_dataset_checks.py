"""Checks of one case with nnU-Net's answers: True, or False and what is wrong in print."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO


@pytest.fixture
def write(tmp_path):
    def write(name, array, spacing=1.0, origin=0.0):
        geometry = {"spacing": (spacing, 1.0, 1.0), "origin": (origin, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}
        SimpleITKIO().write_seg(np.asarray(array), tmp_path / name, {"sitk_stuff": geometry})
        return str(tmp_path / name)
    return write


MASK = np.array([[[0, 1, 2]]])


def test_labels_are_those_expected_or_named(write, tmp_path, capsys):
    file = write("a.nii.gz", MASK)
    assert verify_labels(file, SimpleITKIO, [0, 1, 2]) and capsys.readouterr().out == ""
    assert not verify_labels(file, SimpleITKIO, [0, 1]) and "label(s) 2" in capsys.readouterr().out
    assert not verify_labels(str(tmp_path / "gone.nii.gz"), SimpleITKIO, [0]) and "gone" in capsys.readouterr().out


def test_a_case_that_fits_is_right(write, capsys):
    assert check_cases([write("i.nii.gz", MASK)], write("m.nii.gz", MASK), 1, SimpleITKIO) and capsys.readouterr().out == ""


@pytest.mark.parametrize(("mask", "channels", "told"), [
    ({"array": MASK[..., :2]}, 1, "(1, 1, 2) voxels"), ({"array": MASK, "spacing": 2.0}, 1, "spacing"), ({"array": MASK}, 2, "1 channel(s)")])
def test_another_shape_spacing_or_number_of_channels_is_told(write, capsys, mask, channels, told):
    assert not check_cases([write("i.nii.gz", MASK)], write("m.nii.gz", **mask), channels, SimpleITKIO)
    assert told in capsys.readouterr().out


def test_a_mask_elsewhere_is_warned_of_alone(write, capsys):
    assert check_cases([write("i.nii.gz", MASK)], write("m.nii.gz", MASK, origin=5.0), 1, SimpleITKIO)
    assert "Warning" in capsys.readouterr().out


def test_values_that_are_no_numbers_are_told(write, tmp_path, capsys):
    image = str(tmp_path / "i.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[[0.0, np.nan, 1.0]]], np.float32)), image)
    assert not check_cases([image], write("m.nii.gz", MASK), 1, SimpleITKIO) and "i.nii.gz" in capsys.readouterr().out
