"""Muon: its matrices by hand and beside torch's, its other parameters beside torch's AdamW, its trainer's groups and resumption."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nnunetv2.training.muon import QUINTIC, STEPS, Muon, orthogonalised
from nnunetv2.training.nnUNetTrainer.variants.short_training import nnUNetTrainerMuon


def towards_one(value: float) -> float:
    """What the steps make of a singular value."""
    a, b, c = QUINTIC
    for _ in range(STEPS):
        value = a * value + b * value**3 + c * value**5
    return value


def test_singular_values_follow_the_polynomial():
    # 3 and 4 on a diagonal: a norm of 5, so the steps begin at .6 and .8; rows 0 and 1, columns 2 and 0
    found = orthogonalised(torch.tensor([[0.0, 0, 3], [4, 0, 0]]))
    expected = torch.tensor([[0, 0, towards_one(0.6)], [towards_one(0.8), 0, 0]])
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(orthogonalised(torch.tensor([[0.0, 4], [0, 0], [3, 0]])), expected.T, atol=1e-5)  # more rows than columns


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 3), st.integers(1, 3)), scale=st.sampled_from([1e-12, 1.0, 1e12]),
       seed=st.integers(0, 99))
def test_the_result_has_the_shape_and_singular_values_around_one(shape, scale, seed):
    weight = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    found = orthogonalised(weight)
    assert found.shape == shape
    singular = torch.linalg.svdvals(found.flatten(1))
    relative = torch.linalg.svdvals(weight.flatten(1).double() / weight.double().norm())
    assert singular.max() < 1.25
    if scale >= 1:  # smaller ones meet the guard against a division by zero
        assert singular[relative > 0.02].min() > 0.6
        assert (found * weight / scale).sum() > 0  # it goes the same way


def test_zeros_stay_zeros():
    assert torch.equal(orthogonalised(torch.zeros(4, 2, 3)), torch.zeros(4, 2, 3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_weights_of_any_layout_move_alike(layout):
    weight = torch.randn(8, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(8, 4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    plain, other = nn.Parameter(weight.clone()), nn.Parameter(weight.clone(memory_format=layout))
    for parameter, of in ((plain, gradient), (other, gradient.contiguous(memory_format=layout))):
        optimizer = Muon([parameter], [])
        parameter.grad = of
        optimizer.step()
    assert not torch.equal(plain, weight) and torch.allclose(plain, other, atol=1e-7)


def test_matrices_move_as_torchs_muon_moves_them():
    values = torch.Generator().manual_seed(0)
    start = torch.randn(16, 40, generator=values)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = Muon([ours], [], lr=0.02, weight_decay=0.1), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(16, 40, generator=values)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = float((theirs - start).detach().norm())
    assert moved > 0.3  # a step is .02 * .2 * sqrt(40) long along each of 16 directions: .1; four of them, partly one way
    assert float((ours - theirs).detach().norm()) < 0.03 * moved  # torch takes the steps in bf16


def test_other_parameters_move_as_adamw_moves_them():
    values = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=values)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = Muon([], [ours], lr=0.02, weight_decay=0.1), torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(5, generator=values)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert not torch.equal(ours, start) and torch.allclose(ours, theirs, atol=1e-6)


def test_a_saved_state_goes_on_as_it_was():
    def moved(stop: bool) -> list[torch.Tensor]:
        values = torch.Generator().manual_seed(0)
        weight, bias = (nn.Parameter(torch.randn(shape, generator=values)) for shape in ((4, 3, 3), (4,)))
        optimizer = Muon([weight], [bias])
        for step in range(4):
            if stop and step == 2:
                state = optimizer.state_dict()
                optimizer = Muon([weight], [bias])
                optimizer.load_state_dict(state)
            for parameter in (weight, bias):
                parameter.grad = torch.randn(parameter.shape, generator=values)
            optimizer.step()
        return [weight.detach(), bias.detach()]

    assert all(torch.equal(a, b) for a, b in zip(moved(False), moved(True), strict=True))


def test_parameters_without_a_gradient_stay():
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    Muon([weight], [bias]).step()
    assert torch.equal(weight, torch.ones(2, 2)) and torch.equal(bias, torch.ones(2))


def test_its_trainer_moves_convolutions_by_it_and_everything_once(folders, make_trainer):
    trainer = make_trainer(nnUNetTrainerMuon, num_epochs=1, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1)
    trainer.initialize()
    assert isinstance(trainer.optimizer, Muon)
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    convolutions, others = ([names[id(parameter)] for parameter in group["params"]] for group in trainer.optimizer.param_groups)
    assert convolutions and all("conv" in name and name.endswith("weight") for name in convolutions)
    assert any("seg_layers" in name for name in others) and not any("conv.weight" in name for name in others)
    assert sorted(convolutions + others) == sorted(name for name in names.values() if not name.startswith("class_head."))
    before = {name: parameter.detach().clone() for name, parameter in trainer.network.named_parameters()}
    trainer.run_training()
    assert all(not torch.equal(before[name], parameter) for name, parameter in trainer.network.named_parameters() if name in convolutions)
