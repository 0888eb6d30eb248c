"""Copies of one image under several names."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data_prep.case_checks import Inspection, case_warnings, copies, inspect_case
from data_prep.convert_quiz import main
from data_prep.quiz_layout import Case


def seen(name: str, split: str, patient: str | None = None, digest: str | None = "a") -> Inspection:
    return Inspection(Case(name, split, Path(f"{name}_0000.nii.gz"), patient=patient), digest=digest)


@pytest.mark.parametrize(("cases", "warned"), [
    ([seen("x", "train"), seen("y", "validation")], "is in train and validation: x_0000.nii.gz, y_0000.nii.gz"),
    ([seen("x", "train", "p"), seen("y", "train", "q")], "is in train 2 times"),
    ([seen("x", "train", "p"), seen("y", "train", "p")], None),
    ([seen("x", "test"), seen("y", "test")], None),
    ([seen("x", "train"), seen("y", "validation", digest="b")], None),
    ([seen("x", "train", digest=None), seen("y", "validation", digest=None)], None)])
def test_copies_of_an_image_that_may_be_parted_are_named(cases, warned):
    found = copies(cases)
    assert found == [] if warned is None else len(found) == 1 and warned in found[0]


def test_a_copy_is_known_by_its_voxels(quiz):
    one, other = quiz.files("train", 0, 1)[0], quiz.files("validation", 0, 4)[0]
    changed = quiz.files("train", 0, 2)[0]
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(one)))
    quiz.write(values.astype(np.float32), other)  # stored otherwise
    values[0, 0, 0] += 1
    quiz.write(values, changed)
    first, second, third = (inspect_case(Case(file.name, "train", file)).digest for file in (one, other, changed))
    assert first == second != third


@pytest.mark.slow
def test_conversion_warns_of_copies(quiz, capsys):
    main(["--data", str(quiz.root), "--dry-run", "-np", "1"])
    assert "warning: the same image is in test and train and validation" in capsys.readouterr().err


def test_an_image_without_a_picture_is_warned_of_and_no_problem(quiz):
    file = quiz.files("train", 0, 1)[0]
    quiz.write(np.full((4, 5, 6), 3, np.int16), file)
    found = inspect_case(Case("blank", "test", file))
    assert found.problems == [] and found.digest is None
    (warning,) = case_warnings([found])
    assert warning.startswith(f"{file}: constant, every voxel is 3")
