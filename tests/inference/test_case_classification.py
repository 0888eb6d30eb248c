import numpy as np
import pytest
import torch

from nnunetv2.inference import case_prediction
from nnunetv2.inference.case_classification import ClassEvidence, describe_case, classify_case, fits_whole
from nnunetv2.inference.case_prediction import CLASS_VIEWS, CasePredictor
from nnunetv2.inference.modes import InferenceMode
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.inference.sliding_window_prediction import mirror_views
from nnunetv2.utilities.label_handling.label_handling import LabelManager

SURE = 30.0  # logit whose softmax is 1
PATCH, DIVISOR, LESION = (4, 4, 4), (2, 2, 2), (2,)


def seg_logits(labels):
    """Labels (D, H, W) -> certain logits (3, D, H, W)."""
    return torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 0) * SURE


class LabelEngine:
    """The image is its own label map; class 1 where the window's first voxel is above 2.5, else class 0."""

    name, precision, batch_size = "fake", "fp32", 1

    def __init__(self):
        self.seen, self.classified = [], []  # sizes of windows; segmentations to classify by

    def __call__(self, x, classify=True):
        self.seen.append(tuple(x.shape[2:]))
        labels = x[:, 0].clamp(0, 2).round()
        return torch.stack([seg_logits(item) for item in labels]), self._class_logits(x)

    def classify(self, x, seg_logits):
        self.classified.append(seg_logits.argmax(1))
        return self._class_logits(x)

    def _class_logits(self, x):
        marker = (x[:, 0].amax((1, 2, 3)) > 2.5).float()
        return torch.stack([-SURE * marker, SURE * (2 * marker - 1)], 1)

    def in_full_precision(self):
        return self


def test_windows_count_by_lesion_mass():
    evidence = ClassEvidence(LESION)
    three, one = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    three.view(-1)[:3], one.view(-1)[:1] = 2, 2
    evidence.add(seg_logits(three), torch.tensor([[SURE, -SURE]]))
    evidence.add(seg_logits(one), torch.tensor([[-SURE, SURE]]))
    torch.testing.assert_close(evidence.mean(), torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_without_lesion_windows_count_by_foreground():
    evidence = ClassEvidence(LESION)
    evidence.add(seg_logits(torch.ones(2, 2, 2)), torch.tensor([[SURE, -SURE]]))
    evidence.add(seg_logits(torch.zeros(2, 2, 2)), torch.tensor([[-SURE, SURE]]))
    torch.testing.assert_close(evidence.mean(), torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_without_anything_windows_count_evenly():
    evidence = ClassEvidence(LESION)
    for value in (SURE, -SURE):
        evidence.add(seg_logits(torch.zeros(2, 2, 2)), torch.tensor([[value, -value]]))
    torch.testing.assert_close(evidence.mean(), torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_views_are_averaged_as_logits():
    evidence = ClassEvidence(LESION)
    evidence.add(seg_logits(torch.zeros(1, 1, 1)), torch.tensor([[0.0, 2 * np.log(3)], [0.0, 0.0]]))  # mean (0, log 3): odds 1 to 3
    torch.testing.assert_close(evidence.mean(), torch.tensor([0.25, 0.75], dtype=torch.float64), atol=1e-6, rtol=0)


def test_no_window_no_class():
    assert ClassEvidence(LESION).mean() is None


@pytest.mark.parametrize("shape, fits", [((4, 4, 12), True), ((4, 4, 13), False), ((1, 1, 1), True)])
def test_three_patches_of_voxels_fit_whole(shape, fits):
    assert fits_whole(shape, PATCH, DIVISOR) is fits


def test_a_2d_network_never_sees_a_whole_case():
    assert not fits_whole((3, 4, 4), (4, 4), (2, 2))


def test_a_case_is_classified_at_its_padded_size_with_background_around_its_segmentation():
    engine = LabelEngine()
    classify_case(engine, torch.zeros(1, 3, 4, 9), seg_logits(torch.full((3, 4, 9), 2)), DIVISOR)
    segmentation, = engine.classified
    assert segmentation.shape == (1, 4, 4, 10)
    assert (segmentation[0, :3, :, :9] == 2).all() and segmentation.sum() == 2 * 3 * 4 * 9


def test_image_and_segmentation_are_mirrored_alike_and_views_averaged():
    class FirstVoxel(LabelEngine):
        def classify(self, x, seg_logits):
            label = seg_logits.argmax(1)[:, 0, 0, 0]
            assert torch.equal(label, x[:, 0, 0, 0, 0].long())
            return torch.stack([torch.zeros(len(x)), label * np.log(3)], 1)

    data = torch.zeros(1, 2, 2, 4)
    data[..., -1] = 2
    probabilities = classify_case(FirstVoxel(), data, seg_logits(data[0]), DIVISOR, [(), (2,)])  # logits 0 and 2 log 3
    assert probabilities.tolist() == pytest.approx([0.25, 0.75])


def test_no_class_head_no_class():
    class Headless(LabelEngine):
        def classify(self, x, seg_logits):
            return None

    assert classify_case(Headless(), torch.zeros(1, 2, 2, 2), seg_logits(torch.zeros(2, 2, 2)), DIVISOR) is None


def test_a_large_case_follows_the_window_with_the_lesion():
    data = torch.zeros(1, 4, 4, 40)
    data[..., 0:2] = 3.0  # lesion and class 1's marker; the other windows say class 0
    prediction, engine = predict(data, tta=1)
    assert len(engine.seen) > 1 and prediction.class_probabilities.tolist() == pytest.approx([0, 1], abs=1e-6)


def predict(data, engine=None, **levers):
    engine = engine or LabelEngine()
    geometry = NetworkGeometry(PATCH, DIVISOR, (1.0, 1.0, 1.0), (0, 1, 2))
    labels = LabelManager({"background": 0, "pancreas": 1, "lesion": 2}, None)
    return CasePredictor([engine], geometry, InferenceMode(**levers), labels, LESION)(data), engine


@pytest.mark.parametrize("tiling", ["windows", "whole"])
@pytest.mark.parametrize("tta", [8, 4, 2, 1])
def test_the_class_comes_from_the_views_that_its_head_was_refitted_on(tiling, tta):
    class Corner(LabelEngine):
        def _class_logits(self, x):
            return torch.stack([torch.zeros(len(x)), x[:, 0, 0, 0, 0] * np.log(3)], 1)

    data = torch.zeros(1, 4, 4, 8)
    data[0, -1, -1, -1], data[0, -1, 0, 0] = 2, 1  # in the corner after mirroring of all axes, and of the first
    data[0, -1, -1, 0] = 2  # the second of four views of a case that is segmented whole, where that of all axes is not among them
    probabilities = predict(data, Corner(), tiling=tiling, tta=tta)[0].class_probabilities
    assert mirror_views((0, 1, 2), CLASS_VIEWS) == [(), (0, 1, 2)]
    assert probabilities.tolist() == pytest.approx([0.25, 0.75] if tta > 1 else [0.5, 0.5])  # mean logits: 0 and log 3, of (0, 0) and (0, 2 log 3)


@pytest.mark.parametrize("levers, classified", [({"tiling": "windows", "tta": 4}, 2), ({"tiling": "windows", "tta": 1}, 1),
                                                ({"tiling": "whole", "tta": 4}, 0)])
def test_predictor_classifies_the_whole_case(levers, classified):
    data = torch.zeros(1, 4, 4, 9)
    data[0, 0, 0, 0] = 3
    prediction, engine = predict(data, **levers)
    assert prediction.class_probabilities.tolist() == pytest.approx([0, 1], abs=1e-6)
    assert len(engine.classified) == classified
    for segmentation in engine.classified:  # of the windows, put together
        assert segmentation.shape == (1, 4, 4, 10) and segmentation.sum() == 2


@pytest.mark.parametrize("length, levers, passes", [
    (4, {}, 4), (6, {}, 2 * 4), (8, {}, 3 * 2), (10, {}, 4 * 2), (12, {}, 5),  # windows times views
    (8, {"tiling": "whole"}, 4), (12, {"tiling": "whole"}, 2), (4, {"tta": 8}, 8), (12, {"tta": 2}, 5 * 2)])
def test_small_cases_are_seen_in_more_views_where_these_take_turns(monkeypatch, length, levers, passes):
    monkeypatch.setattr(case_prediction, "LITTLE_WORK", 8 * 4**3)  # eight windows
    _, engine = predict(torch.ones(1, 4, 4, length), **({"tta": 1, "in_turn": True} | levers))
    assert len(engine.seen) == passes


def test_two_views_of_a_whole_case_decide_its_class():
    class CountingEngine(LabelEngine):
        wanted = []

        def __call__(self, x, classify=True):
            self.wanted.append(classify)
            return super().__call__(x)

    engine = CountingEngine()
    predict(torch.ones(1, 4, 4, 10), engine, tiling="whole", tta=8)
    assert engine.wanted == [True] + [False] * 6 + [True]  # as it is, and mirrored along all axes


def test_a_window_that_is_the_whole_case_needs_no_further_pass():
    _, engine = predict(torch.ones(1, *PATCH), tiling="windows", tta=1)
    assert engine.seen == [PATCH]


def test_whole_tiling_needs_no_pass_of_its_own_for_the_class():
    _, engine = predict(torch.ones(1, 4, 4, 10), tiling="whole", tta=1)
    assert engine.seen == [(4, 4, 10)]


def test_too_large_for_one_pass_takes_the_class_from_the_segmenting_windows():
    data = torch.ones(1, 4, 4, 40)
    _, engine = predict(data, tiling="whole", tta=1)
    assert set(engine.seen) == {PATCH}


class FeatureNet(torch.nn.Module):
    """Features (mean of the image, number of voxels)."""

    def forward(self, x):
        return torch.stack([seg_logits(item) for item in x[:, 0].clamp(0, 2)]), None

    def describe(self, x):
        return self(x)[0], torch.stack([x.mean((1, 2, 3, 4)), torch.full((len(x),), float(x[0].numel()))], 1)


def test_features_of_a_case_that_fits_come_from_one_pass():
    _, features = describe_case(FeatureNet(), torch.ones(1, 4, 4, 10), PATCH, DIVISOR, LESION, torch.device("cpu"))
    assert features.tolist() == [[1.0, 160.0]]


def test_features_of_a_case_that_windows_segment_are_those_of_the_whole_under_what_they_found():
    class Knowing(FeatureNet):
        seen = []

        def forward(self, x, classify):
            self.seen.append((tuple(x.shape[2:]), classify))
            return super().forward(x)

        def features_under(self, x, seg_logits):
            return torch.stack([x.mean((1, 2, 3, 4)), (seg_logits.argmax(1) == 2).float().sum((1, 2, 3)), x[:, 0, -1, -1, -1]], 1)

    data = torch.zeros(1, 4, 4, 8)
    data[..., :2] = 2.0
    data[0, 0, 0, 0] = 1.0  # at the end after mirroring of all axes
    logits, features = describe_case(Knowing(), data, PATCH, DIVISOR, LESION, torch.device("cpu"), [(), (0, 1, 2)])
    assert set(Knowing.seen) == {(PATCH, False)} and logits.shape == (3, 4, 4, 8)
    assert features.tolist() == [pytest.approx([63 / 128, 31, 0]), pytest.approx([63 / 128, 31, 1])]


def test_features_of_a_large_case_are_averaged_by_lesion():
    data = torch.zeros(1, 4, 4, 40)
    data[..., :4] = 2.0
    _, features = describe_case(FeatureNet(), data, PATCH, DIVISOR, LESION, torch.device("cpu"), tile_step_size=1.0)
    assert features.tolist() == [pytest.approx([2.0, 64.0])]
