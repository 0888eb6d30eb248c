"""An ordered stream of batches, made by worker processes ahead of time."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from types import TracebackType

import torch
from torch.utils.data import DataLoader, Dataset

from nnunetv2.configuration import available_cores
from nnunetv2.training.dataloading.patch_batches import PatchBatches, UnreadableCase
from nnunetv2.utilities.errors import WorkerLost

Request = tuple[int, int]  # epoch, iteration

_OF_A_WORKER = "in DataLoader worker process"  # torch's words in front of the traceback of an error that a living worker met
_ENDED_FROM_OUTSIDE = ("A data loading process was ended from outside, mostly for want of memory or of shared memory (docker: --shm-size). "
                       "Free some, or lower nnUNet_n_proc_DA; nnUNet_n_proc_DA=0 loads in the training process. A training goes on with --c.")


def augmentation_workers(device: torch.device) -> int:
    """`nnUNet_n_proc_DA` if set (0 = in the training process), else the usable cores (half of them on CPU), at most 12."""
    value = os.environ.get("nnUNet_n_proc_DA")
    if value is not None:
        if not value.isdigit():
            raise ValueError(f"nnUNet_n_proc_DA={value!r} is not a whole number >= 0. export nnUNet_n_proc_DA=4")
        return int(value)
    return min(12, max(1, available_cores() // 2 if device.type == "cpu" else available_cores()))


def endless_requests(first_epoch: int, iterations: int) -> Iterator[Request]:
    """Every batch from the start of `first_epoch` on; who trains decides when to stop."""
    for epoch in count(first_epoch):
        yield from ((epoch, iteration) for iteration in range(iterations))


@contextmanager
def ending_workers(*loaders: object) -> Iterator[None]:
    """A block at whose end the loaders' processes end, whatever happens: of a BatchStream, of any context, of batchgenerators' augmenters."""
    with ExitStack() as stack:
        for loader in loaders:
            if isinstance(loader, AbstractContextManager):
                stack.enter_context(loader)
            elif callable(finish := getattr(loader, "_finish", None)):  # batchgenerators', which has no public way
                stack.callback(finish)
        yield


class _Batches(Dataset):
    """Map from request to batch, as DataLoader wants it."""

    def __init__(self, batches: PatchBatches):
        self.batches = batches

    def __getitem__(self, request: Request) -> dict:
        try:
            return self.batches.batch(*request)
        except UnreadableCase as error:  # as a value: torch would wrap it in the traceback of its worker
            return {"unreadable": str(error)}


class BatchStream:
    """Iterator over the batches of `requests`, in their order; a context that ends its workers.

    An error inside a worker is raised by `next`, with the worker's traceback. A worker that is killed has none: torch raises
    that from a signal handler, wherever the training is at that moment, or `next` meets the connection that a batch of the
    worker's was to come through. Both are explained.
    """

    def __init__(self, batches: PatchBatches, requests: Iterable[Request], workers: int, pin_memory: bool = False):
        self.batches = batches
        # spawn: a forked copy of a process that holds CUDA, OpenMP or blosc2 threads may hang
        options = {"multiprocessing_context": "spawn", "prefetch_factor": 3} if workers else {}
        loader = DataLoader(_Batches(batches), batch_size=None, sampler=requests, num_workers=workers, pin_memory=pin_memory, **options)
        self._iterator = iter(loader)
        self._has_workers = workers > 0

    def __iter__(self) -> "BatchStream":
        return self

    def __enter__(self) -> "BatchStream":
        return self

    def __next__(self) -> dict:
        try:
            batch = next(self._iterator)
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if not self._has_workers or _OF_A_WORKER in str(error):
                raise
            raise WorkerLost(f"The connection to a data loading process broke ({type(error).__name__}).\n{_ENDED_FROM_OUTSIDE}") from error
        if "unreadable" in batch:
            raise UnreadableCase(batch["unreadable"])
        return batch

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._let_go()
        if isinstance(error, RuntimeError) and not isinstance(error, WorkerLost) and str(error).startswith("DataLoader worker"):
            raise WorkerLost(f"{error}\n{_ENDED_FROM_OUTSIDE}") from error

    def _let_go(self) -> None:
        """End the workers. What torch's signal handler says of a dead one meanwhile is known already, or does not matter any more."""
        iterator, self._iterator = self._iterator, iter(())
        try:
            getattr(iterator, "_shutdown_workers", lambda: None)()  # its __del__ does the same, but prints what is raised there
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
