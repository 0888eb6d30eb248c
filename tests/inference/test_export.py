import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnunetv2.inference import export_prediction
from nnunetv2.inference.case_prediction import CasePrediction
from nnunetv2.inference.export_prediction import (
    convert_logits_to_labels, convert_prediction_to_segmentation, resample_logits_to_segmentation_box, write_prediction,
)
from nnunetv2.inference.label_maps import channels_that_may_win
from nnunetv2.preprocessing.resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.inference.tiny_model import tiny_plans

LABELS = LabelManager({"background": 0, "pancreas": 1, "lesion": 2}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "lesion": 2}, [1, 2])
ISOTROPIC = (1.0, 1.0, 1.0)


def prediction(logits):
    shape = tuple(logits.shape[1:])
    return CasePrediction(logits, tuple(slice(0, n) for n in shape), shape, None)


def blob_logits(shape, seed, channels=3):
    """Background everywhere but around one smooth blob; float16."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((channels, *shape), generator=generator)
    logits[0] += 5
    centre = [int(torch.randint(0, n, (1,), generator=generator)) for n in shape]
    blob = tuple(slice(max(0, c - 1), c + 2) for c in centre)
    logits[(slice(1, None), *blob)] += 5
    return logits.half()


def label_all(logits, new_shape, spacings, labels):
    """The reference: all logits resampled, then labelled."""
    full = resample_data_or_seg_to_shape(logits, new_shape, *spacings, is_seg=False, order=1, order_z=0, force_separate_z=None)
    return np.asarray(labels.convert_logits_to_segmentation(full))


def label_box(predicted, new_shape, spacings, labels):
    part, box = resample_logits_to_segmentation_box(predicted, new_shape, *spacings, labels)
    full = np.zeros(new_shape, part.dtype)
    full[box] = part
    return full


def test_the_first_of_equal_maxima_wins():
    logits = torch.tensor([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 2.0, 3.0]]).reshape(3, 1, 1, 3)
    assert convert_logits_to_labels(logits, LABELS).flatten().tolist() == [0, 1, 2]


def test_later_regions_paint_over_earlier_ones():
    logits = torch.tensor([[-1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]]).reshape(2, 1, 1, 3)
    assert convert_logits_to_labels(logits, REGIONS).flatten().tolist() == [0, 1, 2]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(2, 9)] * 3), st.tuples(*[st.integers(2, 14)] * 3), st.integers(0, 999))
@example((4, 6, 3), (14, 9, 12), 38)  # in single precision two logits of one voxel round to half in another way
@example((9, 6, 9), (3, 5, 3), 4747)  # a logit half way between two halves
def test_box_equals_resampling_everything(shape, new_shape, seed):
    logits = blob_logits(shape, seed)
    spacings = (ISOTROPIC, ISOTROPIC)
    assert np.array_equal(label_box(prediction(logits), new_shape, spacings, LABELS), label_all(logits, new_shape, spacings, LABELS))


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(3, 9)] * 3), st.tuples(*[st.integers(2, 14)] * 3), st.integers(0, 999), st.integers(0, 2))
def test_box_equals_resampling_everything_with_thick_slices(shape, new_shape, seed, thick):
    spacing = tuple(5.0 if axis == thick else 1.0 for axis in range(3))
    logits = blob_logits(shape, seed)
    spacings = (spacing, spacing)
    assert np.array_equal(label_box(prediction(logits), new_shape, spacings, LABELS), label_all(logits, new_shape, spacings, LABELS))


@pytest.mark.parametrize("new_shape", [(5, 6, 7), (9, 13, 6)])
def test_box_equals_resampling_everything_with_regions(new_shape):
    logits = blob_logits((5, 6, 7), 3, channels=2) - 3
    spacings = (ISOTROPIC, ISOTROPIC)
    expected = label_all(logits, new_shape, spacings, REGIONS)
    assert expected.any() and np.array_equal(label_box(prediction(logits), new_shape, spacings, REGIONS), expected)


def test_many_slabs_join_without_seam():
    logits = torch.zeros(2, 10, 4, 4)
    logits[0], logits[1, 2:8, 1:3, 1:3] = 1, 4
    labels = LabelManager({"background": 0, "organ": 1}, None)
    spacings = (ISOTROPIC, ISOTROPIC)
    assert np.array_equal(label_box(prediction(logits), (70, 4, 4), spacings, labels), label_all(logits.numpy(), (70, 4, 4), spacings, labels))


def test_logits_of_a_roi_give_what_those_of_the_volume_give():
    logits = torch.full((3, 12, 12, 12), -20.0)
    logits[0] = 20
    logits[1, 5:8, 4:7, 5:9] = 21
    box = (slice(3, 10), slice(2, 9), slice(3, 11))
    roi = CasePrediction(logits[(slice(None), *box)], box, (12, 12, 12), None)
    spacings = (ISOTROPIC, ISOTROPIC)
    new_shape = (17, 9, 23)
    assert np.array_equal(label_box(roi, new_shape, spacings, LABELS), label_box(prediction(logits), new_shape, spacings, LABELS))
    assert torch.equal(roi.full_logits(has_regions=False), logits)


def test_no_foreground_gives_an_empty_box():
    logits = torch.zeros(3, 4, 4, 4)
    logits[0] = 1
    part, box = resample_logits_to_segmentation_box(prediction(logits), (8, 8, 8), ISOTROPIC, ISOTROPIC, LABELS)
    assert part.size == 0 and box == (slice(0, 0),) * 3


def test_cubic_resampling_is_not_convex_and_refused():
    with pytest.raises(ValueError, match="convex"):
        resample_logits_to_segmentation_box(prediction(torch.zeros(3, 4, 4, 4)), (8, 8, 8), ISOTROPIC, ISOTROPIC, LABELS, order=3)


def plans(**configuration):
    raw = tiny_plans() | {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    raw["configurations"]["3d_fullres"] |= configuration
    manager = PlansManager(raw)
    return manager, manager.get_configuration("3d_fullres")


PROPERTIES = {"spacing": [2.0, 1.0, 2.0], "shape_before_cropping": (6, 8, 5), "bbox_used_for_cropping": [[1, 5], [2, 8], [0, 5]],
              "shape_after_cropping_and_before_resampling": (4, 6, 5)}  # spacing as read (z, y, x); the rest transposed (x, z, y)


def single_voxel(transposed_index):
    logits = torch.zeros(3, 4, 6, 5)
    logits[0] = 1
    logits[(2, *transposed_index)] = 9
    return prediction(logits)


def test_mask_is_pasted_into_the_crop_and_transposed_back():
    manager, configuration = plans()
    mask, _ = convert_prediction_to_segmentation(single_voxel((3, 0, 4)), PROPERTIES, manager, configuration, LABELS)
    assert mask.shape == (8, 5, 6) and mask.dtype == np.uint8
    assert np.argwhere(mask).tolist() == [[0 + 2, 4 + 0, 3 + 1]] and mask.max() == 2


def test_probabilities_lie_where_the_mask_lies_and_are_background_outside_the_crop():
    manager, configuration = plans()
    mask, probabilities = convert_prediction_to_segmentation(single_voxel((3, 0, 4)), PROPERTIES, manager, configuration, LABELS, True)
    assert probabilities.shape == (3, 8, 5, 6)
    assert np.array_equal(probabilities.argmax(0), mask) and probabilities[0, 0, 0, 0] == 1
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-6)


def test_plans_with_cubic_logits_take_the_full_path():
    orders = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    manager, configuration = plans(resampling_fn_probabilities_kwargs=orders)
    properties = PROPERTIES | {"shape_before_cropping": (8, 12, 10), "bbox_used_for_cropping": [[0, 8], [0, 12], [0, 10]],
                               "shape_after_cropping_and_before_resampling": (8, 12, 10)}
    predicted = single_voxel((2, 3, 2))
    mask, _ = convert_prediction_to_segmentation(predicted, properties, manager, configuration, LABELS)
    full = configuration.resampling_fn_probabilities(predicted.logits, (8, 12, 10), configuration.spacing, [2.0, 2.0, 1.0])
    assert np.array_equal(mask, np.asarray(full).argmax(0).transpose(1, 2, 0))


def test_files_and_keys_are_upstreams(tmp_path):
    manager, _ = plans()
    geometry = {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())}
    properties = {"sitk_stuff": geometry, "spacing": [1.0, 1.0, 1.0]}
    probabilities = np.full((3, 2, 2, 2), 1 / 3, np.float32)
    write_prediction(np.ones((2, 2, 2), np.uint8), probabilities, properties, manager, tmp_path / "case_7", ".nii.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case_7.nii.gz", "case_7.npz", "case_7.pkl"]
    with np.load(tmp_path / "case_7.npz") as file:
        assert file.files == ["probabilities"] and np.array_equal(file["probabilities"], probabilities)
    assert pickle.loads((tmp_path / "case_7.pkl").read_bytes()) == properties



def test_a_channel_that_is_second_everywhere_may_win_between_voxels():
    logits = torch.tensor([[10.0, 0.0], [0.0, 10.0], [9.0, 9.0]]).reshape(3, 1, 1, 2).half()
    labels = LabelManager({"background": 0, "a": 1, "b": 2}, None)
    assert channels_that_may_win(logits) == [0, 1, 2]
    part, box = resample_logits_to_segmentation_box(prediction(logits), (1, 1, 6), ISOTROPIC, ISOTROPIC, labels)
    assert 2 in part


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(3, 9)] * 3), st.tuples(*[st.integers(3, 15)] * 3), st.integers(0, 100), st.booleans(), st.integers(1, 12))
def test_many_classes_in_small_blocks_are_labelled_as_the_whole(shape, new_shape, seed, half, spread):
    logits = spread * torch.randn((12, *shape), generator=torch.Generator().manual_seed(seed))
    logits[: 6, : shape[0] // 2] -= 10 * spread  # no class comes into question everywhere
    logits = logits.half() if half else logits
    labels = LabelManager({"background": 0} | {f"organ {i}": i for i in range(1, 12)}, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_prediction, "BLOCK", (2, 3, 4))
        found = label_box(prediction(logits), new_shape, (ISOTROPIC, ISOTROPIC), labels)
    assert np.array_equal(found, label_all(logits, new_shape, (ISOTROPIC, ISOTROPIC), labels))
