"""Where patches lie, and that a batch follows from (seed, fold, epoch, iteration) alone."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2.training.augmentation import AugmentationGeometry, PatchAugmentation, intensity_transforms, spatial_transforms, target_transforms
from nnunetv2.training.dataloading.batch_stream import BatchStream, augmentation_workers, endless_requests
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.dataloading.patch_batches import ClassSampling, PatchBatches, read_box
from nnunetv2.training.dataloading.patch_location import (
    draw_foreground_voxels, draw_lower_corner, is_forced_foreground, lower_corner_range)

CASES = tuple(f"case_{i}" for i in range(6))
PATCH = (8, 16, 16)
LESION = ClassSampling({case: i % 3 for i, case in enumerate(CASES)}, lesion_labels=(2,), lesion_share=1.0)


@pytest.fixture
def batches(preprocessed_template):
    """Augmented training batches of the tiny dataset."""
    geometry = AugmentationGeometry.from_patch_size(PATCH)
    pipeline = ComposeTransforms([*spatial_transforms(PATCH, geometry.rotation, geometry.dummy_2d), *intensity_transforms(geometry.dummy_2d),
                                  *target_transforms([[1.0] * 3, [0.5] * 3])])
    return PatchBatches(
        nnUNetDatasetBlosc2(preprocessed_template / "Dataset900_Tiny" / "nnUNetPlans_3d_fullres", CASES), split="train", seed=0, fold=0,
        patch_size=PATCH, batch_size=2, positions=(0, 1), augmentation=PatchAugmentation(pipeline, geometry.initial_patch_size), class_sampling=LESION)


def of_cases(batches, *cases):
    return replace(batches, dataset=nnUNetDatasetBlosc2(batches.dataset.source_folder, cases))


@pytest.mark.parametrize(("batch_size", "forced"), [(2, 1), (3, 1), (4, 1), (5, 2), (12, 4)])
def test_last_third_of_a_batch_shows_foreground(batch_size, forced):
    flags = [is_forced_foreground(i, batch_size, 0.33) for i in range(batch_size)]
    assert flags == [False] * (batch_size - forced) + [True] * forced


def test_box_overhangs_so_that_its_middle_reaches_the_border():
    low, high = lower_corner_range((20,), (10,), (6,))  # 4 wider than the patch: 2 over the border
    assert (low[0], high[0]) == (-2, 12)


def test_small_volume_lies_in_the_middle_of_the_box():
    low, high = lower_corner_range((5,), (10,), (10,))
    assert (low[0], high[0]) == (-3, -2)


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(2, 40), st.integers(0, 20), st.integers(0, 2**31))
def test_middle_of_the_box_overlaps_the_volume(n, patch, margin, seed):
    rng = np.random.default_rng(seed)
    read = patch + margin
    low = draw_lower_corner(rng, (n,), (read,), (patch,), None)[0]
    start = low + read // 2 - patch // 2
    assert start < n and start + patch > 0


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20), st.data())
def test_forced_patch_holds_the_chosen_voxel(n, patch, margin, data):
    voxel = data.draw(st.integers(0, n - 1))
    read = patch + margin
    low = draw_lower_corner(np.random.default_rng(0), (n,), (read,), (patch,), np.array([[0, voxel]]))[0]
    start = low + read // 2 - patch // 2
    assert start <= voxel < start + patch


LOCATIONS = {1: np.array([[0, 1, 1, 1]]), 2: np.array([[0, 2, 2, 2]]), 3: np.zeros((0, 4), int)}


def test_labels_are_drawn_alike_and_absent_ones_never():
    rng = np.random.default_rng(0)
    drawn = [draw_foreground_voxels(rng, LOCATIONS, None)[0, 1] for _ in range(400)]
    assert np.mean(np.array(drawn) == 2) == pytest.approx(0.5, abs=0.1) and set(drawn) == {1, 2}


def test_preferred_label_is_drawn_at_its_share_and_by_chance_otherwise():
    rng = np.random.default_rng(0)
    drawn = [draw_foreground_voxels(rng, LOCATIONS, None, preferred=(2,), preferred_share=0.5)[0, 1] for _ in range(400)]
    assert np.mean(np.array(drawn) == 2) == pytest.approx(0.75, abs=0.09)


def test_annotated_voxels_count_only_without_foreground():
    annotated = (-1, 0, 1)
    locations = {1: np.zeros((0, 4), int), annotated: np.array([[0, 7, 7, 7]])}
    assert draw_foreground_voxels(np.random.default_rng(0), locations, annotated)[0, 1] == 7
    locations[1] = np.array([[0, 1, 1, 1]])
    assert all(draw_foreground_voxels(np.random.default_rng(i), locations, annotated)[0, 1] == 1 for i in range(20))


def test_case_without_foreground_gives_no_centre():
    assert draw_foreground_voxels(np.random.default_rng(0), {1: np.zeros((0, 4), int)}, None) is None


def test_box_over_the_border_is_filled():
    array = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    box = read_box(array, np.array([0, -1, 1]), np.array([1, 2, 2]), -1)
    assert box[0, 0].tolist() == [[-1, -1], [1, -1]]


def test_batch_has_the_shapes_and_types_of_the_contract(batches):
    batch = batches.batch(0, 0)
    assert batch["data"].shape == (2, 1, *PATCH) and batch["data"].dtype == torch.float32
    assert [tuple(t.shape) for t in batch["target"]] == [(2, 1, *PATCH), (2, 1, 4, 8, 8)]
    assert batch["class_target"].dtype == torch.int64 and batch["has_lesion"].dtype == torch.bool
    assert batch["class_target"].tolist() == [LESION.labels[key] for key in batch["keys"]]


def same(a, b):
    return a["keys"] == b["keys"] and torch.equal(a["data"], b["data"]) and all(torch.equal(x, y) for x, y in zip(a["target"], b["target"]))


def test_batch_is_repeatable_and_leaves_the_global_generators_alone(batches):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = batches.batch(3, 1)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    torch.rand(7)
    np.random.rand(7)
    assert same(first, batches.batch(3, 1))


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"seed": 1}, {"fold": 1}, {"fold": "all"}, {"split": "val"}])
def test_batch_depends_on(batches, change):
    assert not same(batches.batch(0, 0), replace(batches, **change).batch(0, 0))


def test_batches_of_an_epoch_differ(batches):
    assert not same(batches.batch(0, 0), batches.batch(0, 1)) and not same(batches.batch(0, 0), batches.batch(1, 0))


def test_gpus_share_the_batch_of_one(batches):
    whole = batches.batch(2, 2)
    parts = [replace(batches, positions=(i,)).batch(2, 2) for i in (0, 1)]
    assert parts[0]["keys"] + parts[1]["keys"] == whole["keys"]
    assert torch.equal(torch.cat([part["data"] for part in parts]), whole["data"])


def test_forced_patch_of_a_classified_case_holds_the_lesion(batches):
    forced = replace(batches, positions=(1,))
    assert all(forced.batch(epoch, 0)["has_lesion"].all() for epoch in range(12))


def test_sliver_of_a_lesion_does_not_count_but_a_tiny_lesion_does(batches):
    labels = torch.zeros(4, 4, 4, dtype=torch.int16)
    labels[0, 0, :3] = 2
    assert batches._shows_lesion(labels, {2: np.zeros((12, 4))})
    assert not batches._shows_lesion(labels, {2: np.zeros((500, 4))})


def test_case_without_class_is_minus_one(batches):
    unlabelled = replace(batches, class_sampling=ClassSampling())
    batch = unlabelled.batch(0, 0)
    assert batch["class_target"].tolist() == [-1, -1] and not batch["has_lesion"].any()


def test_two_dimensional_patch_is_one_slice(batches):
    flat = replace(batches, patch_size=(16, 16), augmentation=PatchAugmentation(ComposeTransforms(target_transforms(None)), (16, 16)))
    batch = flat.batch(0, 0)
    assert batch["data"].shape == (2, 1, 16, 16) and batch["target"].shape == (2, 1, 16, 16)


def test_chances_of_cases_are_worked_out_once(batches, monkeypatch):
    asked = []
    monkeypatch.setattr(ClassSampling, "case_probabilities", lambda self, cases: asked.append(1))
    for iteration in range(3):
        batches.batch(0, iteration)
    assert asked == [1]


def test_balanced_sampling_draws_every_class_alike():
    sampling = ClassSampling({"a": 0, "b": 0, "c": 0, "d": 1}, balanced=True)
    assert sampling.case_probabilities(("a", "b", "c", "d")).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_unreadable_case_is_named(batches):
    with pytest.raises(ValueError, match="gone.*epoch 4, iteration 2.*preprocess"):
        of_cases(batches, "gone").batch(4, 2)


class WithNaN:
    """A dataset whose images hold a NaN."""

    def __init__(self, dataset):
        self.identifiers, self.source_folder, self._dataset = dataset.identifiers, dataset.source_folder, dataset

    def load_case(self, case):
        data, *rest = self._dataset.load_case(case)
        return np.full_like(data[:], np.nan), *rest


def test_an_image_that_is_not_finite_is_named(batches):
    with pytest.raises(ValueError, match="No patch from case .*not finite near voxel.*preprocess again"):
        replace(batches, dataset=WithNaN(batches.dataset)).batch(0, 0)


def test_requests_go_on_from_epoch_to_epoch():
    assert list(islice(endless_requests(1, 2), 5)) == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]


def test_every_patch_shows_foreground_at_its_chance(batches):
    drawn = replace(batches, probabilistic_foreground=True, foreground_share=1.0, positions=(0,))
    assert all(drawn.batch(epoch, 0)["has_lesion"].all() for epoch in range(6))


class OneBadRequest:
    """Batches of which epoch 9 is from a case that is not there; goes to worker processes."""

    def __init__(self, batches):
        self.batches, self.gone = batches, of_cases(batches, "gone")

    def batch(self, epoch, iteration):
        return (self.gone if epoch == 9 else self.batches).batch(epoch, iteration)


@pytest.mark.slow
def test_workers_keep_the_order_and_pass_on_the_real_error(batches):
    """One start of two processes serves both: good batches, then one from a case that is not there."""
    once = OneBadRequest(batches)
    with BatchStream(once, [(0, i) for i in range(4)] + [(9, 0)], workers=2) as stream:
        assert all(same(next(stream), batches.batch(0, i)) for i in range(4))
        with pytest.raises(ValueError, match="(?s)No patch from case 'gone'.*lacks gone.b2nd"):
            next(stream)


def test_killed_worker_is_explained(batches):
    """torch raises its message from a signal handler, anywhere in the block; a test that kills for real would hit pytest itself."""
    with pytest.raises(RuntimeError, match="(?s)killed by signal.*ended from outside.*nnUNet_n_proc_DA"):
        with BatchStream(batches, [(0, 0)], workers=0):
            raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")


def test_a_killed_worker_of_one_of_two_streams_is_explained_once(batches):
    with pytest.raises(RuntimeError) as raised:
        with BatchStream(batches, [(0, 0)], workers=0), BatchStream(batches, [(0, 0)], workers=0):
            raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")
    assert str(raised.value).count("ended from outside") == 1


KILLED = """
import os, signal
from nnunetv2.training.dataloading.batch_stream import BatchStream
from nnunetv2.utilities.commands import run
import torch

class Batches:
    def batch(self, epoch, iteration):
        return {"data": torch.zeros(1000), "keys": [str(iteration)]}

def train():
    import multiprocessing
    with BatchStream(Batches(), ((0, i) for i in range(10 ** 6)), workers=2) as stream:
        next(stream)
        os.kill(multiprocessing.active_children()[-1].pid, signal.SIGKILL)
        for _ in stream:
            pass

if __name__ == "__main__":
    run(train)
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_for_real_ends_a_command_with_the_explanation_alone(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    ended = subprocess.run([sys.executable, str(tmp_path / "killed.py")], capture_output=True, text=True, timeout=300, check=False,
                           env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert ended.returncode == 1 and ended.stderr.startswith("error: ") and "ended from outside" in ended.stderr, ended.stderr


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError(), FileNotFoundError(2, "No such file or directory")])
def test_a_broken_connection_to_a_worker_is_explained(batches, error):
    with BatchStream(batches, [(0, 0)], workers=0) as stream:
        stream._has_workers, stream._iterator = True, map(raises, [error])
        with pytest.raises(RuntimeError, match=f"(?s){type(error).__name__}.*ended from outside.*nnUNet_n_proc_DA"):
            next(stream)


def raises(error):
    raise error


@pytest.mark.parametrize("workers", [False, True])
def test_an_error_of_reading_stays_what_it_is(batches, workers):
    error = FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0." if workers else "a.b2nd")
    with BatchStream(batches, [(0, 0)], workers=0) as stream:
        stream._has_workers, stream._iterator = workers, map(raises, [error])
        with pytest.raises(FileNotFoundError):
            next(stream)


def test_worker_count(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert augmentation_workers(torch.device("cpu")) == 0
    monkeypatch.setenv("nnUNet_n_proc_DA", "-1")
    with pytest.raises(ValueError, match="nnUNet_n_proc_DA"):
        augmentation_workers(torch.device("cpu"))
