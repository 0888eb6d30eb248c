"""Convolutions that a CPU computes wrongly in bf16 are found and stay in float32."""

import pytest
import torch
from torch import nn

from dynamic_network_architectures.architectures import bf16_convolutions
from dynamic_network_architectures.architectures.bf16_convolutions import trust_bf16
from dynamic_network_architectures.architectures.cpu_layout import lay_out_for_cpu
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin

BATCH = (2, 1, 4, 16, 16)  # two slices deep after the stride


def _network(**changes):
    torch.manual_seed(0)
    return PlainConvUNet(1, **{
        "n_stages": 2, "features_per_stage": (16, 32), "conv_op": nn.Conv3d, "kernel_sizes": 3, "strides": (1, 2), "n_conv_per_stage": 2,
        "num_classes": 3, "n_conv_per_stage_decoder": 1, "conv_bias": True, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True},
        "nonlin": nn.LeakyReLU, "deep_supervision": False} | changes)


def _gradients(network, bf16):
    torch.manual_seed(1)
    x = torch.randn(BATCH)
    network.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = network(x).float()
    logits.backward(torch.randn(logits.shape))
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters() if name.endswith("conv.weight")}


@pytest.mark.parametrize("laid_out", (False, True))
def test_gradients_after_the_check_are_those_of_float32_whatever_the_cpu(laid_out):
    network = _network()
    if laid_out:
        lay_out_for_cpu(network)
    assert trust_bf16(network, BATCH)
    exact, rounded = _gradients(network, False), _gradients(network, True)
    assert len(exact) == 5
    for name, gradient in exact.items():
        assert float((gradient - rounded[name]).norm()) < 0.3 * float(gradient.norm()), name  # rounding in every layer: .1


@pytest.mark.parametrize("laid_out", (False, True))
def test_a_wrong_convolution_stays_in_float32_and_the_others_do_not(monkeypatch, laid_out):
    monkeypatch.setattr(bf16_convolutions, "_right_in_bf16", lambda conv, shape, layout: shape[2] != 2 or isinstance(conv, nn.ConvTranspose3d))
    network = _network()
    if laid_out:
        lay_out_for_cpu(network)
    assert trust_bf16(network, BATCH)
    kept = {name for name, module in network.named_modules() if isinstance(module, ConvNormNonlin) and module.conv_in_float32}
    assert kept == {"encoder.stages.1.0.convs.1"}  # the one before it sees four slices
    types = {}

    def note(name):
        def hook(conv, inputs, output):
            types[name] = output.dtype
        return hook

    for name, module in network.named_modules():
        if isinstance(module, ConvNormNonlin):
            module.conv.register_forward_hook(note(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(torch.zeros(BATCH))
    assert {name for name, kind in types.items() if kind == torch.float32} == kept and len(types) == 5


def test_a_wrong_convolution_that_has_no_layer_of_its_own_ends_the_trust(monkeypatch):
    monkeypatch.setattr(bf16_convolutions, "_right_in_bf16", lambda conv, shape, layout: not isinstance(conv, nn.ConvTranspose3d))
    assert not trust_bf16(_network(), BATCH)


@pytest.mark.parametrize("broken", ("unwritten", "nan", "zero"))
def test_wrong_gradients_are_seen(monkeypatch, broken):
    class Rounded(nn.Conv3d):
        def forward(self, x):
            y = super().forward(x)
            if torch.is_autocast_enabled("cpu"):
                wrong = {"unwritten": 1e28, "nan": float("nan"), "zero": 0.0}[broken]
                self.weight.register_hook(lambda gradient: torch.full_like(gradient, wrong))
            return y

    assert bf16_convolutions._right_in_bf16(nn.Conv3d(4, 4, 3, padding=1), (2, 4, 5, 6, 7), torch.contiguous_format)
    assert not bf16_convolutions._right_in_bf16(Rounded(4, 4, 3, padding=1), (2, 4, 5, 6, 7), torch.contiguous_format)


@pytest.mark.parametrize("without", (torch.no_grad, torch.inference_mode))
def test_gradients_are_tried_where_none_are_kept(without):
    conv = nn.Conv3d(4, 4, 3, padding=1)
    with without():
        assert bf16_convolutions._right_in_bf16(conv, (2, 4, 5, 6, 7), torch.contiguous_format)


def test_random_numbers_training_mode_and_gradients_stay_as_they_are():
    network = _network()
    network.train()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    trust_bf16(network, BATCH)
    assert torch.equal(torch.random.get_rng_state(), before) and network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_frozen_layers_are_tried_too_and_stay_frozen():
    network = _network()
    network.encoder.requires_grad_(False)
    assert trust_bf16(network, BATCH)
    assert not any(parameter.requires_grad for parameter in network.encoder.parameters())
