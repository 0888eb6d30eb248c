"""Openings and closings with balls against scipy's, value for value."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunetv2.class_evidence.case import ball_mm
from nnunetv2.class_evidence.grey_morphology import grey_closing, grey_opening

SIZES = st.tuples(*[st.integers(1, 9)] * 3)
SPACINGS = st.tuples(*[st.floats(0.6, 4.0)] * 3)


@given(SIZES, SPACINGS, st.floats(0.5, 6.0), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_values_are_scipys(size, spacing, radius, seed):
    """Also where the ball is larger than the image: scipy returns values that are not in the image there, so it gets the mirror beforehand."""
    image = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    ball = ball_mm(radius, spacing)
    closed = _in_a_mirror(ndimage.grey_erosion, _in_a_mirror(ndimage.grey_dilation, image, ball), ball)
    opened = _in_a_mirror(ndimage.grey_dilation, _in_a_mirror(ndimage.grey_erosion, image, ball), ball)
    assert np.array_equal(grey_closing(image, ball), closed)
    assert np.array_equal(grey_opening(image, ball), opened)


def _in_a_mirror(filtered, image, ball):
    reach = [n // 2 for n in ball.shape]
    inner = tuple(slice(r, r + n) for r, n in zip(reach, image.shape, strict=True))
    return filtered(np.pad(image, [(r, r) for r in reach], mode="symmetric"), footprint=ball)[inner]


@given(st.tuples(*[st.integers(7, 12)] * 3), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_values_are_scipys_own_where_the_ball_is_smaller_than_the_image(size, seed):
    image = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    ball = ball_mm(3.0, (1.0, 1.5, 1.0))
    assert np.array_equal(grey_closing(image, ball), ndimage.grey_closing(image, footprint=ball))
    assert np.array_equal(grey_opening(image, ball), ndimage.grey_opening(image, footprint=ball))


def test_a_closing_fills_a_dark_voxel_and_leaves_the_input_alone():
    image = np.ones((5, 5, 5), np.float32)
    image[2, 2, 2] = -3
    before = image.copy()
    assert (grey_closing(image, ball_mm(1.0, (1.0, 1.0, 1.0))) == 1).all() and np.array_equal(image, before)
    assert grey_opening(-image, ball_mm(1.0, (1.0, 1.0, 1.0))).max() == -1
