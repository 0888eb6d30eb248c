"""Overlap, boundary and volume metrics of one case and structure, and what each of them means for empty masks.

| masks            | DSC, IoU, NSD     | HD95, MASD                             | outcome     |
|------------------|-------------------|----------------------------------------|-------------|
| both empty       | undefined, counted | undefined, counted                    | both_empty  |
| prediction empty | 0                 | undefined, counted as missed           | missed      |
| reference empty  | 0                 | undefined, counted as a false alarm    | false_alarm |

An undefined value is NaN here; means leave it out and say how many cases they hold. Choice of metrics and conventions:
Maier-Hein, Reinke et al., "Metrics reloaded: recommendations for image analysis validation", Nature Methods 2024.
"""

from collections.abc import Sequence

import numpy as np

from evaluation.surface import SurfaceDistances

# Inter-rater variability of this task is unknown, so the tolerances are a choice: about one voxel in plane, one slice across.
TOLERANCES_MM = (1.0, 2.0)

OVERLAP_METRICS = ("dsc", "iou", *(f"nsd_{tolerance:g}mm" for tolerance in TOLERANCES_MM))
DISTANCE_METRICS = ("hd95_mm", "masd_mm")
SEGMENTATION_METRICS = OVERLAP_METRICS + DISTANCE_METRICS


def dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two boolean masks; NaN if both are empty."""
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else float("nan")


def outcome(reference: np.ndarray, prediction: np.ndarray) -> str:
    """Which row of the table above a pair of masks falls into, `present` if both hold something."""
    return {(True, True): "present", (True, False): "missed", (False, True): "false_alarm",
            (False, False): "both_empty"}[bool(reference.any()), bool(prediction.any())]


def segmentation_metrics(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float],
                         surface: str = "elements") -> dict[str, float | str]:
    """All metrics of one structure.

    reference, prediction: boolean (Z, Y, X). spacing: (z, y, x) mm. surface: a key of `surface.SURFACES`.
    Returns SEGMENTATION_METRICS, `reference_ml`, `predicted_ml` and `outcome`.
    """
    reference, prediction = crop_to_union(reference, prediction)
    millilitre = float(np.prod(spacing)) / 1000
    row: dict[str, float | str] = {"outcome": outcome(reference, prediction)}
    row["dsc"] = dice(reference, prediction)
    row["iou"] = row["dsc"] / (2 - row["dsc"])
    if row["outcome"] == "present":
        distances = SurfaceDistances.between(reference, prediction, spacing, surface)
        row |= {f"nsd_{tolerance:g}mm": distances.nsd(tolerance) for tolerance in TOLERANCES_MM}
        row |= {"hd95_mm": distances.hausdorff(95), "masd_mm": distances.masd()}
    else:
        row |= dict.fromkeys(OVERLAP_METRICS, float("nan") if row["outcome"] == "both_empty" else 0.0)
        row |= dict.fromkeys(DISTANCE_METRICS, float("nan"))
    return row | {"reference_ml": int(reference.sum()) * millilitre, "predicted_ml": int(prediction.sum()) * millilitre}


def crop_to_union(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks inside the bounding box of their union; nothing outside it matters to any metric. Empty union: no voxels."""
    union = reference | prediction
    box = []
    for axis in range(union.ndim):
        occupied = np.flatnonzero(union.any(axis=tuple(a for a in range(union.ndim) if a != axis)))
        box.append(slice(occupied[0], occupied[-1] + 1) if len(occupied) else slice(0, 0))
    return reference[tuple(box)], prediction[tuple(box)]
