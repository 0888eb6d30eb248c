import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnunetv2.preprocessing.case_store import save_case
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import save_json
from nnunetv2.utilities.overlay_plots import COLORS, generate_overlays_from_preprocessed, generate_overlays_from_raw, overlay, select_slice


def test_slice_with_most_foreground():
    seg = np.zeros((3, 4, 4), int)
    seg[1, :2] = seg[2, :1] = 1
    assert select_slice(seg) == 1


def test_small_label_weighs_as_much_as_a_large_one():
    seg = np.zeros((2, 10, 10), int)
    seg[0, :6], seg[1, :5] = 1, 1
    seg[1, 9, 9] = 2
    assert select_slice(seg) == 1


def test_without_foreground_the_middle_slice():
    assert select_slice(np.full((5, 2, 2), -1)) == 2


def test_intensity_0_leaves_the_grey_image():
    image = np.linspace(0, 1, 16).reshape(4, 4)
    assert np.array_equal(overlay(image, np.ones((4, 4), int), 0), overlay(image, np.zeros((4, 4), int), 1))


def test_intensity_1_shows_the_label_colour_alone():
    rgb = overlay(np.zeros((1, 2)), np.array([[0, 1]]), 1)
    assert rgb[0, 1].tolist() == (COLORS[0] * 255).round().tolist() and rgb[0, 0].tolist() == [0, 0, 0]


@pytest.fixture
def preprocessed(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    seg = np.zeros((1, 3, 6, 8), np.int16)
    seg[0, 1, 2:4, 2:4] = 1
    save_case(np.random.default_rng(0).normal(size=(1, 3, 6, 8)), seg, {"spacing": [1, 1, 1]}, tmp_path / "Dataset904_Drawn" / "data", "a")
    architecture = {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []}
    save_json({"plans_name": "nnUNetPlans", "configurations": {"2d": {"data_identifier": "data", "architecture": architecture}}},
              tmp_path / "Dataset904_Drawn" / "nnUNetPlans.json")
    return "Dataset904_Drawn"


def test_one_png_a_case(preprocessed, tmp_path):
    generate_overlays_from_preprocessed(preprocessed, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"] and imread(tmp_path / "out" / "a.png").shape[:2] == (6, 8)


def test_absent_channel_is_named_with_the_case(preprocessed, tmp_path):
    with pytest.raises(RuntimeError, match="a: .*no channel 3"):
        generate_overlays_from_preprocessed(preprocessed, tmp_path / "out", channel_idx=3)


def test_a_label_that_the_dataset_does_not_declare_is_named_and_the_other_case_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    folder = tmp_path / "Dataset905_Raw"
    for case, label in (("a", 1), ("b", 7)):
        mask = np.zeros((3, 6, 8), np.uint8)
        mask[1, 2:4, 2:4] = label
        for path, values in ((f"imagesTr/{case}_0000.nii.gz", np.arange(144, dtype=np.int16).reshape(3, 6, 8)), (f"labelsTr/{case}.nii.gz", mask)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(values), folder / path)
    save_json({"channel_names": {"0": "CT"}, "labels": {"background": 0, "pancreas": 1}, "numTraining": 2, "file_ending": ".nii.gz"}, folder / "dataset.json")
    with pytest.raises(RuntimeError, match=r"b: .*b\.nii\.gz holds label\(s\) 7, dataset.json declares \[0, 1\]"):
        generate_overlays_from_raw(905, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_pictures_are_not_drawn_over_masks_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    folder = tmp_path / "Dataset906_Pictures"
    for path in ("imagesTr/a_0000.png", "labelsTr/a.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((6, 8), np.uint8)), folder / path)
    save_json({"channel_names": {"0": "x"}, "labels": {"background": 0, "cell": 1}, "numTraining": 1, "file_ending": ".png"}, folder / "dataset.json")
    before = (folder / "labelsTr" / "a.png").read_bytes()
    with pytest.raises(InputError, match="labelsTr, which is read"):
        generate_overlays_from_raw("Dataset906_Pictures", folder / "labelsTr")
    assert (folder / "labelsTr" / "a.png").read_bytes() == before
