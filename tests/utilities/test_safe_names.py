"""Names out of files and flags that become part of a path."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.safe_names import file_key, name_problem, plain_ending, plain_name, plain_names, refuse_shared_files


@pytest.mark.parametrize("name", ["quiz_0_001", "Dataset777_PancreasCT", "patient 7", "Fälle-3.v2", "nnUNetPlans_3d_fullres"])
def test_ordinary_names_are_taken_as_they_are(name):
    assert plain_name(name, "case", "dataset.json") == name


@pytest.mark.parametrize("name", ["", " ", "a ", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", ".hidden", "-rf", "~root", "a\nb", "a\0b", "nul",
                                  "com1.txt", "x" * 201, "\u202egpj", "a*", "a?", "ends.", None, 3, ["a"]])
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(InputError, match="dataset.json: case"):
        plain_name(name, "case", "dataset.json")


def test_all_bad_names_are_listed_at_once():
    with pytest.raises(InputError, match=r"(?s)2 name\(s\).*'\.\./a'.*'b/c'"):
        plain_names(["good", "../a", "b/c"], "case", "splits_final.json")


@pytest.mark.slow
@given(st.text())
def test_an_accepted_name_stays_directly_in_its_folder(name):
    if name_problem(name) is None:
        folder = Path("/data/folder")
        path = folder / f"{name}.nii.gz"
        assert path.parent == folder and path.resolve().parent == folder.resolve()


def test_a_name_may_be_taken_by_something_else():
    with pytest.raises(InputError, match="something else"):
        plain_name("Dataset", "plans", "-p", taken=("dataset",))


@pytest.mark.parametrize("name", ["a*b", "a?", "a:b", "a|b", 'a"b', "<i>", "nul"])
def test_what_only_other_systems_refuse_may_be_let_in(name):
    assert plain_names([name], "image", "imagesTs", portable=False) == [name]


@pytest.mark.parametrize("name", ["../a", "a/b", "a\nb", "\udcff"])
def test_what_leads_elsewhere_is_never_let_in(name):
    with pytest.raises(InputError):
        plain_names([name], "image", "imagesTs", portable=False)


def test_a_name_that_is_not_utf8_is_called_so():
    with pytest.raises(InputError, match="not UTF-8"):
        plain_name("case\udcff", "case", "imagesTr")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_file_endings_pass(ending):
    assert plain_ending(ending, "dataset.json") == ending


@pytest.mark.parametrize("ending", ["nii.gz", ".", "..", "/../x", ".nii/..", "", None, ".nii gz", "./x", ".nii..gz"])
def test_other_endings_are_refused(ending):
    with pytest.raises(InputError, match="file_ending"):
        plain_ending(ending, "dataset.json")


def test_shared_files_are_listed_with_both_cases():
    with pytest.raises(InputError, match="2 pair"):
        refuse_shared_files({"a": ["a.x", "a_seg.x"], "a_seg": ["a_seg.x"], "B": ["B.x"], "b": ["b.x"]}, "dataset")


def test_composed_and_decomposed_accents_are_one_name():
    assert file_key("Fa\u0308lle") == file_key("F\u00e4lle")
