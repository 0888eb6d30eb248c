"""The bound on what a file may ask for."""

import pytest

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.memory import memory_limit, refuse_beyond_memory
from nnunetv2.utilities.network_size import check_patch_size, finest_channels


def test_the_machine_has_some_memory_and_less_than_a_petabyte():
    assert 2**28 < memory_limit() < 2**50


def test_the_limit_can_be_set(monkeypatch):
    monkeypatch.setenv("nnUNet_memory_gb", "2.5")
    assert memory_limit() == 2.5 * 2**30


@pytest.mark.parametrize("value", ["x", "-1", "0", "inf", "nan"])
def test_a_limit_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("nnUNet_memory_gb", value)
    with pytest.raises(InputError, match="nnUNet_memory_gb is"):
        memory_limit()


def test_the_message_names_file_size_and_remedy(monkeypatch):
    monkeypatch.setenv("nnUNet_memory_gb", "8")
    with pytest.raises(InputError, match="plans.json: a thing would take at least 1,000 GB, this machine has 8 GB.*nnUNet_memory_gb"):
        refuse_beyond_memory(1000 * 2**30, "a thing", "plans.json")


@pytest.mark.parametrize("patch", [[8], [8, 8, 8, 8], [8, 0, 8], [8, 8.0, 8], "888", [8, True, 8], [10**6, 10**6, 10**6]])
def test_a_patch_that_is_none_or_too_large_is_refused(patch):
    with pytest.raises(InputError, match="p.json.*patch_size"):
        check_patch_size(patch, 2, 32, "p.json")


@pytest.mark.parametrize("batch", [0, -1, 1.5, "2", True, 10**9])
def test_a_batch_that_is_none_or_too_large_is_refused(batch):
    with pytest.raises(InputError, match="p.json.*batch_size"):
        check_patch_size([64, 64, 64], batch, 32, "p.json")


def test_the_finest_grid_holds_the_larger_of_features_and_labels():
    assert finest_channels({"features_per_stage": [32, 64]}, 3) == 32 and finest_channels({"features_per_stage": 4}, 1000) == 1000
