"""Calls of one shape, recorded once as a CUDA graph and replayed.

A pass through a ResEnc M is hundreds of kernels, and on a fast GPU launching them one by one takes longer than running them.
"""

import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

CALLS_BEFORE_RECORDING = 8  # a whole case comes eight times at most, and the next one mostly has another shape
Result = tuple[Tensor, Tensor | None]


class _Recording:
    def __init__(self, compute: Callable[[Tensor, bool], Result], x: Tensor, classify: bool) -> None:
        self.input = x.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # others read and write cases meanwhile
            self.outputs = compute(self.input, classify)

    def __call__(self, x: Tensor) -> Result:
        self.input.copy_(x)
        self.graph.replay()
        seg_logits, class_logits = self.outputs
        return seg_logits.clone(), None if class_logits is None else class_logits.clone()


class RecordedCalls:
    """`compute(x, classify)` on CUDA. From the ninth call in a row with one shape on a recording of it runs, one shape at a time.

    Where recording fails, for want of memory or for an operation that cannot be recorded, it goes on without, and says so.
    """

    def __init__(self, compute: Callable[[Tensor, bool], Result]) -> None:
        self.compute = compute
        self._last, self._in_a_row = None, 0
        self._recorded, self._recording = None, None
        self._can_record = True
        self._lock = threading.Lock()  # a recording has one place for its input

    def __call__(self, x: Tensor, classify: bool) -> Result:
        with self._lock:
            return self._call(x, classify)

    def _call(self, x: Tensor, classify: bool) -> Result:
        key = (tuple(x.shape), x.dtype, classify)
        self._in_a_row = self._in_a_row + 1 if key == self._last else 1
        self._last = key
        if self._recording is not None and key == self._recorded:
            return self._recording(x)
        if not self._can_record or self._in_a_row <= CALLS_BEFORE_RECORDING:
            return self.compute(x, classify)
        self._recording = None  # the graph of the shape before lets go of its memory first
        stream = torch.cuda.current_stream()
        try:
            self._recording, self._recorded = _Recording(self.compute, x, classify), key
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one
            self._can_record = False
            torch.cuda.set_stream(stream)  # a recording that does not even begin leaves its own
            warnings.warn(f"A pass cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); going on without.", stacklevel=2)
            torch.cuda.empty_cache()
            return self.compute(x, classify)
        return self._recording(x)
