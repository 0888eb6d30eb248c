"""Upstream's losses: value and gradient with respect to every output."""

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss, get_tp_fp_fn_tn
from nnunetv2.utilities.helpers import softmax_helper_dim1


def loss(kind, dice, logits, targets, weights=None, ignore=None):
    module = _module(kind, dice, ignore)
    outputs = [torch.from_numpy(a).requires_grad_() for a in logits]
    targets = [torch.from_numpy(t) for t in targets]
    if weights is None:
        value = module(outputs[0], targets[0])
    else:
        value = DeepSupervisionWrapper(module, weights)(outputs, targets)
    value.backward()
    return {"value": value.item(), "gradients": [torch.zeros_like(o).numpy() if o.grad is None else o.grad.numpy() for o in outputs]}


def _module(kind, dice, ignore):
    classes = {"SoftDiceLoss": SoftDiceLoss, "MemoryEfficientSoftDiceLoss": MemoryEfficientSoftDiceLoss}
    if kind in classes:
        return classes[kind](apply_nonlin=softmax_helper_dim1, ddp=False, **dice)
    dice = {**dice, "ddp": False}
    if kind == "DC_and_CE_loss":
        return DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
    return DC_and_BCE_loss({}, dice, use_ignore_label=ignore is not None, dice_class=MemoryEfficientSoftDiceLoss)


def confusion(prediction, target, axes, mask=None):
    mask = None if mask is None else torch.from_numpy(mask)
    counts = get_tp_fp_fn_tn(torch.from_numpy(prediction), torch.from_numpy(target), axes=axes, mask=mask)
    return [c.numpy() for c in counts]
