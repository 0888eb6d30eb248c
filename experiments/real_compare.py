"""How far two programs agree on the same data: structures of numbers, preprocessed arrays, masks, and scores of the same cases."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bootstrap import estimate, resample_counts
from evaluation.case_pairs import read_pair
from evaluation.comparison import compare_means
from evaluation.segmentation_metrics import segmentation_metrics
from experiments.speed_masks import dice, masks_in, read_mask
from nnunetv2.preprocessing.case_store import load_case
from nnunetv2.utilities.errors import InputError, name_some

MARGINS = {"dsc": 0.01, "hd95_mm": 0.25}  # below these a difference is called none
RESAMPLES = 2000


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every number, text and null in nested lists and objects; an empty one is a leaf itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        yield where, value
        return
    for key, item in items:
        yield from leaves(item, f"{where}.{key}" if where else str(key))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def compare_structures(ours: Any, upstream: Any) -> dict[str, Any]:
    """`fields` that either has, `equal` among them, `differ` (paths, at most 20), `largest_relative` difference of numbers."""
    a, b = dict(leaves(ours)), dict(leaves(upstream))
    differ, largest = [], 0.0
    for path in [*a, *(path for path in b if path not in a)]:
        if path in a and path in b and is_number(a[path]) and is_number(b[path]):
            gap = abs(a[path] - b[path]) / max(abs(a[path]), abs(b[path]), 1e-12)
            largest = max(largest, gap)
            if gap:
                differ.append(path)
        elif path not in a or path not in b or a[path] != b[path]:
            differ.append(path)
    fields = len(a.keys() | b.keys())
    return {"fields": fields, "equal": fields - len(differ), "differ": differ[:20], "largest_relative": largest}


def compare_preprocessed(ours: Path, upstream: Path, cases: Iterable[str]) -> dict[str, Any]:
    """Two folders of preprocessed cases: the largest difference of a voxel (in standard deviations, as images are normalised), and label voxels."""
    largest, labels_differ, voxels, unlike, n = 0.0, 0, 0, [], 0
    for case in cases:
        (data, seg, _), (other, other_seg, _) = load_case(ours, case), load_case(upstream, case)
        n += 1
        if data.shape != other.shape:
            unlike.append(case)
            continue
        largest = max(largest, float(np.abs(data[:] - other[:]).max()))
        labels_differ += int((seg[:] != other_seg[:]).sum())
        voxels += int(np.prod(data.shape))
    return {
        "cases": n,
        "voxels": voxels,
        "largest_difference": largest,
        "label_voxels_differ": labels_differ,
        "other_shape": unlike,
    }


def compare_masks(ours: Path, upstream: Path, labels: Mapping[str, int]) -> dict[str, Any]:
    """Masks of one model by both programs: share of voxels that differ, cases with any, lowest DSC of each label of one with the other's."""
    a, b = masks_in(ours), masks_in(upstream)
    if a.keys() != b.keys() or not a:
        raise InputError(
            f"{ours} and {upstream} must hold the same masks; only in one: {name_some(sorted(a.keys() ^ b.keys()))}. Predict again."
        )
    differ, voxels, cases = 0, 0, 0
    lowest = dict.fromkeys(labels, 1.0)
    for name in a:
        first, second = read_mask(a[name]), read_mask(b[name])
        changed = int((first != second).sum())
        differ, voxels, cases = differ + changed, voxels + first.size, cases + bool(changed)
        for label, value in labels.items():
            found = dice(first == value, second == value)
            lowest[label] = min(lowest[label], 1.0 if found is None else found)
    return {
        "cases": len(a),
        "voxels": voxels,
        "voxels_differ": differ,
        "share": differ / voxels,
        "cases_with_any": cases,
        "lowest_dsc": lowest,
    }


def score_case(
    reference: Path, predictions: Mapping[str, Path], labels: Mapping[str, int]
) -> dict[str, dict[str, dict[str, float]]]:
    """{label: {program: {dsc, hd95_mm}}} of one case; undefined values are NaN."""
    values = sorted({0, *labels.values()})
    rows: dict[str, dict[str, dict[str, float]]] = {label: {} for label in labels}
    for program, prediction in predictions.items():
        true, found = read_pair(reference, prediction, values)
        for label, value in labels.items():
            metrics = segmentation_metrics(true.labels == value, found.labels == value, true.spacing)
            rows[label][program] = {metric: float(metrics[metric]) for metric in MARGINS}
    return rows


def summarise(rows: Sequence[dict[str, dict[str, dict[str, float]]]], seed: int) -> dict[str, dict[str, Any]]:
    """{label: {metric: {ours, upstream: mean and interval, difference: ours - upstream paired by case}}}; `all labels` is each case's mean."""
    counts = resample_counts(len(rows), RESAMPLES, seed)
    labels = list(rows[0])
    summary: dict[str, dict[str, Any]] = {}
    for label in [*labels, "all labels"]:
        summary[label] = {}
        for metric, margin in MARGINS.items():
            values = {
                program: np.array(
                    [
                        np.mean([row[one][program][metric] for one in (labels if label == "all labels" else [label])])
                        for row in rows
                    ]
                )
                for program in ("ours", "upstream")
            }
            summary[label][metric] = {program: estimate(found, counts) for program, found in values.items()} | {
                "difference": compare_means(values["upstream"], values["ours"], margin, RESAMPLES, seed)
            }
    return summary


def ranked(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Index of the best, median and worst case by the mean DSC over labels and programs."""
    means = [
        np.mean([row["labels"][label][program]["dsc"] for label in row["labels"] for program in ("ours", "upstream")])
        for row in rows
    ]
    order = np.argsort(means, kind="stable")
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}
