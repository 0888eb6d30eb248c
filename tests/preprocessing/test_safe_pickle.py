"""Pickles from elsewhere: plain data comes back, code does not run, and no memory is asked for that the file does not justify."""

import pickle
import struct
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2.preprocessing.safe_pickle import load_pickle, load_properties, save_pickle
from nnunetv2.utilities.errors import InputError

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refusal(folder, content):
    path = folder / "x.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=str(path)) as caught:
            load_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("dtype", ["i1", "<i8", ">i4", "f2", "f8", "?", "c16", "S3", "U2"])
def test_arrays_come_back(tmp_path, protocol, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for written in (array, np.asfortranarray(array), array[:, :0]):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": [written, written]}, protocol))
        first, second = load_pickle(tmp_path / "x.pkl")["a"]
        assert first is second and first.dtype.newbyteorder("=") == array.dtype.newbyteorder("=") and np.array_equal(first, written)


def test_properties_of_a_case_come_back(tmp_path):
    properties = {"spacing": (1.0, np.float64(2.5)), "n": np.int64(3), "box": [[0, 5]], "sitk_stuff": {"origin": (0.0, -1.0)}, "none": None,
                  "class_locations": OrderedDict({1: np.zeros((5, 4), np.int64)})}
    save_pickle(properties, tmp_path / "x.pkl")
    again = load_pickle(tmp_path / "x.pkl")
    assert again["spacing"] == properties["spacing"] and again["n"] == 3 and again["class_locations"][1].shape == (5, 4)


@pytest.mark.parametrize("call", [Calls(print, "ran"), Calls(np.zeros, 10**15), Calls(np.ndarray, (10**15,)), Calls(np.dtype, "O"), Calls(np.dtype, "V999999999999"),
                                  Calls(eval, "1"), Calls(bytearray, 10**12)])
def test_calls_are_refused(tmp_path, capsys, call):
    refusal(tmp_path, pickle.dumps(call))
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("content", [
    b"", b"\x80\x04", b"not a pickle", b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"x.", b"\x80\x04\x8b\xff\xff\xff\x7f1.",
    RECONSTRUCT + b"(cnumpy\nndarray\n(L1000000000000000L\ntS'b'\ntR.", b"(" * 100_000, b"]" + b"2" * 1000 + b"a" * 999, b"I" + b"9" * 10_000 + b"\n.",
    b"ccollections\nOrderedDict\n)R}S'x'\nI1\nsb."])
def test_damaged_and_greedy_files_are_refused(tmp_path, content):
    assert "cannot be read as plain data" in refusal(tmp_path, content)


def test_a_note_at_a_far_place_takes_no_memory(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\xff.")
    tracemalloc.start()
    assert load_pickle(tmp_path / "x.pkl") is None and tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_an_array_larger_than_its_data_is_refused(tmp_path):
    content = pickle.dumps(np.arange(4, dtype=np.int64), 2)
    assert content.count(b"K\x04\x85") == 1
    assert "data of another size" in refusal(tmp_path, content.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"))


@pytest.mark.slow
@given(cut=st.integers(0, 200), place=st.integers(0, 200), byte=st.integers(0, 255))
def test_any_damage_ends_in_data_or_an_input_error(tmp_path_factory, cut, place, byte):
    content = bytearray(pickle.dumps({"a": np.arange(5), "b": (1.5, "x")}))
    if place < len(content):
        content[place] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(bytes(content)[: len(content) - cut] if cut < len(content) else b"")
    try:
        load_pickle(path)
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("content", [5, [1, 2], None, "text"])
def test_properties_that_are_no_dict_are_refused_by_name(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=rf"a\.pkl holds {type(content).__name__}, not the properties"):
        load_properties(tmp_path / "a.pkl")
