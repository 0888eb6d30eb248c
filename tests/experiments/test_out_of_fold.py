"""out_of_fold: joining folds and averaging tables."""

from pathlib import Path

import pytest

from experiments.out_of_fold import average, gather, lesions_found, main, read_table, write_tables

SPLITS = [{"train": ["a", "b", "c"], "val": ["z"]}, {"train": ["c"], "val": ["a", "b"]}, {"train": ["a", "b"], "val": ["c"]}]


@pytest.fixture
def folds(tmp_path: Path) -> dict[int, Path]:
    """Folds 1 and 2 with masks that hold their own name, and tables; true masks in labels/."""
    (tmp_path / "labels").mkdir()
    found = {}
    for fold in (1, 2):
        found[fold] = tmp_path / f"fold_{fold}"
        found[fold].mkdir()
        for case in SPLITS[fold]["val"]:
            (found[fold] / f"{case}.nii.gz").write_text(f"predicted {case}")
            (tmp_path / "labels" / f"{case}.nii.gz").write_text(f"true {case}")
        write_tables(found[fold], ["0", "1"], {f"{case}.nii.gz": [0.25, 0.75] for case in SPLITS[fold]["val"]}, found={"b.nii.gz": False})
    return found


def test_masks_tables_and_references_of_all_folds_are_joined(folds, tmp_path):
    assert gather(folds, SPLITS, tmp_path / "labels", tmp_path / "out", tmp_path / "reference") == 3
    assert [(tmp_path / "out" / f"{case}.nii.gz").read_text() for case in "abc"] == ["predicted a", "predicted b", "predicted c"]
    assert [(tmp_path / "reference" / f"{case}.nii.gz").read_text() for case in "abc"] == ["true a", "true b", "true c"]
    assert list(read_table(tmp_path / "out/subtype_probabilities.csv")[1]) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert lesions_found(tmp_path / "out/subtype_probabilities.csv") == {"a.nii.gz": None, "b.nii.gz": False, "c.nii.gz": None}


def test_masks_of_an_earlier_set_of_folds_go(folds, tmp_path):
    for some in (folds, {1: folds[1]}):
        gather(some, SPLITS, tmp_path / "labels", tmp_path / "out", tmp_path / "reference")
    assert sorted(file.name for file in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize("folder", ["out", "reference"])
def test_files_that_no_run_wrote_are_kept_and_named(folds, tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "mine.nii.gz").write_text("mine")
    with pytest.raises(ValueError, match=f"{folder}/mine.nii.gz: no run of this program wrote it"):
        gather(folds, SPLITS, tmp_path / "labels", tmp_path / "out", tmp_path / "reference")
    assert (tmp_path / folder / "mine.nii.gz").read_text() == "mine"


def test_true_masks_are_not_deleted_where_they_are_named_as_the_reference(folds, tmp_path):
    with pytest.raises(ValueError, match="labels: is, holds or lies in"):
        gather(folds, SPLITS, tmp_path / "labels", tmp_path / "out", tmp_path / "labels")
    assert (tmp_path / "labels/a.nii.gz").read_text() == "true a"


def test_all_gaps_are_named_and_nothing_is_written(folds, tmp_path):
    (folds[1] / "a.nii.gz").unlink()
    write_tables(folds[2], ["0", "1"], {})
    with pytest.raises(ValueError, match="(?s)fold 1: .*a.nii.gz does not exist.*fold 2: no row for c.nii.gz"):
        gather(folds, SPLITS, tmp_path / "labels", tmp_path / "out", tmp_path / "reference")
    assert not (tmp_path / "out").exists()


def test_a_fold_without_tables_is_a_gap_when_others_have_them(folds, tmp_path):
    for table in folds[2].glob("*.csv"):
        table.unlink()
    with pytest.raises(ValueError, match="fold 2: no row for c.nii.gz"):
        gather(folds, SPLITS, tmp_path / "labels", tmp_path / "out", tmp_path / "reference")


def test_without_any_tables_masks_are_joined_alone(folds, tmp_path):
    for folder in folds.values():
        for table in folder.glob("*.csv"):
            table.unlink()
    gather(folds, SPLITS, tmp_path / "labels", tmp_path / "out", tmp_path / "reference")
    assert sorted(file.name for file in (tmp_path / "out").glob("[!.]*")) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


def test_average_is_the_mean_and_decides_anew(tmp_path):
    write_tables(tmp_path / "a", ["0", "1"], {"x.nii.gz": [0.6, 0.4]})
    write_tables(tmp_path / "b", ["0", "1"], {"x.nii.gz": [0.1, 0.9]})
    average(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert read_table(tmp_path / "c/subtype_probabilities.csv") == (["0", "1"], {"x.nii.gz": [0.35, 0.65]})
    assert (tmp_path / "c/subtype_results.csv").read_text() == "Names,Subtype\nx.nii.gz,1\n"


def test_tables_of_different_cases_cannot_be_averaged(tmp_path):
    write_tables(tmp_path / "a", ["0", "1"], {"x.nii.gz": [0.6, 0.4]})
    write_tables(tmp_path / "b", ["0", "1"], {"y.nii.gz": [0.1, 0.9]})
    with pytest.raises(SystemExit, match="x.nii.gz"):
        main(["average", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")])
