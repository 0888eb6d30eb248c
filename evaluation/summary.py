"""From per-case rows to the contents of metrics.json: every mean with its interval and the n it stands on.

`metrics.json`: each structure of the data (the quiz's: `whole_pancreas`, `lesion`, `normal_pancreas`) holds {metric: {"mean", "ci_low",
"ci_high", "n"}}, `empty` (how often masks were empty) and `volume` (Bland-Altman); the lesion, whatever it is called, also `detection`.
`subtype` holds the classes' plain numbers, whatever the task is called (`task`), each with its interval as [low, high] under
`<name>_ci`. `cases` holds the rows, one flat dict per case.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from evaluation import subtype_metrics as sm
from evaluation.area_intervals import auroc_interval, average_precision_interval, mean_interval
from evaluation.bootstrap import estimate, interval, resample_counts
from evaluation.case_pairs import Mask
from evaluation.lesion_metrics import by_size_tertile, detection_rate, lesion_detection, volume_agreement
from evaluation.segmentation_metrics import SEGMENTATION_METRICS, segmentation_metrics
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription

CONFUSION_METRICS = {"macro_f1": sm.macro_f1, "balanced_accuracy": sm.balanced_accuracy, "accuracy": sm.accuracy, "mcc": sm.mcc, "expected_cost": sm.expected_cost}
CLASS_SCORES = ("precision", "recall", "f1")
LOW_IS_GOOD = ("expected_cost",)
OUTCOMES = ("both_empty", "missed", "false_alarm")


def case_row(case: str, reference: Mask, prediction: Mask, surface: str, description: DataDescription = THE_QUIZ) -> dict:
    """One case's flat row: `<structure>_<metric>` for all structures, and `<lesion>_detected` and its kin."""
    row: dict = {"case": case}
    for key, structure in description.structures.items():
        masks = [np.isin(mask.labels, structure.labels) for mask in (reference, prediction)]
        row |= {f"{key}_{name}": value for name, value in segmentation_metrics(*masks, reference.spacing, surface).items()}
    if description.lesion is None:
        return row
    detection = lesion_detection(*(np.isin(mask.labels, description.lesion.labels) for mask in (reference, prediction)))
    return row | {f"{description.lesion.key}_{name}": value for name, value in detection.items()}


def summarise_segmentation(rows: list[dict], resamples: int, seed: int, description: DataDescription = THE_QUIZ) -> dict[str, dict]:
    """{structure: summary} of case rows; the bootstrap draws cases without strata."""
    counts = resample_counts(len(rows), resamples, seed)
    summary = {}
    for structure in description.structures:
        outcomes = [row[f"{structure}_outcome"] for row in rows]
        summary[structure] = {name: estimate(column(rows, f"{structure}_{name}"), counts) for name in SEGMENTATION_METRICS} | {
            "empty": {outcome: {"count": outcomes.count(outcome), "n": len(rows)} for outcome in OUTCOMES},
            "volume": volume_agreement(column(rows, f"{structure}_reference_ml"), column(rows, f"{structure}_predicted_ml"), counts),
        }
    if description.lesion is None:
        return summary
    lesion = description.lesion.key
    detected = column(rows, f"{lesion}_detected")
    summary[lesion]["detection"] = {
        "rate": detection_rate(detected),
        "false_positive_components_per_case": estimate(column(rows, f"{lesion}_false_positive_components"), counts),
        "by_size_tertile": by_size_tertile(column(rows, f"{lesion}_reference_ml"), column(rows, f"{lesion}_dsc"), detected, counts),
    }
    return summary


def summarise_subtype(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None, classes: list[str],
                      resamples: int, seed: int) -> dict:
    """The `subtype` block. true, predicted (n,) class indices, -1 = not predicted; probabilities (n, K) or None.

    The bootstrap draws within each true class, so that every resample has the sample's class counts. Intervals of what the confusion matrix alone
    decides, and of areas under curves, are not the bootstrap's, which cover too little (`subtype_metrics.Posterior`, `area_intervals`).
    """
    counts = resample_counts(len(true), resamples, seed, strata=true)
    weights = np.concatenate([np.ones((1, len(true)), int), counts])  # row 0 is the sample itself
    matrix = sm.confusion(true, predicted, len(classes), weights[:1])
    posterior = sm.Posterior.of(matrix[0], seed=seed)
    decided = _from_confusion(posterior, CONFUSION_METRICS)
    per_class = {name: {"n": int((true == k).sum())} | _from_confusion(posterior, {score: partial(score_of_class, place, k) for place, score in enumerate(CLASS_SCORES)})
                 for k, name in enumerate(classes)}
    statistics: dict[str, np.ndarray] = {}
    block: dict = {"n": len(true), "classes": classes, "confusion_matrix": matrix[0, :, :-1].astype(int),
                   "not_predicted": int((predicted < 0).sum())}
    if probabilities is not None:
        brier = sm.brier_per_case(true, probabilities)
        statistics = {"brier": weights @ brier / weights.sum(axis=1), "ece": sm.classwise_ece(true, probabilities, weights)}
        areas = [_areas_of_class(true == k, probabilities[:, k]) for k in range(len(classes))]
        for k, name in enumerate(classes):
            per_class[name] |= areas[k] | {"reliability": sm.reliability(true == k, probabilities[:, k])}
        decided |= _mean_areas(areas)
        block |= {"ece_bins": sm.ECE_BINS, "decision_differs_from_argmax": int((probabilities.argmax(axis=1) != predicted).sum())}
    return decided | _with_intervals(statistics) | block | {"per_class": per_class}


def _from_confusion(posterior: sm.Posterior, metrics: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> dict:
    """{name: value, name_ci: [low, high]}."""
    result: dict = {}
    for name, metric in metrics.items():
        result |= {name: float(metric(posterior.found)[0]), f"{name}_ci": list(posterior.interval(metric, low_is_good=name in LOW_IS_GOOD))}
    return result


def _areas_of_class(positive: np.ndarray, score: np.ndarray) -> dict:
    """AUROC and average precision of one class against the rest, with intervals: positive (n,) bool, score (n,)."""
    once, positives = np.ones((1, len(positive)), int), int(positive.sum())
    area, precision = float(sm.auroc(positive, score, once)[0]), float(sm.average_precision(positive, score, once)[0])
    return {"auroc": area, "auroc_ci": list(auroc_interval(area, positives, len(positive) - positives)),
            "average_precision": precision, "average_precision_ci": list(average_precision_interval(precision, positives))}


def _mean_areas(areas: list[dict]) -> dict:
    """Means over the classes in which an area is defined; nan where it is in none."""
    result: dict = {}
    for name in ("auroc", "average_precision"):
        defined = [of_class[name] for of_class in areas if not np.isnan(of_class[name])]
        result |= {name: float(np.mean(defined)) if defined else float("nan"), f"{name}_ci": list(mean_interval([of_class[f"{name}_ci"] for of_class in areas]))}
    return result


def score_of_class(place: int, k: int, matrix: np.ndarray) -> np.ndarray:
    """(R,) of class k; place: in CLASS_SCORES."""
    return sm.precision_recall_f1(matrix)[place][:, k]


def column(rows: list[dict], key: str) -> np.ndarray:
    """One numeric column of the rows, (n,) float."""
    return np.array([row[key] for row in rows], float)


def _with_intervals(statistics: dict[str, np.ndarray]) -> dict:
    """{name: value, name_ci: [low, high]} of statistics (1 + resamples,) whose first entry is the sample's own."""
    result = {}
    for name, values in statistics.items():
        result |= {name: float(values[0]), f"{name}_ci": list(interval(values[1:]))}
    return result
