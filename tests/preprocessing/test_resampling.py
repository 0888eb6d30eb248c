"""Resampling against scikit-image, which defines it, and against values that can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from nnunetv2.preprocessing.resampling import (
    compute_new_shape,
    interpolation_matrix,
    low_resolution_axis,
    nearest_indices,
    resample_data_or_seg_to_shape,
    resampling_fn_by_name,
)

ISOTROPIC = (1.0, 1.0, 1.0)
SHAPES = st.tuples(*[st.integers(1, 14)] * 3)


def resample(array, new_shape, spacing=ISOTROPIC, new_spacing=ISOTROPIC, **kwargs):
    return resample_data_or_seg_to_shape(array, new_shape, spacing, new_spacing, force_separate_z=None, **kwargs)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(SHAPES, SHAPES, st.sampled_from([1, 3]), st.integers(0, 2**31))
def test_image_equals_scikit_image(shape, new_shape, order, seed):
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    expected = resize(image.astype(float), new_shape, order, mode="edge", anti_aliasing=False)
    assert np.abs(resample(image[None], new_shape, order=order)[0] - expected).max() < 2e-5


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(SHAPES, SHAPES, st.integers(0, 2**31))
def test_labels_equal_thresholded_masks_even_in_ties(shape, new_shape, seed):
    seg = np.random.default_rng(seed).integers(-1, 3, shape).astype(np.int16)
    expected = np.zeros(new_shape, np.int16)
    for label in np.unique(seg):
        share = resize((seg == label).astype(float), new_shape, 1, mode="edge", anti_aliasing=False)
        expected[share >= 0.5] = label
    if shape != new_shape:
        assert np.array_equal(resample(seg[None], new_shape, is_seg=True, order=1)[0], expected)


def test_equal_shape_returns_the_input_itself():
    image = np.ones((1, 2, 3, 4), np.float32)
    assert resample(image, (2, 3, 4)) is image


def test_dtype_is_kept():
    assert resample(np.zeros((1, 4, 4, 4), np.float16), (2, 2, 2)).dtype == np.float16


def test_input_is_not_changed():
    image = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    before = image.copy()
    resample(image, (5, 5, 5))
    assert np.array_equal(image, before)


def test_halving_averages_pairs_at_order_1():
    image = np.array([0.0, 2.0, 4.0, 8.0], np.float32).reshape(1, 1, 1, 4)
    assert resample(image, (1, 1, 2), order=1).ravel().tolist() == [1.0, 6.0]


def test_cubic_does_not_leave_the_range_of_the_input():
    step = np.zeros((1, 1, 1, 16), np.float32)
    step[..., 8:] = 1
    result = resample(step, (1, 1, 29), order=3)
    assert result.min() == 0 and result.max() == 1


def test_large_values_keep_four_decimals():
    image = np.random.default_rng(0).uniform(-1024, 3000, (16, 16, 16)).astype(np.float32)
    expected = resize(image.astype(float), (20, 13, 17), 3, mode="edge", anti_aliasing=False)
    assert np.abs(resample(image[None], (20, 13, 17))[0] - expected).max() < 2e-4  # half a step of float32 at 3000


def test_thick_slices_are_picked_not_mixed():
    image = np.stack([np.full((4, 4), value, np.float32) for value in (1, 2, 3)])[None]
    result = resample(image, (6, 4, 4), (5.0, 1.0, 1.0), (2.5, 1.0, 1.0))
    assert result[0, :, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_thick_slices_are_clipped_slice_by_slice():
    image = np.zeros((1, 2, 1, 16), np.float32)
    image[0, 0, 0, 8:] = 1
    image[0, 1, 0, 8:] = 10
    result = resample(image, (2, 1, 29), (5.0, 1.0, 1.0), (5.0, 1.0, 0.5))
    assert result[0, 0].max() == 1 and result[0, 1].max() == 10


def test_order_z_1_mixes_thick_slices():
    image = np.stack([np.full((2, 2), value, np.float32) for value in (0, 4)])[None]
    result = resample(image, (4, 2, 2), (5.0, 1.0, 1.0), (2.5, 1.0, 1.0), order_z=1)
    assert result[0, :, 0, 0].tolist() == [0, 1, 3, 4]


def test_a_tie_goes_to_the_higher_label():
    seg = np.array([1, 2, 2, 2], np.int16).reshape(1, 1, 1, 4)
    assert resample(seg, (1, 1, 2), is_seg=True, order=1).ravel().tolist() == [2, 2]


def test_background_wins_a_tie_with_outside():
    seg = np.array([-1, 0, -1, -1], np.int16).reshape(1, 1, 1, 4)
    assert resample(seg, (1, 1, 2), is_seg=True, order=1).ravel().tolist() == [0, -1]


def test_no_label_with_half_of_the_weight_gives_background():
    seg = np.array([[1, 2], [3, 4]], np.int16).reshape(1, 1, 2, 2)
    assert resample(seg, (1, 1, 1), is_seg=True, order=1).ravel().tolist() == [0]


def test_seg_order_3_is_refused():
    with pytest.raises(ValueError, match="order 0 or 1"):
        resample(np.zeros((1, 4, 4, 4), np.int16), (2, 2, 2), is_seg=True, order=3)


def test_new_shape_keeps_the_extent():
    assert compute_new_shape((60, 117, 180), (2.0, 0.73, 0.73), (1.0, 0.73, 1.46)) == (120, 117, 90)


@pytest.mark.parametrize(("current", "new", "axis"), [
    ((3.0, 1.0, 1.0), ISOTROPIC, None),  # exactly 3 is not more than 3
    ((3.1, 1.0, 1.0), ISOTROPIC, 0),
    (ISOTROPIC, (1.0, 1.0, 4.0), 2),
    ((4.0, 1.0, 1.0), (1.0, 1.0, 9.0), 0),  # the current spacing decides first
    ((0.2, 1.0, 1.0), (4.0, 1.0, 1.0), None),  # two coarse axes: neither is apart, and the new spacing is not asked
])
def test_low_resolution_axis(current, new, axis):
    assert low_resolution_axis(current, new) == axis


def test_forced_separation():
    assert low_resolution_axis((2.0, 1.0, 1.0), ISOTROPIC, force_separate_z=True) == 0
    assert low_resolution_axis((9.0, 1.0, 1.0), ISOTROPIC, force_separate_z=False) is None


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([0, 1, 3]))
@settings(max_examples=30, deadline=None)
def test_interpolation_weights_sum_to_one(n_in, n_out, order):
    assert np.allclose(interpolation_matrix(n_in, n_out, order).sum(axis=1), 1)


def test_nearest_indices_repeat_when_the_grid_gets_finer():
    assert nearest_indices(3, 6).tolist() == [0, 0, 1, 1, 2, 2]


def test_unknown_function_is_named():
    with pytest.raises(ValueError, match="resample_by_magic"):
        resampling_fn_by_name("resample_by_magic")
