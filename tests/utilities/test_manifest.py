"""Hashes, versions and differences that manifests are made of."""

import gzip
import os

import pytest

from nnunetv2.utilities.errors import list_some
from nnunetv2.utilities.manifest import changes, code_version, file_hash, known_hash, machine, quick_hash, value_hash


def test_a_file_that_was_not_touched_is_not_read_again(tmp_path, monkeypatch):
    path, known = tmp_path / "a", {}
    path.write_text("a")
    first = known_hash(path, known)
    monkeypatch.setattr("nnunetv2.utilities.manifest.file_hash", lambda path: pytest.fail("read again"))
    assert known_hash(path, known) == first == file_hash(path)


def test_a_file_of_the_same_size_and_older_time_is_read_again(tmp_path):
    path, known = tmp_path / "a", {}
    path.write_text("a")
    first = known_hash(path, known)
    path.write_text("b")
    os.utime(path, (1, 1))
    assert known_hash(path, known) != first


def test_the_quick_hash_of_a_gzip_file_tells_a_change_in_its_middle(tmp_path):
    content = bytearray(os.urandom(600_000))
    hashes = set()
    for middle in (0, 1):
        content[300_000] = middle
        (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(content), 0, mtime=0))
        hashes.add(quick_hash(tmp_path / "a.gz"))
    assert len(hashes) == 2


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**16 + 1, 2**17 + 1])
def test_the_quick_hash_of_a_small_file_is_of_all_of_it(tmp_path, size):
    path = tmp_path / "a"
    path.write_bytes(bytes(size))
    first = quick_hash(path)
    if size:
        path.write_bytes(bytes(size - 1) + b"x")
    else:
        path.write_bytes(b"x")
    assert quick_hash(path) != first


def test_values_hash_alike_whatever_the_order_of_keys():
    assert value_hash({"a": 1, "b": [2]}) == value_hash({"b": [2], "a": 1}) != value_hash({"a": 1, "b": [3]})


def test_changes_are_named_with_both_values():
    assert changes({"a": 1, "b": {"c": 2, "d": 3}, "gone": 4}, {"a": 1, "b": {"c": 5, "d": 3}, "new": 6}) == [
        "b.c was 2, is 5", "gone was 4, is None", "new was None, is 6"]


def test_long_lists_are_cut_and_counted():
    assert list_some(["a", "b", "c"], 2) == "  a\n  b\n  and 1 more"


def test_code_and_machine_are_named():
    assert len(code_version()["source"]) == 16 and {"cpu", "cores", "python", "torch"} <= machine().keys()
