"""Coarse to fine: find the foreground on a coarse grid, then segment only boxes around it.

The idea of FLARE22's winner (Huang et al. 2022) and of TotalSegmentator's `roi_subset`. The coarse pass may be the same network's.
One box around all that the coarse pass finds goes through the network at once if it can, for surroundings help. If it cannot, every component
gets a box, and boxes that meet become one: a false finding at the other end of the volume costs a small box, not everything in between.
A coarse pass may be wrong, so three rules keep it from costing anything but time: no pass finds anything -> the whole volume
is segmented; a fine result touches a side of its box that is not the volume's own -> the box grows there and is done again; a label
is in no box -> the rest of the volume is looked through for it on the fine grid, and gets boxes where it is found.
A box is never smaller than what the network is fed for it: voxels of the volume cost as much as the zeros they replace.
What remains lost is a component that the coarse pass misses, that nothing inside the boxes touches, and whose label is in a box elsewhere;
`RoiReport` says how much of the volume nobody looked at.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Generic, TypeVar

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

MARGIN_MM = 15.0  # around the coarse foreground: twice the coarse voxel and some context for the network
COARSENING = 2.0  # coarse voxels have at least this many times the finest spacing
MAX_GROWTHS = 3  # the last of them is the whole volume

Box = tuple[slice, ...]  # (D, H, W) in voxels of the fine grid
Prediction = TypeVar("Prediction")


@dataclass(frozen=True)
class RoiReport:
    """What roi "coarse" left out of one case. Boxes and volume in voxels of the network's grid.

    searched_for: labels that were in no box, for which the rest of the volume was looked through; found_elsewhere: those of them
    that it held.
    """

    boxes: tuple[Box, ...]
    volume: tuple[int, ...]
    whole_because: str = ""
    searched_for: tuple[str, ...] = ()
    found_elsewhere: tuple[str, ...] = ()

    @property
    def not_segmented(self) -> float:
        """Share of the volume outside the boxes."""
        return 1 - sum(prod(box_shape(box)) for box in self.boxes) / prod(self.volume)

    def as_json(self) -> dict[str, Any]:
        return {"boxes": [[[side.start, side.stop] for side in box] for box in self.boxes], "volume": list(self.volume),
                "not_segmented": round(self.not_segmented, 4), "whole_because": self.whole_because,
                "searched_for": list(self.searched_for), "found_elsewhere": list(self.found_elsewhere)}

    def in_words(self) -> str:
        """How the case differs from what boxes alone give; "" where it does not."""
        if self.whole_because:
            return f"no boxes: {self.whole_because}; the whole volume was segmented, which takes longer"
        if not self.searched_for:
            return ""
        found = f"{', '.join(self.found_elsewhere)} found there" if self.found_elsewhere else "found nowhere"
        return f"{', '.join(self.searched_for)} in no box; the rest of the volume was looked through, which takes longer: {found}"


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


@dataclass(frozen=True)
class Segmented(Generic[Prediction]):
    """Parts of a volume: (prediction of a box, the box) of each. No two boxes share a voxel.

    whole_because: why the one part is the whole volume though boxes were wanted; "" where it is not.
    """

    parts: list[tuple[Prediction, Box]]
    whole_because: str = ""


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
    look_elsewhere: Callable[[list[tuple[Prediction, Box]]], np.ndarray | None] = lambda parts: None,
) -> Segmented[Prediction]:
    """Segment `data` (C, D, H, W) in boxes found on a coarse grid, spacings in mm.

    Each box of the result holds foreground; the one exception is a volume without any, which is one box.
    coarse_mask: coarse data (C, d, h, w) -> boolean foreground (d, h, w). fine: data of a box -> prediction.
    foreground_of: prediction -> its boolean foreground, shape of the box. fed_size: shape of a box -> the padded shape in which
    `fine` runs it. at_once: whether the network takes a box of that shape in one pass. growths: after so many a result stands
    that touches its box; None goes on up to the whole volume. look_elsewhere: what the boxes have given -> where (D, H, W) there is
    more to segment, None or nowhere if that was all.
    """
    shape = tuple(data.shape[1:])
    whole = tuple(slice(0, n) for n in shape)
    coarse, margin = coarse_shape(shape, spacing, coarse_spacing), margin_voxels(spacing, margin_mm)

    def with_what_padding_costs(box: Box) -> Box:
        return widen(box, fed_size(box_shape(box)), shape)

    def segment(boxes: list[Box], done: list[tuple[Prediction, Box]]) -> list[tuple[Prediction, Box]] | None:
        """`boxes` and those `done`, as far as they hold foreground; None where it reaches on and on."""
        for grown_so_far in range(MAX_GROWTHS):
            apart = merge_where_they_meet([*boxes, *(box for _, box in done)])
            done = [(prediction, box) for prediction, box in done if box in apart]
            boxes = []
            for box in [box for box in apart if all(box != finished for _, finished in done)]:
                prediction = fine(data[(slice(None), *box)])
                foreground = foreground_box(foreground_of(prediction))
                if foreground is None and box != whole:
                    continue  # a false finding
                needed = box if foreground is None else grow_where_touched(box, foreground, margin, shape)
                if needed == box or grown_so_far == growths:
                    done.append((prediction, box))
                else:
                    boxes.append(with_what_padding_costs(needed))
            if not boxes:
                return done
        return None

    def everything(because: str) -> Segmented[Prediction]:
        return Segmented([(fine(data), whole)], because)

    found = [box_on_fine_grid(box, coarse, margin, shape) for box in component_boxes(coarse_mask(coarsen(data, coarse)))]
    if not found:
        return everything("the coarse pass finds nothing")
    if at_once(box_shape(around(found))):
        found = [around(found)]
    parts = segment([with_what_padding_costs(box) for box in found], [])
    if not parts:
        return everything("foreground reaches beyond the boxes on all sides" if parts is None else "the boxes hold no foreground")
    more = look_elsewhere(parts)
    if more is not None and more.any():
        parts = segment([with_what_padding_costs(box_on_fine_grid(box, shape, margin, shape)) for box in component_boxes(more)], parts)
    return Segmented(parts) if parts is not None else everything("foreground reaches beyond the boxes on all sides")
