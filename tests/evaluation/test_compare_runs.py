import copy
import json

import numpy as np
import pytest

from evaluation.comparison import Subtypes, compare_means, compare_subtypes
from evaluation.compare_runs import compare, main

RNG = np.random.default_rng(0)


def means(a, b, margin: float = 0.01) -> dict:
    return compare_means(np.asarray(a, float), np.asarray(b, float), margin, 1000, 0)


def test_a_constant_gain_is_found():
    base = RNG.random(30)
    row = means(base, base + 0.05)
    assert row["difference"] == pytest.approx(0.05) and row["p"] < 0.01 and row["verdict"] == "B is higher"


def test_sign_follows_b_minus_a():
    base = RNG.random(30)
    assert means(base, base - 0.05)["verdict"] == "B is lower"


def test_equal_runs_are_equal():
    base = RNG.random(30)
    assert means(base, base)["verdict"] == "equal within 0.01"


def test_five_cases_can_never_tell():
    assert "n = 5 is too small to tell" in means([0.5] * 5, [0.9] * 5)["verdict"]


def test_a_noisy_difference_asks_for_more_cases():
    row = means(np.zeros(20), RNG.normal(0, 0.2, 20))
    assert "too small to tell" in row["verdict"] and row["detectable"] > 0.01


def test_cases_undefined_in_one_run_leave_the_pair():
    row = means([1, 2, np.nan], [2, np.nan, 3])
    assert (row["n"], row["a"], row["b"]) == (1, 1, 2)


def test_a_metric_that_one_run_lacks_gets_no_verdict():
    """Half of B's lesions are missed and the others agree to the millimetre: no reason to call the runs equal."""
    row = compare_means(np.full(16, 3.0), np.where(np.arange(16) < 8, np.nan, 3.0), 1.0, 200, 0)
    assert row["n"] == 8 and (row["only_a"], row["only_b"]) == (8, 0)
    assert row["verdict"] == "no verdict: undefined in B alone in 8 case(s), in A alone in 0"


def test_cases_undefined_in_both_runs_leave_the_verdict():
    both = np.where(np.arange(20) < 4, np.nan, 3.0)
    assert compare_means(both, both, 1.0, 200, 0)["verdict"] == "equal within 1"


def test_misses_are_compared_themselves(scored_run):
    metrics = json.loads((scored_run / "metrics.json").read_text())
    worse = copy.deepcopy(metrics)
    missed = [row for row in worse["cases"] if row["lesion_outcome"] == "present"]
    for row in missed:
        row |= {"lesion_outcome": "missed", "lesion_hd95_mm": None, "lesion_masd_mm": None, "lesion_dsc": 0.0, "lesion_detected": 0}
    lesion = compare(metrics, worse, 50, 0)["lesion"]
    assert lesion["missed"]["count_b"] - lesion["missed"]["count_a"] == len(missed)
    assert lesion["found"]["count_b"] == 0 and lesion["hd95_mm"]["verdict"].startswith("no verdict")


@pytest.mark.slow
def test_permutation_p_of_noise_is_uniform():
    p = [compare_means(np.zeros(15), noise, 0.01, 200, seed)["p"] for seed, noise in enumerate(RNG.normal(size=(200, 15)))]
    assert np.mean(np.array(p) < 0.2) == pytest.approx(0.2, abs=0.08)


@pytest.mark.slow
def test_subtype_difference_is_the_difference_of_the_scores():
    true = np.array([0, 1, 2] * 10)
    wrong = np.where(np.arange(30) < 15, (true + 1) % 3, true)
    probabilities = np.eye(3)
    rows = compare_subtypes(true, Subtypes(wrong, probabilities[wrong]), Subtypes(true, probabilities[true]), 3, 0.05, 500, 0)
    assert rows["macro_f1"]["b"] == 1 and rows["macro_f1"]["difference"] == pytest.approx(0.5) and rows["macro_f1"]["p"] < 0.01
    assert rows["brier"]["difference"] == pytest.approx(-1) and rows["auroc"]["verdict"] == "B is higher"


def test_other_cases_are_refused_by_name(scored_run):
    metrics = json.loads((scored_run / "metrics.json").read_text())
    other = copy.deepcopy(metrics)
    other["cases"][0]["case"] = "quiz_9_999"
    with pytest.raises(ValueError, match="(?s)quiz_0_001: only in A.*quiz_9_999: only in B"):
        compare(metrics, other, 10, 0)


def moved(metrics: dict, **row) -> dict:
    """The same scores against other true masks of the first case, of which `row` tells volumes."""
    other = copy.deepcopy(metrics)
    other["cases"][0] |= row
    if not row:
        other["provenance"]["references"]["quiz_0_001"] = "0" * 64
    return other


def test_runs_scored_against_other_masks_of_the_same_volume_are_refused_by_case(scored_run):
    metrics = json.loads((scored_run / "metrics.json").read_text())
    with pytest.raises(ValueError, match="compared:\nquiz_0_001: its true mask differs, .* ml in B; score both against the same masks$"):
        compare(metrics, moved(metrics), 10, 0)


def test_files_without_hashes_are_compared_by_the_true_volumes(scored_run):
    metrics = json.loads((scored_run / "metrics.json").read_text())
    del metrics["provenance"]["references"]
    with pytest.raises(ValueError, match="quiz_0_001: its true mask differs"):
        compare(metrics, moved(metrics, lesion_reference_ml=metrics["cases"][0]["lesion_reference_ml"] * 1.01), 10, 0)
    assert compare(metrics, moved(metrics, lesion_reference_ml=metrics["cases"][0]["lesion_reference_ml"] * (1 + 1e-9)), 10, 0)["n_cases"] == 4


def test_command_compares_a_run_with_itself(scored_run, tmp_path, capsys):
    assert main([str(scored_run), str(scored_run), "--resamples", "20", "--out", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text())["lesion"]["dsc"]["difference"] == 0
    assert "Macro-F1" in capsys.readouterr().out
