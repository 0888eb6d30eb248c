"""The class term: rows that count, weights, smoothing, ramp."""

import math

import pytest
import torch
from torch import nn

from nnunetv2.training.loss.compound_losses import DC_and_CE_and_weighted_CE_loss


class ConstantLoss(nn.Module):
    def forward(self, output, target):
        return torch.tensor(10.0)


def make_loss(weights=(1.0, 1.0), **kwargs) -> DC_and_CE_and_weighted_CE_loss:
    return DC_and_CE_and_weighted_CE_loss(ConstantLoss(), torch.tensor(weights), **{"class_loss_weight": 1.0, "label_smoothing": 0.0, **kwargs})


def class_term(loss, logits, target, has_lesion=None, step=0) -> torch.Tensor:
    target = torch.tensor(target)
    has_lesion = torch.ones(len(target), dtype=torch.bool) if has_lesion is None else torch.tensor(has_lesion)
    return loss(None, None, torch.as_tensor(logits), target, has_lesion, step)[0] - 10


def test_total_is_segmentation_plus_weighted_class_term():
    assert class_term(make_loss(class_loss_weight=0.5), torch.zeros(1, 2), [0]).item() == pytest.approx(0.5 * math.log(2))


def test_parts_are_unscaled_and_detached():
    logits = torch.zeros(1, 2, requires_grad=True)
    total, parts = make_loss(class_loss_weight=0.5)(None, None, logits, torch.tensor([0]), torch.tensor([True]), 0)
    assert parts["seg"].item() == 10
    assert parts["class"].item() == pytest.approx(math.log(2))
    assert total.requires_grad and not parts["class"].requires_grad


@pytest.mark.parametrize(("target", "has_lesion"), [([0, -1], [True, True]), ([0, 1], [True, False])])
def test_rows_unknown_or_without_lesion_are_left_out(target, has_lesion):
    logits = torch.tensor([[0.0, 0.0], [9.0, -9.0]], requires_grad=True)
    term = class_term(make_loss(), logits, target, has_lesion)
    term.backward()
    assert term.item() == pytest.approx(math.log(2), abs=1e-5)
    assert logits.grad[1].abs().max() == 0
    assert logits.grad[0].abs().max() > 0


def test_batch_without_any_row_has_no_class_term_and_zero_gradient():
    logits = torch.randn(2, 2, requires_grad=True)
    total, parts = make_loss()(None, None, logits, torch.tensor([-1, 0]), torch.tensor([True, False]), 0)
    total.backward()
    assert total.item() == 10
    assert logits.grad.abs().max() == 0
    assert parts["class"].isnan()


def test_network_without_class_head():
    total, parts = make_loss()(None, None, None, torch.tensor([0]), torch.tensor([True]), 0)
    assert total.item() == 10
    assert parts["class"].isnan()


def test_class_weights_do_not_cancel_in_a_batch_of_one_class():
    assert class_term(make_loss((3.0, 1.0)), torch.zeros(2, 2), [0, 0]).item() == pytest.approx(3 * math.log(2))


def test_inverse_frequency_weights_keep_the_mean_over_the_cases():
    # 3 cases of class 0, 1 of class 1: n / (K n_k) = 2/3, 2
    assert class_term(make_loss((2 / 3, 2.0)), torch.zeros(4, 2), [0, 0, 0, 1]).item() == pytest.approx(math.log(2))


def test_label_smoothing_spreads_the_target():
    logits = torch.tensor([[math.log(3), 0.0]])  # probabilities 3/4, 1/4
    expected = -0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4)
    assert class_term(make_loss(label_smoothing=0.2), logits, [0]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("step", "ramp"), [(0, 0.25), (1, 0.5), (3, 1.0), (100, 1.0)])
def test_warm_up_is_a_linear_ramp(step, ramp):
    assert class_term(make_loss(warmup_steps=4), torch.zeros(1, 2), [0], step=step).item() == pytest.approx(ramp * math.log(2), rel=1e-5)


def test_half_precision_logits_are_scored_in_float32():
    term = class_term(make_loss(), torch.zeros(1, 2, dtype=torch.float16), [0])
    assert term.dtype == torch.float32
