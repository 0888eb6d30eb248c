"""The head over a case's evidence, as a checkpoint keeps it and prediction applies it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from nnunetv2.class_evidence.blocks import BLOCKS
from nnunetv2.class_evidence.forest import Forest
from nnunetv2.utilities.errors import InputError

EVIDENCE_KEY = "class_evidence"  # of a checkpoint
LARGEST = 4.0  # standard deviations at which a feature is cut: a case unlike all training cases shall not decide by one odd number
_TENSORS = ("centre", "scale", "weight", "bias", "prior", "network_weight")


@dataclass(frozen=True)
class EvidenceHead:
    """logits = x @ weight.T + forest_weight * forest(x) + network_weight * log p_network + bias, with x = clip((features - centre) * scale).

    features: {block: names of its features}, F in all, in this order. centre, scale (F,), weight (K, F), bias, prior (K,) float64; prior:
    the classes' shares of the training cases. network_weight: of the network's own class head. forest: None where it
    is given no weight, and in checkpoints from before there was one.
    """

    features: Mapping[str, tuple[str, ...]]
    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    prior: np.ndarray
    network_weight: float
    forest: Forest | None = None
    forest_weight: float = 0.0

    def vector(self, measured: Mapping[str, Mapping[str, float]]) -> np.ndarray:
        """(F,) of what `measure` found; NaN where this case lacks a feature."""
        return np.array([measured[block].get(name, np.nan) for block, names in self.features.items() for name in names], float)

    def probabilities(self, measured: Mapping[str, Mapping[str, float]] | None, network: np.ndarray) -> np.ndarray:
        """(K,) from the measured blocks and the network head's probabilities (K,); the training's shares for a case without a lesion (None)."""
        if measured is None:
            return self.prior.copy()
        x = standardised(self.vector(measured), self.centre, self.scale)
        logits = x @ self.weight.T + self.bias
        if self.forest is not None:
            logits = logits + self.forest_weight * self.forest(x[None])[0]
        return softmax(logits + self.network_weight * log_softmax(np.log(np.maximum(network, 1e-12))))

    def to_checkpoint(self) -> dict[str, Any]:
        """Tensors and text: nothing that unpickling would have to run."""
        forest = {} if self.forest is None else {"forest": self.forest.to_checkpoint(), "forest_weight": float(self.forest_weight)}
        return {"features": json.dumps(self.features)} | {name: torch.as_tensor(getattr(self, name), dtype=torch.float64) for name in _TENSORS} | forest

    @staticmethod
    def from_checkpoint(content: Any, n_classes: int, where: object) -> "EvidenceHead":
        """InputError for contents that are no head of these classes over the blocks of this version."""
        problem, forest = _problem(content, n_classes), None
        if problem is None and content.get("forest") is not None:
            try:
                forest = Forest.from_checkpoint(content["forest"], len(content["centre"]), n_classes)
            except ValueError as error:
                problem = f"has a forest that {error}"
        if problem is not None:
            raise InputError(f"{where}: its {EVIDENCE_KEY} {problem}. Refit the class head (nnUNetv2_refit_class_head) with this version.")
        features = {block: tuple(names) for block, names in json.loads(content["features"]).items()}
        arrays = {name: content[name].double().numpy() for name in _TENSORS}
        return EvidenceHead(features, **(arrays | {"network_weight": float(arrays["network_weight"])}), forest=forest, forest_weight=content.get("forest_weight", 0.0))


def standardised(features: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(..., F) in standard deviations from the training's mean, cut at LARGEST; 0 for what is missing."""
    return np.nan_to_num(np.clip((features - centre) * scale, -LARGEST, LARGEST), nan=0.0)


def _problem(content: Any, n_classes: int) -> str | None:
    if not isinstance(content, dict) or not isinstance(content.get("features"), str) or not all(isinstance(content.get(name), torch.Tensor) for name in _TENSORS):
        return "lacks parts"
    try:
        features = json.loads(content["features"])
        n = sum(len(names) for names in features.values())
    except (ValueError, AttributeError, TypeError):
        return "names no features"
    unknown = [block for block in features if block not in BLOCKS]
    if unknown:
        return f"needs the block(s) {', '.join(map(repr, unknown[:5]))}, which this version does not have"
    if not all(isinstance(name, str) for names in features.values() for name in names):
        return "names no features"
    wanted = {"centre": (n,), "scale": (n,), "weight": (n_classes, n), "bias": (n_classes,), "prior": (n_classes,), "network_weight": ()}
    wrong = [f"{name} {tuple(content[name].shape)} instead of {shape}" for name, shape in wanted.items() if tuple(content[name].shape) != shape]
    if wrong:
        return f"has {', '.join(wrong)}"
    forest_weight = content.get("forest_weight", 0.0)
    finite = isinstance(forest_weight, float) and np.isfinite(forest_weight) and all(bool(content[name].isfinite().all()) for name in _TENSORS)
    return None if finite else "holds values that are not finite"
