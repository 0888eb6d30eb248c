"""Crop a case to the box of its non-zero voxels. Arrays are (C, Z, Y, X); boxes are [[start, stop], ...] in Z, Y, X."""

import numpy as np
from scipy import ndimage

OUTSIDE = -1  # segmentation value of background voxels outside the non-zero mask; training turns it into 0


def bounding_box(mask: np.ndarray) -> list[list[int]]:
    """Half-open box [[start, stop], ...] of the True voxels of `mask`, one pair an axis. An empty mask gives the whole array."""
    box = []
    for axis, size in enumerate(mask.shape):
        hits = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append([int(hits[0]), int(hits[-1]) + 1] if hits.size else [0, size])
    return box


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """`mask` (Z, Y, X) plus every False region that no path over voxel faces joins to the border of the array."""
    if mask.all():
        return mask
    regions, count = ndimage.label(~mask)
    reaches_border = np.zeros(count + 1, dtype=bool)
    for axis in range(mask.ndim):
        for face in (0, -1):
            reaches_border[np.take(regions, face, axis)] = True
    reaches_border[0] = False  # region 0 is the mask itself
    return ~reaches_border[regions]


def crop_to_nonzero(data: np.ndarray, seg: np.ndarray | None = None, nonzero_label: int = OUTSIDE) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Crop to the box in which any channel is non-zero and mark in the segmentation what lies outside of the filled mask.

    Args:
        data: (C, Z, Y, X).
        seg: (1, Z, Y, X) signed integers, or None.
    Returns:
        A view of `data` (C, z, y, x); a new segmentation (1, z, y, x) whose background voxels (0) outside the mask are
        `nonzero_label`, and 0 / `nonzero_label` alone without `seg`; and the box. An image of zeros is not cropped and lies outside as a whole.
    """
    nonzero = data[0] != 0
    for channel in data[1:]:
        nonzero |= channel != 0
    box = bounding_box(nonzero)
    inside = tuple(slice(start, stop) for start, stop in box)
    # Holes can be filled after the crop: what surrounds the box is zero throughout, so a gap at its face is no hole.
    body = fill_holes(nonzero[inside])[None]
    data = data[(slice(None), *inside)]
    if seg is None:
        return data, np.where(body, np.int8(0), np.int8(nonzero_label)), box
    seg = seg[(slice(None), *inside)].copy()
    seg[~body & (seg == 0)] = nonzero_label
    return data, seg, box
