"""A .npz of unknown origin gives its array, or says what is wrong with it."""

import io
import os
import zipfile

import numpy as np
import pytest

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.npz_files import read_npz


def packed(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def header(shape, kind="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("array", [np.arange(24, dtype=np.float16).reshape(2, 3, 4), np.zeros((0, 3)), np.asfortranarray(np.arange(6).reshape(2, 3))])
def test_what_was_saved_is_read(tmp_path, save, array):
    save(tmp_path / "a.npz", probabilities=array)
    assert np.array_equal(read_npz(tmp_path / "a.npz", "probabilities"), array)


@pytest.mark.parametrize("content, reason", [
    (b"", "not a zip"),
    (b"PK\x03\x04 nothing behind it", "not a zip"),
])
def test_what_is_no_archive_is_named(tmp_path, content, reason):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.npz is damaged .*{reason}.*Make it again"):
        read_npz(tmp_path / "a.npz", "p")


def test_a_cut_archive_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", p=np.ones(1000))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        read_npz(tmp_path / "a.npz", "p")


def test_objects_are_refused_unread(tmp_path):
    np.savez(tmp_path / "a.npz", p=np.array([{"code": print}], dtype=object))
    with pytest.raises(InputError, match="holds Python objects"):
        read_npz(tmp_path / "a.npz", "p")


def test_a_missing_array_is_named_with_those_there(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.ones(2), seg=np.ones(2))
    with pytest.raises(InputError, match="lacks 'p'; it holds data, seg"):
        read_npz(tmp_path / "a.npz", "p")


def test_a_header_that_claims_more_than_there_is_is_refused_before_anything_is_allocated(tmp_path):
    with pytest.raises(InputError, match=r"claims \(1000000, 1000000, 1000\) values"):
        read_npz(packed(tmp_path / "a.npz", p=header((10**6, 10**6, 1000)) + bytes(64)), "p")


def test_no_header_is_damage(tmp_path):
    with pytest.raises(InputError, match="'p' is damaged"):
        read_npz(packed(tmp_path / "a.npz", p=b"this is no array"), "p")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(InputError, match="no regular file"):
        read_npz(tmp_path / "a.npz", "p")
