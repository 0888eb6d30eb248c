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
from nnunetv2.utilities.errors import EXPECTED_ERRORS, CasesFailed, in_one_message

SILENCE = 60.0  # seconds without a result after which workers that somebody stopped are named


def in_threads(function: Callable, jobs: Mapping[str, tuple], num_threads: int | None, description: str, anywhere: bool = False) -> dict[str, Any]:
    """{name: function(*arguments)} in the order of `jobs`, for work that is mostly reading, writing and numpy.

    anywhere: on a cluster's workers where one is in use (see cluster.py); `function` must then be as `in_processes` wants it.

    Raises:
        CasesFailed: some jobs failed; all others were still done.
    """
    if anywhere and cluster.n_workers():
        return _on_cluster(function, jobs, description)
    results, failures = {}, {}
    with ThreadPoolExecutor(_workers(num_threads, jobs)) as pool, _progress(description, jobs) as bar:
        names = {pool.submit(function, *arguments): name for name, arguments in jobs.items()}
        for future in as_completed(names):
            if error := future.exception():
                failures[names[future]] = _reason(error)
            else:
                results[names[future]] = future.result()
            bar.update()
    _raise_failures(failures, jobs, description)
    return {name: results[name] for name in jobs}


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
    results, failures = {}, {}
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
                    succeeded, value = outcome
                    (results if succeeded else failures)[name] = value
                    bar.update()
    finally:
        for worker in workers:
            worker.process.kill()  # a stopped one does not hear anything gentler; what it was writing is swept as a leftover
            worker.process.join()
    _raise_failures(failures, jobs, description)
    return {name: results[name] for name in jobs}


def _on_cluster(function: Callable, jobs: Mapping[str, tuple], description: str) -> dict[str, Any]:
    results, failures = {}, {}
    with _progress(description, jobs) as bar:
        for name, succeeded, value in cluster.outcomes(_attempt, {name: (function, arguments) for name, arguments in jobs.items()}):
            (results if succeeded else failures)[name] = value
            bar.update()
    _raise_failures(failures, jobs, description)
    return {name: results[name] for name in jobs}


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


def _reason(error: BaseException) -> str:
    """One line for what users can mend; where it happened for anything else."""
    if isinstance(error, EXPECTED_ERRORS):
        return in_one_message(error)
    return "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-3)).strip()


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


def _raise_failures(failures: Mapping[str, str], jobs: Mapping, description: str) -> None:
    if failures:
        details = "\n".join(f"{name}: {failures[name]}" for name in jobs if name in failures)
        raise CasesFailed(f"{description}: {len(failures)} of {len(jobs)} cases failed.\n{details}")
