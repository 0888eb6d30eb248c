"""A preprocessed case and its masks, as the evidence blocks see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from nnunetv2.utilities.ct_statistics import ct_statistics

REACH_MM = 22.0  # how far around organ and lesion the blocks look
SMALLEST_SHARE = 0.05  # components of the lesion below this share of the largest are specks of the segmentation
AXIS_GRID_MM = 3.0  # voxels along which the organ's axis is followed
CONTEXT_GRID_MM = 1.6  # organ and surroundings are measured on voxels at least this large
CT = "CTNormalization"

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Intensities:
    """How a channel's preprocessed values become its own: value * scale + offset; the clip limits in its own units, None without."""

    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of_plans(schemes: Sequence[str], properties: Mapping[str, Mapping[str, float]]) -> tuple["Intensities", ...]:
        """Of every channel; only CT has one scale for all cases, the other schemes' values stay as they are. InputError: CT without its statistics."""
        found = []
        for channel, scheme in enumerate(schemes):
            if scheme != CT:
                found.append(Intensities())
                continue
            given = ct_statistics(properties.get(str(channel), {}))
            found.append(Intensities(max(given["std"], 1e-8), given["mean"], given["percentile_00_5"], given["percentile_99_5"]))
        return tuple(found)


@dataclass(frozen=True)
class EvidenceCase:
    """One case, cut out around its organ and lesion; axes (z, y, x) grow towards superior, posterior and left of the patient.

    image: (C, D, H, W) float32 in the channels' own units (CT: HU). lesion, organ: (D, H, W) bool; the organ contains the lesion, and is the
    lesion where the labels know no other structure. spacing: mm. offset: the cut-out's corner in the whole image, in voxels; shape: of
    the whole image. part_mm3: volumes of all components that the segmentation calls lesion, small ones too.
    """

    image: np.ndarray
    lesion: np.ndarray
    organ: np.ndarray
    spacing: tuple[float, float, float]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    intensities: tuple[Intensities, ...]
    part_mm3: tuple[float, ...] = ()

    @property
    def has_organ(self) -> bool:
        return bool((self.organ & ~self.lesion).any())

    @property
    def voxel_mm3(self) -> float:
        return float(np.prod(self.spacing))

    def near_lesion(self, margin_mm: float) -> Box:
        return box_around(self.lesion, margin_mm, self.spacing)

    @cached_property
    def lesion_box(self) -> Box:
        """The lesion with everything that is measured around it."""
        return self.near_lesion(REACH_MM)

    @cached_property
    def distance(self) -> np.ndarray:
        """Signed distance (mm) from the lesion's border over `lesion_box`, negative inside."""
        lesion = self.lesion[self.lesion_box]
        inside = depth_inside(lesion, self.spacing)  # the lesion of a crop may fill it
        outside = ndimage.distance_transform_edt(~lesion, self.spacing)
        half = min(self.spacing) / 2
        return np.where(lesion, half - inside, outside - half).astype(np.float32)

    @cached_property
    def coarse(self) -> "EvidenceCase":
        """The same on voxels of CONTEXT_GRID_MM at least, block means; itself where it is as coarse."""
        steps = tuple(max(1, int(CONTEXT_GRID_MM / s + 1e-6)) for s in self.spacing)
        if max(steps) == 1:
            return self
        share = [blocks_mean(mask.astype(np.float32), steps) for mask in (self.lesion, self.organ)]
        lesion, organ = share[0] >= 0.5, share[1] >= 0.5
        if not lesion.any():
            lesion = share[0] == share[0].max()
        return EvidenceCase(np.stack([blocks_mean(channel, steps) for channel in self.image]), lesion, organ | lesion,
                            tuple(s * n for s, n in zip(self.spacing, steps)), tuple(o // n for o, n in zip(self.offset, steps)),
                            tuple(-(-s // n) for s, n in zip(self.shape, steps)), self.intensities, self.part_mm3)

    @cached_property
    def along(self) -> np.ndarray:
        """Position along the organ's axis, (D, H, W): 0 at its end on the patient's right, 1 at the other; NaN outside the organ.

        By the length of the shortest ways inside the organ (geodesics) from its two ends, which follow a bent gland.
        """
        steps = tuple(max(1, int(AXIS_GRID_MM / s + 1e-6)) for s in self.spacing)
        inside = blocks_mean(self.organ.astype(np.float32), steps) >= 0.5
        parts, n = ndimage.label(inside, np.ones((3, 3, 3)))
        along = np.full(self.organ.shape, np.nan, np.float32)
        if n == 0:
            along[self.organ] = 0.5
            return along
        inside = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
        points = np.argwhere(inside)
        graph = _neighbour_graph(inside, [s * k for s, k in zip(self.spacing, steps)])
        first = int(np.argmax(_finite(dijkstra(graph, indices=0))))
        from_first = _finite(dijkstra(graph, indices=first))
        last = int(np.argmax(from_first))
        from_last = _finite(dijkstra(graph, indices=last))
        if points[first][2] > points[last][2]:
            from_first, from_last = from_last, from_first
        total = np.maximum(from_first + from_last, 1e-6)
        values = np.zeros(inside.shape, np.float32)
        values[inside] = from_first / total
        nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
        where = np.argwhere(self.organ)
        cell = np.minimum(where // np.array(steps), np.array(inside.shape) - 1)
        index = nearest[(slice(None), *cell.T)]
        along[self.organ] = values[tuple(index)]
        return along


def evidence_case(data: np.ndarray, labels: np.ndarray, lesion_channels: Sequence[int], spacing: Sequence[float], intensities: Sequence[Intensities]) -> EvidenceCase | None:
    """data (C, D, H, W) as preprocessed, labels (D, H, W) by channel of the segmentation, 0 background -> the case; None without a lesion.

    Axes as EvidenceCase has them; spacing: mm.
    """
    near = box_around(labels > 0, REACH_MM, spacing)  # passes over a whole abdomen cost seconds
    within = labels[near]
    found = np.isin(within, list(lesion_channels))
    if not found.any():
        return None
    other = (within > 0) & ~found
    parts, _ = ndimage.label(found, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    found = (sizes >= SMALLEST_SHARE * sizes.max())[parts]
    box = box_around(found | other, REACH_MM, spacing)
    organ = (found | other)[box]
    if other.any():
        organ = ndimage.binary_fill_holes(organ)
    image = np.stack([data[channel][near][box] * i.scale + i.offset for channel, i in enumerate(intensities)]).astype(np.float32)
    return EvidenceCase(image, found[box], organ, tuple(float(s) for s in spacing), tuple(outer.start + inner.start for outer, inner in zip(near, box)), tuple(labels.shape),
                        tuple(intensities), tuple(float(n * np.prod(spacing)) for n in sizes[1:]))


def depth_inside(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance (mm) of each voxel of a mask from its outside, which begins at the image's border too."""
    return ndimage.distance_transform_edt(np.pad(mask, 1), spacing)[1:-1, 1:-1, 1:-1]


def box_around(mask: np.ndarray, margin_mm: float, spacing: Sequence[float]) -> Box:
    """The smallest box that holds `mask` and `margin_mm` around it, within the volume; all of it for an empty mask."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        if hit.size == 0:
            return tuple(slice(0, n) for n in mask.shape)
        margin = int(np.ceil(margin_mm / spacing[axis]))
        box.append(slice(max(0, int(hit[0]) - margin), min(mask.shape[axis], int(hit[-1]) + 1 + margin)))
    return tuple(box)


def blocks_mean(x: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Means over blocks of `steps` voxels; the last block of an axis takes what is left, filled up with its outermost voxels."""
    padded = np.pad(x, [(0, -n % k) for n, k in zip(x.shape, steps)], mode="edge")
    (a, b, c), (i, j, k) = padded.shape, steps
    return padded.reshape(a // i, i, b // j, j, c // k, k).mean((1, 3, 5), dtype=np.float32)


def ball_mm(radius_mm: float, spacing: Sequence[float]) -> np.ndarray:
    """Footprint of the voxels within `radius_mm`, the next neighbours at least."""
    reach = [max(1, round(radius_mm / s)) for s in spacing]
    z, y, x = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    return (z * spacing[0]) ** 2 + (y * spacing[1]) ** 2 + (x * spacing[2]) ** 2 <= max(radius_mm, max(spacing)) ** 2 + 1e-6


def _neighbour_graph(inside: np.ndarray, spacing: Sequence[float]) -> Any:
    """Sparse graph of the voxels inside, in the order of argwhere, with edges to their 26 neighbours as long as they are in mm."""
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(inside.sum())
    rows, columns, lengths = [], [], []
    for step in [(a, b, c) for a in (0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1) if (a, b, c) > (0, 0, 0)]:
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, inside.shape))
        there = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(step, inside.shape))
        a, b = number[here], number[there]
        both = (a >= 0) & (b >= 0)
        rows.append(a[both])
        columns.append(b[both])
        lengths.append(np.full(int(both.sum()), float(np.linalg.norm(np.array(step) * spacing))))
    n = int(inside.sum())
    graph = coo_matrix((np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), shape=(n, n)).tocsr()
    return graph + graph.T


def _finite(distances: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(distances), distances, 0)
