"""nnU-Net's segmentation objective: Dice + cross-entropy on every decoder output (Isensee et al. 2021)."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.label_handling.label_handling import LabelManager


def deep_supervision_scales(strides: Sequence[Sequence[int]]) -> list[list[float]]:
    """Size of every decoder output relative to the patch, per axis, finest first; strides of all encoder stages."""
    return (1 / np.cumprod(np.array(strides), axis=0))[:-1].tolist()


def deep_supervision_weights(n_outputs: int) -> list[float]:
    """1, 1/2, 1/4, ..., the lowest resolution 0 (unless it is the only one), scaled to add up to 1."""
    weights = np.array([0.5**i for i in range(n_outputs)])
    if n_outputs > 1:
        weights[-1] = 0
    return (weights / weights.sum()).tolist()


def segmentation_loss(labels: LabelManager, batch_dice: bool, ddp: bool, n_outputs: int | None, smooth: float = 1e-5) -> nn.Module:
    """n_outputs: of the decoder under deep supervision, None without it. Dice leaves the background out, regions have none."""
    dice = {"batch_dice": batch_dice, "smooth": smooth, "do_bg": labels.has_regions, "ddp": ddp}
    if labels.has_regions:
        loss = DC_and_BCE_loss({}, dice, use_ignore_label=labels.has_ignore_label, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        loss = DC_and_CE_loss(dice, {}, ignore_label=labels.ignore_label, dice_class=MemoryEfficientSoftDiceLoss)
    return supervise_deeply(loss, n_outputs)


def supervise_deeply(loss: nn.Module, n_outputs: int | None) -> nn.Module:
    """`loss` on every decoder output, or as it is for None."""
    return loss if n_outputs is None else DeepSupervisionWrapper(loss, deep_supervision_weights(n_outputs))
