"""Radiomics-style features of a lesion: intensity, texture, margin and shape, in mm and HU, so that spacing matters little.

Axes (z, y, x). Definitions of co-occurrence and shape features follow IBSI (Zwanenburg et al., Radiology 2020), without its
resampling step.
"""

from itertools import product

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

CORE_MM = 4.0  # deeper than this below the surface counts as core, the rest as rim
CONTEXT_MM = 5.0  # thickness of the shell around the lesion that margin features look at
GREY_RANGE_HU, GREY_LEVELS = (-60.0, 160.0), 16  # co-occurrence bins
DIRECTIONS = [d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]  # 13 neighbours, one of each opposite pair

INTENSITY = ("mean", "sd", "skewness", "kurtosis", "p10", "p50", "p90")
TEXTURE = ("core_sd", "rim_sd", "rim_minus_core", "core_gradient", "rim_gradient", "band_1mm5", "band_3mm", "contrast", "correlation",
           "homogeneity", "energy")
MARGIN = ("margin_step", "margin_gradient", "margin_sd")
SHAPE = ("volume_ml", "sphericity", "elongation", "flatness")
NAMES = (*INTENSITY, *TEXTURE, *MARGIN, *SHAPE)


def lesion_features(image: np.ndarray, lesion: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray | None:
    """Features (len(NAMES),) float of the lesion: image (Z, Y, X) HU, lesion (Z, Y, X) bool, spacing (z, y, x) mm.

    None for a lesion of fewer than 8 voxels, which has no texture. All values are finite.
    """
    if lesion.sum() < 8:
        return None
    pad = np.ceil((CONTEXT_MM + 6) / np.array(spacing)).astype(int)
    box = tuple(slice(max(s.start - p, 0), s.stop + p) for s, p in zip(ndimage.find_objects(lesion.astype(np.uint8))[0], pad))
    image, lesion = image[box].astype(np.float64), lesion[box]
    return np.concatenate([_intensity(image[lesion]), _texture(image, lesion, spacing), _margin(image, lesion, spacing),
                           _shape(lesion, spacing)])


def _intensity(hu: np.ndarray) -> list[float]:
    mean, sd = hu.mean(), hu.std() + 1e-6
    z = (hu - mean) / sd
    return [mean, sd, (z**3).mean(), (z**4).mean(), *np.percentile(hu, (10, 50, 90))]


def _smooth(image: np.ndarray, sigma_mm: float, spacing: tuple[float, float, float]) -> np.ndarray:
    return ndimage.gaussian_filter(image, sigma_mm / np.array(spacing))


def _gradient(image: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Gradient magnitude, HU per mm, of the image smoothed by 1 mm."""
    return np.sqrt(sum(g**2 for g in np.gradient(_smooth(image, 1.0, spacing), *spacing)))


def _texture(image: np.ndarray, lesion: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    depth = ndimage.distance_transform_edt(np.pad(lesion, 1), spacing)[1:-1, 1:-1, 1:-1]
    core = lesion & (depth > min(CORE_MM, 0.5 * depth.max()))  # a small lesion has a core too
    rim = lesion & ~core if (lesion & ~core).any() else core  # one voxel thick: nothing but surface
    gradient = _gradient(image, spacing)
    bands = [(_smooth(image, s, spacing) - _smooth(image, 2 * s, spacing))[core].std() for s in (1.5, 3.0)]
    return [image[core].std(), image[rim].std(), image[rim].mean() - image[core].mean(), gradient[core].mean(), gradient[rim].mean(),
            *bands, *_cooccurrence(image, lesion)]


def _cooccurrence(image: np.ndarray, lesion: np.ndarray) -> list[float]:
    """Contrast, correlation, homogeneity and energy of grey-level pairs one voxel apart, all 13 directions merged."""
    low, high = GREY_RANGE_HU
    level = np.clip((image - low) / (high - low) * GREY_LEVELS, 0, GREY_LEVELS - 1).astype(int)
    counts = np.zeros(GREY_LEVELS**2)
    for step in DIRECTIONS:
        here = tuple(slice(max(-d, 0), n - max(d, 0)) for d, n in zip(step, lesion.shape))
        there = tuple(slice(max(d, 0), n - max(-d, 0)) for d, n in zip(step, lesion.shape))
        both = lesion[here] & lesion[there]
        counts += np.bincount(level[here][both] * GREY_LEVELS + level[there][both], minlength=GREY_LEVELS**2)
    pairs = counts.reshape(GREY_LEVELS, GREY_LEVELS)
    share = (pairs + pairs.T) / max(2 * pairs.sum(), 1)
    i, j = np.indices(share.shape)
    mean = (i * share).sum()
    variance = ((i - mean) ** 2 * share).sum()
    return [((i - j) ** 2 * share).sum(), ((i - mean) * (j - mean) * share).sum() / max(variance, 1e-6),
            (share / (1 + np.abs(i - j))).sum(), (share**2).sum()]


def _margin(image: np.ndarray, lesion: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    """Step from inside to outside, and the gradient's mean and spread over the outermost voxels of the lesion."""
    outside = ndimage.distance_transform_edt(~lesion, spacing)
    shell = (outside > 0) & (outside <= CONTEXT_MM)
    surface = lesion & ~ndimage.binary_erosion(lesion, border_value=1)
    if not surface.any() or not shell.any():  # the lesion fills its image
        return [0.0, 0.0, 0.0]
    gradient = _gradient(image, spacing)[surface]
    return [image[shell].mean() - image[lesion].mean(), gradient.mean(), gradient.std()]


def _shape(lesion: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    """Volume (ml), sphericity (1 for a ball), and the 2nd and 3rd principal axes relative to the 1st."""
    volume = lesion.sum() * np.prod(spacing)
    vertices, faces, _, _ = marching_cubes(np.pad(lesion, 1).astype(np.float32), 0.5, spacing=spacing)
    area = mesh_surface_area(vertices, faces)
    axes = np.linalg.eigvalsh(np.cov((np.argwhere(lesion) * spacing).T) + 1e-9 * np.eye(3))
    return [volume / 1000, np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area, *np.sqrt(axes[[1, 0]] / axes[2])]
