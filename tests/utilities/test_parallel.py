"""`eval` serves as the job, because worker processes must be able to import it."""

import os
import signal
import time

import pytest

from nnunetv2.utilities import parallel
from nnunetv2.utilities.errors import CasesFailed
from nnunetv2.utilities.parallel import in_processes, in_threads

KILL_ITSELF = "__import__('os').kill(__import__('os').getpid(), 9)"


@pytest.mark.slow
@pytest.mark.parametrize("run", [in_threads, in_processes])
def test_results_come_by_name_in_order(run):
    assert list(run(eval, {"b": ("1 + 1",), "a": ("'x'",)}, 2, "Adding").items()) == [("b", 2), ("a", "x")]


@pytest.mark.parametrize("run", [in_threads, in_processes])
def test_no_jobs_give_no_results(run):
    assert run(eval, {}, 2, "Nothing") == {}


@pytest.mark.slow
@pytest.mark.parametrize("run", [in_threads, in_processes])
def test_all_failures_are_named_with_their_reasons(run):
    with pytest.raises(RuntimeError, match="2 of 3 cases failed") as error:
        run(eval, {"fine": ("1",), "zero": ("1 / 0",), "unknown": ("nonsense",)}, 2, "Dividing")
    assert "zero: " in str(error.value) and "division by zero" in str(error.value) and "nonsense" in str(error.value)


@pytest.mark.slow
def test_a_killed_worker_costs_its_case_alone(tmp_path):
    jobs = {"a": (f"open({str(tmp_path / 'a')!r}, 'w').close()",), "killed": (KILL_ITSELF,), "b": (f"open({str(tmp_path / 'b')!r}, 'w').close()",)}
    with pytest.raises(RuntimeError, match="1 of 3 cases failed.\nkilled: .*memory.*-np 1"):
        in_processes(eval, jobs, 1, "Killing")
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()


@pytest.mark.slow
def test_an_error_about_input_is_named_without_a_traceback():
    with pytest.raises(CasesFailed) as error:
        in_processes(open, {"absent": ("/nowhere/a.nii.gz",)}, 1, "Opening")
    assert "absent: /nowhere/a.nii.gz: No such file or directory. Check the path." in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.slow
def test_a_stopped_worker_is_named_and_its_case_can_be_given_up(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(parallel, "SILENCE", 0.2)
    told = []

    def tell_and_kill(workers):
        name_stopped(workers)
        text = capfd.readouterr().err
        if "is stopped" in text:
            told.append(text)
            os.kill(int(text.split("kill -CONT ")[1].split()[0]), signal.SIGKILL)

    name_stopped = parallel._name_stopped
    monkeypatch.setattr(parallel, "_name_stopped", tell_and_kill)
    with pytest.raises(CasesFailed, match="1 of 1 cases failed.\nstill: "):
        in_processes(eval, {"still": ("__import__('os').kill(__import__('os').getpid(), 19)",)}, 1, "Stopping")
    assert told[0].startswith("note: still: its worker process is stopped")


FULL = "(_ for _ in ()).throw(OSError(28, 'No space left on device', '/out/a'))"  # 28: ENOSPC


@pytest.mark.slow
@pytest.mark.parametrize("run", [in_threads, in_processes])
def test_a_full_disk_ends_a_run_after_three_cases(run):
    with pytest.raises(CasesFailed, match="(?s)3 of 1000 cases failed; 997 more were given up, because the disk takes no more.*free in /"):
        run(eval, {f"case_{i}": (FULL,) for i in range(1000)}, 1, "Writing")


@pytest.mark.slow
def test_a_full_disk_that_has_room_again_ends_nothing():
    with pytest.raises(CasesFailed, match="4 of 6 cases failed.\n"):
        in_processes(eval, {str(i): ("1" if i in (2, 5) else FULL,) for i in range(6)}, 1, "Writing")


def test_of_very_many_failures_a_hundred_are_named():
    with pytest.raises(CasesFailed) as error:
        in_threads(int, {f"case_{i}": ("x",) for i in range(250)}, 1, "Reading")
    lines = str(error.value).splitlines()
    assert lines[0] == "Reading: 250 of 250 cases failed." and lines[100].startswith("case_99: ") and lines[101:] == ["and 150 more"]


def test_an_interrupt_begins_no_further_case(monkeypatch):
    begun = []

    def job(number):
        begun.append(number)
        time.sleep(0.01)

    def interrupted(futures):
        yield next(iter(futures))
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_threads(job, {str(number): (number,) for number in range(200)}, 1, "Waiting")
    assert len(begun) < 10


def test_a_failed_case_leaves_no_array_in_memory():
    alive = []

    class Array:
        def __init__(self):
            alive.append(1)

        def __del__(self):
            alive.pop()

    def job():
        array = Array()
        raise ValueError(f"bad: {type(array).__name__}")

    seen = []

    def last():
        seen.append(len(alive))

    with pytest.raises(CasesFailed, match="3 of 4 cases failed"):
        in_threads(lambda function: function(), {"a": (job,), "b": (job,), "c": (job,), "d": (last,)}, 1, "Reading")
    assert seen == [0]
