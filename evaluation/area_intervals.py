"""95 % intervals of areas under ROC and precision-recall curves, from the area and the numbers of cases alone.

Resampled cases cover too little where classes are told apart well: where every case is ranked rightly their percentiles have no width, and at
9 to 15 cases per class and an AUROC of .99 they miss the true value in more than a quarter of the samples
(tests/evaluation/test_area_intervals.py measures what both cover).
"""

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

Z = float(norm.ppf(0.975))
UNDEFINED = (float("nan"), float("nan"))


def auroc_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """Score interval of an AUROC: all areas whose own standard error allows the one that was found.

    Newcombe, Statistics in Medicine 25 (2006), 559-573, method 5: Hanley and McNeil's variance, both sides of the mean size. (nan, nan) where the
    area is undefined, as without positives or without negatives.
    """
    if np.isnan(area):
        return UNDEFINED

    def squared_distance(true: float) -> float:
        spread = 1 + ((positives + negatives) / 2 - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        return (area - true) ** 2 - Z**2 * true * (1 - true) * spread / (positives * negatives)

    inside = min(max(area, 1e-12), 1 - 1e-12)  # at an area of 0 or 1 the area itself is a root
    low = float(brentq(squared_distance, 0.0, inside)) if area > 0 else 0.0
    high = float(brentq(squared_distance, inside, 1.0)) if area < 1 else 1.0
    return low, high


def average_precision_interval(area: float, positives: int) -> tuple[float, float]:
    """Wilson's interval, as if the area were a share of the positive cases. (nan, nan) where the area is undefined.

    Boyd, Eng and Page, ECML PKDD 2013, recommend such binomial intervals of the positives; Wilson's (JASA 1927) keeps its width at 1.
    """
    if np.isnan(area):
        return UNDEFINED
    centre, shrink = (area + Z**2 / (2 * positives)) / (1 + Z**2 / positives), 1 + Z**2 / positives
    half = Z * np.sqrt(area * (1 - area) / positives + Z**2 / (4 * positives**2)) / shrink
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def mean_interval(intervals: list[tuple[float, float]]) -> tuple[float, float]:
    """Of the mean of several areas on the same cases: the mean of their limits, which holds however they hang together. Undefined ones are left out."""
    defined = [limits for limits in intervals if not np.isnan(limits[0])]
    if not defined:
        return UNDEFINED
    low, high = np.mean(defined, axis=0)
    return float(low), float(high)
