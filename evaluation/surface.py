"""Distances between the surfaces of two masks, in mm.

A surface is a list of points with weights. Two definitions are in use, and they give different numbers:

`elements` (default): the points are the corners where eight voxels meet, the weight is the area of the marching-cubes
    surface through that corner in mm^2. Unbiased under anisotropic spacing. Nikolov et al., "Clinically applicable
    segmentation of head and neck anatomy for radiotherapy", JMIR 2021 (which introduced NSD); used by the FLARE challenges.
`voxels`: the points are the centres of mask voxels with a face neighbour outside, each of weight 1. Maier-Hein, Reinke
    et al., "Metrics reloaded", Nature Methods 2024, and its reference implementation.

Arrays are (Z, Y, X), or (Y, X) for `voxels`; spacing has the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes, mesh_surface_area

CORNERS = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]  # bit k of a corner code = voxel CORNERS[k] is set


@lru_cache(maxsize=64)
def corner_areas(spacing: tuple[float, float, float]) -> np.ndarray:
    """Area in mm^2 of the surface inside the cube between eight voxel centres, for each of the 256 patterns: (256,).

    A pattern and its complement bound the same surface, so the one with fewer set voxels stands for both. That settles
    the ambiguous patterns of marching cubes (Lorensen and Cline, SIGGRAPH 1987) as the NSD paper's own table does.
    """
    areas = np.zeros(256)
    for code in range(1, 255):
        cube = np.array([code >> k & 1 for k in range(8)], dtype=float).reshape(2, 2, 2)
        if cube.sum() > 4:
            cube = 1 - cube
        vertices, faces, _, _ = marching_cubes(cube, 0.5, spacing=spacing, method="lorensen")
        areas[code] = mesh_surface_area(vertices, faces)
    return areas


def surface_elements(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Corner points (n, 3) in mm and their areas (n,) in mm^2 of a boolean mask (Z, Y, X)."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([size - 1 for size in padded.shape], np.uint8)
    for bit, (z, y, x) in enumerate(CORNERS):
        codes |= padded[z:z + codes.shape[0], y:y + codes.shape[1], x:x + codes.shape[2]] << bit
    corners = np.nonzero((codes != 0) & (codes != 255))
    points = (np.stack(corners, axis=1) - 0.5) * np.asarray(spacing, float)  # corner i lies between voxels i - 1 and i
    return points, corner_areas(tuple(float(s) for s in spacing))[codes[corners]]


def boundary_voxels(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, dims) in mm of the mask voxels with a face neighbour outside, weights 1."""
    points = np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing, float)
    return points, np.ones(len(points))


SURFACES = {"elements": surface_elements, "voxels": boundary_voxels}


@dataclass(frozen=True)
class SurfaceDistances:
    """Nearest distances (mm) from each surface's points to the other surface, with the points' weights. All 1-D."""

    reference_to_prediction: np.ndarray
    reference_weights: np.ndarray
    prediction_to_reference: np.ndarray
    prediction_weights: np.ndarray

    @classmethod
    def between(cls, reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float],
                definition: str = "elements") -> "SurfaceDistances":
        """Distances between two boolean masks of one shape; ValueError if either is empty, as no distance is defined then."""
        if reference.shape != prediction.shape or reference.ndim != len(spacing):
            raise ValueError(f"masks {reference.shape} and {prediction.shape} with spacing {tuple(spacing)} do not fit together")
        if not (reference.any() and prediction.any()):
            raise ValueError("surface distances need two non-empty masks; the caller decides what an empty one means")
        points_ref, weights_ref = SURFACES[definition](reference, spacing)
        points_pred, weights_pred = SURFACES[definition](prediction, spacing)
        return cls(cKDTree(points_pred).query(points_ref)[0], weights_ref, cKDTree(points_ref).query(points_pred)[0], weights_pred)

    def nsd(self, tolerance: float) -> float:
        """Normalised surface distance (surface Dice): share of both surfaces within `tolerance` mm of the other, 0 to 1.

        A hair is added to the tolerance so that a distance of exactly 1 mm counts whatever its rounding.
        """
        tolerance = tolerance + 1e-6
        near = (self.reference_weights[self.reference_to_prediction <= tolerance].sum()
                + self.prediction_weights[self.prediction_to_reference <= tolerance].sum())
        return float(near / (self.reference_weights.sum() + self.prediction_weights.sum()))

    def hausdorff(self, percentile: float = 95) -> float:
        """Larger of the two directed percentiles of the weighted distances, mm; 100 gives the Hausdorff distance."""
        return max(_weighted_percentile(self.reference_to_prediction, self.reference_weights, percentile),
                   _weighted_percentile(self.prediction_to_reference, self.prediction_weights, percentile))

    def directed_means(self) -> tuple[float, float]:
        """Mean distance (mm) from the reference's surface to the prediction's, and back."""
        return (float(np.average(self.reference_to_prediction, weights=self.reference_weights)),
                float(np.average(self.prediction_to_reference, weights=self.prediction_weights)))

    def masd(self) -> float:
        """Mean average surface distance, mm: mean of the two directed means, so that both surfaces count alike."""
        return float(np.mean(self.directed_means()))

    def assd(self) -> float:
        """Average symmetric surface distance, mm: mean over all points of both surfaces, so that the larger counts more."""
        return float(np.average(np.concatenate([self.reference_to_prediction, self.prediction_to_reference]),
                                weights=np.concatenate([self.reference_weights, self.prediction_weights])))


def _weighted_percentile(values: np.ndarray, weights: np.ndarray, percentile: float) -> float:
    """Smallest value below or at which `percentile` % of the weight lies."""
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    index = np.searchsorted(share, percentile / 100 - 1e-12)
    return float(values[order[min(index, len(values) - 1)]])
