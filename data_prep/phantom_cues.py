"""Phantoms whose classes show in one of twelve places, all drawn independently on the same images.

    python data_prep/make_phantom.py OUT --preset demo --cues

One training of the segmentation serves all cues: only the class head is fitted anew, to another column of OUT/cues.csv. Each cue has three
levels; what is drawn scatters around them. `mixed` depends weakly on several, and a tenth of its labels is wrong. Axes (z, y, x), mm, HU.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.phantom_anatomy import Abdomen, Canvas, SmoothNoise
from data_prep.phantom_lesion import PATTERNS, Lesion

LEVELS: dict[str, tuple[float, float, float]] = {
    "texture": (0, 1, 2),  # homogeneous, microcystic, necrotic
    "margin": (1.5, 4.0, 8.0),  # mm over which the edge fades
    "attenuation": (28, 48, 68),  # mean HU of the lesion
    "size": (9.0, 12.0, 16.0),  # radius
    "shape": (0, 1, 2),  # round, drawn out, lobulated
    "place": (0.17, 0.49, 0.82),  # along the centre line, head to tail
    "duct": (0.9, 2.2, 3.6),  # radius upstream of the lesion
    "atrophy": (1.0, 0.8, 0.6),  # factor on the gland's radius upstream
    "gland": (112, 98, 84),  # HU of the parenchyma
    "nodule": (0.0, 3.5, 5.5),  # radius of a nodule on the lesion's wall
    "calcification": (0, 3, 9),  # specks in the lesion
    "number": (1, 2, 3),  # lesions
}
SCATTER = {"margin": 0.15, "attenuation": 4.0, "size": 0.6, "place": 0.05, "duct": 0.25, "atrophy": 0.04, "gland": 3.0, "nodule": 0.4}
MIXED = {"size": 1.0, "attenuation": 1.0, "duct": 1.0, "margin": 1.0}  # weights of the levels that `mixed` adds up
MIXED_NOISE, MIXED_WRONG = 0.8, 0.1
CUES = (*LEVELS, "mixed")


@dataclass(frozen=True)
class Drawn:
    """Class (0, 1, 2) of every cue, and the number that was drawn for it."""

    classes: dict[str, int]
    values: dict[str, float]

    def _upstream(self, along: np.ndarray) -> np.ndarray:
        """0 up to the lesion, 1 behind it, for places along the centre line."""
        return np.clip((along - self.values["place"]) / 0.08, 0, 1)

    def thickness(self, along: np.ndarray) -> np.ndarray:
        """Factor on the gland's radius at places along its centre line."""
        return 1 + self._upstream(along) * (self.values["atrophy"] - 1)

    def duct_radius(self, along: np.ndarray) -> np.ndarray:
        """mm"""
        return 1.2 + self._upstream(along) * (self.values["duct"] - 1.2)


def draw(rng: np.random.Generator, texture: int | None = None) -> Drawn:
    """All cues, each class as likely; `texture` fixes that one."""
    classes = {cue: int(rng.integers(3)) for cue in LEVELS}
    if texture is not None:
        classes["texture"] = texture
    values = {}
    for cue, k in classes.items():
        scatter = SCATTER.get(cue, 0.0)
        value = LEVELS[cue][k] + rng.normal(0, scatter) * (LEVELS[cue][k] if cue == "margin" else 1)
        values[cue] = float(value if LEVELS[cue][k] else 0.0) if cue == "nodule" else float(value)
    values["place"] = float(np.clip(values["place"], 0.05, 0.95))
    total = sum(weight * (classes[cue] - 1) for cue, weight in MIXED.items()) + rng.normal(0, MIXED_NOISE)
    classes["mixed"] = int(total > -0.75) + int(total > 0.75)
    if rng.uniform() < MIXED_WRONG:
        classes["mixed"] = (classes["mixed"] + int(rng.integers(1, 3))) % 3
    return Drawn(classes, values)


class CueAbdomen(Abdomen):
    """An abdomen whose gland is as `drawn`."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, drawn: Drawn):
        super().__init__(canvas, rng)
        self.drawn = drawn
        self.parenchyma = drawn.values["gland"]

    def thickness(self, along: np.ndarray) -> np.ndarray:
        return self.drawn.thickness(along)

    def duct_radius(self, along: np.ndarray) -> np.ndarray:
        return self.drawn.duct_radius(along)


def paint_lesions(abdomen: CueAbdomen, drawn: Drawn, rng: np.random.Generator) -> list[Lesion]:
    """The lesion, and its satellites along the gland where there are several."""
    values = drawn.values
    centre = _at(abdomen, values["place"], rng)
    lesions = [_paint(abdomen, drawn, centre, values["size"], rng, main=True)]
    for _ in range(drawn.classes["number"]):
        away = rng.uniform(0.22, 0.4) * rng.choice([-1, 1])
        place = values["place"] + away
        place = place if 0.04 < place < 0.96 else values["place"] - away
        lesions.append(_paint(abdomen, drawn, _at(abdomen, float(np.clip(place, 0.03, 0.97)), rng), rng.uniform(4.5, 6.0), rng, main=False))
    return lesions


def _at(abdomen: Abdomen, along: float, rng: np.random.Generator) -> np.ndarray:
    at = int(along * (len(abdomen.spine) - 1))
    return abdomen.spine[at] + rng.normal(0, 0.3, 3) * abdomen.spine_radii[at]


def _paint(abdomen: CueAbdomen, drawn: Drawn, centre: np.ndarray, radius: float, rng: np.random.Generator, main: bool) -> Lesion:
    canvas, values, shape = abdomen.canvas, drawn.values, drawn.classes["shape"] if main else 0
    radii = radius * np.exp(rng.normal(0, 0.06, 3))
    if shape == 1:
        stretch = np.ones(3)
        stretch[rng.integers(3)] = 1.75
        radii = radii * stretch / 1.75 ** (1 / 3)
    centre = canvas.inside(centre, radii)
    width = values["margin"] if main else 2.0
    region, distance = canvas.ellipsoid(centre, radii, margin=width + 5)
    axes = canvas.local_axes(region)
    distance = distance + (3.2 if shape == 2 else 1.0) * SmoothNoise(rng, 7.0 if shape == 2 else 9.0, canvas.extent + 10)(axes)
    inside = distance < 0
    pattern = PATTERNS[drawn.classes["texture"]](canvas, region, distance, rng)
    pattern = pattern - pattern[inside].mean()
    opacity = np.clip(0.5 - distance / width, 0, 1)
    canvas.blend(region, opacity, values["attenuation"] + pattern)
    canvas.set_mean(region, opacity, inside, values["attenuation"])
    if main:
        if values["nodule"] > 0:  # hangs on the wall, reaches inward
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            seat = centre + direction * (radii - 0.5 * values["nodule"])
            canvas.paint(*canvas.ellipsoid(seat, np.full(3, values["nodule"])), 128.0)
        for _ in range(int(values["calcification"])):
            point = centre + rng.uniform(-0.6, 0.6, 3) * radii
            canvas.paint(*canvas.ellipsoid(point, rng.uniform(1.3, 2.2, 3)), rng.uniform(450, 900))
    return Lesion(region, distance, tuple(float(c) for c in centre), float(radius), values["attenuation"])
