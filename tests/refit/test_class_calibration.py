import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2.class_evidence.calibration import refit_limits, TEMPERATURE_RANGE, fit_temperature, probability_scores, smoothed_targets


def sampled(scale: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits `scale` times as large as those the labels were drawn with."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 3)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(3, p=p) for p in probabilities])
    return logits * scale, labels


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_temperature_undoes_a_known_scale(scale):
    assert fit_temperature(*sampled(scale)) == pytest.approx(scale, rel=0.1)


def test_calibration_improves_both_scores_of_an_overconfident_classifier():
    logits, labels = sampled(5.0)
    before, after = probability_scores(logits, labels), probability_scores(logits / fit_temperature(logits, labels), labels)
    assert after["nll"] < before["nll"] and after["brier"] < before["brier"]


def test_few_separated_cases_do_not_become_certain():
    logits, labels = np.eye(3) * 4, np.arange(3)
    temperature = fit_temperature(logits, labels)
    assert temperature > 1.5 * TEMPERATURE_RANGE[0]
    # one pseudo-case beside three cases: the true class's target is 3/4 + 1/12
    p = 1 / (1 + 2 * math.exp(-4 / temperature))
    assert p == pytest.approx(5 / 6, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_smoothed_targets_are_distributions_that_favour_the_label(labels):
    targets = smoothed_targets(np.array(labels), 4)
    assert np.allclose(targets.sum(1), 1)
    assert (targets.argmax(1) == labels).all()


def test_scores_of_even_odds():
    scores = probability_scores(np.zeros((5, 3)), np.array([0, 1, 2, 0, 1]))
    assert scores["nll"] == pytest.approx(math.log(3))
    assert scores["brier"] == pytest.approx(4 / 9 + 2 / 9)


def test_brier_of_a_published_example():
    assert probability_scores(np.log([[0.2, 0.8], [0.4, 0.6]]), np.array([1, 0]))["brier"] == pytest.approx(0.4)


def test_limits_of_a_refit_are_said_by_class():
    classes = ["a", "b", "c"]
    assert refit_limits([3, 4, 5], classes) is None
    assert "2 of class b" in refit_limits([3, 2, 5], classes) and "very few" in refit_limits([3, 2, 5], classes)
    assert "1 of class c" in refit_limits([3, 3, 1], classes) and "single case" in refit_limits([3, 3, 1], classes)
    assert "cannot be refitted" in refit_limits([0, 3, 3], classes) and "cannot be refitted" in refit_limits([1, 1, 1], classes)
