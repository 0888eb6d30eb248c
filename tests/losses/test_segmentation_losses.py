"""Dice, cross-entropy, deep supervision: hand-derived values. Upstream's values and gradients: tests/conformance."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss, get_tp_fp_fn_tn
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss

DICE = {"batch_dice": False, "do_bg": False, "smooth": 0.0}


def labels(*voxels: int) -> torch.Tensor:
    return torch.tensor(voxels).view(1, 1, -1, 1)


def probabilities(*foreground: float) -> torch.Tensor:
    p = torch.tensor(foreground).view(1, 1, -1, 1)
    return torch.cat([1 - p, p], 1)


def test_dice_of_half_an_overlap():
    # 2 * .5 / (.5 + .5 + 1)
    assert SoftDiceLoss(**DICE)(probabilities(0.5, 0.5), labels(1, 0)).item() == pytest.approx(-0.5)


def test_dice_of_a_perfect_prediction_is_minus_one():
    assert SoftDiceLoss(**DICE)(probabilities(1.0, 0.0), labels(1, 0)).item() == pytest.approx(-1)


def test_smooth_makes_an_empty_class_that_is_not_predicted_perfect():
    assert SoftDiceLoss(do_bg=False, smooth=1e-5)(probabilities(0.0, 0.0), labels(0, 0)).item() == pytest.approx(-1)


def test_background_counts_only_when_asked():
    x, y = probabilities(1.0, 1.0), labels(1, 0)  # foreground 2/3, background 0
    assert SoftDiceLoss(do_bg=True, smooth=0.0)(x, y).item() == pytest.approx(-1 / 3)
    assert SoftDiceLoss(do_bg=False, smooth=0.0)(x, y).item() == pytest.approx(-2 / 3)


def test_batch_dice_pools_the_voxels_of_all_items():
    x = torch.cat([probabilities(1.0, 0.0), probabilities(0.0, 0.0)])
    y = torch.cat([labels(1, 0), labels(1, 1)])
    assert SoftDiceLoss(batch_dice=True, do_bg=False, smooth=0.0)(x, y).item() == pytest.approx(-2 * 1 / (1 + 3))
    assert SoftDiceLoss(batch_dice=False, do_bg=False, smooth=0.0)(x, y).item() == pytest.approx(-(1 + 0) / 2)


def test_labels_without_channel_axis_and_one_hot_mean_the_same():
    x, y = probabilities(0.3, 0.8), labels(1, 0)
    loss = SoftDiceLoss(**DICE)
    assert loss(x, y) == loss(x, y[:, 0]) == loss(x, torch.cat([y == 0, y == 1], 1))


def test_masked_voxels_do_not_count_in_dice():
    mask = torch.tensor([True, False]).view(1, 1, 2, 1)
    assert SoftDiceLoss(**DICE)(probabilities(1.0, 1.0), labels(1, 0), loss_mask=mask).item() == pytest.approx(-1)


def test_clipped_true_positives_keep_false_ones():
    # tp 0 -> 1, fp 1, fn 1
    assert SoftDiceLoss(**DICE, clip_tp=1.0)(probabilities(0.0, 1.0), labels(1, 0)).item() == pytest.approx(-2 / 4)


def test_both_names_of_the_dice_loss():
    assert MemoryEfficientSoftDiceLoss(**DICE)(probabilities(0.5, 0.5), labels(1, 0)).item() == pytest.approx(-0.5)


def test_counts():
    tp, fp, fn, tn = (c[0, 1].item() for c in get_tp_fp_fn_tn(probabilities(1.0, 1.0, 0.0, 0.0), labels(1, 0, 1, 0)))
    assert (tp, fp, fn, tn) == (1, 1, 1, 1)


def test_counts_without_axes_are_per_voxel():
    tp, *_ = get_tp_fp_fn_tn(probabilities(0.5, 0.5), labels(1, 0), axes=(), square=True)
    assert tp[0, 1, :, 0].tolist() == [0.25, 0.0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_counts_add_up_to_the_known_voxels(seed, masked):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 4, 5, generator=generator).softmax(1)
    y = torch.randint(0, 3, (2, 1, 4, 5), generator=generator)
    mask = torch.rand(2, 1, 4, 5, generator=generator) > 0.5 if masked else torch.ones(2, 1, 4, 5)
    total = sum(get_tp_fp_fn_tn(x, y, mask=mask))
    assert torch.allclose(total, mask.float().sum((2, 3)).expand(2, 3), atol=1e-4)


def test_cross_entropy_takes_float_labels_with_a_channel():
    logits = torch.zeros(1, 4, 2, 1)
    assert RobustCrossEntropyLoss()(logits, labels(1, 3).float()).item() == pytest.approx(math.log(4))


def test_compound_loss_is_the_weighted_sum():
    loss = DC_and_CE_loss(DICE, {}, weight_ce=2, weight_dice=3)
    # softmax of equal logits: Dice of the foreground 2 * .5 / (1 + 1), cross-entropy ln 2
    assert loss(torch.zeros(1, 2, 2, 1), labels(1, 0)).item() == pytest.approx(2 * math.log(2) - 3 * 0.5)


def test_ignored_voxels_get_no_gradient():
    logits = torch.randn(1, 2, 3, 1, requires_grad=True)
    DC_and_CE_loss(DICE, {}, ignore_label=2)(logits, labels(1, 2, 0)).backward()
    assert logits.grad[0, :, 1].abs().max() == 0
    assert logits.grad[0, :, 0].abs().min() > 0


def test_what_is_predicted_in_ignored_voxels_does_not_matter():
    loss = DC_and_CE_loss(DICE, {}, ignore_label=2)
    logits = torch.randn(1, 2, 3, 1)
    changed = logits.clone()
    changed[0, :, 1] += torch.tensor([[5.0], [-5.0]])
    assert loss(logits, labels(1, 2, 0)) == loss(changed, labels(1, 2, 0))


def test_patch_of_ignored_voxels_alone_has_a_finite_loss_without_gradient():
    logits = torch.randn(1, 2, 2, 1, requires_grad=True)
    loss = DC_and_CE_loss({**DICE, "smooth": 1e-5}, {}, ignore_label=2)(logits, labels(2, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad.abs().max() == 0


def test_constructor_leaves_the_keyword_dictionaries_alone():
    ce_kwargs = {}
    DC_and_CE_loss(DICE, ce_kwargs, ignore_label=2)
    assert ce_kwargs == {}


def test_region_loss_of_undecided_logits():
    loss = DC_and_BCE_loss({}, {**DICE, "do_bg": True})
    target = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1)
    assert loss(torch.zeros(1, 1, 2, 1), target).item() == pytest.approx(math.log(2) - 0.5)


def test_region_loss_leaves_out_what_its_last_channel_marks():
    loss = DC_and_BCE_loss({}, {**DICE, "do_bg": True}, use_ignore_label=True)
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 2, 1)  # region, ignore
    logits = torch.zeros(1, 1, 2, 1, requires_grad=True)
    value = loss(logits, target)
    value.backward()
    assert value.item() == pytest.approx(math.log(2) - 2 * 0.5 / (0.5 + 1))
    assert logits.grad[0, 0, 1].item() == 0


def test_deep_supervision_weighs_resolutions():
    wrapper = DeepSupervisionWrapper(nn.L1Loss(), [0.75, 0.25])
    outputs, targets = [torch.ones(2), torch.ones(1)], [torch.zeros(2), torch.full((1,), 5.0)]
    assert wrapper(outputs, targets).item() == pytest.approx(0.75 * 1 + 0.25 * 4)


def test_resolutions_of_weight_zero_are_not_computed():
    wrapper = DeepSupervisionWrapper(nn.L1Loss(), [1.0, 0.0])
    assert wrapper([torch.ones(1), None], [torch.zeros(1), None]).item() == 1


def test_without_weights_all_resolutions_count_once():
    assert DeepSupervisionWrapper(nn.L1Loss())([torch.ones(1)] * 3, [torch.zeros(1)] * 3).item() == 3


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 0\]"):
        DeepSupervisionWrapper(nn.L1Loss(), [0, 0])


def test_batch_dice_over_processes_adds_up_their_sums_and_gradients(monkeypatch):
    def two_alike(x):
        x.mul_(2)

    for name, value in (("is_initialized", lambda: True), ("all_reduce", two_alike), ("get_world_size", lambda: 2)):
        monkeypatch.setattr(torch.distributed, name, value)
    kwargs = {"batch_dice": True, "do_bg": False, "smooth": 1.0}
    alone, shared = probabilities(0.5, 0.2).requires_grad_(), probabilities(0.5, 0.2).requires_grad_()
    both_items = torch.cat([alone, alone])  # what the two processes hold together
    expected = SoftDiceLoss(**kwargs, ddp=False)(both_items, torch.cat([labels(1, 0)] * 2))
    got = SoftDiceLoss(**kwargs, ddp=True)(shared, labels(1, 0))
    expected.backward(), got.backward()
    assert got.item() == pytest.approx(expected.item())
    assert torch.allclose(shared.grad, alone.grad)
