"""Blocks that look at the lesion and its border: texture, inner parts, attenuation, margin, size and shape."""

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from dynamic_network_architectures.building_blocks.class_head import core_and_rim, density, image_texture, masked_statistics
from nnunetv2.class_evidence.case import EvidenceCase, Intensities, ball_mm, box_around, depth_inside
from nnunetv2.class_evidence.grey_morphology import grey_closing, grey_opening

Features = dict[str, float]
BANDS_MM = (1.0, 2.0, 4.0)  # scales of texture, standard deviations of Gaussians
PERCENTILES = (5, 10, 25, 50, 75, 90, 95, 99)
PROFILE_MM = (-8.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # distances from the border between which the image is averaged
SATELLITES_MM3 = (40.0, 150.0, 500.0)  # of balls of 4, 7 and 10 mm across: what may count as a lesion of its own
BALLS_MM = (2.5, 3.5)  # radii of solid parts that are looked for
BLOBS_MM = (1.5, 2.5, 3.5)  # standard deviations of Gaussians
INNER_MM = 4.0  # from the border on inward
SOFT_HU = 160.0  # enhancing tissue ends about here; brighter voxels are calcium, which `calcification` describes
BRIGHT_HU = (130.0, 200.0, 300.0)  # calcium from about the first on
_TEXTURES, _PARTS, _STATISTICS = ("image", "detail", "spread", "band"), ("whole", "core", "rim"), ("mean", "std")


def texture(case: EvidenceCase) -> Features:
    """Mean and spread of the image, its detail, local spread and a coarser band over lesion, core and rim, where the mask is dense;
    and of bands of fixed width in millimetres."""
    box = box_around(case.lesion, 4 * max(case.spacing), case.spacing)
    mask = torch.from_numpy(case.lesion[box].astype(np.float32))[None, None]
    parts = core_and_rim(mask * density(mask))
    found: Features = {}
    for channel, image in enumerate(case.image):
        values = image_texture(torch.from_numpy(np.ascontiguousarray(image[box]))[None, None])
        for statistic, table in zip(_STATISTICS, masked_statistics(values, parts)):
            for part, row in zip(_PARTS, table[0].tolist()):
                found |= {f"{name}_{part}_{statistic}_{channel}": value for name, value in zip(_TEXTURES, row)}
        near = image[case.near_lesion(3 * BANDS_MM[-1])].astype(np.float32)
        inside = case.lesion[case.near_lesion(3 * BANDS_MM[-1])]
        smooth = [near, *(ndimage.gaussian_filter(near, [b / s for s in case.spacing], truncate=3) for b in BANDS_MM)]
        for name, fine, rough in zip(BANDS_MM, smooth, smooth[1:]):
            band = (fine - rough)[inside]
            found |= {f"band_{name}mm_std_{channel}": _log(band.std()), f"band_{name}mm_mean_{channel}": float(band.mean()),
                      f"band_{name}mm_skew_{channel}": _skew(band)}
        values_inside = near[inside]
        found |= {f"skew_{channel}": _skew(values_inside), f"kurtosis_{channel}": _kurtosis(values_inside),
                  f"log_std_{channel}": _log(values_inside.std())}
    return found


def inner_parts(case: EvidenceCase) -> Features:
    """Bright and dark parts inside the lesion (septa, nodules, necrosis): how large, how far from the middle, how many."""
    box = case.near_lesion(4.0)
    lesion = case.lesion[box]
    depth = depth_inside(lesion, case.spacing)
    found: Features = {}
    total = max(int(lesion.sum()), 1)
    for channel, image in enumerate(case.image):
        smooth = ndimage.gaussian_filter(image[box], [1.2 / s for s in case.spacing])
        inside = smooth[lesion]
        middle, spread = np.median(inside), max(float(np.percentile(inside, 84) - np.percentile(inside, 16)) / 2, 1e-6)
        deep = depth[lesion].mean()
        core, rim = lesion & (depth > 0.6 * depth.max()), lesion & (depth <= 0.35 * depth.max())
        found[f"core_minus_rim_{channel}"] = float(smooth[core].mean() - (smooth[rim].mean() if rim.any() else middle))
        for sign, kind in ((1, "bright"), (-1, "dark")):
            part = lesion & (sign * (smooth - middle) > 1.5 * spread)
            labels, n = ndimage.label(part)
            sizes = np.bincount(labels.ravel())[1:] if n else np.zeros(1, int)
            largest = labels == 1 + int(sizes.argmax()) if n else part
            found |= {
                f"{kind}_share_{channel}": float(part.sum() / total), f"{kind}_largest_{channel}": float(np.cbrt(sizes.max() * case.voxel_mm3)),
                f"{kind}_number_{channel}": float(np.log1p((sizes * case.voxel_mm3 > 4).sum())),
                f"{kind}_depth_{channel}": float(depth[part].mean() / deep) if part.any() else np.nan,
                f"{kind}_excess_{channel}": float(np.mean(smooth[largest]) - middle) if n else 0.0,
                f"{kind}_extreme_{channel}": float(sign * (np.percentile(inside, 99 if sign > 0 else 1) - middle)),
            }
            if n and n < total:
                centre, of_part = (np.array(ndimage.center_of_mass(m)) * case.spacing for m in (lesion, largest))
                found[f"{kind}_off_centre_{channel}"] = float(np.linalg.norm(centre - of_part) / np.cbrt(total * case.voxel_mm3))
            else:
                found[f"{kind}_off_centre_{channel}"] = np.nan
        found |= {f"{key}_{channel}": value for key, value in _blobs(case.coarse, channel).items()}
    return found


def _blobs(case: EvidenceCase, channel: int) -> Features:
    """Solid parts of a certain size against the lesion's median: what balls of BALLS_MM that fit into them keep, and what Gaussians answer away from the
    border, whose brightness is the surroundings'."""
    box = case.near_lesion(8.0)
    image, lesion = case.image[channel][box], case.lesion[box]
    if case.intensities[channel].high is not None:
        image = np.minimum(image, SOFT_HU)
    depth = depth_inside(lesion, case.spacing)
    low, middle, high = (float(v) for v in np.percentile(image[lesion], (16, 50, 84)))
    spread = max((high - low) / 2, 1e-6)
    found: Features = {}
    flat = np.where(lesion, image, middle)
    for radius in BALLS_MM:
        ball = ball_mm(radius, case.spacing)
        for kind, kept in (("bright", grey_opening(flat, ball) - middle), ("dark", middle - grey_closing(flat, ball))):
            found |= {f"{kind}_ball_{radius:g}mm": float(kept[lesion].max()), f"{kind}_ball_share_{radius:g}mm": float((kept[lesion] > 1.5 * spread).mean())}
    inner = lesion & (depth > min(INNER_MM, 0.5 * depth.max()))
    for sigma in BLOBS_MM:
        blurred = ndimage.gaussian_filter(image, [sigma / s for s in case.spacing])[inner]
        found |= {f"bright_blob_{sigma:g}mm": float(blurred.max()) - middle, f"dark_blob_{sigma:g}mm": middle - float(blurred.min()),
                  f"blob_spread_{sigma:g}mm": float(blurred.std())}
    return found


def attenuation(case: EvidenceCase) -> Features:
    """Percentiles of the lesion, of the organ around it, and what lies between them."""
    found: Features = {}
    box = case.lesion_box
    core = case.lesion[box] & (case.distance < -0.75 * min(case.spacing))
    core = core if core.sum() > 8 else case.lesion[box]
    around = case.organ[box] & ~case.lesion[box] & (case.distance > 2.0)
    for channel, (image, scale) in enumerate(zip(case.image, case.intensities)):
        inside = image[case.lesion]
        found |= {f"p{p}_{channel}": float(v) for p, v in zip(PERCENTILES, np.percentile(inside, PERCENTILES))}
        middle, core_values = float(np.median(inside)), image[box][core]
        found |= {f"mean_{channel}": float(inside.mean()), f"core_mean_{channel}": float(core_values.mean()),
                  f"core_median_{channel}": float(np.median(core_values)), f"range_{channel}": float(np.subtract(*np.percentile(inside, (90, 10))))}
        if around.sum() > 20:
            organ = float(np.median(image[box][around]))
            found |= {f"organ_{channel}": organ, f"lesion_minus_organ_{channel}": middle - organ}
        elif case.has_organ:
            found |= {f"organ_{channel}": np.nan, f"lesion_minus_organ_{channel}": np.nan}
        near = image[box][(case.distance > 2) & (case.distance < 6)]
        found[f"lesion_minus_near_{channel}"] = middle - float(np.median(near)) if near.size else np.nan
    return found


def calcification(case: EvidenceCase) -> Features:
    """Voxels that are far brighter than the lesion, or that the clipping of preprocessing cut off: how much, how dense, how clustered."""
    found: Features = {}
    for channel, (image, scale) in enumerate(zip(case.image, case.intensities)):
        box = case.near_lesion(2.0)
        near = ndimage.binary_dilation(case.lesion[box])  # a segmentation may leave the stone out
        inside, values = image[box][case.lesion[box]], image[box][near]
        middle = float(np.median(inside))
        spread = max(float(np.percentile(inside, 50) - np.percentile(inside, 10)), 1e-6)
        found[f"top_{channel}"] = float(np.sort(inside)[-max(1, min(inside.size, round(4 / case.voxel_mm3))):].mean())
        found[f"top_excess_{channel}"] = found[f"top_{channel}"] - middle
        found[f"top_in_spreads_{channel}"] = float(np.log1p(max(found[f"top_excess_{channel}"], 0) / spread))
        found[f"outliers_{channel}"] = float(np.log1p((inside > middle + 4 * spread).sum() * case.voxel_mm3))
        for limit in _limits(scale):
            bright = near & (image[box] >= limit)
            n = ndimage.label(bright)[1]
            found |= {f"above_{limit:.0f}_mm3_{channel}": float(np.log1p(bright.sum() * case.voxel_mm3)),
                      f"above_{limit:.0f}_share_{channel}": float((inside >= limit).mean()), f"above_{limit:.0f}_parts_{channel}": float(np.log1p(n))}
        if scale.high is not None:
            cut = values >= scale.high - 1e-3 * (scale.high - scale.low)
            found[f"clipped_mm3_{channel}"] = float(np.log1p(cut.sum() * case.voxel_mm3))
    return found


def _limits(scale: Intensities) -> tuple[float, ...]:
    """Of BRIGHT_HU those that the clipped image can reach; none where it is no CT."""
    return () if scale.high is None else tuple(limit for limit in BRIGHT_HU if limit < scale.high)


def margin(case: EvidenceCase) -> Features:
    """The image along the normal of the border: its mean profile, how steep it is, and how much both vary around the lesion."""
    found: Features = {}
    box, distance = case.lesion_box, case.distance
    near = box_around(distance < 10.0, 0.0, case.spacing)
    distance = distance[near]
    border = np.abs(distance) <= 0.75 * max(np.median(case.spacing), 1.0)
    for channel, image in enumerate(case.image):
        values = image[box][near].astype(np.float32)
        profile = []
        for low, high in zip(PROFILE_MM, PROFILE_MM[1:]):
            ring = values[(distance > low) & (distance <= high)]
            profile.append(float(ring.mean()) if ring.size else np.nan)
            found |= {f"profile_{low:g}_{channel}": profile[-1], f"profile_std_{low:g}_{channel}": _log(ring.std()) if ring.size else np.nan}
        inner, outer = values[distance < -1.5], values[(distance > 2) & (distance < 6)]
        inner = inner if inner.size else values[distance < 0]
        contrast = float(inner.mean() - outer.mean()) if outer.size else np.nan
        found |= {f"contrast_{channel}": contrast, f"log_contrast_{channel}": float(np.log(abs(contrast) + 5)) if np.isfinite(contrast) else np.nan}
        steepness = _gradient(values, case.spacing, 0.6)
        coarse = _gradient(values, case.spacing, 2.0)
        found |= {f"steepness_{name}_{channel}": value for name, value in _of_border(steepness[border])}
        found |= {f"coarse_{name}_{channel}": value for name, value in _of_border(coarse[border])}
        found[f"relative_steepness_{channel}"] = _log(float(steepness[border].mean()) / (abs(contrast) + 5)) if np.isfinite(contrast) else np.nan
        found[f"fine_to_coarse_{channel}"] = _log(float(steepness[border].mean()) / max(float(coarse[border].mean()), 1e-6))
        if np.isfinite(contrast) and abs(contrast) > 1e-6:
            steps = np.array(profile)
            drop = (steps[4:9] - outer.mean()) / contrast
            found |= {f"fall_{low:g}_{channel}": float(np.clip(v, -1, 2)) for low, v in zip(PROFILE_MM[4:9], drop)}
            half = (inner.mean() + outer.mean()) / 2
            for low, high in ((0.5, 2.0), (2.0, 4.0), (4.0, 7.0)):  # strands that leave the lesion
                ring = values[(distance > low) & (distance <= high)]
                found[f"strands_{low:g}_{channel}"] = float(((ring - half) * np.sign(contrast) > 0).mean()) if ring.size else np.nan
        else:
            found |= {f"fall_{low:g}_{channel}": np.nan for low in PROFILE_MM[4:9]} | {f"strands_{low:g}_{channel}": np.nan for low in (0.5, 2.0, 4.0)}
    return found


def _gradient(image: np.ndarray, spacing: tuple[float, ...], sigma_mm: float) -> np.ndarray:
    """Its length at each voxel; along an axis of one voxel, as a picture's third, there is none."""
    smooth = ndimage.gaussian_filter(image, [sigma_mm / s for s in spacing])
    slopes = (np.gradient(smooth, step, axis=axis) for axis, step in enumerate(spacing) if image.shape[axis] > 1)
    return np.sqrt(sum((np.square(slope) for slope in slopes), np.zeros_like(smooth)))


def _of_border(values: np.ndarray) -> list[tuple[str, float]]:
    if not values.size:
        return [(name, np.nan) for name in ("mean", "p10", "p50", "p90", "variation")]
    low, middle, high = np.percentile(values, (10, 50, 90))
    return [("mean", _log(values.mean())), ("p10", _log(low)), ("p50", _log(middle)), ("p90", _log(high)),
            ("variation", float(values.std() / max(values.mean(), 1e-6)))]


def size(case: EvidenceCase) -> Features:
    """Volume, extents along the body's axes, longest diameter, and number of lesions."""
    parts, n = ndimage.label(case.lesion, np.ones((3, 3, 3)))
    sizes = np.sort(np.bincount(parts.ravel())[1:])[::-1] * case.voxel_mm3
    volume = float(sizes.sum())
    points = np.argwhere(case.lesion) * np.array(case.spacing)
    extents = points.max(0) - points.min(0) + case.spacing
    found = {"log_volume": float(np.log(volume)), "radius": float(np.cbrt(volume)), "log_largest": float(np.log(sizes[0])),
             "number": float(n), "log_number": float(np.log(n)), "second_share": float(sizes[1] / sizes[0]) if n > 1 else 0.0,
             "rest_share": float(1 - sizes[0] / volume), "several": float(n > 1)}
    found |= {f"extent_{axis}": float(np.log(e)) for axis, e in zip("zyx", extents)} | {"diameter": float(extents.max())}
    found |= {f"number_{least:.0f}mm3": float(sum(v >= least for v in case.part_mm3)) for least in SATELLITES_MM3}
    slices = case.lesion.sum((1, 2)) * case.spacing[1] * case.spacing[2]
    found["largest_slice"] = float(np.log(slices.max()))
    return found


def shape(case: EvidenceCase) -> Features:
    """Principal axes, sphericity, convexity, lobulation of the largest lesion."""
    parts, n = ndimage.label(case.lesion, np.ones((3, 3, 3)))
    largest = case.lesion if n == 1 else parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    mask = np.pad(largest[box_around(largest, 0, case.spacing)], 3)
    volume = mask.sum() * case.voxel_mm3
    radius = np.cbrt(3 * volume / (4 * np.pi))
    points = np.argwhere(mask) * np.array(case.spacing)
    centred = points - points.mean(0)
    jitter = np.diag(np.square(case.spacing)) / 12  # a voxel's own extent: thin lesions stay finite
    widths = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(centred.T) + jitter if len(points) > 1 else jitter), 1e-6))[::-1]
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), [0.7 * max(case.spacing[1:]) / s for s in case.spacing])
    surface = float(np.sqrt(sum(np.square(g) for g in np.gradient(smooth, *case.spacing))).sum() * case.voxel_mm3)
    planar = mask.any(0)
    distances = np.linalg.norm(centred, axis=1)
    found = {
        "elongation": float(np.log(widths[0] / widths[1])), "flatness": float(np.log(widths[1] / widths[2])),
        "anisotropy": float(np.log(widths[0] / widths[2])), "sphericity": float(np.log(4 * np.pi * radius**2 / max(surface, 1e-6))),
        "solidity": _solidity(points, case.spacing, volume), "reach": float(distances.max() / radius), "reach_p95": float(np.percentile(distances, 95) / radius),
        "planar_fill": float(mask.max(0).sum() / np.prod(np.ptp(np.argwhere(planar), axis=0) + 1)),
    }
    for share in (0.25, 0.5):  # what an opening or closing with a ball of this share of the radius changes
        depth = ndimage.distance_transform_edt(mask, case.spacing)
        kept = ndimage.distance_transform_edt(depth <= share * radius, case.spacing) <= share * radius
        found[f"opened_{share}"] = float((mask & ~kept).sum() * case.voxel_mm3 / volume)
    found["deepest"] = float(ndimage.distance_transform_edt(mask, case.spacing).max() / radius)
    angular = _radial_profile(centred, case.spacing)
    found |= {"radial_variation": float(angular.std() / max(angular.mean(), 1e-6)), "radial_extreme": float(angular.max() / max(angular.mean(), 1e-6))}
    return found


def _radial_profile(centred: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Largest distance from the centre (mm) in each of 32 directions that holds a voxel."""
    k = np.arange(32) + 0.5
    polar, azimuth = np.arccos(1 - 2 * k / 32), np.pi * (1 + 5**0.5) * k  # Fibonacci's sphere
    directions = np.stack([np.cos(polar), np.sin(polar) * np.sin(azimuth), np.sin(polar) * np.cos(azimuth)], 1)
    length = np.linalg.norm(centred, axis=1)
    nearest = (centred @ directions.T).argmax(1)
    reach = np.zeros(32)
    np.maximum.at(reach, nearest, length)
    return reach[reach > 0] if (reach > 0).any() else np.full(1, min(spacing) / 2)


def _solidity(points: np.ndarray, spacing: tuple[float, ...], volume: float) -> float:
    """Share of its convex hull, of the voxels' corners, that the lesion fills."""
    half = np.array(spacing) / 2
    try:
        if len(points) > 100:  # the hull of boxes around points is that of the boxes around the vertices of the points' own hull
            points = points[ConvexHull(points).vertices]
        corners = np.concatenate([points + half * sign for sign in ((-1, -1, -1), (-1, -1, 1), (-1, 1, -1), (-1, 1, 1), (1, -1, -1), (1, -1, 1), (1, 1, -1), (1, 1, 1))])
        return float(volume / ConvexHull(corners).volume)
    except QhullError:  # a lesion of one flat layer
        return 1.0


def _log(value: float) -> float:
    return float(np.log(max(float(value), 0.0) + 1e-3))


def _skew(values: np.ndarray) -> float:
    spread = values.std()
    return float(np.mean(((values - values.mean()) / spread) ** 3)) if spread > 1e-6 else 0.0


def _kurtosis(values: np.ndarray) -> float:
    spread = values.std()
    return float(np.log(max(np.mean(((values - values.mean()) / spread) ** 4), 1e-6))) if spread > 1e-6 else 0.0
