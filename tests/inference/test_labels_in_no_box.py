"""What boxes leave out: labels that none of them holds are looked for, and the report says what nobody looked at.

The network here goes by the image's value, organ above 0.5, lesion above 2. On the coarse grid it sees means of 8 voxels.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunetv2.inference.case_prediction import CasePredictor
from nnunetv2.inference.coarse_network import channel_names, channels_found, look_for_channels
from nnunetv2.inference.coarse_roi import RoiReport
from nnunetv2.inference.modes import InferenceMode
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tests.inference.threshold_engine import Threshold
from tests.inference.tiny_model import smooth_ct, write_image

LABELS = LabelManager({"background": 0, "organ": 1, "lesion": 2}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "lesion": 2}, [1, 2])
GEOMETRY = NetworkGeometry(patch_size=(8, 8, 8), divisor=(2, 2, 2), spacing=(4.0, 4.0, 4.0), mirror_axes=None)
FAST = InferenceMode(roi="coarse", tta=1, tiling="whole")
ORGAN = np.s_[4:12, 4:12, 4:12]


class ByValue(Threshold):
    def __call__(self, x, classify=True):
        self.sizes.append(tuple(x.shape[2:]))
        return 20 * torch.stack([torch.full_like(x[:, 0], 0.0), x[:, 0] - 0.5, 2 * x[:, 0] - 2.5], 1), None  # sure of what it says


class RegionsByValue(Threshold):
    def __call__(self, x, classify=True):
        return torch.stack([x[:, 0] - 0.5, x[:, 0] - 2], 1), None


def image(**values):
    """`organ` always; further values by their place."""
    data = np.zeros((40, 40, 40), np.float32)
    data[ORGAN] = 1
    for place, value in values.values():
        data[place] = value
    return torch.from_numpy(data)[None]


def predict(data, labels=LABELS, engine=None):
    """(label map, report)."""
    prediction = CasePredictor([engine or ByValue()], GEOMETRY, FAST, labels, lesion_channels=None)(data)
    return prediction.full_logits(labels.has_regions).float().argmax(0).numpy(), prediction.roi


def truth(data):
    return np.digitize(data[0].numpy(), [0.5, 2.0], right=True)


@pytest.mark.slow
@pytest.mark.parametrize("place", [np.s_[35, 35, 35], np.s_[39, 0, 39], (np.arange(20, 40, 2), 38, np.arange(0, 20, 2))],
                         ids=["voxel", "voxel in a corner", "specks"])
def test_a_label_that_the_coarse_pass_overlooks_is_found(place):
    data = image(lesion=(place, 3.0))
    with pytest.warns(UserWarning, match="lesion in no box.*lesion found there"):
        labels, report = predict(data)
    assert np.array_equal(labels, truth(data)) and report.searched_for == report.found_elsewhere == ("lesion",)


@pytest.mark.parametrize("place", [np.s_[30:31, 20:40, 20:40], np.s_[20:40, 38:39, 0:3]], ids=["plate", "bar"])
def test_a_thin_lesion_that_blurs_into_another_label_on_the_coarse_grid_has_its_box(place):
    data = image(lesion=(place, 2.1))
    labels, report = predict(data)
    assert np.array_equal(labels, truth(data)) and report.searched_for == () and len(report.boxes) == 2


@pytest.mark.slow
def test_a_label_of_its_own_that_is_too_thin_for_the_coarse_pass_is_found():
    data = image(lesion=(np.s_[8:10, 8:10, 8:10], 3.0))  # inside the organ
    data[data == 1] = 0  # the organ's box holds the lesion alone, and the organ is a plate elsewhere
    data[0, 30, 15:35, 15:35] = 0.8
    with pytest.warns(UserWarning, match="organ in no box.*organ found there"):
        labels, report = predict(data)
    assert np.array_equal(labels, truth(data)) and len(report.boxes) == 2


def test_a_lesion_that_only_the_fine_pass_sees_in_its_box_needs_no_search():
    data = image(lesion=(np.s_[7:8, 7:8, 7:8], 3.0))
    engine = ByValue()
    labels, report = predict(data, engine=engine)
    assert np.array_equal(labels, truth(data)) and report.searched_for == () and report.in_words() == ""
    assert engine.voxels < 40**3 / 2


@pytest.mark.slow
def test_a_label_that_is_nowhere_is_said_to_be_nowhere():
    engine = ByValue()
    with pytest.warns(UserWarning, match="lesion in no box; the rest of the volume was looked through, which takes longer: found nowhere"):
        labels, report = predict(image(), engine=engine)
    assert np.array_equal(labels, truth(image())) and report.searched_for == ("lesion",) and report.found_elsewhere == ()
    assert engine.voxels < 1.5 * 40**3  # once through the volume, not in overlapping windows


def test_a_second_part_of_a_label_far_away_is_not_looked_for_and_the_report_says_how_much_was_not_seen():
    data = image(lesion=(np.s_[7:9, 7:9, 7:9], 3.0), second=(np.s_[35:36, 35:36, 35:36], 3.0))
    labels, report = predict(data)
    (box,) = report.boxes
    assert labels[35, 35, 35] == 0 and all(side.stop <= 35 for side in box)
    assert report.not_segmented == pytest.approx(1 - np.prod([side.stop - side.start for side in box]) / 40**3)


def test_a_second_part_that_the_coarse_pass_sees_has_its_box():
    data = image(lesion=(np.s_[7:9, 7:9, 7:9], 3.0), second=(np.s_[34:37, 34:37, 34:37], 3.0))
    labels, report = predict(data)
    assert np.array_equal(labels, truth(data)) and len(report.boxes) == 2


def test_a_region_in_no_box_is_found():
    data = image(lesion=(np.s_[35:36, 35:36, 35:36], 3.0))
    with pytest.warns(UserWarning, match="lesion found there"):
        prediction = CasePredictor([RegionsByValue()], GEOMETRY, FAST, REGIONS, lesion_channels=None)(data)
    assert torch.equal(prediction.full_logits(True)[1] > 0, data[0] > 2)


@pytest.mark.slow
def test_nothing_on_the_coarse_grid_is_reported_as_the_whole_volume():
    data = torch.zeros(1, 40, 40, 40)
    data[0, 20, 20, 20] = 3
    with pytest.warns(UserWarning, match="no boxes: the coarse pass finds nothing; the whole volume was segmented"):
        labels, report = predict(data)
    assert np.array_equal(labels, truth(data)) and report.not_segmented == 0 and report.whole_because


@pytest.mark.slow
def test_without_boxes_there_is_no_report():
    assert CasePredictor([ByValue()], GEOMETRY, InferenceMode(tta=1), LABELS, lesion_channels=None)(image()).roi is None
    assert predict(torch.zeros(1, 8, 8, 8))[1] is None  # no larger than a patch: it goes through as it is


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(arrays(np.float32, st.tuples(*[st.integers(3, 20)] * 3), elements=st.sampled_from([0.0, 1.0, 3.0])), st.sets(st.sampled_from([1, 2]), min_size=1),
       st.integers(0, 3))
def test_the_search_sees_every_voxel_outside_the_boxes_and_none_inside(values, channels, edge):
    data = torch.from_numpy(values)[None]
    box = tuple(slice(0, min(edge, n)) for n in values.shape)
    found = look_for_channels(ByValue(), data, GEOMETRY, LABELS, channels, [box])
    expected = np.isin(truth(data), list(channels))
    expected[box] = False
    assert np.array_equal(found, expected)


def test_windows_inside_boxes_are_left_out():
    engine = ByValue()
    look_for_channels(engine, torch.zeros(1, 80, 8, 8), NetworkGeometry((8, 8, 8), (2, 2, 2), (1.0,) * 3, None), LABELS, {1},
                      [(slice(0, 72), slice(0, 8), slice(0, 8))])
    assert engine.sizes == [(8, 8, 8)]


def test_channels_and_their_names():
    assert channel_names(LABELS) == {1: "organ", 2: "lesion"} and channel_names(REGIONS) == {0: "whole", 1: "lesion"}
    logits = ByValue()(torch.tensor([0.0, 3.0]).reshape(1, 1, 1, 1, 2))[0][0]
    assert channels_found(logits, LABELS) == {2}
    assert channels_found(RegionsByValue()(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 1, 2))[0][0], REGIONS) == {0}


def test_report_as_json():
    report = RoiReport(((slice(0, 2), slice(1, 3), slice(0, 4)),), (4, 4, 4), "", ("lesion",), ())
    assert json.loads(json.dumps(report.as_json())) == {
        "boxes": [[[0, 2], [1, 3], [0, 4]]], "volume": [4, 4, 4], "not_segmented": 0.75, "whole_because": "", "searched_for": ["lesion"], "found_elsewhere": []}


@pytest.fixture
def fast_predictor(model_folder):
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, engine="torch", mode="fast", precision="fp32")
    predictor.initialize_from_trained_model_folder(model_folder, (0,))
    predictor.case_predictor.engines = [ByValue()]
    predictor.case_predictor.lesion_channels = None
    return predictor


def ct(path):
    """HU of 200 in a corner, which is normalised to the largest value that the plans allow, 2.4."""
    array = np.full((20, 60, 60), -60, np.int16)
    array[4:8, 8:16, 8:16] = 200
    write_image(path, array, spacing=(1.0, 1.0, 2.0))


@pytest.mark.slow
def test_boxes_and_what_was_not_segmented_are_in_the_report_of_the_run_and_in_a_warning(fast_predictor, tmp_path):
    ct(tmp_path / "in" / "case_0000.nii.gz")
    with pytest.warns(UserWarning, match=r"In 1 of 1 case\(s\) boxes were segmented and the rest of the volume was not, \d+%.*--roi none"):
        fast_predictor.predict_from_files(tmp_path / "in", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "prediction_times.json").read_text())["roi_reports"]["case"]
    assert report["volume"] == [20, 60, 60] and 0 < report["not_segmented"] < 1 and report["boxes"] and report["searched_for"]


@pytest.mark.slow
def test_a_result_carries_its_report(fast_predictor):
    array = smooth_ct((20, 60, 60))[None]
    result = fast_predictor.predict_single_npy_array(array, {"spacing": [2.0, 1.0, 1.0]}, return_classification=True)
    assert result.roi.volume == (20, 60, 60)
