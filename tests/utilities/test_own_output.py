"""Output folders: apart from the inputs, and emptied of a command's own files alone."""

import pytest

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.own_output import own_files, refuse_overlap


@pytest.mark.parametrize(("output", "how"), [("in", "is"), ("in/", "is"), (".", "contains"), ("in/out", "lies in"), ("link/out", "lies in"), ("in/../in", "is")])
def test_an_output_that_touches_an_input_is_refused(tmp_path, output, how):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(InputError, match=f" {how} .*in, which is read"):
        refuse_overlap(f"{tmp_path}/{output}", [tmp_path / "in"], nested=True)
    if how != "is":
        refuse_overlap(f"{tmp_path}/{output}", [tmp_path / "in"])


def test_an_output_beside_the_inputs_is_taken(tmp_path):
    refuse_overlap(tmp_path / "inner", [tmp_path / "in", tmp_path / "inn"])


def test_what_is_not_own_is_named_and_the_rest_comes_with_the_manifest_last(tmp_path):
    for name in ("manifest.json", "a.nii.gz", "z.json", f".a.{'0a' * 16}.nii.gz"):
        (tmp_path / name).touch()
    assert [path.name for path in own_files(tmp_path, lambda path: True)][-2:] == ["z.json", "manifest.json"]
    with pytest.raises(InputError, match=r"did not make: z.json\. Nothing was deleted"):
        own_files(tmp_path, lambda path: path.name in ("manifest.json", "a.nii.gz"))
    assert own_files(tmp_path / "nowhere", lambda path: False) == []


def test_the_lock_that_a_killed_run_left_is_neither_foreign_nor_deleted(tmp_path):
    for name in ("a.nii.gz", ".prediction.lock"):
        (tmp_path / name).touch()
    assert own_files(tmp_path, lambda path: path.name == "a.nii.gz") == [tmp_path / "a.nii.gz"]
