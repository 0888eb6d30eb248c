"""Where compiled code is kept: a folder of this user alone."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from nnunetv2.utilities.private_cache import is_private, private_cache_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes of POSIX")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """HOME and the folder for temporary files below tmp_path, no XDG_CACHE_HOME."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    private_cache_folder.cache_clear()
    yield
    private_cache_folder.cache_clear()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("value", [None, "", "relative/cache", ".", "~/cache"])
def test_home_serves_where_xdg_names_no_absolute_folder(tmp_path, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert private_cache_folder() == tmp_path / "home/.cache/nnunetv2"


def test_an_absolute_xdg_folder_goes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert private_cache_folder() == tmp_path / "xdg/nnunetv2" and mode(tmp_path / "xdg/nnunetv2") == 0o700


def test_an_older_folder_that_others_can_write_is_closed(tmp_path):
    folder = tmp_path / "home/.cache/nnunetv2"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert private_cache_folder() == folder and mode(folder) == 0o700


@pytest.mark.parametrize("obstacle", ["file", "link", "open parent"])
def test_a_place_that_is_not_safe_is_passed_over_and_named(tmp_path, obstacle, capsys):
    cache = tmp_path / "home/.cache"
    cache.mkdir(parents=True)
    if obstacle == "file":
        (cache / "nnunetv2").write_text("")
    elif obstacle == "link":
        (tmp_path / "elsewhere").mkdir()
        (cache / "nnunetv2").symlink_to(tmp_path / "elsewhere")
    else:
        cache.chmod(0o777)
    assert private_cache_folder() == tmp_path / f"tmp/nnunetv2_{os.geteuid()}" and mode(private_cache_folder()) == 0o700
    assert str(cache / "nnunetv2") in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folders_of_another_owner_are_passed_over(tmp_path):
    for folder in (tmp_path / "home/.cache/nnunetv2", tmp_path / f"tmp/nnunetv2_{os.geteuid()}"):
        folder.mkdir(parents=True)
        os.chown(folder, 12345, -1)
    found = private_cache_folder()
    assert found.parent == tmp_path / "tmp" and found.name.startswith("nnunetv2_") and found.stat().st_uid == 0 and mode(found) == 0o700


def test_a_home_that_cannot_be_made_falls_back(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file")
    assert private_cache_folder().parent == tmp_path / "tmp"


def test_a_user_without_home_has_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert private_cache_folder().parent == tmp_path / "tmp"


def test_only_plain_files_of_this_user_are_private(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("")
    file.chmod(0o600)
    link.symlink_to(file)
    assert is_private(file) and not is_private(link) and not is_private(tmp_path) and not is_private(Path(tmp_path / "gone"))


@pytest.mark.parametrize("others", [0o620, 0o602, 0o666])
def test_what_others_can_write_is_not_private(tmp_path, others):
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(others)
    assert not is_private(tmp_path / "file")
