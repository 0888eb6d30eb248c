"""nnU-Net's functions that draw masks over images."""

import numpy as np
import pytest
from matplotlib.image import imread

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.overlay_plots import (
    color_cycle,
    generate_overlay,
    hex_to_rgb,
    multiprocessing_plot_overlay,
    multiprocessing_plot_overlay_preprocessed,
    plot_overlay,
    select_slice_to_plot,
    select_slice_to_plot2,
)
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

GEOMETRY = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}}


def test_colours_are_read_from_their_digits():
    assert hex_to_rgb("ff8000") == (255, 128, 0) and all(len(hex_to_rgb(color)) == 3 for color in color_cycle)
    with pytest.raises(ValueError, match="fff"):
        hex_to_rgb("fff")


def test_a_label_adds_its_colour_and_the_brightest_is_white():
    """Red on white gives 255 + 255: all values are halved."""
    image, seg = np.array([[0.0, 1.0, 1.0]]), np.array([[0, 0, 1]])
    found = generate_overlay(image, seg, color_cycle=("000000", "ff0000"), overlay_intensity=1.0)
    assert found.tolist() == [[[0, 0, 0], [127, 127, 127], [255, 127, 127]]]


def test_colours_start_anew_and_unmapped_labels_have_none():
    image, seg = np.array([[0.0, 1.0, 0.0]]), np.array([[1, 0, 2]])
    found = generate_overlay(image, seg, {1: 2}, ("000000", "0000ff"), 1.0)
    assert found.tolist() == [[[0, 0, 0], [255, 255, 255], [0, 0, 0]]]


def test_pictures_in_colour_are_taken_and_others_refused():
    image = np.array([[[0, 0, 0], [2, 1, 0]]])
    assert generate_overlay(image, np.zeros((1, 2), int)).tolist() == [[[0, 0, 0], [255, 127, 0]]]
    assert not generate_overlay(np.full((1, 2), 7.0), np.zeros((1, 2), int)).any()
    with pytest.raises(RuntimeError, match=r"\(1, 2, 2\)"):
        generate_overlay(np.zeros((1, 2, 2)), np.zeros((1, 2), int))


def test_slices_are_chosen_by_voxels_or_by_shares():
    """Slice 1 holds three of six voxels of label 1, slice 2 all of label 2 alone."""
    seg = np.zeros((3, 1, 4), int)
    seg[0, 0, :3] = 1
    seg[1, 0, :3] = 1
    seg[2, 0, 0] = 2
    assert select_slice_to_plot(seg, seg) == 0 and select_slice_to_plot2(seg, seg) == 2


@pytest.fixture
def files(tmp_path):
    """An image whose second slice holds the mask."""
    image, seg = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    image[1] = np.arange(12).reshape(3, 4)
    seg[1, 0, 0] = 1
    for array, name in ((image, "image.nii.gz"), (seg, "seg.nii.gz")):
        SimpleITKIO().write_seg(array, tmp_path / name, GEOMETRY)
    return str(tmp_path / "image.nii.gz"), str(tmp_path / "seg.nii.gz"), image, seg


def test_cases_on_disk_are_drawn(files, tmp_path):
    image_file, seg_file, image, seg = files
    outputs = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    multiprocessing_plot_overlay([image_file] * 2, [seg_file] * 2, SimpleITKIO(), outputs, 0.6, 2)
    for output in outputs:
        assert np.array_equal((imread(output)[..., :3] * 255).round(), generate_overlay(image[1], seg[1]))


def test_a_mask_of_another_shape_is_refused(files, tmp_path):
    SimpleITKIO().write_seg(np.zeros((2, 3, 3), np.uint8), tmp_path / "other.nii.gz", GEOMETRY)
    with pytest.raises(ValueError, match=r"\(2, 3, 3\)"):
        plot_overlay(files[0], str(tmp_path / "other.nii.gz"), SimpleITKIO(), str(tmp_path / "a.png"))


def test_preprocessed_cases_are_drawn_without_what_is_outside(files, tmp_path):
    _, _, image, seg = files
    marked = seg.astype(np.int16) - (image == 5)  # -1 at a voxel
    nnUNetDatasetBlosc2.save_case(image[None].astype(np.float32), marked[None], {"spacing": [1.0, 1.0, 1.0]}, str(tmp_path / "cases" / "c"))
    multiprocessing_plot_overlay_preprocessed(nnUNetDatasetBlosc2(tmp_path / "cases"), str(tmp_path), 0.6, 1)
    assert np.array_equal((imread(tmp_path / "c.png")[..., :3] * 255).round(), generate_overlay(image[1], seg[1]))
