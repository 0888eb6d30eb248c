"""A random forest (Breiman 2001) as arrays: what no straight line between classes can say, such as "part-solid lies between two thresholds".

A checkpoint keeps its trees as tensors, which load without running anything. `forest_growing` grows it, with scikit-learn, which takes two
seconds to import: prediction does without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LOWEST = 0.01  # probability: one forest that has never seen a class here shall not rule it out
_TENSORS = {"roots": torch.int32, "feature": torch.int32, "threshold": torch.float64, "left": torch.int32, "right": torch.int32, "shares": torch.float32}


@dataclass(frozen=True)
class Forest:
    """T trees with M nodes in all, a node's children behind it. roots (T,), left, right (M,): node numbers; feature (M,): that is compared, -1 in a
    leaf; threshold (M,) float64: at most that goes left; shares (M, K) float32: of the classes in the node, adding up to 1."""

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    shares: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, K) log-probabilities, mean over trees, of LOWEST at least before they are made to add up to 1."""
        features = features.astype(np.float32)  # as scikit-learn compares
        node = np.repeat(self.roots[None], len(features), axis=0)
        case = np.arange(len(features))[:, None]
        while (inner := self.feature[node] >= 0).any():
            goes_left = features[case, np.maximum(self.feature[node], 0)] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)
        return log_shares(self.shares[node].mean(1, dtype=np.float64))

    def to_checkpoint(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(getattr(self, name)) for name in _TENSORS}

    @staticmethod
    def from_checkpoint(content: Any, n_features: int, n_classes: int) -> "Forest":
        """ValueError that completes "its forest ..." for tensors that are no forest over these features and classes."""
        if not isinstance(content, Mapping) or not all(isinstance(content.get(name), torch.Tensor) for name in _TENSORS):
            raise ValueError("lacks parts")
        m, trees = content["feature"].numel(), content["roots"].numel()
        wanted = {"roots": (trees,), "shares": (m, n_classes)}
        wrong = [f"{name} {tuple(content[name].shape)} of {content[name].dtype}" for name, dtype in _TENSORS.items()
                 if tuple(content[name].shape) != wanted.get(name, (m,)) or content[name].dtype != dtype or content[name].layout != torch.strided]
        if wrong or not trees:
            raise ValueError(f"has {', '.join(wrong) or 'no trees'}")
        forest = Forest(*(content[name].detach().numpy() for name in _TENSORS))
        inner = np.flatnonzero(forest.feature >= 0)
        children = np.stack([forest.left[inner], forest.right[inner]])
        if forest.feature.max() >= n_features or (children <= inner).any() or (children >= m).any() or not ((forest.roots >= 0) & (forest.roots < m)).all():
            raise ValueError("points to features or nodes that are not there")
        if not (np.isfinite(forest.threshold).all() and (forest.shares >= 0).all() and np.allclose(forest.shares.sum(1), 1, atol=1e-3)):
            raise ValueError("holds values that are no thresholds or shares")
        return forest


def log_shares(shares: np.ndarray) -> np.ndarray:
    """(N, K) shares, possibly 0 -> log-probabilities."""
    kept = np.maximum(shares, LOWEST)
    return np.log(kept / kept.sum(-1, keepdims=True))
