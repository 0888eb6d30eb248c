import re

import numpy as np
import pytest

from nnunetv2.experiment_planning.dataset_integrity import verify_dataset_integrity

SHAPE = (8, 12, 10)


def defects(dataset):
    with pytest.raises(ValueError, match="defect") as error:
        verify_dataset_integrity(dataset.raw, 2)
    return str(error.value)


def test_sound_dataset_passes(dataset, capsys):
    dataset.classify()
    verify_dataset_integrity(dataset.raw, 2)
    assert "3 cases checked" in capsys.readouterr().out


def test_a_constant_image_is_warned_of_by_its_file_and_no_defect(dataset, capsys):
    dataset.write("a", np.full(SHAPE, 7.0))
    verify_dataset_integrity(dataset.raw, 2)
    out = capsys.readouterr().out
    assert "Warning: a: " in out and "a_0000.nii.gz: constant, every voxel is 7" in out and "no defect found" in out


def test_a_mask_without_an_image_is_warned_of_by_its_name_and_no_defect(dataset, capsys):
    dataset.write("orphan", seg=np.zeros(SHAPE, np.uint8))
    verify_dataset_integrity(dataset.raw, 2)
    out = capsys.readouterr().out
    assert "Warning: labelsTr: label(s) without an image are not used: orphan" in out and "3 cases checked, no defect found" in out


def test_almost_integer_labels_are_labels(dataset):
    dataset.write("a", seg=np.full(SHAPE, 1.0000152587890625))
    verify_dataset_integrity(dataset.raw, 2)


def test_values_that_are_no_labels_are_shown(dataset):
    dataset.write("a", seg=np.full(SHAPE, 1.5))
    assert "a.nii.gz holds values that are no labels: 1.5 in 960 voxel(s)" in defects(dataset)


def test_segmentation_of_two_layers_is_found(dataset, write_image):
    write_image(np.zeros((2, *SHAPE), np.uint8), dataset.raw / "labelsTr" / "a.nii.gz", (0.75, 0.875, 2.5, 1.0), (0.0,) * 4)
    assert re.search(r"a\.nii\.gz has \d+ layers; a segmentation has one number", defects(dataset))


def test_damaged_image_and_label_of_one_case_are_both_named(dataset):
    for path in (dataset.raw / "imagesTr" / "a_0000.nii.gz", dataset.raw / "labelsTr" / "a.nii.gz"):
        path.write_bytes(path.read_bytes()[:-9])
    assert re.search(r"(?s)a_0000\.nii\.gz is damaged.*labelsTr/a\.nii\.gz is damaged", defects(dataset))


def test_undeclared_labels_are_shown(dataset):
    dataset.write("b", seg=np.arange(960).reshape(SHAPE) % 5)
    assert "holds label(s) 3, 4, dataset.json declares [0, 1, 2]" in defects(dataset)


def test_ignore_label_is_no_defect(dataset):
    dataset.save_json(labels=dataset.json["labels"] | {"ignore": 3})
    dataset.write("b", seg=np.full(SHAPE, 3, np.uint8))
    verify_dataset_integrity(dataset.raw, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_counted(dataset, value):
    image = np.ones(SHAPE, np.float32)
    image[0, 0, :2] = value
    dataset.write("a", image)
    assert "a_0000.nii.gz has 2 NaN or infinite voxel(s)" in defects(dataset)


def test_nan_in_a_label_map_is_found(dataset):
    seg = np.zeros(SHAPE, np.float32)
    seg[1, 1, 1] = np.nan
    dataset.write("a", seg=seg)
    assert "a.nii.gz has 1 NaN or infinite voxel(s)" in defects(dataset)


def test_label_of_another_shape_is_found(dataset):
    dataset.write("a", seg=np.zeros((8, 12, 9), np.uint8))
    assert "a.nii.gz has (z, y, x) = (8, 12, 9) voxels, must have (8, 12, 10) (its image)" in defects(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", [
    {"origin": (0, 0, 1.0)}, {"spacing": (0.75, 0.875, 2.6)}, {"direction": (1, 0, 0, 0, -1, 0, 0, 0, 1)}])
def test_label_on_another_grid_is_found(dataset, geometry):
    dataset.write("a", seg=np.zeros(SHAPE, np.uint8), **geometry)
    assert "mm off" in defects(dataset)


def test_rounding_in_the_header_is_no_defect(dataset):
    dataset.write("a", seg=np.zeros(SHAPE, np.uint8), origin=(0.001, 0, -0.001), spacing=(0.75001, 0.875, 2.5))
    verify_dataset_integrity(dataset.raw, 2)


def test_file_cut_short_is_found(dataset):
    path = dataset.raw / "imagesTr" / "a_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    assert "a_0000.nii.gz is damaged" in defects(dataset)


def test_nan_in_a_format_that_keeps_it_is_found(dataset, write_image):
    image = np.ones(SHAPE, np.float32)
    image[0, 0, 0] = np.nan
    for case in "abc":
        write_image(image, dataset.raw / "imagesTr" / f"{case}_0000.mha")
        write_image(np.zeros(SHAPE, np.uint8), dataset.raw / "labelsTr" / f"{case}.mha")
        (dataset.raw / "imagesTr" / f"{case}_0000.nii.gz").unlink()
    dataset.save_json(file_ending=".mha")
    assert "c_0000.mha has 1 NaN or infinite voxel(s)" in defects(dataset)


def test_every_defect_of_the_dataset_is_listed_at_once(dataset):
    dataset.classify("a,0\nb,9\n")
    dataset.save_json(numTraining=7, holdout=["c", "ghost"], channel_names={"0": "CT", "1": "PET"})
    (dataset.raw / "labelsTr" / "c.nii.gz").unlink()
    found = defects(dataset)
    for text in ("numTraining is 7, 3 cases", "held-out case(s) without an image: ghost", "b: '9'",
                 "a: 1 channel(s), dataset.json declares 2", "c.nii.gz does not exist"):
        assert text in found
    assert re.search(r"has 6 defect\(s\)", found)  # channels of a and b


def test_labels_with_a_gap_are_refused(dataset):
    dataset.save_json(labels={"background": 0, "organ": 1, "lesion": 3})
    with pytest.raises(ValueError, match=r"labels \[0, 1, 3\] must be 0, 1, 2, without a gap"):
        verify_dataset_integrity(dataset.raw, 2)


def test_regions_may_be_made_of_any_values(dataset):
    """As nnU-Net plans, trains and predicts them: a channel of the network is a region there, no value."""
    seg = np.zeros(SHAPE, np.uint8)
    seg[2:6, 3:9, 3:8], seg[3:5, 4:6, 4:6] = 1, 4
    for case in "abc":
        dataset.write(case, seg=seg)
    dataset.save_json(labels={"background": 0, "whole": [1, 4], "core": 4}, regions_class_order=[1, 4])
    verify_dataset_integrity(dataset.raw, 2)


def test_a_class_per_case_of_regions_is_a_defect(dataset):
    dataset.classify()
    dataset.save_json(labels={"background": 0, "whole": [1, 2], "lesion": 2}, regions_class_order=[1, 2])
    with pytest.raises(ValueError, match="'labels' defines regions; leave one of the two out"):
        verify_dataset_integrity(dataset.raw, 2)


def test_missing_keys_are_all_named(dataset):
    del dataset.json["labels"], dataset.json["file_ending"]
    dataset.save_json()
    with pytest.raises(ValueError, match=r"(?s)labels: is missing.*file_ending: is missing"):
        verify_dataset_integrity(dataset.raw)
