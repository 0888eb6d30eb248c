"""Volumes that a tilted gantry took: each slice lies further to the side than the one below. Here they are put upright.

The slices stay where they are, so nothing is interpolated between slices: each is moved within its own plane, linearly, onto one grid
that is wide enough for all.
"""

import numpy as np
from scipy.ndimage import shift as shifted

from nnunetv2.imageio.dicom_series import Stack


def upright(volume: np.ndarray, stack: Stack) -> tuple[np.ndarray, dict[str, tuple[float, ...]]]:
    """`volume` (Z, Y, X) of a sheared `stack` -> volume of the same type on a grid with right angles, and that grid's geometry.

    What no slice covers gets the volume's lowest value.
    """
    heights = np.arange(len(volume)) * stack.spacing[2]
    offsets = np.outer(heights, stack.shear)[:, ::-1] / stack.spacing[1::-1]  # (Z, 2) voxels along y, x
    low, high = np.floor(offsets.min(0)).astype(int), np.ceil(offsets.max(0)).astype(int)
    fill = volume.min()
    wide = np.full((len(volume), *(np.array(volume.shape[1:]) + high - low)), fill, volume.dtype)
    for z, plane in enumerate(volume):
        padded = np.pad(plane.astype(np.float64), [(0, int(extra)) for extra in high - low], constant_values=fill)
        moved = shifted(padded, offsets[z] - low, order=1, mode="constant", cval=float(fill))
        wide[z] = np.rint(moved) if volume.dtype.kind == "i" else moved
    direction = np.reshape(stack.direction, (3, 3))
    origin = np.array(stack.origin) + direction[:, :2] @ (low[::-1] * np.array(stack.spacing[:2]))
    return wide, {"spacing": stack.spacing, "origin": tuple(origin.tolist()), "direction": stack.direction}
