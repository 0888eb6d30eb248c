"""Names out of files and flags that become part of a path."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.safe_names import name_problem, plain_name, plain_names


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


@given(st.text())
def test_an_accepted_name_stays_directly_in_its_folder(name):
    if name_problem(name) is None:
        folder = Path("/data/folder")
        path = folder / f"{name}.nii.gz"
        assert path.parent == folder and path.resolve().parent == folder.resolve()
