"""Splits of any content: what must not train is refused, all of it at once."""

import json

import pytest

from nnunetv2.utilities.splits import load_split, split_problems
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


def test_a_good_fold_is_sorted(folder):
    write(folder, [{"train": ["b", "a"], "val": ["e", "c"]}])
    assert load_split(folder, 0) == (["a", "b"], ["c", "e"])


def test_everything_wrong_with_a_fold_is_listed(folder):
    write(folder, [{"train": ["a", "a", "b.nii.gz", "e", "zebra", "c"], "val": ["c", "d.nii.gz"]}])
    with pytest.raises(InputError) as caught:
        load_split(folder, 0)
    message = str(caught.value)
    assert all(part in message for part in (
        "splits_final.json, fold 0", "train: a is listed 2 times", "train: b.nii.gz is a file's name", "named without ending: b\n", "train: e is held out",
        "train: zebra is no preprocessed case", "c is in train and in val", "val: d.nii.gz is a file's name"))


@pytest.mark.parametrize("content", [{"train": ["a"], "val": ["b"]}, {"0": {"train": ["a"], "val": []}}, [], [["a"], ["b"]], [{"train": "abc", "val": []}],
                                     [{"train": ["a"]}], [{"train": [1], "val": [2]}], None])
def test_another_shape_is_refused(folder, content):
    write(folder, content)
    with pytest.raises(InputError, match="splits_final.json"):
        load_split(folder, 0)


@pytest.mark.parametrize("fold", [-1, 1, 99, "0", 0.0])
def test_folds_out_of_range_are_refused_with_those_there_are(folder, fold):
    write(folder, [{"train": ["a"], "val": ["b"]}])
    with pytest.raises(InputError, match="folds 0 to 0"):
        load_split(folder, fold)


def test_a_fold_without_training_cases_is_refused(folder):
    write(folder, [{"train": [], "val": ["b"]}])
    with pytest.raises(InputError, match="no training cases"):
        load_split(folder, 0)


def test_nobody_knows_the_cases_without_preprocessed_data():
    assert split_problems(["a"], ["b"], None, [], ".nii.gz") == []
