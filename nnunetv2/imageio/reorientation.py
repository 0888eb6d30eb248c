"""Arrays turned so that their axes run to the right, to the front and upwards (RAS), by flips and exchanges alone, and back.

World coordinates are RAS, as NIfTI has them; an affine (4, 4) takes voxel indices (x, y, z) there. Arrays are (..., Z, Y, X).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunetv2.imageio.sheared_nifti import RAS_TO_LPS

LETTERS = ("LR", "PA", "IS")  # of each world axis: the letter of its negative and of its positive direction
ORTHONORMAL = 1e-4


@dataclass(frozen=True)
class Reorientation:
    """axes: for the world's right, front and up the voxel axis (0 = x, 1 = y, 2 = z) that runs along it; flipped: whether it runs against it."""

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of_affine(cls, affine: np.ndarray) -> "Reorientation":
        """Each voxel axis, x first, takes the world axis left that it runs along most, judged by the orthonormal directions nearest to its own."""
        columns = np.asarray(affine, float)[:3, :3]
        u, _, vt = np.linalg.svd(columns / np.linalg.norm(columns, axis=0))
        directions = u @ vt
        strength = np.abs(directions)
        axes, flipped = [0, 0, 0], [False, False, False]
        for voxel_axis in range(3):
            world_axis = int(strength[:, voxel_axis].argmax())
            strength[world_axis] = -1
            axes[world_axis], flipped[world_axis] = voxel_axis, bool(directions[world_axis, voxel_axis] < 0)
        return cls(tuple(axes), tuple(flipped))

    @classmethod
    def of_letters(cls, letters: str) -> "Reorientation":
        """ "LPS": x runs to the left, y to the back, z upwards. ValueError where this is no orientation."""
        axes, flipped = [-1, -1, -1], [False, False, False]
        for voxel_axis, letter in enumerate(letters):
            for world_axis, pair in enumerate(LETTERS):
                if letter in pair:
                    axes[world_axis], flipped[world_axis] = voxel_axis, letter == pair[0]
        if len(letters) != 3 or -1 in axes:
            raise ValueError(f"{letters!r} is no orientation; expected three letters, one of L and R, one of P and A, one of I and S.")
        return cls(tuple(axes), tuple(flipped))

    @property
    def letters(self) -> str:
        """The image's orientation, x first."""
        found = [""] * 3
        for pair, voxel_axis, flipped in zip(LETTERS, self.axes, self.flipped):
            found[voxel_axis] = pair[0 if flipped else 1]
        return "".join(found)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """(..., Z, Y, X) -> the same voxels in RAS, a view."""
        turned = np.moveaxis(array, [-1 - axis for axis in self.axes], [-1, -2, -3])
        return np.flip(turned, [-1 - world for world in range(3) if self.flipped[world]])

    def undo(self, array: np.ndarray) -> np.ndarray:
        """The reverse of `apply`."""
        turned = np.flip(array, [-1 - world for world in range(3) if self.flipped[world]])
        return np.moveaxis(turned, [-1, -2, -3], [-1 - axis for axis in self.axes])

    def affine_of_turned(self, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """(4, 4) of the turned image; `shape` (..., Z, Y, X) and `affine` are those before."""
        return _moved(affine, shape, zip(self.axes, range(3), self.flipped))

    def affine_of_undone(self, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """(4, 4) of the image as it was; `shape` (..., Z, Y, X) and `affine` are those of the turned one."""
        return _moved(affine, shape, zip(range(3), self.axes, self.flipped))


def _moved(affine: np.ndarray, shape: tuple[int, ...], moves: Iterable[tuple[int, int, bool]]) -> np.ndarray:
    """`affine` (4, 4) after axis `source` (x is 0) became axis `target`, for each (source, target, whether it was flipped) of `moves`."""
    moved = np.array(affine, float)
    for source, target, flipped in moves:
        column = np.asarray(affine, float)[:3, source]
        moved[:3, target] = -column if flipped else column
        if flipped:
            moved[:3, 3] += column * (shape[-1 - source] - 1)
    return moved


def geometry_of_affine(affine: np.ndarray) -> dict[str, Any]:
    """SimpleITK's spacing, origin and direction (x first, LPS) of an affine (4, 4) RAS; `forms` to write it; `affine` where axes are sheared."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    world = affine[:3] * RAS_TO_LPS
    direction = world[:, :3] / spacing
    geometry: dict[str, Any] = {"forms": {"codes": (0, 2), "qform": (0.0,) * 7, "sform": tuple(affine[:3].ravel().tolist())}}
    if np.abs(direction.T @ direction - np.eye(3)).max() > ORTHONORMAL:
        u, _, vt = np.linalg.svd(direction)
        direction = u @ vt
        geometry["affine"] = tuple(world.ravel().tolist())
    return geometry | {"spacing": tuple(spacing.tolist()), "origin": tuple(world[:, 3].tolist()), "direction": tuple(direction.ravel().tolist())}


def affine_of_geometry(stuff: dict[str, Any]) -> np.ndarray:
    """(4, 4) RAS of SimpleITK's geometry."""
    affine = np.eye(4)
    if "affine" in stuff:
        affine[:3] = np.reshape(stuff["affine"], (3, 4)) * RAS_TO_LPS
    else:
        affine[:3, :3] = np.reshape(stuff["direction"], (3, 3)) * np.asarray(stuff["spacing"]) * RAS_TO_LPS
        affine[:3, 3] = np.asarray(stuff["origin"]) * RAS_TO_LPS[:, 0]
    return affine
