"""A DICOM series as one volume: its slices sorted by position, and all that keeps them from being one regular grid.

What counts are ImagePositionPatient and ImageOrientationPatient. File names and instance numbers say nothing about where a slice lies.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunetv2.imageio.dicom_files import Series, header_problems, repeated_files, shown
from nnunetv2.imageio.dicom_header import Plane
from nnunetv2.imageio.geometry import MAX_SHIFT
from nnunetv2.imageio.nifti_file import MAX_SPACING, MIN_SPACING
from nnunetv2.utilities.errors import InputError, list_some, name_some
from nnunetv2.utilities.memory import refuse_beyond_memory

SAME_PLACE = 0.01  # mm between two slices below which they lie at one place
SAME_DIRECTION, SAME_SPACING = 1e-3, 1e-3  # differences within a series that rounding explains
ROUNDED_POSITIONS = 0.1  # mm that positions with one decimal put a slice off an even grid
GAP = 1.5  # times the usual distance
ROUNDED_DIRECTIONS = 7e-4  # sideways shift, as a share of the distance, that directions with three decimals explain


@dataclass(frozen=True)
class Stack:
    """planes: from the lowest to the highest along the normal of their plane. spacing, origin, direction: SimpleITK's, x first.

    shear: mm that the slices move along the row and the column direction for each mm along the normal, (0, 0) where the volume's axes
    are at right angles.
    """

    planes: tuple[Plane, ...]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    shear: tuple[float, float] = (0.0, 0.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Z, Y, X."""
        return (len(self.planes), *self.planes[0].size)

    @property
    def tilt(self) -> float:
        """Degrees between the line of the slices and the normal of their plane."""
        return float(np.degrees(np.arctan(np.hypot(*self.shear))))

    @property
    def geometry(self) -> dict[str, Any]:
        return {"spacing": self.spacing, "origin": self.origin, "direction": self.direction}


def stack_of(series: Series, sheared: bool = False) -> Stack:
    """The sorted slices. sheared: a tilted gantry's stack is taken, too, and its `shear` says so.

    Raises:
        InputError: lists all that is wrong: headers, slices of other sizes or directions, places with several slices, gaps, uneven
            distances, shifts to the side, a volume larger than the memory.
    """
    problems = header_problems(series)
    if series.planes:
        mixed = _mixed(series.planes)
        problems += mixed or _position_problems(series.planes, sheared)
    if problems:
        raise InputError(f"{series.label}: {len(problems)} problem(s):\n{list_some(problems)}")
    stack = _stack(series.planes, sheared)
    refuse_beyond_memory(8 * int(np.prod(stack.shape, dtype=object)), "its volume", series.label)
    return stack


def _normal(plane: Plane) -> np.ndarray:
    row, column = np.reshape(plane.orientation, (2, 3))
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def _sorted(planes: Sequence[Plane]) -> tuple[list[Plane], np.ndarray]:
    """The planes by their distance along the normal of the first, and the distances, mm."""
    distances = np.array([plane.position for plane in planes]) @ _normal(planes[0])
    order = np.argsort(distances, kind="stable")
    return [planes[i] for i in order], distances[order]


def _sideways(planes: Sequence[Plane]) -> np.ndarray:
    """(n, 2) mm that each plane lies off the first along the row and the column direction."""
    offsets = np.array([plane.position for plane in planes]) - planes[0].position
    return offsets @ np.reshape(planes[0].orientation, (2, 3)).T


def _stack(planes: Sequence[Plane], sheared: bool) -> Stack:
    ordered, distances = _sorted(planes)
    first, span = ordered[0], float(distances[-1] - distances[0])
    row, column = np.reshape(first.orientation, (2, 3))
    u, _, vt = np.linalg.svd(np.column_stack([row, column, _normal(first)]))  # the orthonormal directions nearest to rounded ones
    direction = u @ vt
    spacing = (first.spacing[1], first.spacing[0], span / (len(ordered) - 1))
    shear = tuple((_sideways(ordered)[-1] / span).tolist()) if sheared and _sideways_shift(ordered, distances)[0] > 0 else (0.0, 0.0)
    return Stack(tuple(ordered), spacing, first.position, tuple(direction.ravel().tolist()), shear)


def _mixed(planes: Sequence[Plane]) -> list[str]:
    """One problem that tells the kinds of slices apart by size, spacing, direction; none where all are of one kind."""
    kinds: list[list[Plane]] = []
    for plane in planes:
        kind = next((kind for kind in kinds if _alike(kind[0], plane)), None)
        kinds.append([plane]) if kind is None else kind.append(plane)
    if len(kinds) == 1:
        return []
    listed = "; ".join(f"{len(kind)} of {kind[0].size[1]} x {kind[0].size[0]} voxels of {kind[0].spacing[1]:g} x {kind[0].spacing[0]:g} mm along "
                       f"{tuple(round(value, 3) for value in kind[0].orientation)} ({_names(kind)})" for kind in sorted(kinds, key=len, reverse=True)[:5])
    return [f"its slices are of {len(kinds)} kinds: {listed}. Put each kind into a series of its own, or remove what does not belong to the volume"]


def _alike(a: Plane, b: Plane) -> bool:
    return a.size == b.size and np.allclose(a.spacing, b.spacing, rtol=SAME_SPACING, atol=0) and np.allclose(a.orientation, b.orientation, rtol=0, atol=SAME_DIRECTION)


def _position_problems(planes: Sequence[Plane], sheared: bool) -> list[str]:
    ordered, distances = _sorted(planes)
    places = np.split(np.arange(len(ordered)), np.flatnonzero(np.diff(distances) > SAME_PLACE) + 1)
    problems = _repeated(ordered, places)
    if len(places) < 2:
        return problems or ["it has one slice; a volume has two or more"]
    single = [ordered[place[0]] for place in places]
    at = np.array([distances[place[0]] for place in places])
    problems += _distance_problems(single, at)
    shift, angle, even = _sideways_shift(single, at)
    if shift and not even:
        problems.append(f"its slices are shifted to the side by up to {shift:.3g} mm, and not evenly: ImagePositionPatient does not describe one volume. Export it again")
    elif shift and not sheared:
        problems.append(f"its slices are sheared: the gantry was tilted by {angle:.2f} degrees ({shift:.3g} mm to the side from first to last). "
                        "Resample it: data_prep/from_dicom.py --resample-tilt")
    return problems


def _repeated(ordered: Sequence[Plane], places: Sequence[np.ndarray]) -> list[str]:
    several = [[ordered[i] for i in place] for place in places if len(place) > 1]
    if not several:
        return []
    listed = "; ".join(f"{_names(group)} at {_at(group[0])}" for group in several[:3])
    copies = repeated_files([plane for group in several for plane in group])
    acquisitions = {plane.acquisition for group in several for plane in group}
    remedy = ("They are copies of one image (same SOPInstanceUID): remove all but one" if copies
              else f"They differ in AcquisitionNumber ({name_some(sorted(acquisitions))}): put each acquisition into a series of its own" if len(acquisitions) > 1
              else "Remove those that do not belong to the volume, or split phases into series of their own")
    return [f"{len(several)} of {len(places)} places hold several slices: {listed}{', ...' if len(several) > 3 else ''}. {remedy}"]


def _distance_problems(planes: Sequence[Plane], at: np.ndarray) -> list[str]:
    """Gaps by the slices beside them; else the slice that is furthest from an even grid."""
    steps = np.diff(at)
    usual = float(np.median(steps))
    if not MIN_SPACING <= usual <= MAX_SPACING:
        return [f"its slices are {usual:g} mm apart; {MIN_SPACING:g} to {MAX_SPACING:g} mm are possible. Export it again"]
    gaps = np.flatnonzero(steps > GAP * usual)
    if len(gaps):
        listed = "; ".join(f"{steps[i]:.4g} mm between {shown(planes[i].path.name)} at {_at(planes[i])} and {shown(planes[i + 1].path.name)} at "
                           f"{_at(planes[i + 1])}" for i in gaps[:5])
        missing = int(np.round(steps[gaps] / usual).sum()) - len(gaps)
        return [f"{missing} slice(s) are missing, others are {usual:.4g} mm apart: {listed}{', ...' if len(gaps) > 5 else ''}. Export the whole series"]
    even = np.linspace(at[0], at[-1], len(at))
    off, spacing = np.abs(at - even), (at[-1] - at[0]) / (len(at) - 1)
    worst = int(off.argmax())
    if off[worst] <= max(MAX_SHIFT * spacing, min(ROUNDED_POSITIONS, 2 * MAX_SHIFT * spacing)):
        return []
    return [f"its slices are unevenly spaced, {steps.min():.4g} to {steps.max():.4g} mm apart; {shown(planes[worst].path.name)} at {_at(planes[worst])} is "
            f"{off[worst]:.3g} mm off an even grid. Export it with even spacing, or resample it"]


def _sideways_shift(planes: Sequence[Plane], at: np.ndarray) -> tuple[float, float, bool]:
    """(largest shift, mm, 0 where it is none; tilt, degrees; whether it grows evenly)."""
    sideways, span = _sideways(planes), float(at[-1] - at[0])
    allowed = max(MAX_SHIFT * min(planes[0].spacing), ROUNDED_DIRECTIONS * span)
    shift = float(np.linalg.norm(sideways, axis=1).max())
    if shift <= allowed:
        return 0.0, 0.0, True
    along = (at - at[0])[:, None]
    rate = sideways[-1] / span
    uneven = float(np.linalg.norm(sideways - along * rate, axis=1).max())
    return shift, float(np.degrees(np.arctan(np.linalg.norm(rate)))), uneven <= allowed


def _names(planes: Sequence[Plane]) -> str:
    frames = Counter(plane.path for plane in planes)
    times = Counter(path.name for path in frames)
    names = {path: shown(path.name if times[path.name] == 1 else path) for path in frames}
    return name_some([names[path] if n == 1 else f"{names[path]} ({n} frames)" for path, n in frames.items()], 3)


def _at(plane: Plane) -> str:
    return f"({', '.join(f'{value:.4g}' for value in plane.position)})"

