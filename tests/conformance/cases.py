"""Synthetic data both sides work on: raw data sets with volumes that have something to crop, resample and segment."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

CT = {"0": "CT"}
LABELS = {"background": 0, "pancreas": 1, "lesion": 2}


@dataclass(frozen=True)
class Geometry:
    """What the planner looks at: per-case shapes (voxels) and spacings (mm), both (z, y, x), after cropping."""

    name: str
    shapes: list[tuple[int, ...]]
    spacings: list[tuple[float, ...]]
    channels: dict[str, str] = field(default_factory=lambda: CT)
    relative_size: float = 1.0
    labels: dict[str, Any] = field(default_factory=lambda: LABELS)


def same(name: str, shape: tuple[int, ...], spacing: tuple[float, ...], n: int = 40, **more: Any) -> Geometry:
    """`n` cases of one shape and spacing."""
    return Geometry(name, [shape] * n, [spacing] * n, **more)


GEOMETRIES = [
    same("quiz-like", (59, 117, 180), (2.0, 0.7305, 0.7305), 250),
    same("isotropic", (140, 150, 160), (1.0, 1.0, 1.0)),
    Geometry("anisotropy > 3", [(20, 320, 320), (24, 300, 310), (18, 330, 300)] * 10,
             [(6.0, 0.8, 0.8), (5.0, 0.9, 0.9), (7.0, 0.75, 0.75)] * 10),
    same("thick slices, many", (150, 260, 260), (5.0, 1.2, 1.2)),
    same("tiny", (12, 14, 18), (1.5, 1.0, 1.0), 12),
    same("huge, lowres", (500, 512, 512), (0.8, 0.7, 0.7), 30),
    same("flat, 2D", (1, 400, 500), (999.0, 1.0, 1.0), 60),
    same("two channels, cropped", (130, 170, 140), (1.0, 1.0, 1.1), channels={"0": "T1", "1": "CT"}, relative_size=0.4),
    same("coarse axis last", (200, 180, 40), (0.8, 0.8, 3.0)),
    same("coarse axis in the middle", (90, 30, 120), (1.0, 4.0, 1.3)),
    same("three cases", (64, 64, 64), (1.2, 1.2, 1.2), 3),
    same("regions, ignore label", (59, 117, 180), (2.0, 0.7305, 0.7305), 50,
         labels={"background": 0, "whole": [1, 2], "lesion": 2, "ignore": 3}),
]


def random_geometries(n: int, seed: int = 0) -> list[Geometry]:
    """Geometries nobody chose: log-uniform spacings and extents, mixed within a data set."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        spacing, extent = np.exp(rng.uniform(np.log(0.4), np.log(6), 3)), np.exp(rng.uniform(np.log(40), np.log(500), 3))
        spacings = spacing * rng.uniform(0.8, 1.25, (15, 3))
        shapes = np.maximum(np.round(extent * rng.uniform(0.8, 1.25, (15, 3)) / spacings), 8).astype(int)
        found.append(Geometry(f"random {i}", [tuple(s) for s in shapes.tolist()], [tuple(s) for s in spacings.tolist()]))
    return found


def fingerprint(geometry: Geometry) -> dict[str, Any]:
    """`dataset_fingerprint.json` as extraction would have written it for `geometry`."""
    intensity = {"mean": 74.9, "median": 77.5, "std": 44.1, "min": -320.25, "max": 912.0,
                 "percentile_00_5": -56.0, "percentile_99_5": 180.0}
    return {"spacings": geometry.spacings, "shapes_after_crop": geometry.shapes,
            "foreground_intensity_properties_per_channel": {c: intensity for c in geometry.channels},
            "median_relative_size_after_cropping": geometry.relative_size}


def volume(shape: tuple[int, int, int], seed: int, air_margin: int = 0, lesion: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A CT-like volume (Z, Y, X) in HU and its labels: a bright ellipsoid "organ" with a darker "lesion" in textured noise.

    `air_margin` voxels of exact zero around the body give cropping something to remove.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    centre = rng.uniform(-0.25, 0.25, 3)[:, None, None, None]
    organ = np.sum(((grid - centre) / np.array([0.6, 0.45, 0.5])[:, None, None, None]) ** 2, 0) < 1
    spot = np.sum((grid - centre - 0.12) ** 2, 0) < 0.05
    labels = organ.astype(np.uint8)
    if lesion:
        labels[organ & spot] = 2
    noise = gaussian_filter(rng.normal(0, 1, shape), 1.0)
    image = 40 + 60 * organ - 45 * (labels == 2) + 25 * noise / noise.std()
    if air_margin:
        inside = np.zeros(shape, bool)
        inside[tuple(slice(air_margin, n - air_margin) for n in shape)] = True
        image[~inside], labels[~inside] = 0, 0
    return image.astype(np.float32), labels


def write_image(array: np.ndarray, path: Path, spacing: tuple[float, ...], direction: tuple[float, ...] | None = None,
                origin: tuple[float, ...] = (-12.5, 30.25, 7.0)) -> None:
    """Write (Z, Y, X) `array` with `spacing` (z, y, x) mm; `direction` is SimpleITK's, row-major 3x3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path), useCompression=True)


def write_dataset_json(folder: Path, channels: dict[str, str], labels: dict[str, Any], n: int) -> dict[str, Any]:
    description: dict[str, Any] = {"channel_names": channels, "labels": labels, "numTraining": n, "file_ending": ".nii.gz"}
    regions = [v for v in labels.values() if isinstance(v, list)]
    if regions:
        description["regions_class_order"] = [1, 2]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    return description


FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
OBLIQUE = tuple(np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]]).ravel().tolist())


@dataclass(frozen=True)
class CaseSpec:
    """One synthetic case: shape (voxels) and spacing (mm) in (z, y, x), zero margin, direction cosines."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    margin: int = 0
    direction: tuple[float, ...] | None = None
    lesion: bool = True


def write_dataset(raw: Path, number: int, name: str, specs: list[CaseSpec], channels: dict[str, str] = CT,
                  labels: dict[str, Any] = LABELS) -> Path:
    """Write nnUNet_raw/Dataset<number>_<name> with cases case_000, case_001, ... to imagesTr and labelsTr."""
    folder = raw / f"Dataset{number:03d}_{name}"
    for i, spec in enumerate(specs):
        for channel in range(len(channels)):
            image, seg = volume(spec.shape, seed=1000 * number + 10 * i + channel, air_margin=spec.margin, lesion=spec.lesion)
            if channel == 0:
                write_image(seg, folder / f"labelsTr/case_{i:03d}.nii.gz", spec.spacing, spec.direction)
            write_image(image, folder / f"imagesTr/case_{i:03d}_{channel:04d}.nii.gz", spec.spacing, spec.direction)
    write_dataset_json(folder, channels, labels, len(specs))
    return folder
