"""The forest of all blocks: trees by hand, scikit-learn's own answers, what a checkpoint keeps, and forests that are none."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from nnunetv2.class_evidence.forest import LOWEST, Forest, log_shares
from nnunetv2.class_evidence.forest_growing import SMALLEST_LEAF, TREES, fit_forest


def by_hand() -> Forest:
    """Tree 1: feature 1 <= 0.5 -> (1, 0), else (.2, .8). Tree 2: one leaf (.6, .4)."""
    return Forest(roots=np.array([0, 3], np.int32), feature=np.array([1, -1, -1, -1], np.int32), threshold=np.array([0.5, 0, 0, 0]), left=np.array([1, 0, 0, 0], np.int32),
                  right=np.array([2, 0, 0, 0], np.int32), shares=np.array([[0.6, 0.4], [1, 0], [0.2, 0.8], [0.6, 0.4]], np.float32))


def test_shares_are_the_mean_over_trees_and_a_threshold_goes_left():
    np.testing.assert_allclose(np.exp(by_hand()(np.array([[9.0, 0.5], [9.0, 0.6]]))), [[0.8, 0.2], [0.4, 0.6]], atol=1e-6)


def test_a_class_that_no_tree_has_seen_keeps_a_little():
    np.testing.assert_allclose(np.exp(log_shares(np.array([[1.0, 0.0]]))), [[1 / (1 + LOWEST), LOWEST / (1 + LOWEST)]])


@pytest.fixture(scope="module")
def grown() -> tuple[np.ndarray, np.ndarray, Forest, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 6))
    labels = np.digitize(features[:, 2], (-0.6, 0.6))
    labels[labels == 2] = 0  # class 1 lies between two thresholds, so that no straight line finds it
    return features, labels, *fit_forest(features, labels, 3)


@pytest.mark.slow
def test_predicts_as_scikit_learn_does(grown):
    features, labels, forest, _ = grown
    theirs = RandomForestClassifier(TREES, min_samples_leaf=SMALLEST_LEAF, class_weight="balanced_subsample", random_state=0, max_samples=len(labels)).fit(features, labels)
    fresh = np.random.default_rng(1).normal(size=(40, 6))
    expected = np.zeros((40, 3))
    expected[:, :2] = theirs.predict_proba(fresh)
    np.testing.assert_allclose(forest(fresh), log_shares(expected), atol=1e-6)


@pytest.mark.slow
def test_left_out_predictions_find_what_lies_between_two_thresholds_and_know_nothing_of_their_own_case(grown):
    features, labels, _, left_out = grown
    assert (left_out.argmax(1) == labels).mean() > 0.9
    shuffled = np.random.default_rng(2).permutation(labels)
    assert (fit_forest(features, shuffled, 3)[1].argmax(1) == shuffled).mean() < 0.65


@pytest.mark.slow
def test_a_checkpoint_keeps_it_and_few_cases_are_enough(grown):
    features, _, forest, _ = grown
    again = Forest.from_checkpoint(forest.to_checkpoint(), 6, 3)
    np.testing.assert_array_equal(again(features), forest(features))
    tiny, left_out = fit_forest(features[:3], np.array([0, 1, 1]), 2)
    assert np.isfinite(tiny(features)).all() and np.isfinite(left_out).all()


@pytest.mark.parametrize(("change", "words"), [
    ({"left": torch.tensor([0, 0, 0, 0], dtype=torch.int32)}, "nodes that are not there"),  # a circle would never end
    ({"right": torch.tensor([9, 0, 0, 0], dtype=torch.int32)}, "nodes that are not there"),
    ({"feature": torch.tensor([2, -1, -1, -1], dtype=torch.int32)}, "features or nodes"),
    ({"roots": torch.tensor([0, -1], dtype=torch.int32)}, "nodes that are not there"),
    ({"roots": torch.zeros(0, dtype=torch.int32)}, "no trees"),
    ({"threshold": torch.full((4,), float("nan"), dtype=torch.float64)}, "no thresholds or shares"),
    ({"shares": torch.ones(4, 2)}, "no thresholds or shares"),
    ({"shares": torch.ones(4, 3)}, r"shares \(4, 3\)"),
    ({"left": torch.zeros(4)}, r"left \(4,\) of torch.float32"),
    ({"threshold": torch.zeros(4, dtype=torch.complex64)}, "threshold"),
    ({"roots": None}, "lacks parts"),
])
def test_tensors_that_are_no_forest_are_refused(change, words):
    content = by_hand().to_checkpoint()
    assert Forest.from_checkpoint(content, 2, 2).roots.tolist() == [0, 3]
    with pytest.raises(ValueError, match=words):
        Forest.from_checkpoint(content | change, 2, 2)
