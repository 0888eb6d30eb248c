"""Cases on the workers of a dask cluster: one machine or many, which share a file system.

    dask scheduler                                       # once; prints tcp://ADDRESS:8786
    dask worker tcp://ADDRESS:8786 --nthreads 1          # on every machine, one per GPU or core
    nnUNetv2_preprocess -d 777 --scheduler tcp://ADDRESS:8786

`local` starts scheduler and workers on this machine for the time of a command. Needs the package `distributed`. A worker takes
commands from whoever reaches its scheduler: keep both in a trusted network, or give them certificates (dask's security settings).
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from nnunetv2.configuration import available_cores
from nnunetv2.utilities.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
SECONDS_TO_ANSWER = 15.0
SECONDS_TO_FIRST_WORKER = 60.0
_client: ContextVar["Client | None"] = ContextVar("dask_client", default=None)


def add_scheduler_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scheduler", metavar="ADDRESS", default=None, help="(fork) do the cases on the workers of this dask scheduler, e.g. tcp://10.0.0.1:8786; "
                        f"{LOCAL}: on workers of this machine; needs the package distributed")


@contextmanager
def workers_of(scheduler: str | None, local_workers: int | None = None) -> Iterator[None]:
    """Within it, `in_processes` hands its jobs to this scheduler's workers; None changes nothing.

    local_workers: how many `local` starts, by default one per core. Raises InputError for a scheduler that does not answer, one
    without workers, and where the package is missing.
    """
    if scheduler is None:
        yield
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError('--scheduler needs the package distributed: pip install -c constraints.txt -e ".[cluster]" in the repository') from error
    if scheduler == LOCAL:
        n = local_workers or available_cores()
        with LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client, _use(client):
            yield
        return
    try:
        client = Client(scheduler, timeout=SECONDS_TO_ANSWER)
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler {scheduler}: no dask scheduler answers there ({type(error).__name__}). Start one with `dask scheduler` and give the address "
                         "that it prints.") from error
    with client, _use(client):
        try:
            client.wait_for_workers(1, timeout=SECONDS_TO_FIRST_WORKER)
        except TimeoutError as error:
            raise InputError(f"--scheduler {scheduler} has no worker. Start some: dask worker {scheduler} --nthreads 1") from error
        yield


@contextmanager
def _use(client: "Client") -> Iterator[None]:
    token = _client.set(client)
    try:
        yield
    finally:
        _client.reset(token)


def n_workers() -> int:
    """Threads of all workers together, each of which does one job at a time; 0 outside `workers_of`."""
    client = _client.get()
    return 0 if client is None else sum(client.nthreads().values())


def outcomes(attempt: Callable[..., tuple[bool, Any]], jobs: Mapping[str, tuple]) -> Iterator[tuple[str, bool, Any]]:
    """(name, succeeded, result or reason) of each job as it ends, done by `attempt(*arguments)` on a worker.

    A job whose worker dies is done by another one; after the fourth death its reason says so. A lost scheduler ends every job that is
    left.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    client = _client.get()
    names = {client.submit(attempt, *arguments, pure=False): name for name, arguments in jobs.items()}
    for future in as_completed(names):
        if future.status == "finished":
            yield names[future], *future.result()
        elif isinstance(error := None if future.cancelled() else future.exception(), KilledWorker):
            yield names[future], False, "its worker died, and so did those that took it over, most likely for memory. Start workers with more of it"
        else:
            reason = "the scheduler was lost" if error is None else f"{type(error).__name__}: {error}"
            yield names[future], False, f"{reason}. Give the command again; what is finished is kept"
