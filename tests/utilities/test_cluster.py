"""Cases on the workers of a dask cluster: the same files as here, and nothing lost with a worker."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from nnunetv2.utilities import cluster
from nnunetv2.utilities.cluster import n_workers, workers_of
from nnunetv2.utilities.errors import CasesFailed, InputError
from nnunetv2.utilities.parallel import in_processes, in_threads

pytestmark = pytest.mark.slow


def square(number: int) -> int:
    if number < 0:
        raise InputError(f"{number} is below 0; give another")
    return number**2


def process_id() -> int:
    time.sleep(0.2)
    return os.getpid()


def die_once(mark: Path) -> str:
    """Kills its process the first time."""
    try:
        mark.open("x").close()
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def test_jobs_are_done_by_the_workers_and_come_back_in_their_order(scheduler):
    with workers_of(scheduler):
        assert n_workers() == 2
        assert in_processes(square, {"a": (3,), "b": (2,)}, 1, "Squares") == {"a": 9, "b": 4}
        ids = set(in_processes(process_id, {str(i): () for i in range(4)}, None, "Asking").values())
    assert n_workers() == 0 and len(ids) == 2 and os.getpid() not in ids


def test_threads_stay_here_unless_their_work_can_be_done_anywhere(scheduler):
    with workers_of(scheduler):
        assert in_threads(process_id, {"a": ()}, 1, "Asking")["a"] == os.getpid()
        assert in_threads(process_id, {"a": ()}, 1, "Asking", anywhere=True)["a"] != os.getpid()


def test_failed_cases_are_named_and_the_others_done(scheduler, tmp_path):
    with workers_of(scheduler), pytest.raises(CasesFailed, match="(?s)Squares: 2 of 3 cases failed.*b: -2 is below 0; give another.*c: -3"):
        in_processes(square, {"a": (3,), "b": (-2,), "c": (-3,)}, None, "Squares")


def test_a_killed_worker_loses_nothing(scheduler, tmp_path):
    with workers_of(scheduler):
        jobs = {str(i): (tmp_path / str(i),) for i in range(2)}
        assert set(in_processes(die_once, jobs, None, "Dying").values()) == {"done"}


def test_workers_of_this_machine_live_as_long_as_the_command():
    with workers_of(cluster.LOCAL, 1):
        assert in_processes(square, {"a": (3,)}, None, "Squares") == {"a": 9}
    assert n_workers() == 0


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x", "127.0.0.1"])
def test_a_scheduler_that_does_not_answer_is_named(address, monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS_TO_ANSWER", 1.0)
    with pytest.raises(InputError, match=f"--scheduler {address}: no dask scheduler answers there"), workers_of(address):
        pass


def test_a_scheduler_without_workers_is_named(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "SECONDS_TO_FIRST_WORKER", 0.5)
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(InputError, match="has no worker. Start some: dask worker"),
        workers_of(empty.scheduler_address),
    ):
        pass


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_preprocessed_files_are_those_made_here(scheduler, tmp_path, monkeypatch):
    from nnunetv2.cli.planning import plan_and_preprocess, preprocess
    from tests.planning.conftest import RawDataset

    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    dataset = RawDataset(tmp_path)
    plan_and_preprocess(["-d", "555", "-c", "3d_fullres", "-np", "1", "-npfp", "1"])
    folder = dataset.preprocessed / "nnUNetPlans_3d_fullres"
    here = contents(folder)
    for path in folder.iterdir():
        path.unlink()
    preprocess(["-d", "555", "-c", "3d_fullres", "--scheduler", scheduler])
    assert contents(folder) == here and len(here) >= 9


def test_scores_are_those_made_here(scheduler, tmp_path, monkeypatch):
    from evaluation.compute_metrics import main
    from tests.planning.conftest import write_image

    monkeypatch.chdir(tmp_path)
    for case in "ab":
        mask = np.zeros((6, 8, 8), np.uint8)
        mask[2:4, 2:6, 2:6], mask[3, 3, 3] = 1, 2
        write_image(mask, tmp_path / "ref" / f"{case}.nii.gz")
        write_image(np.roll(mask, 1, 2), tmp_path / "pred" / f"{case}.nii.gz")
    for out, flags in (("here", ["--jobs", "1"]), ("there", ["--scheduler", scheduler])):
        assert main(["--pred", "pred", "--ref", "ref", "--out", out, "--bootstrap", "10", *flags]) == 0
    assert (tmp_path / "here" / "per_case.csv").read_text() == (tmp_path / "there" / "per_case.csv").read_text()
