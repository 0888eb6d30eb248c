"""Paired comparison of two runs on the same cases: difference, interval, permutation test, and whether n suffices.

The bootstrap draws cases and takes both runs' results of each; the permutation test exchanges the two runs' results of
random cases, which is what a case would look like if the runs did not differ (Good, "Permutation tests", 2000). Neither
corrects for the number of metrics compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluation import subtype_metrics as sm
from evaluation.bootstrap import interval, p_value, resample_counts, sign_flips, weighted_mean

ALPHA = 0.05
POWER_FACTOR = 1.96 + 0.84  # two-sided 5 % and 80 % power, in standard errors


@dataclass(frozen=True)
class Subtypes:
    """One run's subtypes: predicted (n,) class index or -1, probabilities (n, K) or None."""

    predicted: np.ndarray
    probabilities: np.ndarray | None


def compare_means(a: np.ndarray, b: np.ndarray, margin: float, resamples: int, seed: int) -> dict:
    """Mean of b - a per case (n,). Cases where either run's value is undefined are left out of the pair, and counted.

    Where one run alone has no value (it missed the structure), the pairs are those that this run found, which flatters it: no verdict then.
    """
    difference = np.asarray(b, float) - np.asarray(a, float)
    counts = resample_counts(len(difference), resamples, seed)
    flips = np.where(sign_flips(len(difference), resamples, seed), -1, 1)
    defined = ~np.isnan(difference)
    a, b = np.asarray(a, float), np.asarray(b, float)
    one_sided = {"only_a": int((~np.isnan(a) & np.isnan(b)).sum()), "only_b": int((np.isnan(a) & ~np.isnan(b)).sum())}
    if not defined.any():
        row = _row(np.nan, np.nan, np.array([]), np.array([]), 0, margin)
    else:
        permuted = (flips[:, defined] * difference[defined]).mean(axis=1)
        row = _row(float(np.mean(a[defined])), float(np.mean(b[defined])), weighted_mean(difference, counts), permuted, int(defined.sum()), margin)
    if any(one_sided.values()):
        row["verdict"] = f"no verdict: undefined in B alone in {one_sided['only_a']} case(s), in A alone in {one_sided['only_b']}"
    return row | one_sided


def compare_counts(a: np.ndarray, b: np.ndarray, margin: float, resamples: int, seed: int) -> dict:
    """`compare_means` of two yes-or-no columns (n,), such as misses, with how many each run has; NaN where the question does not arise."""
    return compare_means(a, b, margin, resamples, seed) | {"count_a": int(np.nansum(a)), "count_b": int(np.nansum(b))}


def compare_subtypes(true: np.ndarray, a: Subtypes, b: Subtypes, classes: int, margin: float, resamples: int, seed: int) -> dict[str, dict]:
    """{metric: row} for macro-F1 and balanced accuracy and, with both runs' probabilities, AUROC and Brier score."""
    counts = resample_counts(len(true), resamples, seed, strata=true)
    swap = sign_flips(len(true), resamples, seed)

    def confusions(predicted: np.ndarray) -> np.ndarray:  # (n, K * (K + 1)): each case's own confusion matrix, flat
        return sm.confusion(true, predicted, classes, np.eye(len(true), dtype=int)).reshape(len(true), -1)

    flat_a, flat_b = confusions(a.predicted), confusions(b.predicted)
    rows = {}
    for name, statistic in {"macro_f1": sm.macro_f1, "balanced_accuracy": sm.balanced_accuracy}.items():
        def of(weights_a: np.ndarray, weights_b: np.ndarray, statistic: Callable = statistic) -> np.ndarray:
            return statistic((weights_a @ flat_a + weights_b @ flat_b).reshape(-1, classes, classes + 1))
        everyone, nobody = np.ones((1, len(true))), np.zeros((1, len(true)))
        resampled = of(0 * counts, counts) - of(counts, 0 * counts)
        permuted = of(swap, ~swap) - of(~swap, swap)
        rows[name] = _row(of(everyone, nobody)[0], of(nobody, everyone)[0], resampled, permuted, len(true), margin)
    if a.probabilities is not None and b.probabilities is not None:
        rows["auroc"] = _compare_auroc(true, a.probabilities, b.probabilities, counts, swap, margin)
        rows["brier"] = compare_means(sm.brier_per_case(true, a.probabilities), sm.brier_per_case(true, b.probabilities),
                                      margin, resamples, seed)
    return rows


def _compare_auroc(true: np.ndarray, a: np.ndarray, b: np.ndarray, counts: np.ndarray, swap: np.ndarray, margin: float) -> dict:
    """Mean one-vs-rest AUROC over the classes that have both sides. Swapped cases keep their run's probabilities, whole."""
    present = [k for k in range(a.shape[1]) if 0 < (true == k).sum() < len(true)]
    if not present:
        return _row(np.nan, np.nan, np.array([]), np.array([]), 0, margin)

    def mean_auroc(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.mean([sm.auroc(true == k, probabilities[:, k], weights) for k in present], axis=0)

    everyone = np.ones((1, len(true)), int)
    permuted = [mean_auroc(np.where(s[:, None], a, b), everyone)[0] - mean_auroc(np.where(s[:, None], b, a), everyone)[0] for s in swap]
    return _row(mean_auroc(a, everyone)[0], mean_auroc(b, everyone)[0], mean_auroc(b, counts) - mean_auroc(a, counts),
                np.array(permuted), len(true), margin)


def _row(mean_a: float, mean_b: float, resampled: np.ndarray, permuted: np.ndarray, n: int, margin: float) -> dict:
    difference = float(mean_b - mean_a)
    low, high = interval(resampled)
    p = p_value(difference, permuted) if n else float("nan")
    spread = float(np.nanstd(resampled)) if n else float("nan")
    row = {"a": float(mean_a), "b": float(mean_b), "difference": difference, "ci_low": low, "ci_high": high, "p": p, "n": n,
           "margin": margin, "detectable": POWER_FACTOR * spread}
    return row | {"verdict": _verdict(row)}


def _verdict(row: dict) -> str:
    """One sentence; `detectable` is the smallest true difference that n cases would show in 4 of 5 studies."""
    n, margin = row["n"], row["margin"]
    if n == 0:
        return "nothing to compare"
    if 2 / 2 ** n > ALPHA:  # even if every case agreed, a sign-flip test could not reach 5 %
        return f"n = {n} is too small to tell: no test on fewer than 6 cases can reach p < {ALPHA}"
    if row["p"] < ALPHA and not row["ci_low"] <= 0 <= row["ci_high"]:
        return "B is higher" if row["difference"] > 0 else "B is lower"
    if -margin < row["ci_low"] and row["ci_high"] < margin:
        return f"equal within {margin:g}"
    if row["detectable"] <= margin:
        return f"undecided: the interval holds 0 and reaches past {margin:g}"
    needed = int(np.ceil(n * (row["detectable"] / margin) ** 2))
    return f"n = {n} is too small to tell: differences under {row['detectable']:.3f} go unseen, {needed} cases would show {margin:g}"
