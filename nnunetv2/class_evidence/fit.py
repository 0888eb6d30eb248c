"""The training cases decide what each block is worth: a shrinkage discriminant per block, and a forest of all, weighed on predictions that leave
cases out.

Stacking (Wolpert 1992; van der Laan et al. 2007): every block is fitted without a fold of the training cases and predicts it; non-negative
weights of the blocks are then fitted to these predictions alone, so a block without signal is given next to none, however many features it has.
What is reported was predicted by a stack that never saw the case: folds outside of those folds.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from nnunetv2.class_evidence.blocks import NETWORK
from nnunetv2.class_evidence.calibration import fit_temperature, probability_scores
from nnunetv2.class_evidence.discriminant import LinearLayer, fit_lda
from nnunetv2.class_evidence.forest import Forest
from nnunetv2.class_evidence.forest_growing import fit_forest
from nnunetv2.class_evidence.head import EvidenceHead, standardised

JOINT = "joint"  # all measured blocks in one discriminant: what shows only where two of them are seen together
FOREST = "forest"  # all measured blocks in a random forest: what is not in proportion to a feature
FOLDS = 5
FEW_CASES = 8  # of the largest class, up to which as few as can be are left out at a time
MOST_FOLDS = 24  # of these; each fits every block anew
WEIGHT_PENALTY = 0.1  # of the squared weights of the stack, in nats a case; ten blocks that agree share their weight
PERMUTATIONS = 2000
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Block:
    """values (N, V, F) of one block, V views of a case as samples of their own; NaN for what a case lacks. clipped: as a measured block's are."""

    values: np.ndarray
    clipped: bool = True

    def prepare(self, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale (F,) of the training rows; scale 0 for what does not vary."""
        rows = self.values[train].reshape(-1, self.values.shape[2])
        known = np.isfinite(rows)
        n = np.maximum(known.sum(0), 1)
        centre = np.where(known, rows, 0).sum(0) / n
        spread = np.sqrt((np.where(known, rows - centre, 0) ** 2).sum(0) / n)
        return centre, np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.maximum(1.0, np.abs(centre)))

    def rows(self, cases: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
        if self.clipped:
            return standardised(self.values[cases], centre, scale)
        return np.nan_to_num((self.values[cases] - centre) * scale)

    def fit(self, train: np.ndarray, labels: np.ndarray, n_classes: int) -> tuple[LinearLayer, np.ndarray, np.ndarray] | None:
        """Layer over the prepared rows, centre and scale; None where a class has no case among `train`, or each one only."""
        if not _enough(labels[train], n_classes):
            return None
        centre, scale = self.prepare(train)
        rows = self.rows(train, centre, scale)
        return fit_lda(rows.reshape(-1, rows.shape[2]), np.repeat(labels[train], rows.shape[1]), n_classes), centre, scale

    def predict(self, train: np.ndarray, test: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
        """(n, K) logits of the cases `test`, mean over views, from a fit to `train`; zeros where there is no fit."""
        fitted = self.fit(train, labels, n_classes)
        if fitted is None:
            return np.zeros((len(test), n_classes))
        layer, centre, scale = fitted
        return layer(self.rows(test, centre, scale)).mean(1)

    def left_out(self, cases: np.ndarray, labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
        """(n, K) logits of `cases`, from fits to the other folds of `cases`; labels (N,) of all cases. Zeros for the only case of its class."""
        logits = np.zeros((len(cases), n_classes))
        for train, test in folds_to_weigh(labels[cases], seed):
            logits[test] = self.predict(cases[train], cases[test], labels, n_classes)
        return logits


@dataclass(frozen=True)
class Trees:
    """A forest over a block's rows, of one view; its methods are as the block's. Forests are kept: the same one predicts the cases that it left out and others."""

    block: Block
    kept: dict[bytes, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def values(self) -> np.ndarray:
        return self.block.values

    def grown(self, train: np.ndarray, labels: np.ndarray, n_classes: int) -> tuple[Forest, np.ndarray, np.ndarray, np.ndarray] | None:
        """Forest, its log-probabilities of `train` by trees that did not draw the case, centre and scale of the rows."""
        if not _enough(labels[train], n_classes):
            return None
        key = train.tobytes() + labels[train].tobytes()
        if key not in self.kept:
            centre, scale = self.block.prepare(train)
            self.kept[key] = *fit_forest(self.block.rows(train, centre, scale)[:, 0], labels[train], n_classes), centre, scale
        return self.kept[key]

    def predict(self, train: np.ndarray, test: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
        grown = self.grown(train, labels, n_classes)
        if grown is None:
            return np.zeros((len(test), n_classes))
        forest, _, centre, scale = grown
        return forest(self.block.rows(test, centre, scale)[:, 0])

    def left_out(self, cases: np.ndarray, labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
        """By the trees that did not draw the case (out of bag), which need no folds and no seed."""
        grown = self.grown(cases, labels, n_classes)
        return np.zeros((len(cases), n_classes)) if grown is None else grown[1]


def _enough(labels: np.ndarray, n_classes: int) -> bool:
    """Every class has a case, and one has two."""
    counts = np.bincount(labels, minlength=n_classes)
    return bool(counts.min() >= 1 and counts.max() >= 2)


def folds_of(labels: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) positions, stratified as far as the classes allow; fewer folds where the largest class has fewer cases, none where no class has two.

    The only case of a class is in every training part and in no test: without it nothing could be fitted for the others of its fold.
    """
    counts = np.bincount(labels)
    n = min(FOLDS, int(counts.max()))
    if n < 2:
        return []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        tests = [test for _, test in StratifiedKFold(n, shuffle=True, random_state=seed).split(labels, labels)]
    return _with_every_class(tests, labels)


def folds_to_weigh(labels: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`folds_of`, but of few cases as few as can be are left out at a time, each of a class of its own.

    How sure a fit is of itself depends on how many cases it had: a discriminant of two cases a class has hardly a covariance, and the temperature that
    suits it is off by orders of magnitude for one of three.
    """
    counts = np.bincount(labels)
    if counts.max() > FEW_CASES or counts.max() < 2:
        return folds_of(labels, seed)
    n = min(len(labels), MOST_FOLDS)
    fold = np.empty(len(labels), int)
    fold[np.lexsort((np.random.default_rng(seed).permutation(len(labels)), labels))] = np.arange(len(labels)) % n  # by class, in turn
    return _with_every_class([np.flatnonzero(fold == k) for k in range(n)], labels)


def _with_every_class(tests: Sequence[np.ndarray], labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) of each of `tests`, less the only cases of their classes; tests of nothing else are left out."""
    several = np.bincount(labels)[labels] > 1
    kept = [test[several[test]] for test in tests]
    return [(np.setdiff1d(np.arange(len(labels)), test), test) for test in kept if len(test)]


@dataclass(frozen=True)
class Stack:
    """weights (B,) >= 0 of the blocks' calibrated logits, temperatures (B,) that calibrated them."""

    temperatures: np.ndarray
    weights: np.ndarray

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Raw logits of the blocks (N, B, K) -> (N, K)."""
        return np.einsum("nbk,b->nk", logits, self.weights / self.temperatures)


def left_out(blocks: Sequence[Block | Trees], cases: np.ndarray, labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """(n, B, K) logits of `cases` by each block, from fits that left the case out; labels (N,) of all cases."""
    return np.stack([block.left_out(cases, labels, n_classes, seed) for block in blocks], axis=1)


def fit_stack(logits: np.ndarray, labels: np.ndarray, forest: int | None) -> Stack:
    """To left-out logits (n, B, K). The blocks are weighed first; then all of them together against block `forest`, if there is one, which as one among a
    dozen would count for less than it tells."""
    temperatures = np.array([fit_temperature(logits[:, b], labels) for b in range(logits.shape[1])])
    calibrated = logits / temperatures[:, None]
    blocks = [b for b in range(logits.shape[1]) if b != forest]
    weights = np.zeros(logits.shape[1])
    weights[blocks] = _balanced_fit(calibrated[:, blocks], labels)
    if forest is not None:
        together = np.einsum("nbk,b->nk", calibrated, weights)
        share, weights[forest] = _balanced_fit(np.stack([together, calibrated[:, forest]], axis=1), labels)
        weights[blocks] *= share
    # The ridge makes the sum less sure than it may be.
    return Stack(temperatures, weights / fit_temperature(np.einsum("nbk,b->nk", calibrated, weights), labels))


def _balanced_fit(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights (B,) >= 0 that make the most of logits (n, B, K): cross-entropy in which every class counts alike, with a ridge."""
    n, n_blocks, n_classes = logits.shape
    counts = np.maximum(np.bincount(labels, minlength=n_classes), 1)
    share = (n / (n_classes * counts))[labels] / n
    truth = np.eye(n_classes)[labels]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(np.einsum("nbk,b->nk", logits, weights), axis=1)
        error = share[:, None] * (np.exp(log_p) - truth)
        value = -(share * (log_p * truth).sum(1)).sum() + WEIGHT_PENALTY * (weights**2).sum()
        return value, np.einsum("nk,nbk->b", error, logits) + 2 * WEIGHT_PENALTY * weights

    return minimize(loss, np.full(n_blocks, 1 / n_blocks), jac=True, method="L-BFGS-B", bounds=[(0, None)] * n_blocks).x


def fit_evidence(measured: Sequence[Mapping[str, Mapping[str, float]]], labels: np.ndarray, n_classes: int,
                 network: np.ndarray | None = None, seed: int = 0, with_forest: bool = True) -> tuple[EvidenceHead, dict[str, Any]]:
    """The head, and a report on what it rests on.

    measured: of every case what `measure` gives, all with the same blocks. labels (N,) in 0..K-1, every class at least once. network: (N, V, F)
    features of the network's own head, whose block is not measured; None without one. with_forest: False for discriminants alone.
    """
    features = {name: tuple(dict.fromkeys(key for case in measured for key in case[name])) for name in measured[0]}
    features = {name: keys for name, keys in features.items() if keys}
    values = {name: Block(np.array([[case[name].get(key, np.nan) for key in keys] for case in measured], float)[:, None]) for name, keys in features.items()}
    blocks: dict[str, Block | Trees] = dict(values)
    everything = Block(np.concatenate([block.values for block in values.values()], axis=2))
    if len(values) > 1:
        blocks[JOINT] = everything
    if with_forest:
        blocks[FOREST] = Trees(everything)
    if network is not None:
        blocks[NETWORK] = Block(network, clipped=False)
    every = np.arange(len(labels))
    stack = fit_stack(left_out(list(blocks.values()), every, labels, n_classes, seed), labels, _forest_in(blocks))
    head = _folded(features, blocks, stack, labels, n_classes)
    return head, _report(blocks, stack, labels, n_classes, seed)


def _forest_in(blocks: Mapping[str, Block | Trees]) -> int | None:
    return list(blocks).index(FOREST) if FOREST in blocks else None


def _folded(features: Mapping[str, tuple[str, ...]], blocks: Mapping[str, Block | Trees], stack: Stack, labels: np.ndarray, n_classes: int) -> EvidenceHead:
    """All blocks' layers, fitted to every case, as one layer, with the forest beside it."""
    n_features = sum(map(len, features.values()))
    weight, bias = np.zeros((n_classes, n_features)), np.zeros(n_classes)
    centre, scale = np.zeros(n_features), np.zeros(n_features)
    every, network_weight, forest, forest_weight, at = np.arange(len(labels)), 0.0, None, 0.0, 0
    for (name, block), share, temperature in zip(blocks.items(), stack.weights, stack.temperatures):
        if name == NETWORK:
            network_weight = float(share)  # its logits come calibrated out of the network's head
            continue
        fitted = block.grown(every, labels, n_classes) if isinstance(block, Trees) else block.fit(every, labels, n_classes)
        if fitted is None:
            raise ValueError(f"Every class needs a training case with a label, and one class two; there are {np.bincount(labels, minlength=n_classes).tolist()}.")
        if isinstance(fitted[0], Forest):
            forest, forest_weight = (fitted[0], float(share / temperature)) if share > 0 else (None, 0.0)
            continue
        layer, block_centre, block_scale = fitted
        where = slice(0, n_features) if name == JOINT else slice(at, at + block.values.shape[2])
        weight[:, where] += layer.weight * share / temperature
        bias += layer.bias * share / temperature
        if name != JOINT:
            centre[where], scale[where] = block_centre, block_scale
            at = where.stop
    prior = np.bincount(labels, minlength=n_classes) / len(labels)
    return EvidenceHead(features, centre, scale, weight, bias, prior, network_weight, forest, forest_weight)


def _report(blocks: Mapping[str, Block | Trees], stack: Stack, labels: np.ndarray, n_classes: int, seed: int) -> dict[str, Any]:
    """Nested: the stack that predicts a case was weighed and fitted without its fold."""
    every, listed = np.arange(len(labels)), list(blocks.values())
    combined = np.full((len(labels), n_classes), np.nan)
    alone = np.zeros((len(labels), len(listed), n_classes))
    for train, test in folds_of(labels, seed + 1):
        within = fit_stack(left_out(listed, every[train], labels, n_classes, seed), labels[train], _forest_in(blocks))
        alone[test] = np.stack([block.predict(every[train], every[test], labels, n_classes) for block in listed], axis=1)
        combined[test] = within(alone[test])
    known = np.isfinite(combined).all(1) & (np.bincount(labels, minlength=n_classes)[labels] > 1)
    if not known.any():
        return {"left_out": None, "blocks": {name: {"weight": float(w)} for name, w in zip(blocks, stack.weights)}}
    true, guess = labels[known], combined[known].argmax(1)
    found, p, chance = permutation_test(true, guess, n_classes, seed)
    return {
        "left_out": {"macro_f1": found, "p": p, "chance_95": chance, "evidence_found": p < SIGNIFICANT, "cases": int(known.sum()),
                     "permutations": PERMUTATIONS, **probability_scores(combined[known], true)},
        "blocks": {name: {"weight": float(weight), "features": int(block.values.shape[2]), "macro_f1_alone": macro_f1(true, alone[known, b].argmax(1), n_classes)}
                   for b, ((name, block), weight) in enumerate(zip(blocks.items(), stack.weights))},
    }


def macro_f1(true: np.ndarray, guess: np.ndarray, n_classes: int) -> float:
    return float(f1_score(true, guess, labels=range(n_classes), average="macro", zero_division=0))


def permutation_test(true: np.ndarray, guess: np.ndarray, n_classes: int, seed: int = 0) -> tuple[float, float, list[float]]:
    """macro-F1 of left-out guesses; p, the share of shuffled labels that do as well (Phipson & Smyth 2010: + 1); 95 % of the shuffled ones' F1."""
    found = macro_f1(true, guess, n_classes)
    rng = np.random.default_rng(seed)
    guessed = np.bincount(guess, minlength=n_classes)
    number = np.bincount(true, minlength=n_classes)
    shuffled = np.empty(PERMUTATIONS)
    for i in range(PERMUTATIONS):
        order = rng.permutation(true)
        hits = np.bincount(guess[order == guess], minlength=n_classes)
        shuffled[i] = np.mean(2 * hits / np.maximum(guessed + number, 1))
    p = (1 + int((shuffled >= found - 1e-12).sum())) / (1 + PERMUTATIONS)
    return found, p, [float(v) for v in np.percentile(shuffled, (2.5, 97.5))]
