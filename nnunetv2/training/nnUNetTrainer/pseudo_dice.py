"""Dice over the validation patches of an epoch: cheap, and only good for watching the training."""

import torch
from torch import Tensor

from nnunetv2.utilities.label_handling.label_handling import LabelManager


def foreground_counts(logits: Tensor, target: Tensor, labels: LabelManager) -> Tensor:
    """`counts_by_patch` of a batch as a whole: (3, n_foreground) int64."""
    return counts_by_patch(logits, target, labels).sum(1)


def counts_by_patch(logits: Tensor, target: Tensor, labels: LabelManager) -> Tensor:
    """True positives, false positives, false negatives of every foreground label or region: (3, B, n_foreground) int64.

    logits (B, C, D, H, W); target (B, 1, D, H, W) labels or (B, regions [+ ignore], D, H, W) booleans. Ignored voxels do
    not count.
    """
    if labels.has_regions:
        predicted, true = logits > 0, target[:, :logits.shape[1]].bool()  # sigmoid(0) = .5
        valid = ~target[:, -1:].bool() if labels.has_ignore_label else None
    else:
        foreground = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
        predicted = logits.max(1, keepdim=True).indices == foreground  # max is many times faster than argmax on CPU
        true = target == foreground
        valid = target != labels.ignore_label if labels.has_ignore_label else None
    if valid is not None:
        predicted, true = predicted & valid, true & valid
    axes = list(range(2, logits.ndim))
    return torch.stack([(predicted & true).sum(axes), (predicted & ~true).sum(axes), (~predicted & true).sum(axes)])


def dice_from_counts(counts: Tensor) -> list[float]:
    """2 TP / (2 TP + FP + FN) a label; NaN where a label is neither there nor predicted."""
    tp, fp, fn = counts.double()
    return (2 * tp / (2 * tp + fp + fn)).tolist()
