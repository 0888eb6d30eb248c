"""Windows of a volume, weighted and added up where the windows come from, if there is room, else in main memory."""

from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from collections.abc import Sequence

import torch
from torch import Tensor

Slicer = tuple[slice | int, ...]  # (channels, D, H, W); D is an int for a 2D network
SHARE_OF_FREE_MEMORY = 0.5  # of a GPU, for volumes: passes, and a recording of them, need the rest


def has_room(device: torch.device, n_bytes: int) -> bool:
    """Whether a volume of `n_bytes` may lie on `device`; main memory always may."""
    if device.type != "cuda":
        return True
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return n_bytes <= SHARE_OF_FREE_MEMORY * (torch.cuda.mem_get_info(device)[0] + unused)


def with_index(device: torch.device) -> torch.device:
    """`device` as its tensors name it: "cuda" is the GPU that is current now, and may be another one later or in another thread."""
    return torch.empty(0, device=device).device


def moved_if_there_is_room(volume: Tensor, device: torch.device) -> Tensor:
    """`volume` on `device`, or as it is where the device lacks the memory."""
    if not has_room(device, volume.nbytes):
        return volume
    try:
        return volume.to(device)
    except torch.cuda.OutOfMemoryError:  # a process may be allowed less than there is
        return volume


class WindowSums:
    """Weighted sums of windows, in `dtype`. Use it as a context, within which windows are added.

    In main memory a GPU goes on with the next window while this one is added.
    """

    def __init__(self, shape: Sequence[int], weight: Tensor | int, dtype: torch.dtype, on_device: bool = True) -> None:
        """shape (D, H, W) of the volume; weight (d, h, w) of the voxels of a window, on the device of the windows, or 1. on_device: not in main
        memory, if there is room."""
        self.shape, self.weight, self.dtype, self.on_device = tuple(shape), weight, dtype, on_device
        self.logits: Tensor | None = None
        self._adding: Future | None = None

    def __enter__(self) -> "WindowSums":
        self._worker = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.shutdown()
        if self._adding is not None and error[0] is None:
            self._adding.result()

    def add(self, slicer: Slicer, window: Tensor) -> None:
        """window (S, d, h, w) is overwritten."""
        if self.logits is None:
            self._make_room(len(window), window.device)
        window = window.mul_(self.weight)
        if window.device == self.logits.device:
            self._add(slicer, window)
            return
        window = window.cpu()
        if self._adding is not None:
            self._adding.result()  # one at a time, in their order
        self._adding = self._worker.submit(self._add_elsewhere, slicer, window, torch.is_inference_mode_enabled())

    def _make_room(self, channels: int, device: torch.device) -> None:
        if not self.on_device or not has_room(device, (channels + 1) * prod(self.shape) * self.dtype.itemsize):
            device = torch.device("cpu")
        try:
            self._allocate(channels, device)
        except torch.cuda.OutOfMemoryError:  # a process may be allowed less than there is
            self._allocate(channels, torch.device("cpu"))
        self._weight_there = self.weight.to(self.logits.device) if isinstance(self.weight, Tensor) else self.weight

    def _allocate(self, channels: int, device: torch.device) -> None:
        self.weights = torch.zeros(self.shape, dtype=self.dtype, device=device)
        self.logits = torch.zeros((channels, *self.shape), dtype=self.dtype, device=device)

    def _add(self, slicer: Slicer, window: Tensor) -> None:
        self.logits[slicer] += window
        self.weights[slicer[1:]] += self._weight_there

    def _add_elsewhere(self, slicer: Slicer, window: Tensor, inference_mode: bool) -> None:
        """In a thread, which knows nothing of the caller's inference mode; tensors that were made in it must not be changed outside of it."""
        with torch.inference_mode(inference_mode):
            self._add(slicer, window)

    def mean(self) -> Tensor:
        """(S, D, H, W) where it was summed, once all windows are added; the sums are used up."""
        for channel in self.logits:  # by channel: no second volume of all channels
            channel /= self.weights
        return self.logits
