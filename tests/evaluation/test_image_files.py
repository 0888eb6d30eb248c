"""Masks and images in other formats than NIfTI, one format per folder."""

import json
from pathlib import Path

import pytest
import SimpleITK as sitk

from evaluation.compute_metrics import main
from evaluation.image_files import ENDINGS, case_of, ending_in, find_image
from evaluation.make_gallery import build
from evaluation.radiomics_baseline import extract
from tests.evaluation.small_run import CASES, status_of, table_options

OTHERS = [ending for ending in ENDINGS if ending != ".nii.gz"]


def store_as(ending: str, *folders: Path) -> None:
    """Every image of `folders` in another format, tables with them."""
    for path in [path for folder in folders for path in folder.iterdir()]:
        if path.suffix == ".csv":
            path.write_text(path.read_text().replace(".nii.gz", ending))
        else:
            sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_name(case_of(path.name) + ending)))
            path.unlink()


def scores(folder: Path) -> dict:
    arguments = ["--pred", str(folder / "prediction"), "--ref", str(folder / "reference"), "--out", str(folder), "--bootstrap", "50", "--jobs", "1"]
    assert status_of(main, [*arguments, *table_options(folder)]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if key not in ("provenance", "command")}


@pytest.mark.parametrize("ending", OTHERS)
def test_scores_gallery_and_radiomics_are_those_of_nifti(run_folder, ending):
    expected, features = scores(run_folder), extract(run_folder / "images", run_folder / "reference", None, 1)
    store_as(ending, run_folder / "prediction")
    assert scores(run_folder) == expected  # the truth is still NIfTI
    store_as(ending, run_folder / "images", run_folder / "reference")
    assert scores(run_folder) == expected
    again = extract(run_folder / "images", run_folder / "reference", None, 1)
    assert {case: row.tolist() for case, row in again.items()} == {case: row.tolist() for case, row in features.items()}
    assert all(case in build(expected, run_folder / "images", run_folder / "reference", run_folder / "prediction") for case in CASES)


def test_a_second_format_in_a_folder_is_named(run_folder, capsys):
    path = run_folder / "prediction" / f"{CASES[0]}.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_name("other.mha")))
    assert status_of(main, ["--pred", str(path.parent), "--ref", str(run_folder / "reference"), "--out", str(run_folder)]) == 1
    assert "other.mha does not end in .nii.gz" in capsys.readouterr().err


def test_endings_and_names():
    assert [case_of(f"a.b{ending}") for ending in ENDINGS] == ["a.b"] * len(ENDINGS) and case_of("a.csv") == "a.csv"


def test_an_image_is_found_by_its_case(tmp_path):
    for name in ("a_0000.nrrd", "aa_0000.nrrd", "a_0001.nrrd", "a_0000.txt"):
        (tmp_path / name).touch()
    assert ending_in(tmp_path) == ".nrrd" and find_image(tmp_path, "a").name == "a_0000.nrrd"
