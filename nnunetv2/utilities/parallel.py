"""One function over many cases at once: a progress bar, and every case that failed named at the end with its reason."""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nnunetv2.configuration import available_cores, default_num_processes
from nnunetv2.utilities import cluster
from nnunetv2.utilities.errors import EXPECTED_ERRORS, FULL_IN_A_ROW, CasesFailed, in_one_message, list_some, takes_no_more

SILENCE = 60.0  # seconds without a result after which workers that somebody stopped are named


def in_threads(function: Callable, jobs: Mapping[str, tuple], num_threads: int | None, description: str, anywhere: bool = False) -> dict[str, Any]:
    """{name: function(*arguments)} in the order of `jobs`, for work that is mostly reading, writing and numpy.

    anywhere: on a cluster's workers where one is in use (see cluster.py); `function` must then be as `in_processes` wants it.

    Raises:
        CasesFailed: some jobs failed; all others were still done, unless the disk takes no more.
    """
    if anywhere and cluster.n_workers():
        return _on_cluster(function, jobs, description)
    outcomes = _Outcomes(jobs, description)
    with ThreadPoolExecutor(_workers(num_threads, jobs)) as pool, _progress(description, jobs) as bar:
        names = {pool.submit(_attempt, function, arguments): name for name, arguments in jobs.items()}
        try:
            for future in as_completed(names):
                outcomes.add(names[future], *future.result())
                bar.update()
                if outcomes.disk_is_full:
                    break
        finally:  # interrupted, or no more room: what has not begun shall not begin
            pool.shutdown(wait=False, cancel_futures=True)
    return outcomes.in_order()


def in_processes(function: Callable, jobs: Mapping[str, tuple], num_processes: int | None, description: str) -> dict[str, Any]:
    """As `in_threads`, in worker processes. A worker that dies costs its case alone, which is named, and is replaced.

    `function` must be importable, or a partial of one that is. A worker that somebody stopped (SIGSTOP) is named on stderr. Where a
    cluster is in use (see cluster.py) its workers do the jobs, however many `num_processes`.
    """
    if cluster.n_workers():
        return _on_cluster(function, jobs, description)
    num_processes = _workers(num_processes, jobs)
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload([getattr(function, "func", function).__module__])  # imported once, not once a worker
    outcomes = _Outcomes(jobs, description)
    waiting = list(reversed(jobs))
    workers: list[_Worker] = []
    try:
        with _progress(description, jobs) as bar:
            while waiting or any(worker.job for worker in workers):
                workers = [worker for worker in workers if worker.process.is_alive() or worker.job]
                while waiting and len(workers) < num_processes:
                    workers.append(_Worker(context, function, max(1, available_cores() // num_processes)))
                for worker in workers:
                    if waiting and worker.job is None:
                        worker.start_job(waiting[-1], jobs[waiting.pop()])
                if not wait([handle for worker in workers for handle in (worker.connection, worker.process.sentinel)], SILENCE):
                    _name_stopped(workers)
                for worker in workers:
                    name, outcome = worker.job, worker.outcome()
                    if outcome is None:
                        continue
                    outcomes.add(name, *outcome)
                    bar.update()
                if outcomes.disk_is_full:
                    waiting.clear()
    finally:
        for worker in workers:
            worker.process.kill()  # a stopped one does not hear anything gentler; what it was writing is swept as a leftover
            worker.process.join()
    return outcomes.in_order()


def _on_cluster(function: Callable, jobs: Mapping[str, tuple], description: str) -> dict[str, Any]:
    outcomes = _Outcomes(jobs, description)
    with _progress(description, jobs) as bar:
        for name, succeeded, value in cluster.outcomes(_attempt, {name: (function, arguments) for name, arguments in jobs.items()}):
            outcomes.add(name, succeeded, value)
            bar.update()
            if outcomes.disk_is_full:
                break
    return outcomes.in_order()


class _Reason(str):
    """Why a job failed. disk_is_full: the next one would find no room either."""

    disk_is_full = False


class _Outcomes:
    """What became of the jobs so far."""

    def __init__(self, jobs: Mapping[str, tuple], description: str):
        self._jobs, self._description = jobs, description
        self._results: dict[str, Any] = {}
        self._failures: dict[str, str] = {}
        self._full_in_a_row = 0

    def add(self, name: str, succeeded: bool, value: Any) -> None:
        """value: the result, or the reason."""
        (self._results if succeeded else self._failures)[name] = value
        self._full_in_a_row = self._full_in_a_row + 1 if not succeeded and getattr(value, "disk_is_full", False) else 0

    @property
    def disk_is_full(self) -> bool:
        return self._full_in_a_row >= FULL_IN_A_ROW

    def in_order(self) -> dict[str, Any]:
        """All results, in the order of the jobs; CasesFailed if there are failures."""
        if not self._failures:
            return {name: self._results[name] for name in self._jobs}
        left = len(self._jobs) - len(self._results) - len(self._failures)
        given_up = f"; {left} more were given up, because the disk takes no more" if left else ""
        lines = [f"{name}: {self._failures[name]}" for name in self._jobs if name in self._failures]
        raise CasesFailed(f"{self._description}: {len(lines)} of {len(self._jobs)} cases failed{given_up}.\n{list_some(lines, indent='')}")


class _Worker:
    """A process that does one job after the other, told and asked through a pipe."""

    def __init__(self, context: multiprocessing.context.BaseContext, function: Callable, num_threads: int):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function, num_threads), daemon=True)
        self.process.start()
        theirs.close()  # so that the worker's death ends the pipe
        self.job: str | None = None

    def start_job(self, name: str, arguments: tuple) -> None:
        self.job = name
        try:
            self.connection.send(arguments)
        except BrokenPipeError:
            pass  # it is dead already, which `outcome` reports with the exit code

    def outcome(self) -> tuple[bool, Any] | None:
        """(succeeded, result or reason) of the running job, None while it runs or without one."""
        if self.job is None:
            return None
        try:
            if self.connection.poll():
                outcome = self.connection.recv()
                self.job = None
                return outcome
        except (EOFError, ConnectionResetError):
            self.process.join()
        if self.process.is_alive():
            return None
        self.process.join()
        self.job = None
        return False, _describe_death(self.process.exitcode)


def _serve(connection: Connection, function: Callable, num_threads: int) -> None:
    threadpool_limits(num_threads)  # every worker would otherwise run BLAS on all cores
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        outcome = _attempt(function, arguments)
        try:
            connection.send(outcome)
        except Exception as error:  # a result that cannot be pickled
            connection.send((False, _reason(error)))


def _attempt(function: Callable, arguments: tuple) -> tuple[bool, Any]:
    """(True, result), or (False, reason)."""
    try:
        return True, function(*arguments)
    except Exception as error:
        return False, _reason(error)


def _reason(error: BaseException) -> _Reason:
    """One line for what users can mend; where it happened for anything else. The error itself would hold the arrays of its functions."""
    if isinstance(error, EXPECTED_ERRORS):
        reason = _Reason(in_one_message(error))
    else:
        reason = _Reason("".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-3)).strip())
    reason.disk_is_full = takes_no_more(error)
    return reason


def _name_stopped(workers: list["_Worker"]) -> None:
    for worker in workers:
        status = Path(f"/proc/{worker.process.pid}/stat")
        if worker.job is not None and status.is_file() and status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] == "T":
            print(f"note: {worker.job}: its worker process is stopped; kill -CONT {worker.process.pid} lets it go on, kill -9 gives the case up.",
                  file=sys.stderr, flush=True)


def _describe_death(exit_code: int) -> str:
    if exit_code == -getattr(signal, "SIGKILL", 9):
        return "its worker process was killed, most likely for memory. Run again with fewer processes (-np 1)"
    return f"its worker process ended with exit code {exit_code} and no message"


def _workers(wanted: int | None, jobs: Mapping) -> int:
    return max(1, min(default_num_processes if wanted is None else wanted, len(jobs)))


def _progress(description: str, jobs: Mapping) -> tqdm:
    return tqdm(total=len(jobs), desc=description, unit="case", disable=None if len(jobs) > 1 else True)

