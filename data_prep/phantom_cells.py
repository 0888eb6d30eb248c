"""A second painter for the cues, as unlike the first as the cues allow: it guards against heads that have learnt one painter.

No anatomy: the background is warped Voronoi cells of random tissue. The gland is a bent sausage in a random plane, lesions have outlines by
waves over directions, edges fade by a logistic curve, septa are a gyroid, calcifications are boxes, noise is white. What the cues mean (mm, HU,
places along the gland) is the same. Axes (z, y, x), mm.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from data_prep.phantom_anatomy import Canvas, SmoothNoise
from data_prep.phantom_cues import Drawn
from data_prep.phantom_lesion import Lesion

TISSUES = ((-105, 0.35), (35, 0.15), (70, 0.2), (125, 0.15), (175, 0.1), (-60, 0.05))  # HU, share of the cells
CELL = 28.0  # mm between cell centres, about
GYROID = 2 * np.pi / 11  # per mm


class CellWorld:
    """Draws a world from `rng` and paints it into `canvas`. `pancreas`: (region, signed distance) of the gland."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, drawn: Drawn):
        self.canvas, self.rng, self.drawn, self.values = canvas, rng, drawn, drawn.values
        self.parenchyma = self.values["gland"]
        self.coarse, self.fine = (SmoothNoise(rng, step, canvas.extent + 10) for step in (14, 4))
        self.lesions: list[Lesion] = []

    def paint(self) -> None:
        self._cells()
        self._gland()
        main = self._lesion(self.values["place"], self.values["size"], main=True)
        self.lesions = [main]
        for _ in range(self.drawn.classes["number"]):
            away = self.rng.uniform(0.25, 0.4) * self.rng.choice([-1, 1])
            place = self.values["place"] + away
            self.lesions.append(self._lesion(place if 0.04 < place < 0.96 else self.values["place"] - away, self.rng.uniform(4.5, 6.0), main=False))

    def _cells(self) -> None:
        canvas, rng = self.canvas, self.rng
        z, y, x = np.meshgrid(*canvas.axes, indexing="ij")
        warp = 6 * self.coarse(canvas.axes)
        low, high = [axis[0] - CELL for axis in canvas.axes], [axis[-1] + CELL for axis in canvas.axes]
        centres = rng.uniform(low, high, (int(np.prod(np.subtract(high, low)) / CELL**3), 3))
        _, cell = cKDTree(centres).query(np.stack([z + warp, y - warp, x + warp], -1).reshape(-1, 3))
        values, shares = zip(*TISSUES)
        tissue = rng.choice(values, len(centres), p=shares) + rng.normal(0, 8, len(centres))
        canvas.hu[:] = tissue[cell].reshape(canvas.hu.shape) + 4 * self.fine(canvas.axes)

    def _gland(self) -> None:
        canvas, rng = self.canvas, self.rng
        angle = np.linspace(-1, 1, 90) * rng.uniform(0.9, 1.2)
        bow = np.stack([np.zeros_like(angle), -55 * (np.cos(angle) - np.cos(angle).mean()), 46 * np.sin(angle)], axis=1)  # tail towards +x, the patient's left
        turn = Rotation.from_euler("zyx", [rng.normal(-28, 9), rng.normal(0, 9), rng.normal(0, 9)], degrees=True).as_matrix()
        self.spine = bow @ turn[::-1, ::-1] + rng.normal(0, 2, 3)
        along = np.linspace(0, 1, len(self.spine))
        self.radii = (10.5 + 1.5 * np.sin(2 * np.pi * along * rng.uniform(0.8, 1.6) + rng.uniform(0, 6))) * self.drawn.thickness(along)
        region, distance = canvas.tube(self.spine, self.radii)
        axes = canvas.local_axes(region)
        self.pancreas = region, distance + 1.2 * self.fine(axes)
        canvas.paint(region, self.pancreas[1] - 4, -95.0)  # a rim of fat
        canvas.paint(region, self.pancreas[1], self.parenchyma + 5 * self.fine(axes))
        duct_region, duct = canvas.tube(self.spine[8:-6:4], self.drawn.duct_radius(along)[8:-6:4])
        canvas.paint(duct_region, duct, 22.0)

    def _lesion(self, place: float, radius: float, main: bool) -> Lesion:
        canvas, rng, values, classes = self.canvas, self.rng, self.values, self.drawn.classes
        at = int(np.clip(place, 0.03, 0.97) * (len(self.spine) - 1))
        centre = self.spine[at] + rng.normal(0, 0.25, 3) * self.radii[at]
        stretch = np.ones(3)
        if main and classes["shape"] == 1:
            stretch[rng.integers(3)] = 1.75
        radii = radius * stretch / np.prod(stretch) ** (1 / 3)
        centre = canvas.inside(centre, radii)
        width = values["margin"] if main else 2.0
        region, distance = canvas.ellipsoid(centre, radii, margin=width + 6)
        away = [axis - c for axis, c in zip(np.ix_(*canvas.local_axes(region)), centre)]
        distance = distance + self._waves(away, height=0.17 * radius if main and classes["shape"] == 2 else 0.05 * radius, number=6 if main and classes["shape"] == 2 else 2)
        inside = distance < 0
        pattern = PATTERNS[classes["texture"]](canvas.local_axes(region), distance, rng)
        pattern = pattern - pattern[inside].mean()
        opacity = 1 / (1 + np.exp(np.clip(4 * distance / width, -40, 40)))
        canvas.blend(region, opacity, values["attenuation"] + pattern)
        canvas.set_mean(region, opacity, inside, values["attenuation"])
        if main:
            self._attachments(centre, radii)
        return Lesion(region, distance, tuple(float(c) for c in centre), float(radius), values["attenuation"])

    def _attachments(self, centre: np.ndarray, radii: np.ndarray) -> None:
        """The nodule on the wall, flat, and calcifications, boxes."""
        canvas, rng, values = self.canvas, self.rng, self.values
        if values["nodule"] > 0:
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            canvas.paint(*canvas.ellipsoid(centre + direction * (radii - 0.5 * values["nodule"]), values["nodule"] * rng.permutation([0.8, 1.0, 1.25])), 128.0)
        for _ in range(int(values["calcification"])):
            point, half = centre + rng.uniform(-0.6, 0.6, 3) * radii, rng.uniform(1.0, 1.8, 3)
            region = canvas.region(point - half - 3, point + half + 3)
            box = np.max(np.stack(np.broadcast_arrays(*(np.abs(axis - p) - h for axis, p, h in zip(canvas.coordinates(region), point, half)))), axis=0)
            canvas.paint(region, box, rng.uniform(450, 900))

    def _waves(self, away: list[np.ndarray], height: float, number: int) -> np.ndarray:
        """Outline in mm: plane waves over the direction from the centre."""
        length = np.maximum(np.sqrt(sum(part**2 for part in away)), 1e-3)
        total = np.zeros(np.broadcast_shapes(*(part.shape for part in away)))
        for _ in range(number):
            k, phase = self.rng.normal(0, 2.6, 3), self.rng.uniform(0, 2 * np.pi)
            total += np.cos(sum(a * part for a, part in zip(k, away)) / length + phase)
        return height * total / np.sqrt(number / 2)


def _flat(axes: list[np.ndarray], distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    slope = rng.normal(0, 0.4, 3)
    return sum(s * part for s, part in zip(slope, np.ix_(*axes))) + np.zeros_like(distance)


def _gyroid(axes: list[np.ndarray], distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Septa on the surface sin x cos y + sin y cos z + sin z cos x = 0."""
    z, y, x = (GYROID * part + shift for part, shift in zip(np.ix_(*axes), rng.uniform(0, 2 * np.pi, 3)))
    level = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)
    return rng.uniform(70, 115) * np.exp(-((level / 0.45) ** 2))


def _ring(axes: list[np.ndarray], distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bright shell with gaps over a speckled centre."""
    z, y, x = (np.cos(part * rng.uniform(0.15, 0.3) + rng.uniform(0, 6)) for part in np.ix_(*axes))
    return rng.uniform(60, 100) * np.exp(-(((distance + 3.5) / 2.5) ** 2)) * np.clip(0.8 + 0.5 * z * y * x, 0, 1.4) + rng.normal(0, 14, distance.shape)


Pattern = Callable[[list[np.ndarray], np.ndarray, np.random.Generator], np.ndarray]
PATTERNS: tuple[Pattern, ...] = (_flat, _gyroid, _ring)  # by the class of the texture
