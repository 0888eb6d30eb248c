"""Whether two images lie on the same voxel grid, judged in world space. The one rule for channels, masks, predictions and ensembles.

Headers of channels exported one by one differ in the last digits, so exact comparison refuses good data; comparing
origin, spacing and direction each with a tolerance of its own says little about voxels. What counts is how far apart the
two grids put the same voxel: the distance is largest at a corner, so the corners decide.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

MAX_SHIFT = 0.1  # of the finest spacing; far above rounding in headers, far below what moves a label to the next voxel


def corner_shift(a: Mapping, b: Mapping, shape: Sequence[int]) -> float:
    """Largest world distance, mm, between where `a` and `b` put the same corner of an array of `shape` (array order).

    `a` and `b` hold SimpleITK's spacing, origin and direction (x first), and sheared ones their `affine`. inf when their
    dimensions differ.
    """
    if len(a["spacing"]) != len(b["spacing"]):
        return float("inf")
    size = np.array(shape[::-1][:len(a["spacing"])])  # x first
    corners = np.array(list(product(*((0, n - 1) for n in size)))).T  # (dims, 2**dims)
    return float(np.linalg.norm(_to_world(a, corners) - _to_world(b, corners), axis=0).max())


def _to_world(geometry: Mapping, index: np.ndarray) -> np.ndarray:
    if "affine" in geometry:
        affine = np.reshape(geometry["affine"], (3, 4))
        return affine[:, :3] @ index + affine[:, 3:]
    dims = len(geometry["spacing"])
    direction = np.reshape(geometry["direction"], (dims, dims))
    return direction @ (index * np.reshape(geometry["spacing"], (dims, 1))) + np.reshape(geometry["origin"], (dims, 1))


def same_grid(a: Mapping, b: Mapping, shape: Sequence[int]) -> bool:
    """True when no corner differs by more than MAX_SHIFT of the finest spacing."""
    return corner_shift(a, b, shape) <= MAX_SHIFT * min(a["spacing"])


def grid_difference(a: Mapping, b: Mapping, shape_a: Sequence[int], shape_b: Sequence[int]) -> str | None:
    """How grid `b` (of a mask, a prediction) differs from grid `a`, as the end of a sentence; None when it is the same.

    Shapes in array order, of the voxels alone (Z, Y, X).
    """
    if tuple(shape_a) != tuple(shape_b):
        return f"has (z, y, x) = {tuple(shape_b)} voxels, must have {tuple(shape_a)}"
    if same_grid(a, b, shape_a):
        return None
    return f"lies up to {corner_shift(a, b, shape_a):.3g} mm off: {describe(b)}, expected {describe(a)}"


def difference_as_read(a: Mapping, b: Mapping, shape_a: Sequence[int], shape_b: Sequence[int]) -> str | None:
    """`grid_difference` of properties as a reader gives them; that of the shapes alone where one of both knows no position."""
    if tuple(shape_a) == tuple(shape_b) and not ("sitk_stuff" in a and "sitk_stuff" in b):
        return None
    return grid_difference(a.get("sitk_stuff", {}), b.get("sitk_stuff", {}), shape_a, shape_b)


def off_its_image(file: object, of_image: Mapping, of_mask: Mapping, image_shape: Sequence[int], mask_shape: Sequence[int]) -> str | None:
    """What to say of a mask, in `file`, that lies on another grid than its image; None of a sound one.

    of_image, of_mask: properties as a reader gives them. Readers that know no position (pictures) are asked for the shape alone.
    """
    difference = difference_as_read(of_image, of_mask, image_shape, mask_shape)
    return None if difference is None else f"{file} {difference} (its image); make the mask on its image's grid, or correct its header"


def describe(geometry: Mapping) -> str:
    """Spacing, origin and direction on one line, for messages."""
    return ", ".join(f"{key} {tuple(round(value, 6) for value in geometry[key])}" for key in ("spacing", "origin", "direction"))
