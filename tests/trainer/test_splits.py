"""Splits of any content: what must not train is refused, all of it at once; what nnU-Net trains, too, is trained."""

import json

import pytest

from nnunetv2.utilities.data_manifest import moved_in_fold, record
from nnunetv2.utilities.splits import load_split, random_split, split_problems, trainable_cases, trained_split
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import save_json


@pytest.fixture
def folder(tmp_path):
    """Preprocessed cases a to e, of which e is held out."""
    (tmp_path / "gt_segmentations").mkdir()
    for case in "abcde":
        (tmp_path / "gt_segmentations" / f"{case}.nii.gz").touch()
    save_json({"file_ending": ".nii.gz", "holdout": ["e"]}, tmp_path / "dataset.json")
    return tmp_path


def write(folder, content):
    (folder / "splits_final.json").write_text(json.dumps(content))


def plan(folder, cases):
    """What planning notes of its cases."""
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": len(cases), "file_ending": ".nii.gz"}
    record(folder, planned={"dataset_json": description, "cases": list(cases), "split": None, "class_labels": None})


def test_a_good_fold_is_sorted(folder):
    write(folder, [{"train": ["b", "a"], "val": ["e", "c"]}])
    assert load_split(folder, 0) == (["a", "b"], ["c", "e"])


def test_everything_wrong_with_a_fold_is_listed(folder):
    write(folder, [{"train": ["a", "b.nii.gz", "e", "zebra"], "val": ["c", "d.nii.gz"]}])
    with pytest.raises(InputError) as caught:
        load_split(folder, 0)
    message = str(caught.value)
    assert all(part in message for part in (
        "splits_final.json, fold 0", "train: b.nii.gz is a file's name", "named without ending: b\n", "train: e is held out",
        "train: zebra is no preprocessed case", "val: d.nii.gz is a file's name"))


def test_cases_that_are_listed_twice_or_validate_too_are_warned_of_and_train_as_in_nnunet(folder):
    write(folder, [{"train": ["a", "a", "c"], "val": ["c", "c"]}])
    with pytest.warns(UserWarning, match=r"train: a is listed 2 times\n.*val: c is listed 2 times\n.*c is in train and in val"):
        assert load_split(folder, 0) == (["a", "a", "c"], ["c"])


def test_a_refit_counts_a_case_that_is_listed_twice_once(folder):
    write(folder, [{"train": ["b", "a", "a"], "val": ["c"]}])
    with pytest.warns(UserWarning):
        assert trained_split(None, folder, 0, "checkpoint") == (["a", "b"], ["c"])


def test_a_fold_beyond_the_file_is_nnunets_random_split():
    """Expected list: nnunetv2 2.8.1 on the same names."""
    assert random_split([f"c{i:02d}" for i in range(12)], 5)["val"] == ["c01", "c02", "c06"]


def test_held_out_cases_are_not_in_a_fold_beyond_the_file(folder):
    write(folder, [{"train": ["a"], "val": ["b"]}])
    with pytest.warns(UserWarning, match="folds 0 to 0; fold 3 is a random split"):
        train, val = load_split(folder, 3)
    assert len(train) == 3 and sorted(train + val) == ["a", "b", "c", "d"]


def test_a_case_that_no_longer_trains_and_validates_has_moved():
    assert moved_in_fold(["a", "b"], ["b"], ["a"], ["b"]) == ["b moved from train and validation to validation"]


@pytest.mark.parametrize("content", [{"train": ["a"], "val": ["b"]}, {"0": {"train": ["a"], "val": []}}, [], [["a"], ["b"]], [{"train": "abc", "val": []}],
                                     [{"train": ["a"]}], [{"train": [1], "val": [2]}], None])
def test_another_shape_is_refused(folder, content):
    write(folder, content)
    with pytest.raises(InputError, match="splits_final.json"):
        load_split(folder, 0)


@pytest.mark.parametrize("fold", [-1, "0", 0.0])
def test_what_is_no_fold_is_refused_with_those_there_are(folder, fold):
    write(folder, [{"train": ["a"], "val": ["b"]}])
    with pytest.raises(InputError, match="folds 0 to 0"):
        load_split(folder, fold)


def test_a_fold_without_training_cases_is_refused(folder):
    write(folder, [{"train": [], "val": ["b"]}])
    with pytest.raises(InputError, match="no training cases"):
        load_split(folder, 0)


def test_nobody_knows_the_cases_without_preprocessed_data():
    assert split_problems(["a"], ["b"], None, [], ".nii.gz") == []


def test_a_half_written_reference_is_no_case(folder):
    (folder / "gt_segmentations" / f".f.{'0' * 32}.nii.gz").touch()
    assert trainable_cases(folder) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("fold", [0, "all"])
def test_no_split_is_made_while_references_of_planned_cases_are_still_copied(folder, fold):
    plan(folder, "abcdefg")
    with pytest.raises(InputError, match="gt_segmentations lacks 2 of 7 cases that were planned: f, g. Wait until"):
        load_split(folder, fold)
    assert not (folder / "splits_final.json").exists()


def test_a_held_out_case_needs_no_reference(folder):
    (folder / "gt_segmentations" / "e.nii.gz").unlink()
    plan(folder, "abcde")
    assert trainable_cases(folder) == ["a", "b", "c", "d"]
