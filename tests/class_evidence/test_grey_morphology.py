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
    """Also where the ball is larger than the image."""
    image = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    ball = ball_mm(radius, spacing)
    assert np.array_equal(grey_closing(image, ball), ndimage.grey_closing(image, footprint=ball))
    assert np.array_equal(grey_opening(image, ball), ndimage.grey_opening(image, footprint=ball))


def test_a_closing_fills_a_dark_voxel_and_leaves_the_input_alone():
    image = np.ones((5, 5, 5), np.float32)
    image[2, 2, 2] = -3
    before = image.copy()
    assert (grey_closing(image, ball_mm(1.0, (1.0, 1.0, 1.0))) == 1).all() and np.array_equal(image, before)
    assert grey_opening(-image, ball_mm(1.0, (1.0, 1.0, 1.0))).max() == -1
