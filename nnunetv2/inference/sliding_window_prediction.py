"""A volume through the network in overlapping, Gaussian-weighted, mirrored windows.

Positions, weights, the order of sums and the fp16 accumulators are nnU-Net's (Isensee et al., Nature Methods 2021), because
the label map of a voxel between two classes depends on each of them. A volume that goes through whole is one window of its
own size (`whole_volume_tile`), so there is a single loop for both.

Axes: volumes (C, D, H, W), network input (B, C, D, H, W), or (B, C, H, W) for a 2D network that sees one slice at a time.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from nnunetv2.inference.engines.guard import NotFinite

Slicer = tuple[slice | int, ...]  # (channels, D, H, W); D is an int for a 2D network
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

    `allowed_axes` count the network's spatial axes from 0. `tta` views need log2(tta) axes; the last ones are taken (in a
    transposed CT the in-plane axes), and no more views are made than the allowed axes give.
    """
    axes = sorted(allowed_axes or ())
    axes = axes[max(0, len(axes) - int(np.log2(tta))):]
    return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


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


def _batches(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(islice(items, size)):
        yield batch


class WindowSums:
    """Windows of a volume, weighted and summed in main memory, in `dtype`: a GPU would hold a volume of every class, and of weights.

    A GPU goes on with the next window while this one is added. Use it as a context, within which windows are added.
    """

    def __init__(self, shape: Sequence[int], weight: Tensor | int, dtype: torch.dtype) -> None:
        """shape (D, H, W) of the volume; weight (d, h, w) of the voxels of a window, on the device of the windows, or 1."""
        self.weight = weight
        self.weight_in_main_memory = weight.cpu() if isinstance(weight, Tensor) else weight
        self.weights = torch.zeros(tuple(shape), dtype=dtype)
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
        window = window.mul_(self.weight)
        if window.device.type == "cpu":
            self._add(slicer, window)
            return
        window = window.cpu()
        if self._adding is not None:
            self._adding.result()  # one at a time, in their order
        self._adding = self._worker.submit(self._add, slicer, window)

    def _add(self, slicer: Slicer, window: Tensor) -> None:
        if self.logits is None:
            self.logits = torch.zeros((len(window), *self.weights.shape), dtype=self.weights.dtype)
        self.logits[slicer] += window
        self.weights[slicer[1:]] += self.weight_in_main_memory

    def mean(self) -> Tensor:
        """(S, D, H, W), once all windows are added; the sums are used up."""
        for channel in self.logits:  # by channel: no second volume of all channels
            channel /= self.weights
        return self.logits


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
    observed_views: int | None = None,
    progress: bool = False,
    on_window: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Logits (S, D, H, W) of `data` (C, D, H, W), in `accumulate`, in main memory. `device`: the engine's, where views are mirrored.

    A volume smaller than the tile is zero-padded around its centre and cropped back. Each window's logits are the mean over
    `views`; windows are summed with Gaussian weights and divided by the sum of weights. Where fp16 sums overflow, everything
    is done again with fp32 accumulators; NotFinite if that does not help. Windows and views share batches of `engine.batch_size`. The observer is told the class
    logits of the first `observed_views` views, of all by default. `on_window` is told how many windows of how many are done; what it raises
    ends the prediction.
    """
    if observer is not None:
        observer.reset()
    padded, inner = pad_centred(data.cpu(), tile_size)
    slicers = window_slicers(padded.shape[1:], tile_size, tile_step_size)
    weight = compute_gaussian(tuple(tile_size), 1 / 8, GAUSSIAN_PEAK, device=device) if gaussian else 1
    window = window_sum = None
    window_classes: list[Tensor] = []
    n_done = 0

    bar = tqdm(total=len(slicers), desc="windows", leave=False, disable=not progress or len(slicers) < 2)
    with WindowSums(padded.shape[1:], weight, accumulate) as sums:
        for batch in _batches(product(slicers, enumerate(views)), engine.batch_size):
            x = []
            for slicer, (view, axes) in batch:
                if view == 0:
                    window = padded[slicer].to(device)
                x.append(window.flip([a + 1 for a in axes]))
            observed = [observer is not None and view < (observed_views or len(views)) for _, (view, _) in batch]
            seg_logits, class_logits = engine(torch.stack(x), classify=any(observed))  # (B, S, d, h, w), (B, n) or None
            for i, (slicer, (view, axes)) in enumerate(batch):
                flipped_back = seg_logits[i].to(device).flip([a + 1 for a in axes])
                window_sum = flipped_back if view == 0 else window_sum.add_(flipped_back)
                if observed[i] and class_logits is not None:
                    window_classes.append(class_logits[i])
                if view < len(views) - 1:
                    continue
                window_sum /= len(views)
                if observer is not None and window_classes:
                    observer.add(window_sum, torch.stack(window_classes))
                sums.add(slicer, window_sum)
                window_classes = []
                bar.update()
                n_done += 1
                if on_window is not None:
                    on_window(n_done, len(slicers))
    bar.close()
    logits = sums.mean()
    finite = all(bool(channel.isfinite().all()) for channel in logits)
    if not finite and accumulate != torch.float16:
        raise NotFinite("The sums of the windows' logits are NaN or infinite in fp32: the image or the weights hold such values, or far too large ones.")
    if not finite:
        warnings.warn("Logits overflow fp16 accumulators; summing again in fp32.", stacklevel=2)
        del logits, sums
        return predict_windows(engine, data, tile_size, tile_step_size, views, gaussian, torch.float32, device,
                               observer, observed_views, progress, on_window)
    return logits[inner]
