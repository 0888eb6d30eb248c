"""The head over all blocks: what it weighs, what it says of chance, what a checkpoint keeps of it."""

from itertools import product

import numpy as np
import pytest
from scipy.special import softmax

from nnunetv2.class_evidence.calibration import fit_temperature, probability_scores
from nnunetv2.class_evidence.fit import MOST_FOLDS, fit_evidence, fit_stack, folds_of, folds_to_weigh, permutation_test
from nnunetv2.class_evidence.head import EvidenceHead
from nnunetv2.utilities.errors import InputError

pytestmark = pytest.mark.slow


def cases(n: int, signal: float, seed: int = 0, noise_features: int = 20) -> tuple[list[dict], np.ndarray]:
    """Block `size` tells the class by one feature, block `texture` nothing by many."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    measured = [{"size": {"a": float(signal * k + rng.normal()), "b": float(rng.normal())},
                 "texture": {f"t{i}": float(rng.normal()) for i in range(noise_features)}} for k in labels]
    return measured, labels


def test_a_block_without_signal_costs_little():
    measured, labels = cases(120, 4.0)
    _, report = fit_evidence(measured, labels, 3)
    blocks = report["blocks"]
    assert blocks["size"]["weight"] > 5 * blocks["texture"]["weight"]
    assert report["left_out"]["macro_f1"] > blocks["size"]["macro_f1_alone"] - 0.03
    assert report["left_out"]["evidence_found"]


def test_shuffled_labels_are_found_to_be_chance():
    measured, labels = cases(90, 3.0)
    order = np.random.default_rng(1).permutation(len(labels))
    _, report = fit_evidence(measured, labels[order], 3)
    low, high = report["left_out"]["chance_95"]
    assert low <= report["left_out"]["macro_f1"] <= high and not report["left_out"]["evidence_found"]


def test_new_cases_are_told_apart_and_a_missing_feature_counts_as_average():
    measured, labels = cases(150, 3.0)
    head, _ = fit_evidence(measured, labels, 3)
    fresh, truth = cases(60, 3.0, seed=5)
    even = np.full(3, 1 / 3)
    assert np.mean([head.probabilities(case, even).argmax() for case in fresh] == truth) > 0.8
    missing = {"size": {"b": 0.0}, "texture": {}}
    assert np.isfinite(head.probabilities(missing, even)).all()


@pytest.mark.parametrize("forest", [None, 1])
def test_the_stack_is_as_sure_as_its_left_out_cases_allow(forest):
    rng = np.random.default_rng(4)
    labels = np.arange(90) % 3
    logits = np.stack([strength * np.eye(3)[labels] + rng.normal(size=(90, 3)) for strength in (1.5, 2.0, 0.0)], axis=1)
    stack = fit_stack(logits, labels, forest)
    assert fit_temperature(stack(logits), labels) == pytest.approx(1, abs=1e-3)
    assert stack.weights[:2].min() > 3 * stack.weights[2]


def test_the_networks_own_head_is_one_more_block():
    measured, labels = cases(120, 0.0)
    rng = np.random.default_rng(2)
    network = np.eye(3)[labels][:, None] * 3 + rng.normal(size=(120, 2, 3))
    head, report = fit_evidence(measured, labels, 3, network)
    assert report["blocks"]["network"]["weight"] > 0.3 and head.network_weight == report["blocks"]["network"]["weight"]
    assert head.probabilities(measured[0], np.array([0.02, 0.96, 0.02])).argmax() == 1


def test_a_case_without_a_lesion_gets_the_training_shares():
    measured, labels = cases(30, 2.0)
    head, _ = fit_evidence(measured[:29], labels[:29], 3)
    assert head.probabilities(None, np.array([1.0, 0, 0])).tolist() == pytest.approx([10 / 29, 10 / 29, 9 / 29])


def test_one_case_of_a_class_is_enough_to_fit():
    measured, labels = cases(12, 2.0)
    labels = np.where(np.arange(12) == 5, 2, labels % 2)
    head, report = fit_evidence(measured, labels, 3)
    assert np.isfinite(head.weight).all() and report["left_out"]["cases"] == 11


@pytest.mark.parametrize("counts", [counts for n in (2, 3) for counts in product((1, 2, 3), repeat=n) if max(counts) > 1])
def test_however_few_cases_the_fit_ends(counts):
    """What is too little for folds within folds is no reason to lose a training."""
    labels = np.repeat(range(len(counts)), counts)
    measured, _ = cases(len(labels), 2.0)
    network = np.random.default_rng(1).normal(size=(len(labels), 2, 4))
    head, report = fit_evidence(measured, labels, len(counts), network)
    assert np.isfinite(head.probabilities(measured[0], np.full(len(counts), 1 / len(counts)))).all()
    assert report["left_out"] is None or 0 <= report["left_out"]["macro_f1"] <= 1


@pytest.mark.parametrize("per_class, signal", [(4, 0.0), (4, 2.0), (4, 8.0), (20, 2.0)])
def test_the_report_is_as_sure_as_the_head_is_of_new_cases(per_class, signal):
    """Means over data sets: one of a dozen cases says little."""
    scores, even = [], np.full(3, 1 / 3)
    for seed in range(5):
        measured, labels = cases(3 * per_class, signal, seed)
        head, report = fit_evidence(measured, labels, 3, with_forest=False)
        fresh, truth = cases(150, signal, seed + 100)
        new = probability_scores(np.log([head.probabilities(case, even) for case in fresh]), truth)
        scores.append([report["left_out"]["nll"], new["nll"], report["left_out"]["brier"], new["brier"]])
    nll, new_nll, brier, new_brier = np.mean(scores, axis=0)
    assert new_nll - 0.15 < nll < new_nll + 0.45 and new_brier - 0.1 < brier < new_brier + 0.25  # the report's fits had fewer cases


def test_three_separated_cases_a_class_do_not_make_the_head_certain_or_blind():
    for seed in range(5):
        measured, labels = cases(9, 8.0, seed)
        fresh, truth = cases(60, 8.0, seed + 100)
        head, _ = fit_evidence(measured, labels, 3, with_forest=False)
        p = np.array([head.probabilities(case, np.full(3, 1 / 3)) for case in fresh])
        assert 0.55 < p[np.arange(60), truth].mean() < 0.95


@pytest.mark.parametrize("folds", [folds_of, folds_to_weigh])
@pytest.mark.parametrize("counts", [(4, 4, 4), (1, 6, 5), (1, 2), (3,) * 20, (1, 150, 3)])
def test_every_fit_has_every_class_and_every_other_case_is_left_out_once(folds, counts):
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
    found = folds(labels, 0)
    several = np.flatnonzero(np.array(counts)[labels] > 1)
    assert sorted(np.concatenate([test for _, test in found])) == several.tolist() and len(found) <= MOST_FOLDS
    for train, test in found:
        assert sorted([*train, *test]) == list(range(len(labels))) and np.bincount(labels[train], minlength=len(counts)).min() >= 1


def test_units_do_not_matter():
    measured, labels = cases(60, 2.0)
    scaled = [{"size": {k: 1000 * v + 7 for k, v in case["size"].items()}, "texture": case["texture"]} for case in measured]
    even = np.full(3, 1 / 3)
    a, b = (fit_evidence(some, labels, 3)[0].probabilities(some[4], even) for some in (measured, scaled))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_what_a_checkpoint_keeps_predicts_the_same():
    measured, labels = cases(60, 2.0)
    head, _ = fit_evidence(measured, labels, 3)
    again = EvidenceHead.from_checkpoint(head.to_checkpoint(), 3, "here")
    p = softmax(np.array([0.3, 0.1, 0.6]))
    np.testing.assert_array_equal(again.probabilities(measured[7], p), head.probabilities(measured[7], p))


def test_what_lies_between_two_thresholds_is_the_forests_to_find():
    rng = np.random.default_rng(3)
    values, noise = rng.normal(size=150), rng.normal(size=(150, 3))
    labels = (np.abs(values) < 0.6).astype(int)
    measured = [{"attenuation": {"mean": float(v)}, "texture": {f"t{i}": float(x) for i, x in enumerate(row)}} for v, row in zip(values, noise)]
    head, report = fit_evidence(measured, labels, 2)
    assert report["blocks"]["joint"]["macro_f1_alone"] < 0.65 < 0.9 < report["left_out"]["macro_f1"]
    linear, found = fit_evidence(measured, labels, 2, with_forest=False)
    assert linear.forest is None and "forest" not in found["blocks"] and found["left_out"]["macro_f1"] < 0.65
    again = EvidenceHead.from_checkpoint(head.to_checkpoint(), 2, "here")
    even = np.full(2, 0.5)
    for value, label in ((0.0, 1), (-2.0, 0), (2.0, 0)):
        case = {"attenuation": {"mean": value}, "texture": {}}
        assert again.probabilities(case, even).argmax() == label
        np.testing.assert_array_equal(again.probabilities(case, even), head.probabilities(case, even))


def test_a_checkpoint_without_a_forest_predicts_by_its_layer_alone():
    measured, labels = cases(60, 2.0)
    content = fit_evidence(measured, labels, 3)[0].to_checkpoint()
    del content["forest"], content["forest_weight"]
    head, even = EvidenceHead.from_checkpoint(content, 3, "here"), np.full(3, 1 / 3)
    assert head.forest is None
    x = np.clip((head.vector(measured[0]) - head.centre) * head.scale, -4, 4)
    np.testing.assert_allclose(head.probabilities(measured[0], even), softmax(x @ head.weight.T + head.bias))


@pytest.mark.parametrize("change", [{"weight": None}, {"features": "no json"}, {"features": '{"os": ["system"]}'}, {"n_classes": 2}, {"forest": {}}, {"forest_weight": "1"}])
def test_damaged_heads_are_refused_by_name(change):
    measured, labels = cases(30, 2.0)
    content = fit_evidence(measured, labels, 3)[0].to_checkpoint() | {k: v for k, v in change.items() if k != "n_classes"}
    with pytest.raises(InputError, match="there.pth: its class_evidence"):
        EvidenceHead.from_checkpoint(content, change.get("n_classes", 3), "there.pth")


def test_permutation_p_of_a_perfect_guess_is_the_smallest_there_is():
    true = np.arange(30) % 3
    found, p, (low, high) = permutation_test(true, true, 3)
    assert found == 1 and p == pytest.approx(1 / 2001) and low < 1 / 3 < high
