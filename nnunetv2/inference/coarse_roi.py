"""Coarse to fine: find the foreground on a coarse grid, then segment only the box around it.

The idea of FLARE22's winner (Huang et al. 2022) and of TotalSegmentator's `roi_subset`, with the same network for both passes.
A coarse pass may be wrong, so two rules keep it from costing anything but time: either pass finds nothing -> the whole volume
is segmented; the fine result touches a side of the box that is not the volume's own -> the box grows there and is done again.
A box is never smaller than what the network is fed for it: voxels of the volume cost as much as the zeros they replace.
What remains lost is a component that the coarse pass misses and that nothing inside the box touches.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

MARGIN_MM = 15.0  # around the coarse foreground: twice the coarse voxel and some context for the network
COARSENING = 2.0  # coarse voxels have at least this many times the finest spacing
MAX_GROWTHS = 3  # then the whole volume

Box = tuple[slice, ...]  # (D, H, W) in voxels of the fine grid
Prediction = TypeVar("Prediction")


def coarse_factors(spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels pooled along each axis; thick slices stay as they are.

    >>> coarse_factors((2.0, 0.73, 0.73)), coarse_factors((1.0, 1.0, 1.0))
    ((1, 2, 2), (2, 2, 2))
    """
    return tuple(max(1, round(COARSENING * min(spacing) / s)) for s in spacing)


def coarsen(data: Tensor, factors: Sequence[int]) -> Tensor:
    """Means over blocks of `factors`, (C, D, H, W) -> (C, ceil(D / f), ...); a last incomplete block is averaged over what it has."""
    return avg_pool3d(data[None].float(), tuple(factors), ceil_mode=True, count_include_pad=False)[0]


def foreground_box(mask: np.ndarray) -> Box | None:
    """Smallest box that holds every True voxel of a 3D mask (all components); None if there is none."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if hit.size == 0:
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def margin_voxels(spacing: Sequence[float], margin_mm: float = MARGIN_MM) -> tuple[int, ...]:
    return tuple(ceil(margin_mm / s) for s in spacing)


def box_on_fine_grid(coarse: Box, factors: Sequence[int], margin: Sequence[int], shape: Sequence[int]) -> Box:
    """A box of coarse voxels in fine voxels, `margin` wider on each side, within a volume of `shape`."""
    return tuple(slice(max(0, c.start * f - m), min(n, c.stop * f + m)) for c, f, m, n in zip(coarse, factors, margin, shape))


def grow_where_touched(box: Box, foreground: Box, margin: Sequence[int], shape: Sequence[int]) -> Box:
    """`box`, larger by twice `margin` on the sides that `foreground` (in the box's own voxels) reaches; the volume is the limit.

    The same box comes back when no side is touched, or only the volume's own.
    """
    grown = []
    for b, f, m, n in zip(box, foreground, margin, shape):
        start = max(0, b.start - 2 * m) if f.start == 0 else b.start
        stop = min(n, b.stop + 2 * m) if f.stop == b.stop - b.start else b.stop
        grown.append(slice(start, stop))
    return tuple(grown)


def widen(box: Box, size: Sequence[int], shape: Sequence[int]) -> Box:
    """`box` with at least `size` voxels a side, as far as the volume's `shape` allows: evenly on both sides, or where there is room.

    >>> widen((slice(3, 7), slice(0, 2)), (6, 4), (20, 20))
    (slice(2, 8, None), slice(0, 4, None))
    """
    widened = []
    for b, wanted, n in zip(box, size, shape):
        length = min(max(wanted, b.stop - b.start), n)
        start = min(max(0, b.start - (length - (b.stop - b.start)) // 2), n - length)
        widened.append(slice(start, start + length))
    return tuple(widened)


def predict_in_roi(
    coarse_mask: Callable[[Tensor], np.ndarray],
    fine: Callable[[Tensor], Prediction],
    foreground_of: Callable[[Prediction], np.ndarray],
    data: Tensor,
    spacing: Sequence[float],
    margin_mm: float = MARGIN_MM,
    fed_size: Callable[[Sequence[int]], Sequence[int]] = tuple,
) -> tuple[Prediction, Box]:
    """Segment `data` (C, D, H, W), spacing in mm, in a box found on a coarse grid: (prediction of the box, the box).

    coarse_mask: coarse data (C, d, h, w) -> boolean foreground (d, h, w). fine: data of the box -> prediction.
    foreground_of: prediction -> its boolean foreground, shape of the box. fed_size: shape of a box -> the padded shape in which
    `fine` runs it.
    """
    shape = tuple(data.shape[1:])
    whole = tuple(slice(0, n) for n in shape)
    factors, margin = coarse_factors(spacing), margin_voxels(spacing, margin_mm)
    found = foreground_box(coarse_mask(coarsen(data, factors)))

    def with_what_padding_costs(box: Box) -> Box:
        return widen(box, fed_size([b.stop - b.start for b in box]), shape)

    box = whole if found is None else with_what_padding_costs(box_on_fine_grid(found, factors, margin, shape))
    for attempt in range(1, MAX_GROWTHS + 2):
        prediction = fine(data[(slice(None), *box)])
        foreground = foreground_box(foreground_of(prediction))
        needed = whole if foreground is None else grow_where_touched(box, foreground, margin, shape)
        if needed == box:
            break
        box = whole if attempt == MAX_GROWTHS else with_what_padding_costs(needed)
    return prediction, box
