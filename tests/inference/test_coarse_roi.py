"""The network here is a threshold at 0.5, so that the right answer is the image itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2.inference.case_prediction import CasePredictor, NetworkGeometry
from nnunetv2.inference.coarse_roi import (
    MAX_GROWTHS, box_on_fine_grid, coarse_factors, coarsen, foreground_box, grow_where_touched, predict_in_roi, widen,
)
from nnunetv2.inference.modes import InferenceMode
from nnunetv2.utilities.label_handling.label_handling import LabelManager

SPACING = (1.0, 1.0, 1.0)


class Threshold:
    """Foreground where the image exceeds `level`; no class."""

    name, precision, batch_size = "threshold", "fp32", 1

    def __init__(self, level=0.5):
        self.level, self.voxels = level, 0

    def __call__(self, x):
        self.voxels += x[0, 0].numel()
        return torch.stack([torch.full_like(x[:, 0], self.level), x[:, 0]], 1), None


def find(image, margin_mm=2.0, coarse_level=0.5, fine_level=0.5, **options):
    """(mask in the full volume, box, boxes' sizes tried) of predict_in_roi with two thresholds."""
    tried = []

    def fine(data):
        tried.append(tuple(data.shape[1:]))
        return data[0].numpy() > fine_level

    mask, box = predict_in_roi(lambda coarse: coarse[0].numpy() > coarse_level, fine, lambda mask: mask,
                               torch.from_numpy(image)[None].float(), SPACING, margin_mm, **options)
    full = np.zeros(image.shape, bool)
    full[box] = mask
    return full, box, tried


def volume(*boxes, shape=(24, 24, 24)):
    image = np.zeros(shape, np.float32)
    for box in boxes:
        image[box] = 1
    return image


def test_thick_slices_are_not_pooled():
    assert coarse_factors((2.0, 0.73, 0.73)) == (1, 2, 2)
    assert coarse_factors((5.0, 0.8, 0.8)) == (1, 2, 2)


def test_coarsening_averages_what_an_incomplete_block_has():
    data = torch.tensor([1.0, 3.0, 5.0]).reshape(1, 1, 1, 3)
    assert coarsen(data, (1, 1, 2)).flatten().tolist() == [2.0, 5.0]


def test_box_holds_all_components():
    mask = np.zeros((5, 5, 5), bool)
    mask[0, 1, 1] = mask[3, 4, 2] = True
    assert foreground_box(mask) == (slice(0, 4), slice(1, 5), slice(1, 3))


def test_no_foreground_has_no_box():
    assert foreground_box(np.zeros((2, 2, 2), bool)) is None


def test_margin_stops_at_the_volumes_border():
    box = box_on_fine_grid((slice(0, 2), slice(4, 6)), (2, 2), (3, 3), (11, 11))
    assert box == (slice(0, 7), slice(5, 11))


def test_only_the_touched_side_grows():
    box, inside = (slice(4, 10), slice(4, 10)), (slice(0, 3), slice(1, 5))
    assert grow_where_touched(box, inside, (1, 1), (20, 20)) == (slice(2, 10), slice(4, 10))


def test_touching_the_volumes_own_border_is_no_reason_to_grow():
    box, inside = (slice(0, 10),), (slice(0, 10),)
    assert grow_where_touched(box, inside, (2,), (10,)) == box


def test_widening_is_even_and_shifts_where_the_volume_ends():
    assert widen((slice(3, 7), slice(0, 2), slice(8, 10)), (6, 5, 5), (20, 20, 10)) == (slice(2, 8), slice(0, 5), slice(5, 10))


def test_widening_never_shrinks_and_stops_at_the_volume():
    assert widen((slice(3, 9), slice(3, 5)), (4, 32), (20, 20)) == (slice(3, 9), slice(0, 20))


@given(st.data())
def test_widened_box_holds_the_box_within_the_volume(data):
    n = data.draw(st.integers(1, 40))
    start = data.draw(st.integers(0, n - 1))
    stop, size = data.draw(st.integers(start + 1, n)), data.draw(st.integers(1, 50))
    (wide,) = widen((slice(start, stop),), (size,), (n,))
    assert 0 <= wide.start <= start and stop <= wide.stop <= n
    assert wide.stop - wide.start == max(stop - start, min(size, n))


def test_box_is_filled_up_to_what_the_network_is_fed():
    image = volume(np.s_[8:12, 8:12, 8:12])
    mask, box, tried = find(image, fed_size=lambda shape: [16 * -(-n // 16) for n in shape])
    assert np.array_equal(mask, image > 0) and box == (slice(2, 18),) * 3 and len(tried) == 1


def test_object_inside_is_found_in_one_small_box():
    image = volume(np.s_[8:12, 8:12, 8:12])
    mask, box, tried = find(image)
    assert np.array_equal(mask, image > 0) and box == (slice(6, 14),) * 3 and len(tried) == 1


def test_object_at_the_volumes_edge_is_whole():
    image = volume(np.s_[0:4, 20:24, 8:12])
    mask, _, tried = find(image)
    assert np.array_equal(mask, image > 0) and len(tried) == 1


def test_two_components_lie_in_one_box():
    image = volume(np.s_[2:6, 2:6, 2:6], np.s_[16:20, 16:20, 16:20])
    mask, box, _ = find(image)
    assert np.array_equal(mask, image > 0) and box == (slice(0, 22),) * 3


def test_nothing_in_the_coarse_pass_means_the_whole_volume():
    image = volume(np.s_[9:10, 9:10, 9:10])  # a single voxel drowns in the average of eight
    mask, _, tried = find(image)
    assert np.array_equal(mask, image > 0) and tried == [(24, 24, 24)]


def test_absent_object_gives_an_empty_mask_of_the_whole_volume():
    mask, box, tried = find(volume())
    assert not mask.any() and tried == [(24, 24, 24)] and box == (slice(0, 24),) * 3


def test_coarse_finding_that_the_fine_pass_denies_means_the_whole_volume():
    image = volume(np.s_[4:8, 4:8, 4:8]) * 0.6 + volume(np.s_[19:20, 19:20, 19:20])
    mask, _, tried = find(image, fine_level=0.8)
    assert np.argwhere(mask).tolist() == [[19, 19, 19]] and tried[-1] == (24, 24, 24)


def test_box_grows_until_the_object_fits():
    image = volume(np.s_[10:12, 10:12, 10:12]) + 0.4 * volume(np.s_[10:12, 10:12, 2:20])  # the coarse pass sees its middle only
    mask, box, tried = find(image, margin_mm=2.0, coarse_level=0.5, fine_level=0.3)
    assert np.array_equal(mask, image > 0.3)
    assert len(tried) > 1 and box[0] == slice(8, 14) and box[2].start < 2 and box[2].stop > 20


def test_growing_ends_with_the_whole_volume():
    image = volume(np.s_[10:12, 10:12, 98:102], shape=(24, 24, 200)) + 0.4 * volume(np.s_[10:12, 10:12, :], shape=(24, 24, 200))
    mask, box, tried = find(image, margin_mm=1.0, fine_level=0.3)
    assert np.array_equal(mask, image > 0.3) and len(tried) == MAX_GROWTHS + 1 and tried[-1] == image.shape


def case_predictor(engine, **levers):
    geometry = NetworkGeometry(patch_size=(8, 8, 8), divisor=(2, 2, 2), spacing=SPACING, mirror_axes=(0, 1, 2))
    labels = LabelManager({"background": 0, "organ": 1}, None)
    return CasePredictor([engine], geometry, InferenceMode(**levers), labels, lesion_channels=None)


def test_coarse_roi_predicts_what_the_whole_volume_gives_from_fewer_voxels():
    image = torch.from_numpy(volume(np.s_[30:34, 30:34, 30:34], shape=(64, 64, 64)))[None]
    engine = Threshold()
    prediction = case_predictor(engine, roi="coarse", tta=1, tiling="whole")(image)
    logits = prediction.full_logits(has_regions=False)
    assert torch.equal(logits[1] > logits[0], image[0] > 0.5)
    assert prediction.logits[0].numel() < 64**3 / 2 and engine.voxels < 64**3 * 2


def test_volume_of_a_patch_is_not_searched_first():
    engine = Threshold()
    case_predictor(engine, roi="coarse", tta=1, tiling="whole")(torch.ones(1, 8, 8, 8))
    assert engine.voxels == 8**3


@pytest.mark.parametrize(("tiling", "side"), [("whole", 16), ("windows", 40)])
def test_box_needs_no_padding(tiling, side):
    """An object of 4 voxels with a margin of 3 on each side: 10, in steps of 8 are 16; in windows of 40, one window."""
    geometry = NetworkGeometry(patch_size=(40, 40, 40), divisor=(8, 8, 8), spacing=(5.0, 5.0, 5.0), mirror_axes=None)
    labels = LabelManager({"background": 0, "organ": 1}, None)
    predictor = CasePredictor([Threshold()], geometry, InferenceMode(roi="coarse", tta=1, tiling=tiling), labels, lesion_channels=None)
    image = torch.from_numpy(volume(np.s_[30:34, 30:34, 30:34], shape=(64, 64, 64)))[None]
    assert predictor(image).logits.shape[1:] == (side,) * 3


def test_outside_the_box_is_certain_background():
    image = torch.from_numpy(volume(np.s_[30:34, 30:34, 30:34], shape=(64, 64, 64)))[None]
    logits = case_predictor(Threshold(), roi="coarse")(image).full_logits(has_regions=False)
    assert logits.float().softmax(0)[0, 0, 0, 0] == pytest.approx(1)
