"""Blocks that look around the lesion: shells, the organ on both sides of it, its duct, and the lesion's place."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from nnunetv2.class_evidence.case import EvidenceCase, ball_mm, box_around
from nnunetv2.class_evidence.grey_morphology import grey_closing
from nnunetv2.class_evidence.lesion_blocks import Features

SHELLS_MM = ((0.0, 3.0), (3.0, 6.0), (6.0, 10.0), (10.0, 15.0), (15.0, 20.0))
TUBES_MM = (1.0, 2.0, 3.5)  # radii of dark tubes that are looked for
ENDS = 0.03  # of the organ's axis around the lesion that belongs to neither side


def shell(case: EvidenceCase) -> Features:
    """Attenuation and unevenness of shells up to 20 mm around the lesion, in and outside of the organ."""
    here = case.coarse
    found: Features = {}
    box, distance = here.lesion_box, here.distance
    organ = here.organ[box]
    rest = ~here.lesion[box]
    for channel, image in enumerate(here.image):
        values = image[box]
        detail = values - ndimage.uniform_filter(values, 3, mode="nearest")
        for low, high in SHELLS_MM:
            ring = rest & (distance > low) & (distance <= high)
            key = f"{low:g}_{high:g}mm_{channel}"
            names = ("mean", "std", "p10", "p90", "detail")
            if ring.sum() < 5:
                found |= {f"{name}_{key}": np.nan for name in names}
                found |= {f"organ_{name}_{key}": np.nan for name in ("mean", "std")} if here.has_organ else {}
                continue
            inside = values[ring]
            p10, p90 = np.percentile(inside, (10, 90))
            found |= dict(zip((f"{name}_{key}" for name in names), map(float, (inside.mean(), inside.std(), p10, p90, detail[ring].std()))))
            if here.has_organ:
                of_organ = values[ring & organ]
                found |= {f"organ_mean_{key}": float(of_organ.mean()) if of_organ.size > 4 else np.nan,
                          f"organ_std_{key}": float(of_organ.std()) if of_organ.size > 4 else np.nan}
    if here.has_organ:
        for low, high in SHELLS_MM:
            ring = rest & (distance > low) & (distance <= high)
            found[f"organ_share_{low:g}_{high:g}mm"] = float(organ[ring].mean()) if ring.any() else np.nan
    return found


def organ(case: EvidenceCase) -> Features:
    """Size, thickness and lobulation of the organ, before, behind and at the lesion."""
    here = case.coarse
    if not here.has_organ:
        return {}
    inside = _filled(here)
    depth = _depth(inside, here.spacing)
    ridge = inside & (depth >= ndimage.maximum_filter(depth, 3) - 1e-6)  # as thick as the organ is there
    found: Features = {"log_volume": float(np.log(inside.sum() * here.voxel_mm3))}
    thickness = {}
    for side, part in _sides(here, inside):
        voxels, crest = inside & part, ridge & part
        if voxels.sum() * here.voxel_mm3 < 150:
            found |= {f"{name}_{side}": np.nan for name in ("log_volume", "thickness", "crest", "thickest", "surface")}
            continue
        thickness[side] = float(np.log(depth[voxels].mean()))
        found |= {f"log_volume_{side}": float(np.log(voxels.sum() * here.voxel_mm3)), f"thickness_{side}": thickness[side],
                  f"crest_{side}": float(np.log(depth[crest].mean())) if crest.any() else np.nan,
                  f"thickest_{side}": float(np.log(np.percentile(depth[voxels], 95))),
                  f"surface_{side}": float((depth[voxels] <= min(here.spacing) * 1.01).mean())}
    both = [thickness.get(side) for side in ("right", "left")]
    known = None not in both
    found |= {"thickness_left_minus_right": both[1] - both[0] if known else np.nan, "thickness_least": min(both) if known else np.nan,
              "thickness_difference": abs(both[1] - both[0]) if known else np.nan}
    return found


def parenchyma(case: EvidenceCase) -> Features:
    """Attenuation, fat and texture of the organ without the lesion, before and behind it."""
    here = case.coarse
    if not here.has_organ:
        return {}
    found: Features = {}
    inside = here.organ & ~ndimage.binary_dilation(here.lesion, iterations=1)
    core = inside & (_depth(here.organ, here.spacing) > 1.2 * min(here.spacing))
    core = core if core.sum() > 30 else inside
    names = ("mean", "median", "std", "p10", "p90", "dark", "detail", "band")
    for channel, image in enumerate(here.image):
        box = box_around(here.organ, 8.0, here.spacing)
        local, within = image[box], core[box]
        fine = local - ndimage.uniform_filter(local, 3, mode="nearest")
        smooth = ndimage.gaussian_filter(local, [2.0 / s for s in here.spacing])
        band = smooth - ndimage.gaussian_filter(local, [5.0 / s for s in here.spacing])
        medians = {}
        for side, part in _sides(here, core):
            where = within & part[box]
            if where.sum() < 15:
                found |= {f"{name}_{side}_{channel}": np.nan for name in names}
                continue
            values = local[where]
            medians[side] = float(np.median(values))
            p10, p90 = np.percentile(values, (10, 90))
            measured = (values.mean(), medians[side], values.std(), p10, p90, (values < medians[side] - 40).mean(), fine[where].std(), band[where].std())
            found |= {f"{name}_{side}_{channel}": float(value) for name, value in zip(names, measured)}
        sides = [medians.get(side) for side in ("right", "left")]
        found[f"left_minus_right_{channel}"] = sides[1] - sides[0] if None not in sides else np.nan
    return found


def duct(case: EvidenceCase) -> Features:
    """Dark tubes in the organ, before and behind the lesion, by radius: the middle eigenvalue of the Hessian, and what a closing fills."""
    here = case.coarse  # closings with balls take seconds on voxels below a millimetre
    if not here.has_organ:
        return {}
    box = box_around(here.organ, 6.0, here.spacing)
    inside, lesion = _filled(here)[box], here.lesion[box]
    kept = inside & ~ndimage.binary_dilation(lesion, iterations=max(1, round(2 / max(here.spacing))))
    depth = _depth(inside, here.spacing)
    kept &= depth > 1.2 * min(here.spacing)
    found: Features = {}
    for channel, image in enumerate(here.image):
        local = image[box].astype(np.float32)
        level = float(np.median(local[kept])) if kept.any() else 0.0
        flat = np.where(inside & ~lesion, local, level)  # fat around the organ is no duct, nor is the lesion
        maps = {f"tube_{radius:g}mm": _dark_tube(flat, here.spacing, radius, kept) for radius in TUBES_MM}
        smooth = ndimage.gaussian_filter(flat, [0.8 / s for s in here.spacing])
        maps |= {f"hollow_{radius:g}mm": grey_closing(smooth, ball_mm(2 * radius, here.spacing)) - smooth for radius in TUBES_MM[1:]}
        sides = list(_sides(here, here.organ))
        for name, values in maps.items():
            reached = {}
            for side, part in sides:
                where = kept & part[box]
                if where.sum() * here.voxel_mm3 < 200:
                    found |= {f"{name}_{statistic}_{side}_{channel}": np.nan for statistic in ("mean", "p90", "p98")}
                    continue
                p90, p98 = np.percentile(values[where], (90, 98))
                reached[side] = float(p98)
                found |= {f"{name}_mean_{side}_{channel}": float(values[where].mean()), f"{name}_p90_{side}_{channel}": float(p90),
                          f"{name}_p98_{side}_{channel}": float(p98)}
            found[f"{name}_most_{channel}"] = max(reached.values()) if reached else np.nan
        for side, part in sides:
            where = kept & part[box]
            if where.sum() * here.voxel_mm3 < 200:
                found |= {f"{name}_{side}_{channel}": np.nan for name in ("dark_share", "dark_area", "dark_thick")}
                continue
            dark = where & (smooth < np.median(local[where]) - 25)
            length = max(float(np.ptp(np.argwhere(where) * np.array(here.spacing), axis=0).max()), 1.0)
            thick = _depth(dark, here.spacing)[dark]
            found |= {f"dark_share_{side}_{channel}": float(dark.sum() / where.sum()), f"dark_area_{side}_{channel}": float(np.sqrt(dark.sum() * here.voxel_mm3 / length)),
                      f"dark_thick_{side}_{channel}": float(np.percentile(thick, 90)) if thick.size else 0.0}
    return found


def place(case: EvidenceCase) -> Features:
    """Where the lesion lies: along the organ's axis, in it and out of it, and in the body's axes (mm from the organ's middle and the image's)."""
    centre = np.argwhere(case.lesion).mean(0)
    scale = np.array(case.spacing)
    from_image = (centre + case.offset - (np.array(case.shape) - 1) / 2) * scale
    found = {f"from_image_{axis}": float(v) for axis, v in zip(("superior", "posterior", "left"), from_image)}
    if not case.has_organ:
        return found
    points = np.argwhere(case.organ)
    from_organ = (centre - points.mean(0)) * scale
    extents = points.std(0) * scale
    found |= {f"from_organ_{axis}": float(v) for axis, v in zip(("superior", "posterior", "left"), from_organ)}
    found |= {f"relative_{axis}": float(v / max(e, 1e-6)) for axis, v, e in zip(("superior", "posterior", "left"), from_organ, extents)}
    along = float(np.nanmean(case.along[case.lesion])) if np.isfinite(case.along[case.lesion]).any() else np.nan
    found |= {"along": along, "along_from_middle": abs(along - 0.5), "along_squared": (along - 0.5) ** 2}
    lesion = case.lesion[case.lesion_box]
    touching = ndimage.binary_dilation(lesion, iterations=1) & ~lesion
    found["enclosed"] = float(case.organ[case.lesion_box][touching].mean()) if touching.any() else np.nan
    rest = case.organ & ~case.lesion
    rest_points = points[rest[tuple(points.T)]] if rest.any() else points
    found["off_axis"] = float(np.min(np.linalg.norm((rest_points - centre) * scale, axis=1)))
    found["share_of_organ"] = float(np.log(case.lesion.sum() / len(points)))
    return found


def _sides(case: EvidenceCase, within: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The organ on the patient's right of the lesion along its axis (of a pancreas, towards the head), on its left (towards the tail), and all of it."""
    along = case.along
    of_lesion = along[case.lesion]
    of_lesion = of_lesion[np.isfinite(of_lesion)]
    low, high = (np.percentile(of_lesion, (10, 90)) if of_lesion.size else (0.5, 0.5))
    known = np.isfinite(along)
    values = np.where(known, along, 0.5)
    yield "right", known & (values < low - ENDS)
    yield "left", known & (values > high + ENDS)
    yield "all", within


def _filled(case: EvidenceCase) -> np.ndarray:
    """The organ with what is enclosed by it, such as a duct that the labels leave out."""
    radius = [max(1, round(2.0 / s)) for s in case.spacing]
    padded = np.pad(case.organ, [(r, r) for r in radius])
    closed = ndimage.binary_closing(padded, ball_mm(2.0, case.spacing))
    return closed[tuple(slice(r, -r) for r in radius)] | case.organ


def _depth(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance (mm) of each voxel of a mask from its outside; the image's border is none."""
    return ndimage.distance_transform_edt(mask, spacing).astype(np.float32) if not mask.all() else np.full(mask.shape, 50.0, np.float32)


def _dark_tube(image: np.ndarray, spacing: tuple[float, ...], radius_mm: float, where: np.ndarray) -> np.ndarray:
    """Middle eigenvalue of the Hessian at the scale of the radius times the scale squared: what bends upward across a dark tube (Frangi et al. 1998)."""
    sigma = [max(radius_mm, 0.6 * s) / s for s in spacing]
    found = np.zeros(image.shape, np.float32)
    if not where.any():
        return found
    entries = {}
    for a in range(3):
        for b in range(a, 3):
            order = [int(axis == a) + int(axis == b) for axis in range(3)]
            entries[a, b] = ndimage.gaussian_filter(image, sigma, order=order, truncate=3)[where] * sigma[a] * sigma[b]
    hessian = np.stack([np.stack([entries[min(a, b), max(a, b)] for b in range(3)], -1) for a in range(3)], -2)
    found[where] = np.maximum(np.linalg.eigvalsh(hessian)[:, 1], 0)
    return found
