"""Temperature scaling of class logits (Guo et al. 2017, sec. 4.2): probabilities = softmax(logits / T)."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

TEMPERATURE_RANGE = (1e-2, 1e4)  # LDA on a dozen cases can be a thousand times too sure


def refit_limits(counts: Sequence[int], classes: Sequence[str]) -> str | None:
    """What a refit of the class head cannot do with `counts` training cases of each class, in a sentence; None if it can do all."""
    few = ", ".join(f"{count} of class {name}" for count, name in zip(counts, classes) if count < 3)
    if min(counts) < 1 or max(counts) < 2:
        return f"There are {few}: the class head cannot be refitted and stays as it was trained, with probabilities that nothing calibrates."
    if min(counts) < 2:
        return f"There are {few}: the refit rests on that single case, and the calibration leaves its class out."
    return f"There are {few}: the refit and its calibration rest on very few cases." if few else None


def smoothed_targets(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """(N,) -> (N, K): one-hot with one pseudo-case spread over all classes, after Platt (1999, sec. 2.2).

    Without it, few and perfectly separated cases would ask for a temperature of 0, that is for certainty.
    """
    share = 1 / (len(labels) + 1)
    return (1 - share) * np.eye(n_classes)[labels] + share / n_classes


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T that minimises the cross-entropy of smoothed targets; T > 1 makes the classifier less sure of itself.

    logits (N, K) of cases the classifier was not fitted on, labels (N,) in 0..K-1. Within TEMPERATURE_RANGE.
    """
    targets = smoothed_targets(labels, logits.shape[1])

    def loss(log_temperature: float) -> float:  # convex in 1/T, so it has one minimum in log T as well
        return -(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(1).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURE_RANGE), method="bounded").x))


def probability_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Negative log-likelihood in nats, and Brier score summed over classes (0 best, 2 worst); means over cases."""
    one_hot = np.eye(logits.shape[1])[labels]
    return {
        "nll": float(-(one_hot * log_softmax(logits, axis=1)).sum(1).mean()),
        "brier": float(((softmax(logits, axis=1) - one_hot) ** 2).sum(1).mean()),
    }
