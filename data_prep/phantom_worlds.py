"""Who paints a phantom, with which noise, and how it is scanned. Axes (z, y, x), mm, HU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from data_prep.phantom_anatomy import Abdomen, Canvas, Region
from data_prep.phantom_cells import CellWorld
from data_prep.phantom_cues import CUES, CueAbdomen, Drawn, paint_lesions
from data_prep.phantom_lesion import Lesion, paint_lesion
from data_prep.phantom_scanner import SCANNERS, Scanner

Painted = tuple[Region, np.ndarray]  # the gland's box and its signed distance


def paint_abdomen(canvas: Canvas, rng: np.random.Generator, subtype: int, radius_mm: tuple[float, float], drawn: Drawn | None,
                  scanner: Scanner) -> tuple[Painted, list[Lesion]]:
    abdomen = Abdomen(canvas, rng) if drawn is None else CueAbdomen(canvas, rng, drawn)
    abdomen.parenchyma += scanner.gland
    abdomen.venous += scanner.veins
    abdomen.arterial += scanner.arteries
    abdomen.paint()
    lesions = [paint_lesion(abdomen, subtype, rng, radius_mm)] if drawn is None else paint_lesions(abdomen, drawn, rng)
    return abdomen.pancreas, lesions


def paint_cells(canvas: Canvas, rng: np.random.Generator, subtype: int, radius_mm: tuple[float, float], drawn: Drawn | None,
                scanner: Scanner) -> tuple[Painted, list[Lesion]]:
    assert drawn is not None  # Manner sees to it
    world = CellWorld(canvas, rng, drawn)
    world.parenchyma += scanner.gland
    world.paint()
    return world.pancreas, world.lesions


def ct_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise of unit variance with the mid-frequency hump of filtered back-projection: no lowest frequencies, none at Nyquist."""
    white = rng.standard_normal(shape).astype(np.float32)
    noise = gaussian_filter(white, (0.35, 0.6, 0.6)) - 0.7 * gaussian_filter(white, (0.8, 1.7, 1.7))
    return noise / noise.std()


def white_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


Painter = Callable[[Canvas, np.random.Generator, int, tuple[float, float], Drawn | None, Scanner], tuple[Painted, list[Lesion]]]
Noise = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]
WORLDS: dict[str, tuple[Painter, Noise]] = {"abdomen": (paint_abdomen, ct_noise), "cells": (paint_cells, white_noise)}


@dataclass(frozen=True)
class Manner:
    """How a data set is made, besides its preset. cues: classes of twelve kinds; world: a key of WORLDS, the second one with cues alone; scanner: of SCANNERS."""

    cues: bool = False
    world: str = "abdomen"
    scanner: str = "standard"

    def __post_init__(self) -> None:
        if self.world not in WORLDS or self.scanner not in SCANNERS:
            raise ValueError(f"world {self.world!r}, scanner {self.scanner!r}: choose of {', '.join(WORLDS)}, and of {', '.join(SCANNERS)}.")
        if self.world != "abdomen" and not self.cues:
            raise ValueError(f"--world {self.world} paints cues alone. Add --cues.")

    def settings(self) -> dict[str, Any]:
        """Of phantom.json; only what is not the default, so that older data sets stay what they are."""
        return {**({"cues": list(CUES)} if self.cues else {}), **{key: value for key, value in (("world", self.world), ("scanner", self.scanner))
                                                                  if value != getattr(Manner, key)}}


PLAIN = Manner()
