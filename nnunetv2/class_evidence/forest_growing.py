"""Grows the random forest of the class evidence (Breiman 2001), with scikit-learn."""

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from nnunetv2.class_evidence.forest import Forest, log_shares

TREES = 200
SMALLEST_LEAF = 5  # cases
LARGEST_SAMPLE = 2000  # cases drawn per tree at most, so that ten thousand cases take minutes


def fit_forest(features: np.ndarray, labels: np.ndarray, n_classes: int, seed: int = 0) -> tuple[Forest, np.ndarray]:
    """To finite features (N, F) and labels (N,) in 0..K-1, every class counting alike in every tree; and (N, K) log-probabilities of the same cases by
    the trees that did not draw them, uniform where all did.
    """
    grown = RandomForestClassifier(TREES, min_samples_leaf=SMALLEST_LEAF, class_weight="balanced_subsample", random_state=seed, bootstrap=True,
                                   max_samples=min(len(labels), LARGEST_SAMPLE))
    grown.fit(features.astype(np.float32), labels)
    trees = [tree.tree_ for tree in grown.estimators_]
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])
    shares = np.zeros((starts[-1], n_classes), np.float32)
    shares[:, grown.classes_] = np.concatenate([tree.value[:, 0] for tree in trees])
    forest = Forest(starts[:-1].astype(np.int32), np.concatenate([np.where(tree.children_left < 0, -1, tree.feature) for tree in trees]).astype(np.int32),
                    np.concatenate([tree.threshold for tree in trees]),
                    np.concatenate([tree.children_left + start for tree, start in zip(trees, starts)]).astype(np.int32),
                    np.concatenate([tree.children_right + start for tree, start in zip(trees, starts)]).astype(np.int32), shares / shares.sum(1, keepdims=True))
    return forest, _left_out(grown, forest, features.astype(np.float32))


def _left_out(grown: RandomForestClassifier, forest: Forest, features: np.ndarray) -> np.ndarray:
    total, n = np.zeros((len(features), forest.shares.shape[1])), np.zeros(len(features))
    for tree, drawn, root in zip(grown.estimators_, grown.estimators_samples_, forest.roots):
        out = np.ones(len(features), bool)
        out[drawn] = False
        total[out] += forest.shares[root + tree.apply(features[out])] if out.any() else 0
        n += out
    uniform = np.full_like(total, 1 / total.shape[1])
    return log_shares(np.where(n[:, None] > 0, total / np.maximum(n, 1)[:, None], uniform))
