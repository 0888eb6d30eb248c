"""Validation cases laid out as a test set."""

import json

import pytest

from data_prep.split_view import link_validation_cases
from nnunetv2.utilities.errors import InputError


@pytest.fixture
def raw(tmp_path):
    """Cases whose names a pattern would take for others; returns a function that writes the split."""
    for case in ("a[1]", "a1", "b"):
        for file in (f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz", f"labelsTr/{case}.nii.gz"):
            (tmp_path / "raw" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "raw" / file).write_text(file)

    def with_split(val, ending=".nii.gz", train=("other",)):
        (tmp_path / "raw/dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 1, "file_ending": ending}))
        (tmp_path / "raw/splits_final.json").write_text(json.dumps([{"train": list(train), "val": val}]))
        return tmp_path / "raw"

    return with_split


def test_brackets_in_a_name_are_no_pattern(raw, tmp_path):
    assert link_validation_cases(raw(["a[1]"]), 0, tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz")) == ["a[1].nii.gz", "a[1]_0000.nii.gz", "a[1]_0001.nii.gz"]


def test_a_later_view_replaces_its_own_links_and_leaves_other_files(raw, tmp_path):
    link_validation_cases(raw(["a1"]), 0, tmp_path / "out")
    assert link_validation_cases(raw(["b"]), 0, tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz")) == ["b.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"]
    (tmp_path / "out/images/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="images/mine.txt: no run"):
        link_validation_cases(raw(["a1"]), 0, tmp_path / "out")
    assert (tmp_path / "out/images/mine.txt").read_text() == "mine" and (tmp_path / "out/labels/b.nii.gz").exists()


def test_cases_without_an_image_are_named(raw, tmp_path):
    folder = raw(["a1", "b"])
    for channel in ("0000", "0001"):
        (folder / f"imagesTr/b_{channel}.nii.gz").unlink()
    with pytest.raises(InputError, match="imagesTr/b_0000.nii.gz"):
        link_validation_cases(folder, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_view_within_the_raw_dataset_is_refused(raw, tmp_path):
    with pytest.raises(InputError, match="raw/images: is, holds or lies in"):
        link_validation_cases(raw(["b"]), 0, tmp_path / "raw")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a*", "", None])
def test_names_that_lead_elsewhere_are_refused(raw, tmp_path, name):
    with pytest.raises(InputError, match="splits_final.json"):
        link_validation_cases(raw(["b", name]), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_ending_that_leads_elsewhere_is_refused(raw, tmp_path):
    with pytest.raises(InputError, match="file_ending"):
        link_validation_cases(raw(["b"], "/../x"), 0, tmp_path / "out")


@pytest.mark.parametrize(("train", "val", "message"), [(["a1", "b"], ["b"], "b is in train and in val"), ([], ["b"], "no training cases"), (["a1"], ["b", "nobody"], "not there[\\s\\S]*nobody.nii.gz")])
def test_a_split_that_cannot_be_is_refused_and_nothing_is_laid_out(raw, tmp_path, train, val, message):
    with pytest.raises(InputError, match=f"splits_final.json[\\s\\S]*{message}"):
        link_validation_cases(raw(val, train=train), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
