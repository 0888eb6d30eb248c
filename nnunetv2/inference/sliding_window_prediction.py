"""A volume through the network in overlapping, Gaussian-weighted, mirrored windows.

Positions, weights, the order of sums and the fp16 accumulators are nnU-Net's (Isensee et al., Nature Methods 2021), because
the label map of a voxel between two classes depends on each of them. A volume that goes through whole is one window of its
own size (`whole_volume_tile`), so there is a single loop for both.

Axes: volumes (C, D, H, W), network input (B, C, D, H, W), or (B, C, H, W) for a 2D network that sees one slice at a time.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, combinations, islice, product
from math import ceil, prod
from typing import Protocol

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from nnunetv2.inference.engines import Engine
from nnunetv2.inference.engines.guard import GuardedEngine, NotFinite
from nnunetv2.inference.window_sums import Slicer, WindowSums, moved_if_there_is_room, with_index

GAUSSIAN_PEAK = 10  # as upstream: keeps fp16 products of small weights and logits above the smallest fp16 number


class WindowObserver(Protocol):
    """Told of every window: mean logits (S, d, h, w) and the class logits of its mirrored passes (V, n); reset at the start."""

    def reset(self) -> None: ...

    def add(self, seg_logits: Tensor, class_logits: Tensor) -> None: ...


def compute_steps_for_sliding_window(
    image_size: Sequence[int], tile_size: Sequence[int], tile_step_size: float
) -> list[list[int]]:
    """Start positions of the windows along each axis: at most tile * step apart, evenly spread from edge to edge."""
    if any(size < tile for size, tile in zip(image_size, tile_size)):
        raise ValueError(f"The image {tuple(image_size)} is smaller than the tile {tuple(tile_size)}; pad it first.")
    if not 0 < tile_step_size <= 1:
        raise ValueError(f"tile_step_size is {tile_step_size}; it must lie in (0, 1].")
    starts = []
    for size, tile in zip(image_size, tile_size):
        count = ceil((size - tile) / (tile * tile_step_size)) + 1
        starts.append(np.round(np.linspace(0, size - tile, count)).astype(int).tolist())
    return starts


@lru_cache(maxsize=2)
def compute_gaussian(
    tile_size: tuple[int, ...],
    sigma_scale: float = 1 / 8,
    value_scaling_factor: float = 1,
    dtype: torch.dtype = torch.float16,
    device: torch.device = torch.device("cpu"),
) -> Tensor:
    """Weight of each voxel of a tile, shape `tile_size`: Gaussian of sigma tile * `sigma_scale` around voxel tile // 2.

    The peak is `value_scaling_factor`; what `dtype` rounds to 0 becomes its smallest positive weight, so that no voxel of
    the volume is left without one. Built as an outer product, which is what a separable filter of a unit impulse gives.
    """
    weights = np.ones(())
    for size in tile_size:
        impulse = np.zeros(size)
        impulse[size // 2] = 1
        weights = np.multiply.outer(weights, gaussian_filter1d(impulse, size * sigma_scale, mode="constant"))
    weights /= weights.max() / value_scaling_factor
    gaussian = torch.from_numpy(weights).to(device=device, dtype=dtype)
    gaussian[gaussian == 0] = gaussian[gaussian > 0].min()
    return gaussian


def mirror_views(allowed_axes: Sequence[int] | None, tta: int) -> list[tuple[int, ...]]:
    """Axes flipped in each test-time view, identity first, then in upstream's order.

    `allowed_axes` count the network's spatial axes from 0. Where they give more than `tta` views, those are taken that have least in common: 2 are
    the image and its mirror image along all axes; 4 differ from each other in two axes (docs/inference-modes.md has what that brings).

    >>> mirror_views((0, 1, 2), 4)
    [(), (0, 1), (0, 2), (1, 2)]
    """
    axes = sorted(allowed_axes or ())
    everything = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))
    if tta >= len(everything):
        return everything
    return {1: [()], 2: [(), tuple(axes)], 4: [view for view in everything if len(view) % 2 == 0]}[tta]


def pad_centred(data: Tensor, size: Sequence[int]) -> tuple[Tensor, Slicer]:
    """Zero-pad (C, *spatial) so that its last axes reach `size`; the odd voxel goes behind.

    Returns the padded tensor and the slicer that reverts it. Axes already as large stay; without need no copy is made.
    """
    missing = [max(0, target - have) for target, have in zip(size, data.shape[-len(size):])]
    before = [m // 2 for m in missing]
    inner = tuple(slice(b, b + n) for b, n in zip(before, data.shape[-len(size):]))
    slicer = (slice(None),) * (data.ndim - len(size)) + inner
    if not any(missing):
        return data, slicer
    return pad(data, [n for b, m in reversed(list(zip(before, missing))) for n in (b, m - b)]), slicer


def whole_volume_tile(shape: Sequence[int], divisor: Sequence[int]) -> tuple[int, ...]:
    """The smallest tile that holds a volume of `shape` and that the network's strides (`divisor`) divide.

    Where that would leave one voxel at the bottleneck, which instance normalisation cannot normalise, the last axis gets two.
    """
    steps = [max(1, ceil(size / d)) for size, d in zip(shape[-len(divisor):], divisor)]
    if prod(steps) == 1:
        steps[-1] = 2
    return tuple(n * d for n, d in zip(steps, divisor))


def even_tile(shape: Sequence[int], largest: Sequence[int], divisor: Sequence[int]) -> tuple[int, ...]:
    """A tile no larger than `largest` that covers (D, H, W) in as few windows with the least overlap.

    >>> even_tile((250, 281, 281), (64, 128, 192), (8, 32, 32))
    (64, 96, 160)
    """
    spatial = shape[-len(largest):]
    parts = [ceil(size / ceil(size / limit)) for size, limit in zip(spatial, largest)]
    return tuple(min(limit, tile) for limit, tile in zip(largest, whole_volume_tile(parts, divisor)))


def window_slicers(image_size: Sequence[int], tile_size: Sequence[int], tile_step_size: float) -> list[Slicer]:
    """Where each window lies in a (C, D, H, W) volume; with a 2D tile every slice is tiled by itself."""
    flat = len(image_size) - len(tile_size)
    slices: list[Sequence[int | slice]] = [range(size) for size in image_size[:flat]]
    for starts, tile in zip(compute_steps_for_sliding_window(image_size[flat:], tile_size, tile_step_size), tile_size):
        slices.append([slice(start, start + tile) for start in starts])
    return [(slice(None), *window) for window in product(*slices)]


def odd_windows(image_size: Sequence[int], tile_size: Sequence[int], tile_step_size: float) -> list[bool]:
    """Of each window of `window_slicers`, in its order, whether its places along the tile's axes add up to an odd number: never its neighbours.

    >>> odd_windows((4, 8, 6), (4, 4, 4), 0.5)  # starts: 0; 0, 2, 4; 0, 2
    [False, True, True, False, False, True]
    """
    flat = len(image_size) - len(tile_size)
    counts = [len(starts) for starts in compute_steps_for_sliding_window(image_size[flat:], tile_size, tile_step_size)]
    return [sum(places) % 2 == 1 for places in product(*map(range, counts))] * prod(image_size[:flat])


def _batches(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(islice(items, size)):
        yield batch


@torch.no_grad()
def predict_windows(
    engine: Engine,
    data: Tensor,
    tile_size: Sequence[int],
    tile_step_size: float = 0.5,
    views: Sequence[tuple[int, ...]] = ((),),
    gaussian: bool = True,
    accumulate: torch.dtype = torch.float16,
    device: torch.device = torch.device("cpu"),
    observer: WindowObserver | None = None,
    observed_views: Collection[tuple[int, ...]] | None = None,
    progress: bool = False,
    on_window: Callable[[int, int], None] | None = None,
    volumes_on_device: bool = True,
    in_turn: Collection[int] = (),
) -> Tensor:
    """Logits (S, D, H, W) of `data` (C, D, H, W), in `accumulate`, in main memory. `device`: the engine's, where views are mirrored.

    A volume smaller than the tile is zero-padded around its centre and cropped back. Each window's logits are the mean over
    `views`; windows are summed with Gaussian weights and divided by the sum of weights. Where fp16 sums overflow, everything
    is done again with fp32 accumulators; NotFinite if that does not help. Windows and views share batches of `engine.batch_size`. The observer is
    told the class logits of the views in `observed_views`, of all by default. `on_window` is told how many windows of how many are done (on a
    GPU: are on their way); what it raises ends the prediction. Image and sums lie on a GPU that has room for them, unless `volumes_on_device` is
    False. in_turn: the tile's axes along which every other window, as on a chessboard, is mirrored in all its views, so that overlapping windows
    see other views.
    """
    padded, inner = pad_centred(data.cpu(), tile_size)
    turns = [tuple(in_turn) if odd else () for odd in odd_windows(padded.shape[1:], tile_size, tile_step_size)]
    passes = _Passes(padded, list(zip(window_slicers(padded.shape[1:], tile_size, tile_step_size), turns)), views,
                     compute_gaussian(tuple(tile_size), 1 / 8, GAUSSIAN_PEAK, device=with_index(device)) if gaussian else 1,
                     device, volumes_on_device, observer, views if observed_views is None else observed_views, progress, on_window)
    logits = passes.mean(engine, accumulate)
    if not _is_finite(logits) and accumulate == torch.float16:
        warnings.warn("Logits overflow fp16 accumulators; summing again in fp32.", stacklevel=2)
        del logits
        logits = passes.mean(engine, torch.float32)
    if logits.dtype != torch.float16 and not _is_finite(logits):
        raise NotFinite("The sums of the windows' logits are NaN or infinite in fp32: the image or the weights hold such values, or far too large ones.")
    return _in_main_memory(logits, inner)


def _flips(axes: Sequence[int], turned: Sequence[int]) -> list[int]:
    """Of (C, *spatial) the axes to flip for a view mirrored along `axes`, with those that are `turned` mirrored once more."""
    return [axis + 1 for axis in sorted({*axes} ^ {*turned})]


def _in_main_memory(logits: Tensor, inner: Slicer) -> Tensor:
    if logits.device.type == "cpu":
        return logits[inner]
    found = torch.empty(logits[inner].shape, dtype=logits.dtype, device="cpu")
    for channel, there in zip(found, logits):  # by channel: a part of a volume is made contiguous before it is copied
        channel.copy_(there[inner[1:]])
    return found


def _is_finite(logits: Tensor) -> bool:
    return bool(torch.stack([channel.isfinite().all() for channel in logits]).all())  # by channel: no mask of all of them


def _answers_late(device: torch.device) -> bool:
    """Whether calls return before they are computed, so that asking for a number stops what could go on."""
    return device.type == "cuda"


@dataclass(frozen=True)
class _Passes:
    """Every window of a padded volume (C, D, H, W) in every view."""

    padded: Tensor
    windows: Sequence[tuple[Slicer, tuple[int, ...]]]  # where, and the axes along which all its views are mirrored once more
    views: Sequence[tuple[int, ...]]
    weight: Tensor | int
    device: torch.device
    volumes_on_device: bool
    observer: WindowObserver | None
    observed_views: Collection[tuple[int, ...]]
    progress: bool
    on_window: Callable[[int, int], None] | None

    def mean(self, engine: Engine, accumulate: torch.dtype) -> Tensor:
        """Logits (S, D, H, W) where they were summed. A GPU whose memory does not hold volumes and passes at once is left the passes alone."""
        try:
            return self._mean(engine, accumulate)
        except torch.cuda.OutOfMemoryError:
            if not self.volumes_on_device:
                raise
        torch.cuda.empty_cache()  # not within `except`: the error holds all that the passes had allocated
        warnings.warn("The GPU's memory does not hold image and sums of windows beside a pass; they are kept in main memory.", stacklevel=3)
        return replace(self, volumes_on_device=False)._mean(engine, accumulate)

    def _mean(self, engine: Engine, accumulate: torch.dtype) -> Tensor:
        """A GPU is not waited for between passes, unless something was wrong with one of them."""
        if _answers_late(self.device) and isinstance(engine, GuardedEngine):
            asked_later = engine.without_waiting()
            logits = self._sums(asked_later, accumulate).mean()
            if asked_later.all_well():
                return logits
            del logits
        return self._sums(engine, accumulate).mean()

    def _sums(self, engine: Engine, accumulate: torch.dtype) -> WindowSums:
        if self.observer is not None:
            self.observer.reset()
        volume = moved_if_there_is_room(self.padded, self.device) if self.volumes_on_device else self.padded
        window = window_sum = None
        window_classes: list[Tensor] = []
        n_done = 0
        bar = tqdm(total=len(self.windows), desc="windows", leave=False, disable=not self.progress or len(self.windows) < 2)
        with bar, WindowSums(volume.shape[1:], self.weight, accumulate, self.volumes_on_device) as sums:
            for batch in _batches(product(self.windows, enumerate(self.views)), engine.batch_size):
                x = []
                for (slicer, turned), (view, axes) in batch:
                    if view == 0:
                        window = volume[slicer].to(self.device)
                    x.append(window.flip(_flips(axes, turned)))
                observed = [self.observer is not None and axes in self.observed_views for _, (_, axes) in batch]
                seg_logits, class_logits = engine(torch.stack(x), classify=any(observed))  # (B, S, d, h, w), (B, n) or None
                for i, ((slicer, turned), (view, axes)) in enumerate(batch):
                    flipped_back = seg_logits[i].to(self.device).flip(_flips(axes, turned))
                    window_sum = flipped_back if view == 0 else window_sum.add_(flipped_back)
                    if observed[i] and class_logits is not None:
                        window_classes.append(class_logits[i])
                    if view < len(self.views) - 1:
                        continue
                    window_sum /= len(self.views)
                    if self.observer is not None and window_classes:
                        self.observer.add(window_sum, torch.stack(window_classes))
                    sums.add(slicer, window_sum)
                    window_classes = []
                    bar.update()
                    n_done += 1
                    if self.on_window is not None:
                        self.on_window(n_done, len(self.windows))
        return sums
