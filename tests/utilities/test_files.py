"""JSON files of any shape: what is damaged or of another shape is refused in one message that names file, place and value."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2.utilities import file_shapes
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import DatasetJson, Fingerprint, Plans, Postprocessing, Progress, RawDatasetJson, Splits, Summary
from nnunetv2.utilities.files import MAX_DEPTH, atomic_write, is_there, load_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.inference.tiny_model import tiny_dataset_json, tiny_plans

SHAPES = [shape for shape in vars(file_shapes).values() if isinstance(shape, type) and hasattr(shape, "problems") and shape.__module__ == file_shapes.__name__
          and not shape.__name__.startswith("_") and shape not in (file_shapes.FileShape, file_shapes.FileShapeOf)]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["labels", "train", "configurations", "patch_size", "root", "0", "x"]), inner),
    max_leaves=8)


def written(folder, content):
    path = folder / "file.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path, shape=None):
    with pytest.raises(InputError) as caught:
        load_json(path, shape)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "empty"), (b"  \n", "empty"), (b"{", "not valid JSON"), (b"\xff\xfe{\x00}\x00", "not UTF-8"), (b'{"a": "\xe9"}', "0xe9 at position 7"),
    (b"[" * 100_000, "nested"), (b'{"a": 1, "a": 2}', "'a'"), (b'{"a": "\\ud800"}', "half of a character"), (b"1" * 5000, "not valid JSON"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested"), (b"{'a': 1}", "not valid JSON"), (b"{} {}", "Extra data")])
def test_damage_is_named(tmp_path, content, reason):
    assert reason in refusal(written(tmp_path, content))


def test_a_byte_order_mark_is_no_damage(tmp_path):
    assert load_json(written(tmp_path, b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}


def test_absent_files_and_folders_are_the_systems_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_json(tmp_path / "none.json")
    with pytest.raises(IsADirectoryError):
        load_json(tmp_path)


def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "file.json")
    assert "no regular file" in refusal(tmp_path / "file.json")


@pytest.mark.parametrize("content", ["null", "[]", "3", '"text"', "[null]", '{"a": null}', "[[]]"])
@pytest.mark.parametrize("shape", [DatasetJson, RawDatasetJson, Plans, Fingerprint, Splits, Summary, Postprocessing])
def test_another_shape_is_refused(tmp_path, content, shape):
    assert "not as they must be" in refusal(written(tmp_path, content), shape)


@pytest.mark.slow
@given(content=json_values)
def test_whatever_a_shape_is_asked_it_answers_with_problems_or_none(content):
    for shape in SHAPES:
        assert all(str(problem) for problem in shape.problems(content))


def test_the_message_names_place_value_and_what_belongs_there(tmp_path):
    plans = tiny_plans()
    plans["configurations"]["3d_fullres"]["patch_size"][1] = "16"
    plans["transpose_forward"] = [0, 0, 2]
    del plans["dataset_name"]
    message = refusal(written(tmp_path, json.dumps(plans)), Plans)
    assert "configurations.3d_fullres.patch_size[1]: '16': must be a valid integer" in message
    assert "transpose_forward: [0, 0, 2]: must be an order of the axes" in message and "dataset_name: is missing" in message


@pytest.mark.parametrize(("key", "value"), [
    ("batch_size", 0), ("batch_size", True), ("batch_size", 1e3), ("spacing", [1, 1, float("nan")]), ("spacing", [0, 1, 1]), ("spacing", [1.0]),
    ("patch_size", [8, 16]), ("patch_size", [8, 16, 10**12]), ("normalization_schemes", "CTNormalization"), ("use_mask_for_norm", ["no"]),
    ("batch_dice", "false"), ("resampling_fn_data_kwargs", []), ("architecture", {"network_class_name": "x"})])
def test_wrong_values_of_a_configuration_are_refused(tmp_path, key, value):
    plans = tiny_plans()
    plans["configurations"]["3d_fullres"][key] = value
    assert "3d_fullres" in refusal(written(tmp_path, json.dumps(plans)), Plans)


@pytest.mark.parametrize(("key", "value"), [
    ("labels", {"background": "zero"}), ("labels", {"background": 0, "a": -1}), ("labels", {"background": 0, "a": 1.5}), ("labels", []), ("labels", {"a": []}),
    ("file_ending", "nii"), ("channel_names", {}), ("channel_names", ["CT"]), ("holdout", "a"), ("dataset", {"a": {"images": "x", "label": "y"}}),
    ("regions_class_order", "12"), ("numTraining", "3"), ("classification", []), ("classification", {"name": "a", "classes": "ab", "labels": "x"})])
def test_wrong_values_of_dataset_json_are_refused(tmp_path, key, value):
    assert key in refusal(written(tmp_path, json.dumps(tiny_dataset_json() | {key: value})), RawDatasetJson)


@pytest.mark.parametrize("labels", [{"background": 0, "whole": [1, 2], "core": [2]}, {"background": "0", "organ": "1"}, {"background": 0, "a": 1, "ignore": 2}])
def test_labels_and_regions_as_nnunet_writes_them_pass(labels):
    assert not DatasetJson.problems(tiny_dataset_json() | {"labels": labels, "licence": "CC", "further": {"keys": None}})


def test_undefined_scores_of_a_summary_pass(tmp_path):
    summary = {"foreground_mean": {"Dice": float("nan")}, "mean": {"1": {"Dice": float("nan")}, "(1, 2)": {"Dice": 0.5}},
               "metric_per_case": [{"reference_file": "a", "prediction_file": "b", "metrics": {"1": {"Dice": float("nan"), "TP": 0}}}]}
    assert load_json(written(tmp_path, json.dumps(summary)), Summary)["mean"]["(1, 2)"] == {"Dice": 0.5}


def test_more_than_twenty_problems_are_counted(tmp_path):
    message = refusal(written(tmp_path, json.dumps([{"train": 1, "val": 2}] * 30)), Splits)
    assert "60 value(s)" in message and "and 40 more" in message


def test_plans_given_as_a_dict_are_checked_too():
    plans = tiny_plans()
    plans["configurations"]["3d_fullres"]["spacing"] = "fine"
    with pytest.raises(InputError, match="given as a dict.*\n.*3d_fullres.spacing: 'fine'"):
        PlansManager(plans)


def test_plans_given_as_a_dict_may_hold_tuples_and_lack_parts():
    plans = {"configurations": {"2d": {"architecture": tiny_plans()["configurations"]["3d_fullres"]["architecture"], "patch_size": (8, 8)}}}
    configuration = PlansManager(plans).get_configuration("2d")
    assert configuration.patch_size == (8, 8)
    with pytest.raises(InputError, match="lacks 'spacing'"):
        configuration.spacing
    with pytest.raises(InputError, match="lacks .dataset_name'"):
        PlansManager(plans).dataset_name


def test_a_broken_link_is_there_and_a_missing_file_is_not(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    assert is_there(tmp_path / "link.json") and not is_there(tmp_path / "file.json")


@pytest.mark.parametrize("value, reason", [
    ({"channel_names": {str(n): "CT" for n in range(10_001)}}, "channel_names"),
    ({"labels": {"background": 0, "a": 1, "b": 5}}, "labels [0, 1, 5] must be 0, 1, 2"),
    ({"labels": {"background": 0, "a": 1, "b": 1}}, "labels [0, 1, 1] must differ"),
    ({"classification": {"name": "../x", "classes": ["a", "b"], "labels": "t.csv"}}, "classification.name"),
    ({"classification": {"name": "x", "classes": ["a", "b/c"], "labels": "t.csv"}}, "classification.classes[1]"),
    ({"classification": {"name": "x", "classes": ["a", "b"], "labels": "/etc/passwd"}}, "classification.labels"),
])
def test_what_no_dataset_may_say(tmp_path, value, reason):
    good = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    assert reason in refusal(written(tmp_path, json.dumps(good | value)), DatasetJson)


@pytest.mark.parametrize("labels", [{"background": 0, "whole": [1, 2], "core": 2}, {"background": 0, "a": 1, "ignore": 2}, {"background": "0", "a": "1"}])
def test_regions_the_ignore_label_and_labels_of_text_are_usable(tmp_path, labels):
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    assert load_json(written(tmp_path, json.dumps(content)), DatasetJson) == content


@pytest.mark.parametrize("content", [{"train_losses": ["low"]}, {"dice": [[0.1, 0.2], [0.3]]}, {"lrs": 3}, {"lrs": [{"a": 1}]}])
def test_a_curve_is_of_numbers(tmp_path, content):
    refusal(written(tmp_path, json.dumps(content)), Progress)


def test_curves_of_a_training_pass(tmp_path):
    load_json(written(tmp_path, '{"train_losses": [1.5, NaN, null], "dice_per_class_or_region": [[0.1, NaN], [0.5, 1]]}'), Progress)


@pytest.mark.parametrize(("name", "ending"), [("a.nii.gz", ".nii.gz"), ("a.nii.gz.nii.gz", ".nii.gz"), ("v1.2_a.nii", ".nii"), ("a.img.NII.GZ", ".NII.GZ"), ("a.b2nd", ".b2nd"),
                                              ("a", "")])
def test_a_temporary_file_ends_as_its_file_does_and_once(tmp_path, name, ending):
    with atomic_write(tmp_path / name) as temporary:
        assert temporary.name[-32 - len(ending):].removesuffix(ending).isalnum() and temporary.name.endswith(ending)
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]
