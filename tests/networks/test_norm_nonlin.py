"""Normalisation and nonlinearity in one step against torch's own layers, forwards and backwards."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dynamic_network_architectures.architectures.cpu_layout import lay_out_for_cpu
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin, LayerOps
from dynamic_network_architectures.building_blocks.norm_nonlin import CHANNELS_LAST, has_norm_nonlin, norm_nonlin

SHAPES = {nn.InstanceNorm2d: (3, 4, 8, 6), nn.InstanceNorm3d: (2, 5, 3, 4, 6)}


@pytest.mark.parametrize("slope", (0.01, 0.3, 1.0))
@pytest.mark.parametrize("last", (False, True))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
@pytest.mark.parametrize("kind", SHAPES)
def test_values_and_gradients_are_those_of_the_layers(kind, dtype, last, slope):
    torch.manual_seed(0)
    shape = SHAPES[kind]
    norm = kind(shape[1], affine=True).to(torch.float64 if dtype is torch.float64 else torch.float32)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(shape).to(dtype)
    if last:
        x = x.contiguous(memory_format=CHANNELS_LAST[x.ndim])
    x.requires_grad_(True)
    above = torch.randn(shape).to(dtype)
    ours, theirs = norm_nonlin(x, norm, slope), F.leaky_relu(norm(x), slope)
    assert ours.stride() == x.stride() and ours.dtype == dtype
    inputs = [x, norm.weight, norm.bias]
    bound = {torch.float64: 1e-12, torch.float32: 3e-5, torch.bfloat16: 3e-2}[dtype]
    for one, other in zip((ours, *torch.autograd.grad(ours, inputs, above)), (theirs, *torch.autograd.grad(theirs, inputs, above))):
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)
        if not last:
            assert torch.equal(one, other)


def test_two_voxels_by_hand():
    """Values 1 and 3: mean 2, deviation 1; of the normed -1 and 1, the first is below 0."""
    norm = nn.InstanceNorm2d(1, eps=0.0, affine=True)
    assert norm_nonlin(torch.tensor([[[[1.0, 3.0]]]]), norm, 0.25).flatten().tolist() == pytest.approx([-0.25, 1.0])


def test_what_it_does_not_compute():
    relu = nn.LeakyReLU()
    assert has_norm_nonlin(nn.InstanceNorm3d(2, affine=True), relu) and has_norm_nonlin(nn.InstanceNorm2d(2, affine=True), None)
    for norm, nonlin in ((nn.InstanceNorm3d(2), relu), (nn.InstanceNorm3d(2, affine=True, track_running_stats=True), relu),
                         (nn.BatchNorm3d(2), relu), (None, relu), (nn.InstanceNorm3d(2, affine=True), nn.ReLU()),
                         (nn.InstanceNorm3d(2, affine=True), nn.LeakyReLU(-0.1))):
        assert not has_norm_nonlin(norm, nonlin)


def test_other_layers_between_stay_where_they_are():
    ops = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU}
    assert ConvNormNonlin(LayerOps(**ops), 1, 2, 3).can_be_in_one_step()
    assert not ConvNormNonlin(LayerOps(**ops, dropout_op=nn.Dropout3d), 1, 2, 3).can_be_in_one_step()
    assert not ConvNormNonlin(LayerOps(**ops, nonlin_first=True), 1, 2, 3).can_be_in_one_step()


def test_a_single_voxel_is_refused_in_training():
    block = ConvNormNonlin(LayerOps(nn.Conv3d, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU), 1, 2, 3, 2)
    block.in_one_step = True
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        block(torch.ones(1, 1, 1, 2, 1))


@pytest.mark.parametrize(("kind", "n_dims"), ((PlainConvUNet, 2), (ResidualEncoderUNet, 3)))
def test_a_network_laid_out_for_the_cpu_computes_the_same(kind, n_dims):
    """Output, gradients by name, and the weights' names and values."""
    blocks = {"n_blocks_per_stage" if kind is ResidualEncoderUNet else "n_conv_per_stage": [1, 2, 2]}
    network = kind(1, 3, [4, 8, 12], (nn.Conv2d, nn.Conv3d)[n_dims - 2], 3, [1, 2, 2], num_classes=3, n_conv_per_stage_decoder=[1, 1], conv_bias=True,
                   norm_op=(nn.InstanceNorm2d, nn.InstanceNorm3d)[n_dims - 2], norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
                   nonlin_kwargs={"inplace": True}, deep_supervision=True, **blocks).double()
    x = torch.randn(2, 1, *(8, 12, 16)[:n_dims], dtype=torch.float64)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}

    def computed():
        network.zero_grad()
        outputs = network(x)
        sum((output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum() for output in outputs).backward()
        return [output.detach() for output in outputs], {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    outputs, gradients = computed()
    lay_out_for_cpu(network)
    assert all(block.in_one_step for block in network.modules() if isinstance(block, ConvNormNonlin))
    outputs_after, gradients_after = computed()
    for one, other in zip(outputs_after, outputs):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_after[name], gradient, rtol=1e-8, atol=1e-8, msg=name)
    assert list(before) == list(network.state_dict()) and all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


def test_a_residual_network_trains_in_bf16():
    """Every layer has its code in bf16, forwards and backwards; logits are near those in fp32."""
    torch.manual_seed(0)
    network = ResidualEncoderUNet(1, 3, [4, 8, 12], nn.Conv3d, [[1, 3, 3], 3, 3], [1, [1, 2, 2], 2], [1, 2, 2], 3, [1, 1], conv_bias=True,
                                  norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True})
    x = torch.randn(2, 1, 8, 16, 16)
    with torch.no_grad():
        expected = network(x)
    lay_out_for_cpu(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    logits.float().square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for name, parameter in network.named_parameters() if "seg_layers.0" not in name)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("in_float32", [False, True])
def test_a_trace_of_a_network_laid_out_for_training_computes_what_the_network_does(in_float32):
    block = ConvNormNonlin(LayerOps(conv_op=nn.Conv3d, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU), 1, 2, 3)
    block.in_one_step, block.conv_in_float32 = True, in_float32
    with torch.no_grad():
        traced = torch.jit.trace(block.eval(), torch.zeros(1, 1, 4, 4, 4), check_trace=False)
        x = torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(traced(x), block(x))
