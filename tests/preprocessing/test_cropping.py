import pytest
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_fill_holes

from nnunetv2.preprocessing.cropping import OUTSIDE, bounding_box, crop_to_nonzero, fill_holes

MASKS = arrays(bool, st.tuples(*[st.integers(1, 6)] * 3))


@pytest.mark.slow
@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_fill_holes_equals_scipy(mask):
    assert np.array_equal(fill_holes(mask), binary_fill_holes(mask))


@pytest.mark.slow
@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_filling_after_the_crop_equals_filling_before(mask):
    _, seg, box = crop_to_nonzero(mask[None].astype(np.float32))
    inside = tuple(slice(*pair) for pair in box)
    assert np.array_equal(seg[0] == 0, binary_fill_holes(mask)[inside])


def test_box_is_half_open():
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = mask[2, 2, 5] = True
    assert bounding_box(mask) == [[1, 3], [2, 3], [3, 6]]


def test_zero_image_is_not_cropped_and_lies_outside():
    data, seg, box = crop_to_nonzero(np.zeros((1, 2, 3, 4), np.float32))
    assert data.shape == (1, 2, 3, 4) and box == [[0, 2], [0, 3], [0, 4]] and (seg == OUTSIDE).all()


def test_any_channel_counts():
    data = np.zeros((2, 1, 1, 4), np.float32)
    data[0, ..., 1] = data[1, ..., 2] = 5
    assert crop_to_nonzero(data)[2] == [[0, 1], [0, 1], [1, 3]]


def test_only_background_becomes_outside():
    data = np.array([1, 0, 0, 1], np.float32).reshape(1, 1, 1, 4)
    seg = np.array([0, 0, 2, 1], np.int16).reshape(1, 1, 1, 4)
    assert crop_to_nonzero(data, seg)[1].ravel().tolist() == [0, OUTSIDE, 2, 1]


def test_the_given_segmentation_stays_as_it_is():
    seg = np.zeros((1, 1, 1, 3), np.int16)
    crop_to_nonzero(np.array([1, 0, 1], np.float32).reshape(1, 1, 1, 3), seg)
    assert (seg == 0).all()
