"""A label that one view just fails to choose is found by `fast` too; one that no view expects costs no second look.

The network here goes by the image's first channel: organ from 0.5 to 2, lesion above. The second channel runs upwards along D, so the network
knows which way a view is turned: as it is, it takes the lesion for background by a little; turned along D it is sure of it.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunetv2.inference.case_prediction import CasePredictor
from nnunetv2.inference.last_look import EXPECTED_ML, probability_sums, with_channels_of
from nnunetv2.inference.modes import MODES
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tests.inference.threshold_engine import Threshold

LABELS = LabelManager({"background": 0, "organ": 1, "lesion": 2}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "lesion": 2}, [1, 2])
GEOMETRY = NetworkGeometry(patch_size=(8, 8, 8), divisor=(2, 2, 2), spacing=(4.0, 4.0, 4.0), mirror_axes=(0, 1, 2))
LESION = np.s_[2:5, 2:5, 2:5]  # 27 voxels of 0.064 ml


class Doubting(Threshold):
    """as_it_is: the lesion's logit above background's in a view that is not turned along D."""

    def __init__(self, as_it_is=-0.3, regions=False):
        super().__init__()
        self.as_it_is, self.regions = as_it_is, regions

    def __call__(self, x, classify=True):
        self.sizes.append(tuple(x.shape[2:]))
        half = x.shape[2] // 2
        turned = x[:, 1, :half].mean() > x[:, 1, half:].mean()
        value = x[:, 0]
        lesion = torch.where(value > 2, 1.0 if turned else self.as_it_is, -9.0)
        organ = torch.where((value > 0.5) & (value <= 2), 3.0, -9.0)
        channels = [torch.maximum(organ, lesion), lesion] if self.regions else [torch.zeros_like(value), organ, lesion]
        return torch.stack(channels, 1), None


def image(size, lesion, organ=None):
    data = np.zeros((2, size, size, size), np.float32)
    data[1] = np.arange(1, size + 1)[:, None, None]
    if organ is not None:
        data[0][organ] = 1
    data[0][lesion] = 3
    return torch.from_numpy(data)


def predict(data, mode, engine, labels=LABELS, spacing=4.0):
    geometry, mode = replace(GEOMETRY, spacing=(spacing,) * 3), replace(MODES[mode], in_turn=False)  # one view of all windows
    return CasePredictor([engine], geometry, mode, labels, lesion_channels=None)(data)


def label_map(prediction):
    return prediction.full_logits(False).argmax(0).numpy()


def test_one_pass_does_not_find_it_and_the_look_with_all_views_does():
    data = image(8, LESION)
    exact = label_map(predict(data, "exact", Doubting()))
    assert (exact == 2).sum() * 0.064 > 1 and np.array_equal(exact == 2, (data[0] > 2).numpy())
    with pytest.warns(UserWarning, match="lesion nearly found at first; windows and mirrored views looked once more"):
        fast = predict(data, "fast", Doubting())
    assert np.array_equal(label_map(fast), exact) and fast.looked_again_for == ("organ", "lesion")[1:]


@pytest.mark.slow
def test_beside_an_organ_in_a_box_it_is_found_and_the_organ_stays():
    data = image(32, np.s_[24:27, 24:27, 24:27], organ=np.s_[4:10, 4:10, 4:10])
    with pytest.warns(UserWarning, match="lesion nearly found"):
        fast = predict(data, "fast", Doubting())
    assert np.array_equal(label_map(fast), np.digitize(data[0].numpy(), [0.5, 2.0], right=True))
    assert np.array_equal(label_map(fast), label_map(predict(data, "exact", Doubting())))


def test_a_region_is_found_too():
    data = image(8, LESION)
    with pytest.warns(UserWarning, match="whole, lesion nearly found"):
        fast = predict(data, "fast", Doubting(regions=True), REGIONS)
    assert torch.equal(fast.full_logits(True)[1] > 0, data[0] > 2) and torch.equal(fast.full_logits(True)[0] > 0, data[0] > 2)


@pytest.mark.parametrize("data", [image(8, np.s_[2:3, 2:3, 2:3]), image(8, LESION)], ids=["too small to matter", "not expected"])
def test_what_no_pass_expects_a_tenth_of_a_millilitre_of_costs_no_second_look(data):
    small = int((data[0] > 2).sum()) == 1
    engine = Doubting(-0.3 if small else -6.0)
    assert predict(data, "fast", engine).looked_again_for == () and len(engine.sizes) == 1


@pytest.mark.parametrize(("spacing", "side", "looked_for"), [(0.004, 8, 0), (0.004, 28, 1), (4000.0, 1, 0), (4000.0, 2, 1)])
@pytest.mark.filterwarnings("ignore:.*nearly found")
def test_voxels_of_a_microscope_count_as_quarter_millimetres_and_those_counted_in_micrometres_as_five(spacing, side, looked_for):
    """0.43 of 8^3 and 28^3 voxels of 1/64 mm3 is 0.003 and 0.15 ml; of 1 and 2^3 voxels of 125 mm3 0.05 and 0.4 ml."""
    data = image(28, np.s_[:side, :side, :side])
    assert len(predict(data, "fast", Doubting(), spacing=spacing).looked_again_for) == looked_for


@pytest.mark.parametrize(("spacing", "margin"), [(0.004, 60), (0.25, 60), (1.0, 15), (5.0, 3), (4000.0, 3)])
def test_boxes_have_the_same_margin_of_voxels_at_every_scale(spacing, margin):
    data = torch.zeros(2, 8, 8, 200)
    data[0, :, :, 90:94] = 1
    one_label = LabelManager({"background": 0, "organ": 1}, None)
    assert predict(data, "fast", Threshold(), one_label, spacing).roi.boxes[0][2] == slice(90 - margin, 94 + margin)


def test_a_label_that_was_found_is_not_looked_for_again():
    engine = Doubting(as_it_is=1.0)
    assert (label_map(predict(image(8, LESION, organ=np.s_[6:8, 6:8, 6:8]), "fast", engine)) == 2).sum() == 27 and len(engine.sizes) == 1


def test_other_modes_never_look_again():
    engine = Doubting(as_it_is=-3.0)  # nothing to the mean of the views either
    assert predict(image(8, LESION), "half", engine).looked_again_for == () and len(engine.sizes) == 8


def test_probabilities_add_up_over_voxels():
    logits = torch.zeros(3, 1, 1, 4)
    logits[2, 0, 0, 0] = 100
    assert probability_sums(logits, [1, 2], LABELS) == {1: pytest.approx(1.0), 2: pytest.approx(2.0)}
    assert probability_sums(logits, [2], LABELS, torch.tensor([[[True, True, False, False]]])) == {2: pytest.approx(4 / 3)}
    assert probability_sums(logits[:2], [0], REGIONS) == {0: pytest.approx(2.0)} and probability_sums(logits, [], LABELS) == {}


def test_only_the_channels_that_are_named_come_from_the_other_logits():
    logits, other = torch.tensor([1.0, 0, 0]).reshape(3, 1, 1, 1).repeat(1, 1, 1, 3), torch.zeros(3, 1, 1, 3)
    other[1, 0, 0, 0] = other[2, 0, 0, 1] = 5
    assert with_channels_of(logits, other, {2}, LABELS).argmax(0).flatten().tolist() == [0, 2, 0]


def test_the_bound_is_a_tenth_of_what_nobody_should_lose():
    assert EXPECTED_ML == 0.1
