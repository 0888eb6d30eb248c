import numpy as np
import pytest

from nnunetv2.preprocessing.intensity_check import constant_image, intensity_warnings

PANCREAS = {"0": {"percentile_00_5": -56.0, "percentile_99_5": 180.0, "mean": 75.0, "std": 44.0}}
CT = ["CTNormalization"]


@pytest.fixture(scope="module")
def body():
    """Air around fat around soft tissue around a spine, HU with noise: (1, 20, 40, 40)."""
    z, y, x = np.ogrid[:20, -20:20, -20:20]
    radius = np.sqrt(x**2 + y**2) + 0 * z
    hu = np.select([radius < 3, radius < 12, radius < 17], [400.0, 60.0, -100.0], -1000.0)
    return (hu + np.random.default_rng(0).normal(0, 15, hu.shape))[None].astype(np.float32)


def test_ct_in_hounsfield_units_is_not_odd(body):
    assert intensity_warnings(body, CT, PANCREAS) == []


def test_crop_inside_the_body_is_not_odd(body):
    assert intensity_warnings(body[:, :, 8:32, 8:32], CT, PANCREAS) == []


@pytest.mark.parametrize(("change", "text"), [
    (lambda hu: (hu + 1000) / 2000, "span"), (lambda hu: hu + 1024, "above 180"), (lambda hu: (hu - hu.mean()) / hu.std(), "span"),
    (lambda hu: hu - 1024, "between -56 and 180"), (lambda hu: hu * 100 + 20000, "above 180")],
    ids=["0 to 1", "1024 added", "standardised", "1024 taken away", "scaled"])
def test_other_scales_are_told_with_numbers(body, change, text):
    warnings = intensity_warnings(change(body), CT, PANCREAS)
    assert len(warnings) == 1 and text in warnings[0] and "-56 to 180 HU" in warnings[0]


def test_channels_that_are_no_ct_are_passed_over(body):
    assert intensity_warnings(body / 1000, ["ZScoreNormalization"], PANCREAS) == []


def test_constant_image_is_told_with_its_value_whatever_its_channels():
    image = np.full((1, 2, 2, 2), -1000.0)
    assert constant_image(image) == "constant, every voxel is -1000; there is no picture in it"
    for scheme in ("CTNormalization", "ZScoreNormalization"):
        (warning,) = intensity_warnings(image, [scheme], PANCREAS)
        assert warning.startswith("constant, every voxel is -1000")


def test_one_channel_with_a_picture_is_enough():
    assert constant_image(np.stack([np.zeros((2, 2, 2)), np.arange(8).reshape(2, 2, 2)])) is None
