"""Metrics of a case classifier, each a function of case weights so that the bootstrap costs one matrix product.

Shapes: n cases, K classes, R resamples. true (n,) int; predicted (n,) int, -1 where nothing was predicted;
probabilities (n, K); weights (R, n). Everything returns (R,) unless said otherwise, and NaN where a value is undefined.
Choice of metrics: Maier-Hein, Reinke et al., "Metrics reloaded", Nature Methods 2024.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ECE_BINS = 10  # of equal width over [0, 1]; the value of a calibration error depends on them


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Confusion matrices (R, K, K + 1), rows true, columns predicted; the last column holds cases without a prediction."""
    cell = true * (classes + 1) + np.where(predicted < 0, classes, predicted)
    one_hot = np.eye(classes * (classes + 1))[cell]  # (n, K * (K + 1))
    return (weights @ one_hot).reshape(-1, classes, classes + 1)


def precision_recall_f1(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each (R, K). As in scikit-learn, a class never predicted has precision 0, and 0/0 in recall or F1 is 0."""
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    support, claimed = matrix.sum(axis=2), matrix[:, :, :-1].sum(axis=1)
    return _ratio(hits, claimed), _ratio(hits, support), _ratio(2 * hits, support + claimed)


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that are true or predicted for some case (scikit-learn's macro average)."""
    occurs = matrix.sum(axis=2) + matrix[:, :, :-1].sum(axis=1) > 0
    return _ratio(precision_recall_f1(matrix)[2].sum(axis=1), occurs.sum(axis=1))


@dataclass(frozen=True)
class Posterior:
    """Confusion matrices (draws, K, K + 1) that one matrix allows, whose rows are the true classes and whose row sums are fixed; `of` draws them.

    Predictions within a true class are drawn from their Dirichlet posterior: in `pessimistic` with a quarter of a case more in every cell, in
    `optimistic` with half a case more where class and prediction agree and a tenth elsewhere. With few cases one prior alone covers too little at one
    of its ends. Percentiles of resampled cases cover less, and have no width where every case is right, or every one wrong.
    """

    found: np.ndarray  # (1, K, K + 1), the matrix itself
    pessimistic: np.ndarray
    optimistic: np.ndarray

    @staticmethod
    def of(matrix: np.ndarray, draws: int = 2000, seed: int = 0) -> "Posterior":
        """matrix (K, K + 1), with a case."""
        matrix, sizes = np.asarray(matrix, float), np.asarray(matrix, float).sum(axis=1)
        occurs = sizes + matrix[:, :-1].sum(axis=0) > 0
        could_occur = occurs if occurs.sum() > 1 else np.ones_like(occurs)  # of one class alone every draw would be perfect
        rng, drawn = np.random.default_rng(seed), []
        for right, wrong, classes in ((0.25, 0.25, could_occur), (0.5, 0.1, occurs)):
            prior = np.where(np.eye(*matrix.shape, dtype=bool), right, wrong) * np.append(classes, False)  # not predicted at all: as often as seen
            cells = rng.standard_gamma(matrix + prior, size=(draws, *matrix.shape))
            drawn.append(cells / np.maximum(cells.sum(axis=2, keepdims=True), 1e-300) * sizes[:, None])
        return Posterior(matrix[None], *drawn)

    def interval(self, metric: Callable[[np.ndarray], np.ndarray], low_is_good: bool = False) -> tuple[float, float]:
        """95 % interval of a metric, (R, K, K + 1) -> (R,); it holds the sample's own value, and is (nan, nan) where that is undefined.

        At 9, 15 and 12 cases and accuracies of .75 to .97 it covers at least 93 % for every metric of all classes here, and
        at least 88 % for precision, recall and F1 of one class.
        """
        found = float(metric(self.found)[0])
        if np.isnan(found):
            return float("nan"), float("nan")
        below, above = (self.optimistic, self.pessimistic) if low_is_good else (self.pessimistic, self.optimistic)
        # of very few cases the prior may lie to one side
        return min(float(np.quantile(metric(below), 0.025)), found), max(float(np.quantile(metric(above), 0.975)), found)


def macro_f1_interval(matrix: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of macro-F1 of one confusion matrix (K, K + 1); never of width zero. (nan, nan) without cases."""
    return Posterior.of(matrix, draws, seed).interval(macro_f1) if np.any(matrix) else (float("nan"), float("nan"))


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """Share of cases with the right class."""
    return np.trace(matrix[:, :, :-1], axis1=1, axis2=2) / matrix.sum(axis=(1, 2))


def balanced_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Mean recall of the classes that have a true case."""
    recall, present = precision_recall_f1(matrix)[1], matrix.sum(axis=2) > 0
    return (recall * present).sum(axis=1) / present.sum(axis=1)


def mcc(matrix: np.ndarray) -> np.ndarray:
    """Matthews correlation for K classes (Gorodkin 2004), -1 to 1; 0 when only one class is true or predicted."""
    total, hits = matrix.sum(axis=(1, 2)), np.trace(matrix[:, :, :-1], axis1=1, axis2=2)
    support, claimed = matrix.sum(axis=2), matrix.sum(axis=1)  # (R, K), (R, K + 1)
    covariance = hits * total - (support * claimed[:, :-1]).sum(axis=1)
    spread = (total ** 2 - (claimed ** 2).sum(axis=1)) * (total ** 2 - (support ** 2).sum(axis=1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0)))


def expected_cost(matrix: np.ndarray) -> np.ndarray:
    """Normalised expected cost at 0/1 costs and the sample's prevalences: 0 perfect, 1 as good as naming the commonest class."""
    naive = 1 - matrix.sum(axis=2).max(axis=1) / matrix.sum(axis=(1, 2))
    return np.divide(1 - accuracy(matrix), naive, out=np.full(len(matrix), np.nan), where=naive > 0)


def brier_per_case(true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Brier score summed over classes, (n,): 0 perfect, 2 certain and wrong (Brier 1950)."""
    return ((probabilities - np.eye(probabilities.shape[1])[true]) ** 2).sum(axis=1)


def auroc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of positive (n,) bool against score (n,): chance that a positive case outranks a negative.

    Ties count one half. NaN where a resample lacks either side.
    """
    wins = np.sign(score[positive][:, None] - score[~positive][None]) / 2 + 0.5
    up, down = weights[:, positive].astype(float), weights[:, ~positive].astype(float)
    return _ratio(((up @ wins) * down).sum(axis=1), up.sum(axis=1) * down.sum(axis=1), empty=np.nan)


def average_precision(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision: sum over thresholds of precision times gain in recall, without interpolation. NaN without positives."""
    order = np.argsort(-score, kind="stable")
    threshold = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # tied scores enter together
    taken = np.cumsum(weights[:, order], axis=1)[:, threshold]
    hits = np.cumsum(weights[:, order] * positive[order], axis=1)[:, threshold]
    gain = np.diff(hits, axis=1, prepend=0)
    return _ratio((gain * _ratio(hits, taken)).sum(axis=1), hits[:, -1], empty=np.nan)


def classwise_ece(true: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Class-wise expected calibration error (Kull et al., NeurIPS 2019), ECE_BINS bins, mean over the classes."""
    errors = []
    for k in range(probabilities.shape[1]):
        in_bin = np.eye(ECE_BINS)[bin_index(probabilities[:, k])]  # (n, bins)
        surplus = weights @ (in_bin * (probabilities[:, k] - (true == k))[:, None])  # (R, bins)
        errors.append(np.abs(surplus).sum(axis=1) / weights.sum(axis=1))
    return np.mean(errors, axis=0)


def bin_index(probability: np.ndarray) -> np.ndarray:
    """Bin 0 .. ECE_BINS - 1 of each probability; bins are closed below, the last one on both sides."""
    return np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)


def reliability(positive: np.ndarray, probability: np.ndarray) -> list[dict[str, float | int]]:
    """Points of a reliability diagram: mean probability, observed frequency and n of each bin that holds a case."""
    bins = bin_index(probability)
    return [{"probability": float(probability[bins == b].mean()), "frequency": float(positive[bins == b].mean()),
             "n": int(np.count_nonzero(bins == b))} for b in range(ECE_BINS) if (bins == b).any()]


def _ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = 0.0) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), empty, float), where=denominator != 0)
