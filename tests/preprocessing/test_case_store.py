import errno
import os
import pickle
import resource

import numpy as np
import pytest

from nnunetv2.preprocessing.case_store import is_complete, list_cases, load_case, read_image, save_case
from nnunetv2.preprocessing.safe_pickle import load_pickle, save_pickle
from nnunetv2.utilities.errors import InputError

PROPERTIES = {"spacing": [2.0, 0.7, 0.7], "shape": (9, 10, 11), "class_locations": {1: np.arange(8).reshape(2, 4), (1, 2): []},
              "scalar": np.float64(0.5)}


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    data, seg = rng.normal(size=(2, 9, 10, 11)).astype(np.float32), rng.integers(-1, 3, (1, 9, 10, 11)).astype(np.int8)
    save_case(data, seg, PROPERTIES, tmp_path, "a", patch_size=(4, 8, 8))
    return tmp_path, data, seg


def test_round_trip_is_exact(stored):
    folder, data, seg = stored
    read_data, read_seg, properties = load_case(folder, "a")
    assert np.array_equal(read_data[:], data) and np.array_equal(read_seg[:], seg)
    assert properties["shape"] == (9, 10, 11) and np.array_equal(properties["class_locations"][1], PROPERTIES["class_locations"][1])


@pytest.mark.slow
def test_stored_types_are_upstreams(stored):
    data, seg, _ = load_case(stored[0], "a")
    assert (data.dtype, seg.dtype) == (np.float32, np.int16)


def test_a_slice_can_be_read_alone(stored):
    folder, data, _ = stored
    assert np.array_equal(load_case(folder, "a")[0][:, 2:5, 3:4], data[:, 2:5, 3:4])


def test_2d_patches_are_stored_slice_by_slice(tmp_path):
    save_case(np.zeros((1, 5, 8, 8)), np.zeros((1, 5, 8, 8)), PROPERTIES, tmp_path, "flat", patch_size=(8, 8))
    assert load_case(tmp_path, "flat")[0].chunks == (1, 1, 8, 8)


@pytest.mark.slow
def test_list_cases_leaves_out_half_written_files(stored):
    folder, _, _ = stored
    (folder / ".b.0123.b2nd").write_bytes(b"")
    assert list_cases(folder) == ["a"]


@pytest.mark.slow
def test_saved_case_is_complete(stored):
    assert is_complete(stored[0], "a")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.b2nd", "a_seg.b2nd", "a.pkl"])
def test_case_without_one_file_is_not_complete(stored, name):
    (stored[0] / name).unlink()
    assert not is_complete(stored[0], "a")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.b2nd", "a_seg.b2nd", "a.pkl"])
def test_case_with_a_truncated_file_is_not_complete(stored, name):
    path = stored[0] / name
    path.write_bytes(path.read_bytes()[:-5])
    assert not is_complete(stored[0], "a")


def test_case_older_than_its_raw_files_is_not_complete(stored):
    os.utime(stored[0] / "a.pkl", (1000, 1000))
    assert not is_complete(stored[0], "a", newer_than=2000)


def test_missing_files_are_named(stored):
    (stored[0] / "a_seg.b2nd").unlink()
    with pytest.raises(FileNotFoundError, match="a_seg.b2nd"):
        load_case(stored[0], "a")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"spacing": Malicious()}))
    with pytest.raises(ValueError, match="mkdir"):
        load_pickle(tmp_path / "bad.pkl")
    assert not (tmp_path / "owned").exists()


def test_object_array_cannot_smuggle_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.empty(1, object)
    array[0] = Malicious()
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(array))
    with pytest.raises(ValueError):
        load_pickle(tmp_path / "bad.pkl")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_common_protocol_is_read(tmp_path, protocol):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(PROPERTIES, protocol=protocol))
    assert load_pickle(tmp_path / "p.pkl")["spacing"] == PROPERTIES["spacing"]


def test_saved_pickle_is_read_by_the_plain_module(tmp_path):
    save_pickle(PROPERTIES, tmp_path / "p.pkl")
    assert pickle.loads((tmp_path / "p.pkl").read_bytes())["spacing"] == PROPERTIES["spacing"]


def test_what_the_disk_does_not_take_is_the_systems_error_with_the_files_name(tmp_path):
    """blosc2 itself says no more than that it failed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_case(np.random.default_rng(0).normal(size=(1, 20, 20, 20)), np.zeros((1, 20, 20, 20)), {}, tmp_path, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "a.b2nd") and not any(tmp_path.iterdir())


def test_image_and_segmentation_of_different_shapes_are_refused(stored):
    folder, data, seg = stored
    save_case(data, seg[:, 1:], PROPERTIES, folder, "b")
    with pytest.raises(InputError, match=r"b\.b2nd has \(z, y, x\) = \(9, 10, 11\) voxels and .*b_seg\.b2nd \(8, 10, 11\)"):
        load_case(folder, "b")
    assert not is_complete(folder, "b")


def test_an_image_whose_blocks_are_damaged_is_named(tmp_path):
    data = (np.arange(32**3, dtype=np.float32) % 97).reshape(1, 32, 32, 32)
    save_case(data, np.zeros((1, 32, 32, 32), np.int8), PROPERTIES, tmp_path, "a")
    assert np.array_equal(read_image(tmp_path, "a")[0], data)
    content = bytearray((tmp_path / "a.b2nd").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    (tmp_path / "a.b2nd").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.b2nd is damaged .*preprocess it again"):
        read_image(tmp_path, "a")


def test_an_image_larger_than_the_memory_is_refused(stored, monkeypatch):
    monkeypatch.setenv("nnUNet_memory_gb", "0.000001")
    with pytest.raises(InputError, match=r"a\.b2nd: .* would take at least"):
        read_image(stored[0], "a")
