import numpy as np
import pytest

from evaluation.segmentation_metrics import OVERLAP_METRICS, crop_to_union, segmentation_metrics
from nnunetv2.utilities.data_description import THE_QUIZ

SPACING = (2.0, 1.0, 0.5)
EMPTY = np.zeros((4, 5, 6), bool)
FULL = ~EMPTY


def test_both_empty_is_undefined_and_counted():
    row = segmentation_metrics(EMPTY, EMPTY, SPACING)
    assert row["outcome"] == "both_empty" and all(np.isnan(row[name]) for name in OVERLAP_METRICS)


@pytest.mark.parametrize("reference, prediction, outcome", [(FULL, EMPTY, "missed"), (EMPTY, FULL, "false_alarm")])
def test_one_empty_scores_zero_overlap_and_no_distance(reference, prediction, outcome):
    row = segmentation_metrics(reference, prediction, SPACING)
    assert row["outcome"] == outcome and [row[name] for name in OVERLAP_METRICS] == [0] * len(OVERLAP_METRICS)
    assert np.isnan(row["hd95_mm"]) and np.isnan(row["masd_mm"])


def test_volume_is_voxels_times_spacing_in_millilitres():
    row = segmentation_metrics(FULL, EMPTY, SPACING)
    assert (row["reference_ml"], row["predicted_ml"]) == (4 * 5 * 6 * 2.0 * 1.0 * 0.5 / 1000, 0)


def test_iou_of_half_overlap():
    prediction = FULL.copy()
    prediction[2:] = False
    assert segmentation_metrics(FULL, prediction, SPACING)["iou"] == pytest.approx(0.5)


def test_whole_pancreas_is_pancreas_and_lesion():
    labels = np.array([0, 1, 2])
    assert [np.isin(labels, THE_QUIZ.structures[name].labels).tolist() for name in ("whole_pancreas", "lesion", "normal_pancreas")] == [
        [False, True, True], [False, False, True], [False, True, False]]


def test_cropping_keeps_every_voxel_of_both_masks():
    reference, prediction = EMPTY.copy(), EMPTY.copy()
    reference[1, 2, 3] = prediction[2, 4, 5] = True
    cropped = crop_to_union(reference, prediction)
    assert cropped[0].shape == (2, 3, 3) and cropped[0].sum() == cropped[1].sum() == 1


def test_metrics_do_not_depend_on_the_background_around():
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 4, 5, 6)) < 0.4
    padded = [np.pad(mask, 3) for mask in (reference, prediction)]
    assert segmentation_metrics(reference, prediction, SPACING) == segmentation_metrics(*padded, SPACING)
