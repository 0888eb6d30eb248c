"""Calls of one shape, recorded once as a CUDA graph and replayed.

A pass through a ResEnc M is hundreds of kernels, and on a fast GPU launching them one by one takes longer than running them.

All recordings on a GPU share the memory of their passes: those of an ensemble of five take no more than one. So one at a time is made or
replayed, and what comes out is copied before the next.
"""

import threading
import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

CALLS_BEFORE_RECORDING = 8  # a whole case comes eight times at most, and the next one mostly has another shape
Result = tuple[Tensor, Tensor | None]


class _Gpu:
    """What the recordings on one GPU have in common."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.calls: WeakSet[RecordedCalls] = WeakSet()
        self.capture_stream: torch.cuda.Stream | None = None
        self.replayed_on: torch.cuda.Stream | None = None

    def pool(self) -> tuple[int, int] | None:
        """Where a further recording finds its memory; None for the first, which gets a place of its own."""
        return next((calls.recording.graph.pool() for calls in self.calls if calls.recording is not None), None)

    def wait_for_replays(self, device: torch.device) -> None:
        """A thread may have a stream of its own; it waits, on the GPU, for what another stream still does with the same memory."""
        stream = torch.cuda.current_stream(device)
        if self.replayed_on is not None and self.replayed_on != stream:
            stream.wait_stream(self.replayed_on)
        self.replayed_on = stream


_GPUS: dict[torch.device, _Gpu] = {}
_ONE_IN_THE_PROCESS = threading.Lock()  # torch records one graph at a time, whatever the GPU


def _gpu_of(device: torch.device) -> _Gpu:
    return _GPUS.get(device) or _GPUS.setdefault(device, _Gpu())


def has_recordings(device: torch.device) -> bool:
    """device: with its index, as a tensor's."""
    return any(calls.recording is not None for calls in _gpu_of(device).calls)


def drop_recordings(device: torch.device) -> None:
    """Give the memory of all recordings on `device` back, for something that needs it more, and make no more of them.

    To be called once no exception is handled any more: that of an exhausted memory holds what the failed attempt had allocated.
    """
    with _gpu_of(device).lock:
        for calls in list(_gpu_of(device).calls):
            calls.recording, calls.can_record = None, False
    torch.cuda.empty_cache()
    warnings.warn("The GPU's memory does not hold recorded passes (CUDA graphs) beside others; going on without.", stacklevel=3)


def beside_recordings(device: torch.device, compute: Callable[[], Any]) -> Any:
    """What `compute` gives. Where `device` does not hold it beside recordings, they go, and it is tried once more."""
    try:
        return compute()
    except torch.cuda.OutOfMemoryError:
        if not has_recordings(device):
            raise
    drop_recordings(device)
    return compute()


class _Recording:
    def __init__(self, compute: Callable[[Tensor, bool], Result], x: Tensor, classify: bool, gpu: _Gpu) -> None:
        self.gpu, self.input = gpu, x.clone()
        if gpu.capture_stream is None:  # torch's own is one of the GPU that was the first to record; on another it would record nothing
            gpu.capture_stream = torch.cuda.Stream(x.device)
        self.graph = torch.cuda.CUDAGraph()
        others_go_on = {"capture_error_mode": "thread_local"}  # they read and write cases meanwhile
        with _ONE_IN_THE_PROCESS, torch.cuda.graph(self.graph, gpu.pool(), gpu.capture_stream, **others_go_on):
            self.outputs = compute(self.input, classify)

    def __call__(self, x: Tensor) -> Result:
        self.gpu.wait_for_replays(x.device)
        self.input.copy_(x)
        self.graph.replay()
        seg_logits, class_logits = self.outputs
        return seg_logits.clone(), None if class_logits is None else class_logits.clone()


class RecordedCalls:
    """`compute(x, classify)` on CUDA. From the ninth call in a row with one shape on a recording of it runs, one shape at a time.

    Where recording fails, for want of memory or for an operation that cannot be recorded, it goes on without, and says so. Where a call does
    not fit beside recordings, they go.
    """

    def __init__(self, compute: Callable[[Tensor, bool], Result]) -> None:
        self.compute = compute
        self.recording: _Recording | None = None
        self.can_record = True
        self._recorded: tuple | None = None
        self._last: tuple | None = None
        self._in_a_row = 0

    def __call__(self, x: Tensor, classify: bool) -> Result:
        gpu = _gpu_of(x.device)
        with gpu.lock, torch.cuda.device_of(x):  # the current GPU may be another one than x's
            return self._call(x, classify, gpu)

    def _call(self, x: Tensor, classify: bool, gpu: _Gpu) -> Result:
        key = (tuple(x.shape), x.dtype, classify)
        self._in_a_row = self._in_a_row + 1 if key == self._last else 1
        self._last = key
        if self.recording is not None and key == self._recorded:
            return self.recording(x)
        if not self.can_record or self._in_a_row <= CALLS_BEFORE_RECORDING:
            return self._compute(x, classify)
        self.recording = None  # the graph of the shape before lets go of its memory first
        problem = self._record(x, classify, gpu)
        if problem is None:
            self._recorded = key
            return self.recording(x)
        self.can_record = False
        warnings.warn(f"A pass cannot be recorded as a CUDA graph ({problem}); going on without.", stacklevel=2)
        torch.cuda.empty_cache()
        return self._compute(x, classify)

    def _record(self, x: Tensor, classify: bool, gpu: _Gpu) -> str | None:
        """Why it failed, in words: the exception itself holds all that the attempt had allocated. None if it did not."""
        stream = torch.cuda.current_stream(x.device)
        try:
            self.recording = _Recording(self.compute, x, classify, gpu)
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one
            torch.cuda.set_stream(stream)  # a recording that does not even begin leaves its own
            return (str(error) or type(error).__name__).splitlines()[0]
        gpu.calls.add(self)
        return None

    def _compute(self, x: Tensor, classify: bool) -> Result:
        return beside_recordings(x.device, lambda: self.compute(x, classify))
