from functools import partial

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluation import subtype_metrics as sm
from evaluation.summary import CLASS_SCORES, CONFUSION_METRICS, LOW_IS_GOOD, score_of_class


def once(n: int) -> np.ndarray:
    return np.ones((1, n), int)


def confusion(true, predicted, classes: int = 3) -> np.ndarray:
    return sm.confusion(np.array(true), np.array(predicted), classes, once(len(true)))


def test_naming_the_commonest_class_collapses_macro_f1_to_the_quiz_baseline():
    true = [0] * 9 + [1] * 15 + [2] * 12
    assert sm.macro_f1(confusion(true, [1] * 36))[0] == pytest.approx(0.196, abs=5e-4)


def test_brier_is_summed_over_classes():
    assert sm.brier_per_case(np.array([1, 0]), np.array([[0.2, 0.8], [0.4, 0.6]])).mean() == pytest.approx(0.4)


def test_normalised_expected_cost_of_one_error_in_five_classes():
    assert sm.expected_cost(confusion([0, 1, 2, 3, 4], [0, 1, 2, 3, 0], 5))[0] == pytest.approx(0.25)


def test_rows_of_the_confusion_matrix_are_the_truth():
    assert confusion([0, 0, 1], [0, 1, 1], 2)[0].tolist() == [[1, 1, 0], [0, 1, 0]]


def test_a_missing_prediction_lowers_recall_but_no_precision():
    precision, recall, _ = sm.precision_recall_f1(confusion([0, 0, 1], [0, -1, 1], 2))
    assert recall[0].tolist() == [0.5, 1] and precision[0].tolist() == [1, 1]


def test_ece_of_ten_cases_in_ten_bins():
    probabilities = np.full((10, 2), 0.5)  # all in one bin; 8 of 10 are class 0: |0.5 - 0.8| for either class
    assert sm.classwise_ece(np.array([0] * 8 + [1] * 2), probabilities, once(10))[0] == pytest.approx(0.3)


def test_ece_keeps_bins_apart():
    probabilities = np.array([[0.05, 0.95], [0.95, 0.05]])
    assert sm.classwise_ece(np.array([0, 1]), probabilities, once(2))[0] == pytest.approx(0.95)


def test_auroc_needs_both_sides():
    assert np.isnan(sm.auroc(np.array([True, True]), np.array([0.1, 0.9]), once(2))[0])


def test_weights_stand_for_repeated_cases():
    true, score, counts = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.3, 0.1]), np.array([[2, 1, 0, 3]])
    repeated = np.repeat(np.arange(4), counts[0])
    assert sm.auroc(true, score, counts)[0] == pytest.approx(sk.roc_auc_score(true[repeated], score[repeated]))
    assert sm.average_precision(true, score, counts)[0] == pytest.approx(sk.average_precision_score(true[repeated], score[repeated]))


def test_reliability_points_hold_every_case_once():
    points = sm.reliability(np.array([1, 0, 1]), np.array([0.0, 0.05, 1.0]))
    assert points == [{"probability": pytest.approx(0.025), "frequency": 0.5, "n": 2}, {"probability": 1, "frequency": 1, "n": 1}]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 5), st.integers(5, 40))
@pytest.mark.filterwarnings("ignore")
def test_agrees_with_scikit_learn(seed, classes, n):
    rng = np.random.default_rng(seed)
    true = np.append(np.arange(classes), rng.integers(0, classes, n))
    probabilities = np.round(rng.dirichlet(np.ones(classes), len(true)), 1) + 1e-9  # rounded: ties
    predicted = rng.integers(0, classes, len(true))
    matrix = confusion(true, predicted, classes)
    assert matrix[0, :, :-1].tolist() == sk.confusion_matrix(true, predicted, labels=range(classes)).tolist()
    assert sm.macro_f1(matrix)[0] == pytest.approx(sk.f1_score(true, predicted, average="macro", zero_division=0))
    assert sm.balanced_accuracy(matrix)[0] == pytest.approx(sk.balanced_accuracy_score(true, predicted))
    assert sm.mcc(matrix)[0] == pytest.approx(sk.matthews_corrcoef(true, predicted), abs=1e-12)
    precision, recall, f1 = sm.precision_recall_f1(matrix)
    assert np.stack([precision[0], recall[0], f1[0]]) == pytest.approx(
        np.stack(sk.precision_recall_fscore_support(true, predicted, zero_division=0)[:3]))
    for k in range(classes):
        assert sm.auroc(true == k, probabilities[:, k], once(len(true)))[0] == pytest.approx(
            sk.roc_auc_score(true == k, probabilities[:, k]))
        assert sm.average_precision(true == k, probabilities[:, k], once(len(true)))[0] == pytest.approx(
            sk.average_precision_score(true == k, probabilities[:, k]))


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.75, 0.89, 0.97])
def test_intervals_cover_the_true_value_at_the_quiz_size(accuracy):
    """Repeated samples of 9, 15 and 12 cases whose wrong predictions fall on both other classes alike; every metric of all classes, and those of one class."""
    sizes, rng = np.array([9, 15, 12]), np.random.default_rng(0)
    shares = np.full((3, 3), (1 - accuracy) / 2) + np.eye(3) * (accuracy - (1 - accuracy) / 2)
    expected = np.pad(shares * sizes[:, None], ((0, 0), (0, 1)))[None]
    of_one_class = {f"{score} of class {k}": partial(score_of_class, place, k) for place, score in enumerate(CLASS_SCORES) for k in range(3)}
    metrics = CONFUSION_METRICS | of_one_class
    covered: dict[str, list[bool]] = {name: [] for name in metrics}
    for _ in range(400):
        matrix = np.pad(np.stack([rng.multinomial(n, p) for n, p in zip(sizes, shares)]), ((0, 0), (0, 1)))
        posterior = sm.Posterior.of(matrix, draws=400)
        for name, metric in metrics.items():
            low, high = posterior.interval(metric, low_is_good=name in LOW_IS_GOOD)
            covered[name].append(low <= metric(expected)[0] <= high)
    shares_covered = {name: np.mean(values) for name, values in covered.items()}
    assert min(shares_covered[name] for name in CONFUSION_METRICS) >= 0.93, shares_covered
    assert min(shares_covered[name] for name in of_one_class) >= 0.88, shares_covered  # recall of 9 cases has ten values, 0 to 9 ninths


def test_interval_of_a_faultless_sample_is_not_empty():
    low, high = sm.macro_f1_interval(np.pad(np.diag([9, 15, 12]), ((0, 0), (0, 1))))
    assert low < 0.97 and high > 0.98 and np.isnan(sm.macro_f1_interval(np.zeros((3, 4)))[0])


@given(arrays(int, st.integers(2, 6).map(lambda k: (k, k + 1)), elements=st.integers(0, 3)).filter(np.any))
def test_the_interval_holds_what_was_found_and_has_a_width(matrix):
    posterior = sm.Posterior.of(matrix, draws=50)
    for name, metric in CONFUSION_METRICS.items():
        low, high = posterior.interval(metric, low_is_good=name in LOW_IS_GOOD)
        found = metric(matrix[None])[0]
        without_meaning = name == "mcc" and np.count_nonzero(matrix.sum(axis=1)) == 1  # 0 by definition where one class alone is true
        assert np.isnan(found) and np.isnan([low, high]).all() or low <= found <= high and (low < high or without_meaning), name


def test_cases_of_one_class_leave_open_whether_the_others_would_be_told_apart():
    low, high = sm.macro_f1_interval(np.array([[2, 0, 0], [0, 0, 0]]))
    assert 0 < low < 0.6 and high == 1.0


def test_a_class_that_never_occurs_does_not_enter_the_interval():
    low, high = sm.macro_f1_interval(np.array([[20, 0, 0, 0], [0, 20, 0, 0], [0, 0, 0, 0]]))
    assert low > 0.8 and high > 0.97
