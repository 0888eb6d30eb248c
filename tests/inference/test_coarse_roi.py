"""The network here is a threshold at 0.5, so that the right answer is the image itself."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunetv2.inference.case_prediction import CasePredictor
from nnunetv2.inference.coarse_roi import (
    MAX_GROWTHS, around, box_on_fine_grid, coarse_factors, coarse_shape, coarsen, component_boxes, foreground_box, grow_where_touched, meet,
    merge_where_they_meet, predict_in_roi, widen,
)
from nnunetv2.inference.modes import InferenceMode
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tests.inference.threshold_engine import Threshold

SPACING = (1.0, 1.0, 1.0)


def find(image, margin_mm=2.0, coarse_level=0.5, fine_level=0.5, **options):
    """(mask in the full volume, boxes, sizes of the boxes tried) of predict_in_roi with two thresholds."""
    tried = []

    def fine(data):
        tried.append(tuple(data.shape[1:]))
        return data[0].numpy() > fine_level

    parts = predict_in_roi(lambda coarse: coarse[0].numpy() > coarse_level, fine, lambda mask: mask,
                           torch.from_numpy(image)[None].float(), SPACING, (2.0, 2.0, 2.0), margin_mm, **options).parts
    full = np.zeros(image.shape, bool)
    for mask, box in parts:
        full[box] = mask
    return full, [box for _, box in parts], tried


def volume(*boxes, shape=(24, 24, 24)):
    image = np.zeros(shape, np.float32)
    for box in boxes:
        image[box] = 1
    return image


def test_thick_slices_are_not_pooled():
    assert coarse_factors((2.0, 0.73, 0.73)) == (1, 2, 2)
    assert coarse_factors((5.0, 0.8, 0.8)) == (1, 2, 2)


def test_coarse_grid_fills_the_same_volume():
    assert coarse_shape((125, 144, 3), (3.2, 2.6, 5.0), (6.4, 5.2, 20.0)) == (62, 72, 1)


def test_coarsening_averages_what_each_voxel_covers():
    """Five voxels on two: each covers two and a half, and takes the three that it touches."""
    data = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]).reshape(1, 1, 1, 5)
    assert coarsen(data, (1, 1, 2)).flatten().tolist() == [3.0, 7.0]


def test_box_holds_all_components():
    mask = np.zeros((5, 5, 5), bool)
    mask[0, 1, 1] = mask[3, 4, 2] = True
    assert foreground_box(mask) == (slice(0, 4), slice(1, 5), slice(1, 3))


def test_no_foreground_has_no_box():
    assert foreground_box(np.zeros((2, 2, 2), bool)) is None


def test_margin_stops_at_the_volumes_border():
    box = box_on_fine_grid((slice(0, 2), slice(4, 6)), (6, 6), (3, 3), (12, 12))
    assert box == (slice(0, 7), slice(5, 12))


@pytest.mark.slow
@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_box_on_the_fine_grid_covers_every_voxel_that_was_averaged(n, coarse, data):
    """The means that coarsen takes say which voxels those are."""
    at = data.draw(st.integers(0, coarse - 1))
    each = coarsen(torch.eye(n).reshape(n, 1, 1, n), (1, 1, coarse))[:, 0, 0, at]  # channel i: the weight of voxel i
    (box,) = box_on_fine_grid((slice(at, at + 1),), (coarse,), (0,), (n,))
    assert set(torch.nonzero(each).flatten().tolist()) == set(range(box.start, box.stop))


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


@pytest.mark.slow
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
    mask, boxes, tried = find(image, fed_size=lambda shape: [16 * -(-n // 16) for n in shape])
    assert np.array_equal(mask, image > 0) and boxes == [(slice(2, 18),) * 3] and len(tried) == 1


def test_object_inside_is_found_in_one_small_box():
    image = volume(np.s_[8:12, 8:12, 8:12])
    mask, boxes, tried = find(image)
    assert np.array_equal(mask, image > 0) and boxes == [(slice(6, 14),) * 3] and len(tried) == 1


def test_object_at_the_volumes_edge_is_whole():
    image = volume(np.s_[0:4, 20:24, 8:12])
    mask, _, tried = find(image)
    assert np.array_equal(mask, image > 0) and len(tried) == 1


def test_components_apart_have_a_box_each():
    image = volume(np.s_[2:6, 2:6, 2:6], np.s_[16:20, 16:20, 16:20])
    mask, boxes, tried = find(image)
    assert np.array_equal(mask, image > 0)
    assert sorted(boxes, key=str) == [(slice(0, 8),) * 3, (slice(14, 22),) * 3] and sorted(tried) == [(8, 8, 8)] * 2


def test_components_share_a_box_that_the_network_takes_at_once():
    image = volume(np.s_[2:6, 2:6, 2:6], np.s_[16:20, 16:20, 16:20])
    mask, boxes, tried = find(image, at_once=lambda shape: np.prod(shape) <= 22**3)
    assert np.array_equal(mask, image > 0) and boxes == [(slice(0, 22),) * 3] and len(tried) == 1
    assert len(find(image, at_once=lambda shape: np.prod(shape) < 22**3)[1]) == 2


def test_components_whose_margins_meet_share_a_box():
    image = volume(np.s_[2:6, 2:6, 2:6], np.s_[2:6, 2:6, 8:12])
    mask, boxes, tried = find(image)
    assert np.array_equal(mask, image > 0) and boxes == [(slice(0, 8), slice(0, 8), slice(0, 14))] and len(tried) == 1


def test_false_finding_costs_its_own_box_alone():
    image = volume(np.s_[2:6, 2:6, 2:6]) + 0.6 * volume(np.s_[18:20, 18:20, 18:20])
    mask, boxes, tried = find(image, fine_level=0.8)
    assert np.array_equal(mask, image > 0.8) and boxes == [(slice(0, 8),) * 3] and sorted(tried) == [(6, 6, 6), (8, 8, 8)]


def test_growing_into_another_box_makes_one_of_both():
    """The coarse pass sees both ends of a bar, whose middle is faint."""
    bar = np.s_[10:12, 10:12, 4:28]
    image = volume(np.s_[10:12, 10:12, 4:8], np.s_[10:12, 10:12, 24:28], shape=(24, 24, 32)) + 0.4 * volume(bar, shape=(24, 24, 32))
    mask, boxes, tried = find(image, fine_level=0.3)
    assert np.array_equal(mask, image > 0.3) and boxes == [(slice(8, 14), slice(8, 14), slice(2, 30))]
    assert tried[-1] == (6, 6, 28) and len(tried) > 2


@pytest.mark.slow
@given(st.lists(st.tuples(*[st.tuples(st.integers(0, 12), st.integers(1, 6))] * 3), max_size=8))
def test_merged_boxes_are_apart_and_hold_all(sides):
    boxes = [tuple(slice(start, start + length) for start, length in box) for box in sides]
    apart = merge_where_they_meet(boxes)
    assert all(any(around([box, other]) == other for other in apart) for box in boxes)
    assert not any(meet(a, b) for a, b in combinations(apart, 2))
    assert len(apart) <= len(boxes) and (not boxes or around(apart) == around(boxes))


@pytest.mark.slow
@given(arrays(bool, (4, 4, 4)))
def test_component_boxes_hold_every_voxel(mask):
    held = np.zeros_like(mask)
    for box in component_boxes(mask):
        assert mask[box].any()
        held[box] = True
    assert not (mask & ~held).any()


def test_voxels_that_share_a_corner_are_one_component():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert component_boxes(mask) == [(slice(0, 2),) * 3, (slice(3, 4),) * 3]


def test_nothing_in_the_coarse_pass_means_the_whole_volume():
    image = volume(np.s_[9:10, 9:10, 9:10])  # a single voxel drowns in the average of eight
    mask, _, tried = find(image)
    assert np.array_equal(mask, image > 0) and tried == [(24, 24, 24)]


def test_absent_object_gives_an_empty_mask_of_the_whole_volume():
    mask, boxes, tried = find(volume())
    assert not mask.any() and tried == [(24, 24, 24)] and boxes == [(slice(0, 24),) * 3]


def test_volume_that_is_its_own_box_is_segmented_once_even_if_empty():
    mask, boxes, tried = find(volume(np.s_[:, :, :]) * 0.6, fine_level=0.8)
    assert not mask.any() and tried == [(24, 24, 24)] and boxes == [(slice(0, 24),) * 3]


def test_coarse_finding_that_the_fine_pass_denies_means_the_whole_volume():
    image = volume(np.s_[4:8, 4:8, 4:8]) * 0.6 + volume(np.s_[19:20, 19:20, 19:20])
    mask, _, tried = find(image, fine_level=0.8)
    assert np.argwhere(mask).tolist() == [[19, 19, 19]] and tried[-1] == (24, 24, 24)


def test_box_grows_until_the_object_fits():
    image = volume(np.s_[10:12, 10:12, 10:12]) + 0.4 * volume(np.s_[10:12, 10:12, 2:20])  # the coarse pass sees its middle only
    mask, (box,), tried = find(image, margin_mm=2.0, coarse_level=0.5, fine_level=0.3)
    assert np.array_equal(mask, image > 0.3)
    assert len(tried) > 1 and box[0] == slice(8, 14) and box[2].start < 2 and box[2].stop > 20


@pytest.mark.parametrize("growths", [0, 1])
def test_after_the_growths_allowed_a_result_that_touches_stands(growths):
    image = volume(np.s_[10:12, 10:12, 98:102], shape=(24, 24, 200)) + 0.4 * volume(np.s_[10:12, 10:12, :], shape=(24, 24, 200))
    mask, (box,), tried = find(image, margin_mm=1.0, fine_level=0.3, growths=growths)
    assert box[2] == slice(97 - 2 * growths, 103 + 2 * growths) and len(tried) == 1 + growths
    assert np.array_equal(mask[box], image[box] > 0.3) and mask.sum() == mask[box].sum()


def test_growing_ends_with_the_whole_volume():
    image = volume(np.s_[10:12, 10:12, 98:102], shape=(24, 24, 200)) + 0.4 * volume(np.s_[10:12, 10:12, :], shape=(24, 24, 200))
    mask, _, tried = find(image, margin_mm=1.0, fine_level=0.3)
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


class LoudOrQuiet(Threshold):
    """The second class where the image's largest voxel exceeds 2, else the first."""

    def __call__(self, x, classify=True):
        seg_logits, _ = super().__call__(x)
        loud = torch.where(x.flatten(1).amax(1) > 2, 20.0, -20.0)
        return seg_logits, torch.stack([-loud, loud], 1)


def test_boxes_apart_are_put_together_and_each_decides_the_class_by_its_lesion():
    """64 voxels with a lesion probability of sigmoid(1) against 1000 of certain lesion."""
    quiet, loud = (volume(box, shape=(64, 64, 64)) for box in (np.s_[4:8, 4:8, 4:8], np.s_[40:50, 40:50, 40:50]))
    image = torch.from_numpy(np.where(loud, 40.0, np.where(quiet, 1.5, -40.0)).astype(np.float32))[None]
    geometry = NetworkGeometry(patch_size=(32, 32, 32), divisor=(2, 2, 2), spacing=(5.0, 5.0, 5.0), mirror_axes=None)
    labels = LabelManager({"background": 0, "lesion": 1}, None)
    mode = InferenceMode(roi="coarse", tta=1, tiling="whole")
    prediction = CasePredictor([LoudOrQuiet()], geometry, mode, labels, lesion_channels=[1])(image)
    assert prediction.box == (slice(1, 53),) * 3
    logits = prediction.full_logits(has_regions=False)
    assert torch.equal(logits[1] > logits[0], image[0] > 0.5)
    assert logits[:, 30, 30, 30].tolist() == [20.0, -20.0]  # between the boxes
    in_quiet = 64 * torch.tensor(1.0).sigmoid().item()
    assert prediction.class_probabilities == pytest.approx([in_quiet / (in_quiet + 1000), 1000 / (in_quiet + 1000)], rel=1e-3)


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


@pytest.mark.slow
def test_outside_the_box_is_certain_background():
    image = torch.from_numpy(volume(np.s_[30:34, 30:34, 30:34], shape=(64, 64, 64)))[None]
    logits = case_predictor(Threshold(), roi="coarse")(image).full_logits(has_regions=False)
    assert logits.float().softmax(0)[0, 0, 0, 0] == pytest.approx(1)
