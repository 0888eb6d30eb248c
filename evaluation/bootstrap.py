"""Uncertainty from cases: bootstrap intervals and paired permutation tests.

A resample is a row of counts: how often each case was drawn. Every statistic in this package takes weights
(resamples, n), so that its point estimate (weights 1) and its 2000 resamples come from one formula. Intervals are
percentile intervals (Efron and Tibshirani 1993, chapter 13); the unit drawn is the case.
"""

import numpy as np

LEVEL = 0.95


def resample_counts(n: int, resamples: int, seed: int, strata: np.ndarray | None = None) -> np.ndarray:
    """Counts (resamples, n), int: n cases drawn with replacement, within each stratum if `strata` (n,) is given."""
    rng = np.random.default_rng(seed)
    strata = np.zeros(n, int) if strata is None else np.asarray(strata)
    counts = np.zeros((resamples, n), np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return counts


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of values (n,) under weights (resamples, n) -> (resamples,); undefined values (NaN) are left out."""
    defined = ~np.isnan(values)
    weights = weights[:, defined]
    with np.errstate(invalid="ignore"):  # a resample that drew no defined case is itself undefined
        return weights @ values[defined] / weights.sum(axis=1)


def interval(statistics: np.ndarray) -> tuple[float, float]:
    """Percentile interval at LEVEL of resampled statistics (resamples,); undefined resamples are left out."""
    statistics = statistics[~np.isnan(statistics)]
    if len(statistics) == 0:
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def estimate(values: np.ndarray, counts: np.ndarray) -> dict[str, float | int]:
    """{"mean", "ci_low", "ci_high", "n"} of per-case values (n,), NaN left out of mean and n alike."""
    values = np.asarray(values, float)
    mean = float(weighted_mean(values, np.ones((1, len(values))))[0])
    low, high = interval(weighted_mean(values, counts))
    low, high = min(low, mean), max(high, mean)  # of equal values the sums round to either side
    return {"mean": mean, "ci_low": low, "ci_high": high, "n": int(np.count_nonzero(~np.isnan(values)))}


def sign_flips(n: int, permutations: int, seed: int) -> np.ndarray:
    """Random swaps (permutations, n), bool: where True, a paired test exchanges the two runs' results of that case."""
    return np.random.default_rng(seed).random((permutations, n)) < 0.5


def p_value(observed: float, permuted: np.ndarray) -> float:
    """Two-sided p of a permutation test, the observed arrangement counted in (Phipson and Smyth 2010), so never 0."""
    extreme = np.count_nonzero(np.abs(permuted) >= abs(observed) - 1e-12)
    return (extreme + 1) / (len(permuted) + 1)
