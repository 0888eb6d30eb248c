import os

import pytest

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.image_listing import list_images, scan_images


@pytest.fixture
def folder(tmp_path):
    """Two good images and a text."""
    for name in ("a_0000.nii.gz", "b_0000.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def refused(folder):
    with pytest.raises(InputError) as error:
        list_images(folder, ".nii.gz")
    return str(error.value)


def test_files_of_the_ending_are_listed_in_order(folder):
    assert [path.name for path in list_images(folder, ".nii.gz")] == ["a_0000.nii.gz", "b_0000.nii.gz"]


def test_link_to_a_file_is_a_file(folder):
    (folder / "c_0000.nii.gz").symlink_to(folder / "a_0000.nii.gz")
    assert len(list_images(folder, ".nii.gz")) == 3


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: path.symlink_to("gone"), "x_0000.nii.gz is a link to 'gone', which does not exist"),
    (lambda path: path.symlink_to(path.name), "x_0000.nii.gz cannot be reached"),
    (lambda path: path.mkdir(), "x_0000.nii.gz is a folder"),
    (lambda path: os.mkfifo(path), "x_0000.nii.gz is a named pipe"),
])
def test_what_is_called_like_an_image_and_is_none_is_named(folder, make, message):
    make(folder / "x_0000.nii.gz")
    assert message in refused(folder)


@pytest.mark.parametrize("name", ["x_0000.nii", "x_0000.mha", "x_0000.NII.GZ", "x_0000.nrrd"])
def test_image_of_another_ending_is_named(folder, name):
    (folder / name).touch()
    assert f"{name} does not end in .nii.gz" in refused(folder)


def test_images_one_level_down_are_named(folder):
    (folder / "patient").mkdir()
    (folder / "patient" / "x_0000.nii.gz").touch()
    assert "patient/ holds 1 image(s), one level down" in refused(folder)


def test_empty_folder_is_refused(tmp_path):
    assert "holds no file that ends in .nii.gz" in refused(tmp_path)


def test_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone is not a folder"):
        list_images(tmp_path / "gone", ".nii.gz")


@pytest.mark.parametrize("name", [b"x\ny_0000.nii.gz", b"x\xff_0000.nii.gz"])
def test_names_that_cannot_be_printed_are_named(folder, name):
    with open(os.fsencode(folder) + b"/" + name, "wb"):
        pass
    assert "control character or is not UTF-8" in refused(folder)


def test_all_problems_are_listed_at_once(folder):
    (folder / "x_0000.mha").touch()
    (folder / "y_0000.nii.gz").mkdir()
    assert "2 problem(s)" in refused(folder)


def test_hidden_images_are_left_out_with_a_note_and_half_written_ones_silently(folder, capsys):
    (folder / "._a_0000.nii.gz").touch()
    (folder / f".b.{'0' * 32}.nii.gz").touch()
    assert len(list_images(folder, ".nii.gz")) == 2
    assert capsys.readouterr().err.strip().endswith("begin with a dot: ._a_0000.nii.gz.")


def test_sub_folders_are_listed_where_asked(folder):
    (folder / "train" / "subtype0").mkdir(parents=True)
    (folder / "train" / "subtype0" / "c.nii.gz").touch()
    (folder / "train" / "loop").symlink_to(folder)
    assert len(scan_images(folder, ".nii.gz", "list").files) == 3
