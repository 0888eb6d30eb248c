"""check_dataset: a converted dataset that was edited by hand."""

import csv
from pathlib import Path

import pytest

from data_prep.check_dataset import check_dataset, main
from data_prep.convert_quiz import DATASET, convert
from nnunetv2.utilities.files import load_json, save_json

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(quiz, tmp_path) -> Path:
    convert(quiz.root, tmp_path / "raw", processes=1)
    return tmp_path / "raw" / DATASET


def problems_of(dataset: Path) -> str:
    return "\n".join(check_dataset(dataset, processes=1)[1])


def test_what_convert_quiz_writes_is_right(dataset):
    inspections, problems = check_dataset(dataset, processes=1)
    assert problems == []
    assert [found.case.split for found in inspections] == ["train"] * 9 + ["validation"] * 3 + ["test"] * 2


def test_missing_partners_and_the_wrong_count_are_all_named(dataset):
    (dataset / "labelsTr/quiz_0_001.nii.gz").unlink()
    (dataset / "imagesTr/quiz_1_001_0000.nii.gz").unlink()
    found = problems_of(dataset)
    assert "quiz_0_001_0000.nii.gz: no mask" in found and "quiz_1_001.nii.gz: no image" in found
    assert "numTraining is 12, labelsTr holds 11" in found


def test_subtype_table_is_checked_row_by_row(dataset):
    rows = list(csv.reader((dataset / "subtypes.csv").open()))
    rows[1][1], rows[2][0] = "9", "quiz_9_999"
    (dataset / "subtypes.csv").write_text("\n".join(",".join(row) for row in [*rows, rows[3]]) + "\n")
    found = problems_of(dataset)
    assert "quiz_0_001: '9' is none of" in found and "quiz_0_002 is missing" in found
    assert "quiz_9_999 is no training" in found and f"{rows[3][0]} is listed 2 times" in found


def test_a_fold_that_trains_on_a_holdout_case_is_found(dataset):
    folds = load_json(dataset / "splits_final.json")
    folds[0]["train"].append("quiz_0_004")
    folds[2]["val"].append("quiz_1_004")
    save_json(folds, dataset / "splits_final.json")
    found = problems_of(dataset)
    assert "fold 0: quiz_0_004 is in train and in val" in found
    assert "fold 0: train: quiz_0_004 is held out" in found
    assert "fold 2: val: quiz_1_004 is held out" in found


def test_a_holdout_case_that_fold_0_does_not_validate_is_found(dataset):
    folds = load_json(dataset / "splits_final.json")
    folds[0]["val"].remove("quiz_0_004")
    save_json(folds, dataset / "splits_final.json")
    assert "fold 0: holdout case quiz_0_004 is not validated on" in problems_of(dataset)


def test_command_line_fails_on_problems_and_not_without(dataset, capsys):
    main([str(dataset), "-np", "1"])
    assert "nothing wrong with 14 cases" in capsys.readouterr().out
    (dataset / "labelsTr/quiz_0_001.nii.gz").write_bytes(b"")
    with pytest.raises(SystemExit, match="1 problem"):
        main([str(dataset), "-np", "1"])
