"""Pancreatic lesions whose subtype shows in texture and margin, not in size, position or mean attenuation.

    0  homogeneous, sharp margin
    1  microcystic: dark cells between enhancing septa, sharp margin
    2  necrotic: dark, uneven centre, thick broken rim, ill-defined margin

Shape, size, place and mean HU of all three come from one distribution. Axes (z, y, x), mm.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from data_prep.phantom_anatomy import Abdomen, Canvas, Region, SmoothNoise

MARGIN_MM = (1.5, 1.5, 7.0)  # width over which the subtype's edge fades into its surroundings
CELL_MM = 10.5  # distance between cyst centres; about 4 voxels even at the coarsest preset that is trained on


@dataclass(frozen=True)
class Lesion:
    """A lesion's mask as signed distance (negative inside) in a box of the canvas, and what was drawn."""

    region: Region
    distance: np.ndarray
    centre: tuple[float, float, float]
    radius_mm: float
    mean_hu: float


def paint_lesion(abdomen: Abdomen, subtype: int, rng: np.random.Generator, radius_range: tuple[float, float]) -> Lesion:
    """Grow a lesion of `subtype` out of the painted pancreas; its mean HU over the mask is independent of the subtype."""
    canvas = abdomen.canvas
    radius = rng.uniform(*radius_range)
    radii = radius * np.exp(rng.normal(0, 0.12, 3))
    centre = _place(abdomen, radii, rng)
    region, distance = canvas.ellipsoid(centre, radii, margin=MARGIN_MM[subtype] + 3)
    outline = SmoothNoise(rng, 9.0, canvas.extent + 10)
    distance = distance + 1.3 * outline(canvas.local_axes(region))
    inside = distance < 0
    target = float(np.clip(rng.normal(46, 12), 18, 76))
    pattern = PATTERNS[subtype](canvas, region, distance, rng)
    pattern -= pattern[inside].mean()
    opacity = np.clip(0.5 - distance / MARGIN_MM[subtype], 0, 1)
    canvas.blend(region, opacity, target + pattern)
    # A wide margin lets the surroundings into the mask, which alone would tell the subtype by its mean: take that out again.
    canvas.set_mean(region, opacity, inside, target)
    return Lesion(region, distance, tuple(float(c) for c in centre), float(radius), target)


def _place(abdomen: Abdomen, radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A point near the gland's centre line from which the whole lesion stays inside the volume."""
    at = int(rng.uniform(0.05, 0.95) * (len(abdomen.spine) - 1))
    centre = abdomen.spine[at] + rng.normal(0, 0.35, 3) * abdomen.spine_radii[at]
    room = radii + 5  # mm, outline wobble included
    low = [axis[0] + r for axis, r in zip(abdomen.canvas.axes, room)]
    high = [axis[-1] - r for axis, r in zip(abdomen.canvas.axes, room)]
    return np.clip(centre, low, high)


def _homogeneous(canvas: Canvas, region: Region, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(3, 12) * SmoothNoise(rng, 8.0, canvas.extent + 10)(canvas.local_axes(region))


def _microcystic(canvas: Canvas, region: Region, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Voronoi cells of jittered lattice points (Worley 1996): septa where the two nearest centres are equally far."""
    axes = canvas.local_axes(region)
    lattice = np.stack(np.meshgrid(*(np.arange(a[0] - CELL_MM, a[-1] + 2 * CELL_MM, CELL_MM) for a in axes), indexing="ij"), -1)
    centres = lattice.reshape(-1, 3) + rng.uniform(-0.38, 0.38, (lattice.size // 3, 3)) * CELL_MM
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    nearest, _ = cKDTree(centres).query(voxels.reshape(-1, 3), k=2)
    gap = (nearest[:, 1] - nearest[:, 0]).reshape(distance.shape)
    return (rng.uniform(70, 115) * np.exp(-((gap / 3.0) ** 2))).astype(np.float32)


def _necrotic(canvas: Canvas, region: Region, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    axes = canvas.local_axes(region)
    broken = np.clip(0.75 + 0.55 * SmoothNoise(rng, 10.0, canvas.extent + 10)(axes), 0, 1.6)
    rim = np.exp(-(((distance + 4.0) / 2.8) ** 2))
    uneven = SmoothNoise(rng, 6.0, canvas.extent + 10)(axes)
    return rng.uniform(60, 100) * rim * broken + 10 * uneven


PATTERNS = (_homogeneous, _microcystic, _necrotic)  # by subtype
