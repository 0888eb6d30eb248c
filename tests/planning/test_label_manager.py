import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import DatasetJson, with_channel_names
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager

PLAIN = {"background": 0, "organ": 1, "lesion": 2}
REGIONS = {"background": 0, "whole": [1, 2], "lesion": 2, "ignore": 3}


def test_plain_labels_have_one_head_each():
    labels = LabelManager(PLAIN, None)
    assert (labels.num_segmentation_heads, labels.all_labels, labels.foreground_labels, labels.has_regions) == (3, [0, 1, 2], [1, 2], False)


def test_regions_have_one_head_each_without_background_and_ignore():
    labels = LabelManager(REGIONS, [1, 2])
    assert (labels.num_segmentation_heads, labels.foreground_regions) == (2, [(1, 2), 2])
    assert (labels.all_labels, labels.ignore_label) == ([0, 1, 2], 3)


def test_subclasses_may_override_what_upstreams_may():
    class Own(LabelManager):
        has_regions = property(lambda self: False)
        foreground_labels = property(lambda self: [2])

        def _get_all_labels(self):
            return [*super()._get_all_labels(), 3]

        def _determine_ignore_label(self):
            return None

    labels = Own(REGIONS, [1, 2])
    assert (labels.num_segmentation_heads, labels.all_labels, labels.foreground_labels, labels.has_regions) == (4, [0, 1, 2, 3], [2], False)
    assert labels.ignore_label is None and labels.all_regions is None


def test_later_regions_paint_over_earlier_ones():
    p = np.array([[0.9, 0.9, 0.2, 0.5], [0.1, 0.8, 0.9, 0.5]])[:, None, None]  # (C, Z, Y, X)
    assert LabelManager(REGIONS, [1, 2]).convert_probabilities_to_segmentation(p).ravel().tolist() == [1, 2, 2, 0]


def test_region_logits_are_thresholded_at_zero():
    logits = np.array([[-1.0, 2.0], [-1.0, -2.0]])[:, None, None]
    assert LabelManager(REGIONS, [1, 2]).convert_logits_to_segmentation(logits).ravel().tolist() == [0, 1]


def test_first_of_equal_maxima_wins():
    assert LabelManager(PLAIN, None).convert_logits_to_segmentation(torch.ones(3, 1, 1, 1)).item() == 0


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_label_map_is_of_the_kind_of_its_input(make):
    result = LabelManager(PLAIN, None).convert_probabilities_to_segmentation(make(np.eye(3)[..., None]))
    assert type(result) is type(make(np.zeros(1))) and result[:, 0].tolist() == [0, 1, 2]


def test_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="2 channels for 3"):
        LabelManager(PLAIN, None).convert_probabilities_to_segmentation(np.zeros((2, 1, 1, 1)))


def test_half_precision_logits_become_float32_probabilities():
    p = LabelManager(PLAIN, None).apply_inference_nonlin(torch.tensor([40000.0, 0, 0]).half().reshape(3, 1, 1, 1))
    assert p.dtype == torch.float32 and p.ravel().tolist() == [1, 0, 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_plain_label_map_is_the_argmax(seed):
    p = np.random.default_rng(seed).random((3, 2, 3, 4), dtype=np.float32)
    assert (LabelManager(PLAIN, None).convert_probabilities_to_segmentation(p) == p.argmax(0)).all()


def test_outside_of_the_crop_is_certain_background():
    full = LabelManager(PLAIN, None).revert_cropping_on_probabilities(np.full((3, 1, 1, 1), 0.3), [[1, 2], [0, 1], [2, 3]], (2, 1, 3))
    assert full[:, 1, 0, 2].tolist() == [0.3, 0.3, 0.3]
    assert full[0].sum() == pytest.approx(5.3) and full[1:].sum() == pytest.approx(0.6)


def test_outside_of_the_crop_no_region_is_set():
    full = LabelManager(REGIONS, [1, 2]).revert_cropping_on_probabilities(torch.ones(2, 1, 1, 1), [[0, 1]] * 3, (1, 1, 2))
    assert full[..., 1].tolist() == [[[0.0]], [[0.0]]]


@pytest.mark.parametrize(("labels", "order", "message"), [
    ({"organ": 1}, None, "background"), ({"background": 1}, None, "background"), (PLAIN | {"ignore": 5}, None, "highest label, 3"),
    (PLAIN | {"ignore": [3]}, None, "ignore"), (REGIONS, None, "2 foreground regions"), (REGIONS, [1], "2 foreground regions")])
def test_contradictory_labels_are_refused(labels, order, message):
    with pytest.raises(ValueError, match=message):
        LabelManager(labels, order)


def test_channels_may_be_called_modality_as_in_older_datasets(tmp_path):
    old = {"modality": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    save_json(old, tmp_path / "dataset.json")
    read = load_json(tmp_path / "dataset.json", DatasetJson)
    assert read["channel_names"] == old["modality"] == with_channel_names(old)["channel_names"] and "channel_names" not in old


def test_labels_and_numbers_written_with_a_point_are_read_as_integers(tmp_path):
    file = tmp_path / "dataset.json"
    file.write_text('{"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 3.0, "regions_class_order": [1.0, 2.0], '
                    '"labels": {"background": 0.0, "whole": [1.0, 2.0], "part": 2.0, "ignore": 3.0}}')
    read = load_json(file, DatasetJson)
    assert repr((read["numTraining"], read["regions_class_order"], list(read["labels"].values()))) == "(3, [1, 2], [0, [1, 2], 2, 3])"
    file.write_text(file.read_text().replace("2.0, \"ign", "2.5, \"ign"))
    with pytest.raises(InputError, match="labels.part: 2.5"):
        load_json(file, DatasetJson)
