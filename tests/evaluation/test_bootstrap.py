import numpy as np
import pytest
from scipy.stats import bootstrap

from evaluation.bootstrap import estimate, interval, p_value, resample_counts, sign_flips


def test_every_resample_draws_n_cases():
    assert (resample_counts(7, 50, 0).sum(axis=1) == 7).all()


def test_strata_keep_their_size():
    strata = np.array([0, 0, 1, 1, 1])
    counts = resample_counts(5, 50, 0, strata)
    assert (counts[:, strata == 0].sum(axis=1) == 2).all() and (counts[:, strata == 1].sum(axis=1) == 3).all()


def test_a_seed_repeats_itself_and_another_does_not():
    assert (resample_counts(9, 20, 1) == resample_counts(9, 20, 1)).all()
    assert (resample_counts(9, 20, 1) != resample_counts(9, 20, 2)).any()


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(0).normal(size=40)
    ours = estimate(values, resample_counts(40, 20_000, 0))
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert (ours["ci_low"], ours["ci_high"]) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_undefined_cases_leave_mean_and_n():
    assert estimate(np.array([1.0, np.nan, 3.0]), resample_counts(3, 100, 0)) == {
        "mean": 2, "ci_low": pytest.approx(1), "ci_high": pytest.approx(3), "n": 2}


def test_nothing_defined_has_no_mean():
    result = estimate(np.array([np.nan, np.nan]), resample_counts(2, 10, 0))
    assert result["n"] == 0 and np.isnan(result["mean"]) and np.isnan(result["ci_low"])


def test_interval_leaves_out_undefined_resamples():
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1, 1)


def test_p_value_is_never_zero():
    assert p_value(10, np.zeros(99)) == 0.01


def test_sign_flips_are_fair():
    assert sign_flips(100, 1000, 0).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("n", [10, 39])
def test_the_interval_of_equal_values_holds_their_mean(n):
    """Sums of 0.85 round to either side; a figure takes no error bar of negative length."""
    found = estimate(np.full(n, 0.85), resample_counts(n, 200, 0))
    assert found["ci_low"] <= found["mean"] <= found["ci_high"]
