import numpy as np
import pytest

from evaluation.bootstrap import resample_counts
from evaluation.lesion_metrics import by_size_tertile, detection_rate, lesion_detection, volume_agreement


def lesions(*voxels: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((6, 6, 6), bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_one_shared_voxel_is_a_detection():
    assert lesion_detection(lesions((1, 1, 1)), lesions((1, 1, 1), (1, 1, 2)))["detected"] == 1


def test_a_near_miss_is_none_and_a_false_component():
    assert lesion_detection(lesions((1, 1, 1)), lesions((1, 1, 2))) == {"detected": 0, "false_positive_components": 1}


def test_components_that_touch_by_a_corner_are_one():
    assert lesion_detection(lesions((0, 0, 0)), lesions((3, 3, 3), (4, 4, 4)))["false_positive_components"] == 1


def test_only_components_off_the_reference_are_false():
    assert lesion_detection(lesions((1, 1, 1)), lesions((1, 1, 1), (4, 4, 4)))["false_positive_components"] == 1


def test_detection_is_undefined_without_a_lesion():
    assert np.isnan(lesion_detection(lesions(), lesions((1, 1, 1)))["detected"])


def test_a_perfect_rate_keeps_an_honest_interval():
    rate = detection_rate(np.ones(36))
    assert rate["mean"] == 1 and rate["ci_low"] == pytest.approx(0.9036, abs=1e-4)


def test_detection_rate_leaves_out_cases_without_a_lesion():
    rate = detection_rate(np.array([1, 0, np.nan]))
    assert (rate["mean"], rate["n"], rate["found"]) == (0.5, 2, 1)


def test_tertiles_follow_the_reference_volume():
    volume = np.array([5.0, 1, 3, 0, 2, 4, 6])
    thirds = by_size_tertile(volume, volume / 10, np.ones(7), resample_counts(7, 10, 0))
    assert [third["volume_ml"] for third in thirds] == [[1, 2], [3, 4], [5, 6]]
    assert [third["dsc"]["mean"] for third in thirds] == pytest.approx([0.15, 0.35, 0.55])


def test_volume_bias_is_prediction_minus_reference():
    agreement = volume_agreement([10, 10], [12, 14], resample_counts(2, 10, 0))
    assert agreement["bias_ml"]["mean"] == 3 and agreement["sd_ml"] == pytest.approx(2 ** 0.5)
    assert agreement["limits_ml"] == pytest.approx([3 - 1.96 * 2 ** 0.5, 3 + 1.96 * 2 ** 0.5])
