"""Rows: losses and their gradients, relative difference."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nnunetv2.training.loss import dice as dice_module
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from tests.conformance.bench import Bench, Row, within

BOUND = 1e-6
NNUNET_DICE = {"batch_dice": False, "smooth": 1e-5, "do_bg": False}


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, 1)


def compute(kind: str, dice: dict[str, Any], logits: list[np.ndarray], targets: list[np.ndarray],
            weights: list[float] | None = None, ignore: int | None = None) -> dict[str, Any]:
    if kind == "DC_and_CE_loss":
        module = DC_and_CE_loss({**dice, "ddp": False}, {}, weight_ce=1, weight_dice=1, ignore_label=ignore,
                                dice_class=dice_module.MemoryEfficientSoftDiceLoss)
    elif kind == "DC_and_BCE_loss":
        module = DC_and_BCE_loss({}, {**dice, "ddp": False}, use_ignore_label=ignore is not None,
                                 dice_class=dice_module.MemoryEfficientSoftDiceLoss)
    else:
        module = getattr(dice_module, kind)(apply_nonlin=softmax, ddp=False, **dice)
    outputs = [torch.from_numpy(a).requires_grad_() for a in logits]
    labels = [torch.from_numpy(t) for t in targets]
    value = module(outputs[0], labels[0]) if weights is None else DeepSupervisionWrapper(module, weights)(outputs, labels)
    value.backward()
    return {"value": value.item(),
            "gradients": [torch.zeros_like(o).numpy() if o.grad is None else o.grad.numpy() for o in outputs]}


def example(classes: int = 3, scales: int = 1, highest: int | None = None, absent: bool = False) -> tuple[list, list]:
    """Logits [(2, classes, D, H, W)] and targets [(2, 1, D, H, W)] float32, halved `scales` - 1 times; `absent` drops class 2."""
    rng = np.random.default_rng(7)
    shapes = [(12 >> i, 16 >> i, 16 >> i) for i in range(scales)]
    logits = [rng.normal(0, 2, (2, classes, *s)).astype(np.float32) for s in shapes]
    top = (classes - 1 if highest is None else highest) - absent
    targets = [rng.integers(0, top + 1, (2, 1, *s)).astype(np.float32) for s in shapes]
    return logits, targets


def rows(bench: Bench, name: str, logits: list, targets: list, kind: str, dice: dict[str, Any], **more: Any) -> Iterator[Row]:
    ours = compute(kind, dice, logits, targets, **more)
    theirs = bench.upstream.call("upstream_loss:loss", kind=kind, dice=dice, logits=logits, targets=targets, **more)
    yield within(f"{name}: value", ours["value"], theirs["value"], BOUND, relative=True)
    flat = [np.concatenate([g.ravel() for g in side["gradients"]]) for side in (ours, theirs)]
    yield within(f"{name}: gradient", *flat, BOUND, relative=True)


def check_dice(bench: Bench) -> Iterator[Row]:
    for kind in ("MemoryEfficientSoftDiceLoss", "SoftDiceLoss"):
        for batch in (False, True):
            for background in (False, True):
                dice = {"batch_dice": batch, "do_bg": background, "smooth": 1e-5}
                yield from rows(bench, f"{kind}, batch_dice {batch}, background {background}", *example(), kind, dice)
        yield from rows(bench, f"{kind}, a class absent", *example(absent=True), kind, NNUNET_DICE)
        yield from rows(bench, f"{kind}, smooth 1", *example(), kind, {**NNUNET_DICE, "smooth": 1.0})


def check_compound(bench: Bench) -> Iterator[Row]:
    for batch in (False, True):
        dice = {**NNUNET_DICE, "batch_dice": batch}
        yield from rows(bench, f"Dice + CE, batch_dice {batch}", *example(), "DC_and_CE_loss", dice)
        yield from rows(bench, f"Dice + CE, ignore label, batch_dice {batch}", *example(highest=3), "DC_and_CE_loss", dice, ignore=3)
    logits, targets = example()
    yield from rows(bench, "Dice + CE, everything ignored", logits, [np.full_like(t, 3) for t in targets], "DC_and_CE_loss",
                    NNUNET_DICE, ignore=3)
    weights = (np.array([1, 0.5, 0.25, 0]) / 1.75).tolist()
    yield from rows(bench, "deep supervision, 4 resolutions", *example(scales=4), "DC_and_CE_loss", NNUNET_DICE, weights=weights)
    yield from rows(bench, "deep supervision, ignore label", *example(scales=4, highest=3), "DC_and_CE_loss", NNUNET_DICE,
                    weights=weights, ignore=3)


def check_regions(bench: Bench) -> Iterator[Row]:
    rng = np.random.default_rng(1)
    dice = {"batch_dice": False, "do_bg": True, "smooth": 1e-5}
    logits = [rng.normal(0, 2, (2, 2, 10, 12, 14)).astype(np.float32)]
    for ignore, channels in ((None, 2), (3, 3)):
        targets = [rng.integers(0, 2, (2, channels, 10, 12, 14)).astype(np.float32)]
        yield from rows(bench, f"Dice + BCE of regions, ignore label {ignore is not None}", logits, targets, "DC_and_BCE_loss",
                        dice, ignore=ignore)


def check_confusion(bench: Bench) -> Iterator[Row]:
    rng = np.random.default_rng(2)
    target = rng.integers(0, 3, (2, 1, 6, 7, 8)).astype(np.float32)
    prediction = np.eye(3, dtype=np.float32)[rng.integers(0, 3, (2, 6, 7, 8))].transpose(0, 4, 1, 2, 3).copy()
    mask = rng.integers(0, 2, target.shape).astype(np.float32)
    for axes, name in (([0, 2, 3, 4], "over the batch"), ([2, 3, 4], "a case")):
        for m in (None, mask):
            ours = dice_module.get_tp_fp_fn_tn(torch.from_numpy(prediction), torch.from_numpy(target), axes=axes,
                                               mask=None if m is None else torch.from_numpy(m))
            theirs = bench.upstream.call("upstream_loss:confusion", prediction=prediction, target=target, axes=axes, mask=m)
            yield within(f"true/false positives/negatives, {name}, mask {m is not None}",
                         np.concatenate([o.numpy().ravel() for o in ours]), np.concatenate([t.ravel() for t in theirs]), 0.0)


CHECKS = [check_dice, check_compound, check_regions, check_confusion]
