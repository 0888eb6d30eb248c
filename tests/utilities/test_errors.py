"""Errors as the one message that ends a command."""

import errno

from nnunetv2.utilities.errors import InputError, in_one_message


def test_an_error_about_input_is_its_own_message():
    assert in_one_message(InputError("plans.json: no")) == "plans.json: no"


def test_a_full_disk_names_file_and_free_space(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "not" / "there.nii.gz"))
    assert f"{tmp_path}/not/there.nii.gz: No space left on device; " in in_one_message(error)
    assert f"MiB are free in {tmp_path}." in in_one_message(error)


def test_a_missing_file_is_named():
    assert in_one_message(FileNotFoundError(errno.ENOENT, "No such file or directory", "x.json")) == "x.json: No such file or directory. Check the path."


def test_an_error_raised_with_text_alone_keeps_it():
    assert in_one_message(FileNotFoundError("There is no checkpoint x. Train first.")) == "There is no checkpoint x. Train first."
