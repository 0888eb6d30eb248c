"""Processes that torchrun started find each other, also after it started all of them anew because one was lost.

torchrun keeps one store for all its attempts. What the lost attempt wrote there, such as addresses of dead processes, must not be read by the
next one, and the number of restarts (TORCHELASTIC_RESTART_COUNT) is each node's own (pytorch#108158). So the first process draws a name for
the attempt, and all others have it confirmed to them before they use it.
"""

import os
import time
import uuid
from datetime import timedelta

from torch import distributed as dist

ATTEMPT, START, GO_ON = "nnunetv2/attempt", "start", "go_on"
PATIENCE = timedelta(minutes=30)  # until the last process has started
_POLL_SECONDS = 0.2


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def meet(backend: str) -> bool:
    """Make the process group; True where an earlier attempt was lost, so that the training goes on from its checkpoint."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = next(dist.rendezvous("env://", rank, world_size))[0]
    name, again = agree(store, rank, world_size, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0")
    dist.init_process_group(backend, store=dist.PrefixStore(name, store), rank=rank, world_size=world_size)
    return again


def agree(store: dist.Store, rank: int, world_size: int, restarted: bool, patience: timedelta = PATIENCE) -> tuple[str, bool]:
    """The attempt's name, the same for all its processes and new in the store, and whether there was one before (or the first process was `restarted`).

    TimeoutError: not all processes came within `patience`.
    """
    end = time.monotonic() + patience.total_seconds()
    if rank == 0:
        earlier = store.check([ATTEMPT])
        name = f"{uuid.uuid4().hex}_{GO_ON if earlier or restarted else START}"
        store.set(ATTEMPT, name)
        for other in range(1, world_size):
            here = f"{name}/here/{other}"
            _wait(store, here, end)
            store.set(f"{name}/confirmed/{other}", store.get(here))
        return name, name.endswith(GO_ON)
    own = uuid.uuid4().hex  # a confirmation of the lost attempt has another one
    while True:
        _wait(store, ATTEMPT, end)
        name = store.get(ATTEMPT).decode()
        store.set(f"{name}/here/{rank}", own)
        confirmed = f"{name}/confirmed/{rank}"
        if store.check([confirmed]) and store.get(confirmed).decode() == own:
            return name, name.endswith(GO_ON)
        _pause(end)


def _wait(store: dist.Store, key: str, end: float) -> None:
    while not store.check([key]):
        _pause(end)


def _pause(end: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError("Not all processes of this training have started. Look at the output of torchrun on the other machines, then start it again.")
    time.sleep(_POLL_SECONDS)
