"""Alarm for a class head that predicts one class or nothing but chance, from training patches alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from nnunetv2.training.logging import TrainingLog
from nnunetv2.training.nnUNetTrainer.class_training import class_epoch_metrics
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import load_json, save_json

ALARM_FILE = "class_alarm.json"
WINDOW = 3  # epochs pooled: one epoch's few patches would ring by accident
MIN_PATCHES_PER_CLASS = 10  # in the window, else no judgement
ONE_CLASS_SHARE = 0.95  # of the predictions ...
TRUE_SHARE_LIMIT = 0.8  # ... while no class makes up this much of the truth
CHANCE_FRACTION = 0.97  # of ln(n_classes); predicting the class frequencies of the quiz gives .974

ADVICE = (
    "The class head as it is now is worth nothing. The refit at the end of the training fits it anew in closed form and ignores its state: "
    "what counts is class_head_refit.json (after a training with --no_refit run nnUNetv2_refit_class_head). If that finds nothing either, in "
    "this order: check the labels file against a few images; take shallower encoder stages and the lesion region in the plans' class_head "
    "(stages, regions) instead of the bottleneck; use the trainer's default ClassTraining; train longer."
)


def watch_class_head(log: TrainingLog, epoch: int, logits: Tensor, targets: Tensor, first_epoch: int) -> None:
    """Log an epoch's class figures and ring if the head has collapsed; logits (N, n_classes), targets (N,), -1 = left out."""
    n_classes, known = logits.shape[1], targets >= 0
    metrics = class_epoch_metrics(logits[known], targets[known], n_classes)
    for key, value in metrics.items():
        log.log(key, value, epoch)
    collapse = find_collapse(log.values, n_classes, first_epoch)
    log.log("class_alarm", int(collapse is not None), epoch)
    log.print(f"Class task on training patches: cross-entropy {metrics['class_ce']:.3f}, macro-F1 {metrics['class_macro_f1']:.3f}, "
              f"predicted {metrics['class_predicted']} of true {metrics['class_true']}")
    if log.active:
        record_collapse(log.folder, collapse)
    if collapse is not None:
        log.print(f"WARNING, the class head has collapsed: {'; '.join(collapse['reasons'])}. {collapse['advice']}")


def find_collapse(values: Mapping[str, Sequence], n_classes: int, first_epoch: int) -> dict | None:
    """Judge the last WINDOW epochs of the log `values`; None when all is well or nothing can be said yet.

    first_epoch: epochs before it do not count, the loss is still fading in.
    """
    start = max(first_epoch, len(values["class_ce"]) - WINDOW)
    if len(values["class_ce"]) - start < WINDOW:
        return None
    true = np.array(values["class_true"][start:])  # (WINDOW, n_classes)
    predicted = np.array(values["class_predicted"][start:]).sum(0)
    patches = true.sum(1)
    if patches.sum() == 0:
        return _alarm(values, ["no training patch shows a lesion of a case with a known class"], math.nan, predicted, true.sum(0))
    if patches.sum() < MIN_PATCHES_PER_CLASS * n_classes:
        return None
    seen = patches > 0
    cross_entropy = float(np.average(np.array(values["class_ce"][start:], dtype=float)[seen], weights=patches[seen]))
    predicted_share, true_share = predicted.max() / predicted.sum(), true.sum(0).max() / true.sum()
    reasons = []
    if predicted_share >= ONE_CLASS_SHARE and true_share < TRUE_SHARE_LIMIT:
        reasons.append(f"class index {predicted.argmax()} is {predicted_share:.0%} of the predictions but {true_share:.0%} at most of the truth")
    if cross_entropy >= CHANCE_FRACTION * math.log(n_classes):
        reasons.append(f"cross-entropy {cross_entropy:.3f} is no better than chance (ln {n_classes} = {math.log(n_classes):.3f})")
    return _alarm(values, reasons, cross_entropy, predicted, true.sum(0)) if reasons else None


def _alarm(values: Mapping[str, Sequence], reasons: list[str], cross_entropy: float, predicted: np.ndarray, true: np.ndarray) -> dict:
    return {"epoch": len(values["class_ce"]) - 1, "reasons": reasons, "cross_entropy": cross_entropy,
            "predicted": predicted.tolist(), "true": true.tolist(), "advice": ADVICE}


def record_collapse(folder: Path, collapse: dict | None) -> None:
    """Write `class_alarm.json`: the latest alarm, and whether it still rings. Without any alarm no file appears."""
    path = folder / ALARM_FILE
    if collapse is not None:
        save_json({"active": True, **collapse}, path)
    elif path.is_file():
        save_json({**load_json(path, AnyObject), "active": False}, path)
