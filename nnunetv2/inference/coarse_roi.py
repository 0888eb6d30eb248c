"""Coarse to fine: find the foreground on a coarse grid, then segment only boxes around it.

The idea of FLARE22's winner (Huang et al. 2022) and of TotalSegmentator's `roi_subset`. The coarse pass may be the same network's.
One box around all that the coarse pass finds goes through the network at once if it can, for surroundings help. If it cannot, every component
gets a box, and boxes that meet become one: a false finding at the other end of the volume costs a small box, not everything in between.
A coarse pass may be wrong, so two rules keep it from costing anything but time: no pass finds anything -> the whole volume
is segmented; a fine result touches a side of its box that is not the volume's own -> the box grows there and is done again.
A box is never smaller than what the network is fed for it: voxels of the volume cost as much as the zeros they replace.
What remains lost is a component that the coarse pass misses and that nothing inside the boxes touches.
"""

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import TypeVar

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

MARGIN_MM = 15.0  # around the coarse foreground: twice the coarse voxel and some context for the network
COARSENING = 2.0  # coarse voxels have at least this many times the finest spacing
MAX_GROWTHS = 3  # the last of them is the whole volume

Box = tuple[slice, ...]  # (D, H, W) in voxels of the fine grid
Prediction = TypeVar("Prediction")


def coarse_factors(spacing: Sequence[float]) -> tuple[int, ...]:
    """How much coarser a network looks on a grid that it was not trained on, along each axis; thick slices stay as they are.

    >>> coarse_factors((2.0, 0.73, 0.73)), coarse_factors((1.0, 1.0, 1.0))
    ((1, 2, 2), (2, 2, 2))
    """
    return tuple(max(1, round(COARSENING * min(spacing) / s)) for s in spacing)


def coarse_shape(shape: Sequence[int], spacing: Sequence[float], coarse_spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels along each axis of a grid that fills the same volume.

    >>> coarse_shape((11, 20, 3), (2.0, 1.0, 1.0), (2.0, 2.0, 8.0))
    (11, 10, 1)
    """
    return tuple(max(1, round(n * s / c)) for n, s, c in zip(shape, spacing, coarse_spacing))


def coarsen(data: Tensor, shape: Sequence[int]) -> Tensor:
    """Means over what each voxel of the coarse grid covers, (C, D, H, W) -> (C, *shape); where sizes do not divide, blocks overlap."""
    return adaptive_avg_pool3d(data[None].float(), tuple(shape))[0]


def foreground_box(mask: np.ndarray) -> Box | None:
    """Smallest box that holds every True voxel of a 3D mask (all components); None if there is none."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if hit.size == 0:
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def box_shape(box: Box) -> tuple[int, ...]:
    return tuple(side.stop - side.start for side in box)


def component_boxes(mask: np.ndarray) -> list[Box]:
    """The smallest box of each connected component (voxels that share a corner are connected) of a 3D mask; [] if it is empty."""
    components, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return ndimage.find_objects(components)


def meet(a: Box, b: Box) -> bool:
    """Whether two boxes share a voxel."""
    return all(x.start < y.stop and y.start < x.stop for x, y in zip(a, b))


def merge_where_they_meet(boxes: Iterable[Box]) -> list[Box]:
    """Boxes of which no two share a voxel, and that hold all of `boxes`.

    >>> merge_where_they_meet([(slice(0, 3),), (slice(5, 6),), (slice(2, 4),)])
    [(slice(5, 6, None),), (slice(0, 4, None),)]
    """
    apart: list[Box] = []
    for box in boxes:
        while (other := next((other for other in apart if meet(other, box)), None)) is not None:
            apart.remove(other)
            box = around([box, other])
        apart.append(box)
    return apart


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of `boxes`, of which there is at least one."""
    return tuple(slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes))


def margin_voxels(spacing: Sequence[float], margin_mm: float = MARGIN_MM) -> tuple[int, ...]:
    return tuple(ceil(margin_mm / s) for s in spacing)


def box_on_fine_grid(box: Box, coarse: Sequence[int], margin: Sequence[int], shape: Sequence[int]) -> Box:
    """A box in a grid of `coarse` voxels in voxels of the grid of `shape` on the same volume, `margin` wider on each side.

    >>> box_on_fine_grid((slice(1, 3),), (5,), (1,), (11,))  # 2.2 to 6.6
    (slice(1, 8, None),)
    """
    return tuple(slice(max(0, b.start * n // c - m), min(n, -(-b.stop * n // c) + m)) for b, c, m, n in zip(box, coarse, margin, shape))


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
    coarse_spacing: Sequence[float],
    margin_mm: float = MARGIN_MM,
    fed_size: Callable[[Sequence[int]], Sequence[int]] = tuple,
    at_once: Callable[[Sequence[int]], bool] = lambda shape: False,
    growths: int | None = None,
) -> list[tuple[Prediction, Box]]:
    """Segment `data` (C, D, H, W) in boxes found on a coarse grid, spacings in mm: (prediction of a box, the box) of each.

    No two boxes share a voxel, and each holds foreground; the one exception is a volume without any, which is one box.
    coarse_mask: coarse data (C, d, h, w) -> boolean foreground (d, h, w). fine: data of a box -> prediction.
    foreground_of: prediction -> its boolean foreground, shape of the box. fed_size: shape of a box -> the padded shape in which
    `fine` runs it. at_once: whether the network takes a box of that shape in one pass. growths: after so many a result stands
    that touches its box; None goes on up to the whole volume.
    """
    shape = tuple(data.shape[1:])
    whole = tuple(slice(0, n) for n in shape)
    coarse, margin = coarse_shape(shape, spacing, coarse_spacing), margin_voxels(spacing, margin_mm)

    def with_what_padding_costs(box: Box) -> Box:
        return widen(box, fed_size(box_shape(box)), shape)

    found = [box_on_fine_grid(box, coarse, margin, shape) for box in component_boxes(coarse_mask(coarsen(data, coarse)))]
    if found and at_once(box_shape(around(found))):
        found = [around(found)]
    waiting = merge_where_they_meet(map(with_what_padding_costs, found))
    done: list[tuple[Prediction, Box]] = []
    for grown_so_far in range(MAX_GROWTHS):
        grown = []
        for box in waiting:
            prediction = fine(data[(slice(None), *box)])
            foreground = foreground_box(foreground_of(prediction))
            if foreground is None and box != whole:
                continue  # a false finding
            needed = box if foreground is None else grow_where_touched(box, foreground, margin, shape)
            if needed == box or grown_so_far == growths:
                done.append((prediction, box))
            else:
                grown.append(with_what_padding_costs(needed))
        if not grown:
            break
        apart = merge_where_they_meet([*grown, *(box for _, box in done)])
        done = [(prediction, box) for prediction, box in done if box in apart]
        waiting = [box for box in apart if all(box != finished for _, finished in done)]
    else:
        done = []  # foreground in every direction
    return done or [(fine(data), whole)]
