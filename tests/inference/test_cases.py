from pathlib import Path

import pytest

from nnunetv2.inference.cases import case_name, list_cases, missing_outputs, refuse_collisions
from nnunetv2.utilities.errors import InputError

ENDING = ".nii.gz"


@pytest.mark.parametrize(("file", "name"), [
    ("a/b_0000.nii.gz", "b"), ("b_0001.nii.gz", "b"), ("b_12_0000.nii.gz", "b_12"), ("b.nii.gz", "b"), ("_0000.nii.gz", "_0000"), ("b_00000.nii.gz", "b_00000")])
def test_name_of_a_case(file, name):
    assert case_name(file, ENDING) == name


def test_cases_of_one_name_have_labels_of_their_own():
    cases = list_cases([["d1/x_0000.nii.gz"], ["d2/x_0000.nii.gz"], ["d2/y_0000.nii.gz"]], None, ENDING)
    assert [case.label for case in cases] == ["d1/x_0000.nii.gz", "d2/x_0000.nii.gz", "y"]
    assert [case.position for case in cases] == [0, 1, 2]


def test_one_image_twice_has_two_labels():
    cases = list_cases([["x_0000.nii.gz"]] * 2, ["out/a", "out/b"], ENDING)
    assert [case.label for case in cases] == ["x_0000.nii.gz (case 1)", "x_0000.nii.gz (case 2)"]


def test_cases_of_one_name_cannot_go_into_one_folder():
    with pytest.raises(InputError, match=r"(?s)1 result.*d1/x_0000.nii.gz and d2/x_0000.nii.gz would both be written to out/x.nii.gz"):
        list_cases([["d1/x_0000.nii.gz"], ["d2/x_0000.nii.gz"]], "out", ENDING)


@pytest.mark.parametrize("outputs", [
    ("out/x", "out/x"), ("out/x", "out/X"), ("out/x", "./out/../out/x"), ("out/\u00e9", "out/e\u0301"), ("out/x", Path("out") / "x")])
def test_outputs_that_are_one_file_somewhere_are_refused(outputs):
    with pytest.raises(InputError, match="a_0000.nii.gz and b_0000.nii.gz would both be written"):
        list_cases([["a_0000.nii.gz"], ["b_0000.nii.gz"]], list(outputs), ENDING)


def test_outputs_that_a_link_makes_one_are_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(InputError, match="would both be written"):
        list_cases([["a_0000.nii.gz"], ["b_0000.nii.gz"]], [tmp_path / "real" / "x", tmp_path / "link" / "x"], ENDING)


def test_every_collision_is_listed():
    with pytest.raises(InputError, match=r"(?s)2 result\(s\).*out/x.nii.gz.*out/y.nii.gz"):
        list_cases([[f"d{i}/{name}_0000.nii.gz"] for name in "xy" for i in range(2)], "out", ENDING)


def test_an_image_is_not_written_over():
    with pytest.raises(InputError, match="written over the image in/a.nii.gz"):
        list_cases([["in/a.nii.gz"]], ["in/a"], ENDING)


def test_one_mask_of_the_previous_stage_is_not_for_two_cases():
    with pytest.raises(InputError, match="would both be refined from stage/x.nii.gz"):
        list_cases([["d1/x_0000.nii.gz"], ["d2/x_0000.nii.gz"]], ["out/a", "out/b"], ENDING, "stage")


@pytest.mark.parametrize("source", [[], ["a_0000.nii.gz"], [[]], [[1]], [None]])
def test_lists_that_are_no_cases_are_refused(source):
    with pytest.raises(InputError):
        list_cases(source, None, ENDING)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        list_cases(tmp_path, None, ENDING)


def test_outputs_must_be_as_many_as_cases():
    with pytest.raises(InputError, match="2 cases but 1 output"):
        list_cases([["a_0000.nii.gz"], ["b_0000.nii.gz"]], ["out/a"], ENDING)


def test_collisions_with_earlier_calls_are_seen():
    written = {}
    first, second = list_cases([["a_0000.nii.gz"]], ["out/x"], ENDING), list_cases([["b_0000.nii.gz"]], ["out/x"], ENDING)
    refuse_collisions(first, ENDING, written)
    with pytest.raises(InputError, match="a_0000.nii.gz and b_0000.nii.gz"):
        refuse_collisions(second, ENDING, written)


def test_missing_outputs_are_told_by_position(tmp_path):
    for name in ("a.nii.gz", "a.npz", "b.nii.gz"):
        (tmp_path / name).touch()
    cases = list_cases([[f"{name}_0000.nii.gz"] for name in "abc"], tmp_path, ENDING)
    assert missing_outputs(cases, [ENDING]) == {2}
    assert missing_outputs(cases, [ENDING, ".npz"]) == {1, 2}
