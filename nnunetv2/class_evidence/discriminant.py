"""Shrinkage linear discriminant analysis, folded into one linear layer."""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis


@dataclass(frozen=True)
class LinearLayer:
    """logits = features @ weight.T + bias."""

    weight: np.ndarray  # (K, F)
    bias: np.ndarray  # (K,)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight.T + self.bias


def fit_lda(features: np.ndarray, labels: np.ndarray, n_classes: int) -> LinearLayer:
    """Standardise features (N, F), fit shrinkage LDA to labels (N,) in 0..K-1, and fold both into one linear layer.

    The covariance is shrunk by Ledoit and Wolf's (2004) formula, for F > N. Priors are uniform: the task's macro-F1 counts
    every class alike, and the training cases' frequencies would cost the rare classes recall. A constant feature gets
    weight 0. Every class needs a case, and one of them two.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if counts.min() < 1 or counts.max() < 2:
        raise ValueError(f"Every class needs a training case with a label, and one class two; there are {counts.tolist()} of classes 0, 1, ...")
    features = features.astype(np.float64)
    mean, std = features.mean(0), features.std(0)
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 1e-6 * np.maximum(1.0, np.abs(mean)))
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(n_classes, 1 / n_classes))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample available")  # a class of one case adds its mean and no covariance
        lda.fit((features - mean) * scale, labels)
    weight, bias = lda.coef_, lda.intercept_
    if n_classes == 2:  # scikit-learn gives the difference of the two logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return LinearLayer(weight * scale, bias - (weight * scale) @ mean)


def fit_views(features: np.ndarray, labels: np.ndarray, n_classes: int) -> LinearLayer:
    """`fit_lda` on features (N, V, F) of V mirrored views a case, each a sample of its own.

    What mirroring changes in a case then counts as spread within its class, and the directions it moves features in lose
    weight.
    """
    return fit_lda(features.reshape(-1, features.shape[2]), np.repeat(labels, features.shape[1]), n_classes)
