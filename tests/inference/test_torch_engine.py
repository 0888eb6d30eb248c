"""What the torch engine makes of a network for CUDA, as far as a CPU shows it; the rest is in tests/cuda."""

import pytest
import torch
from torch import nn

from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin, LayerOps
from nnunetv2.inference.engines.torch_engine import ChannelsLastNorm3d, TorchEngine, halve_convolutions, prepare_for_cuda
from tests.inference.tiny_model import tiny_network

SHAPE = (8, 16, 16)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
def test_the_prepared_network_computes_the_same(n):
    x = torch.randn(n, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    expected, prepared = tiny_network(), tiny_network()
    prepare_for_cuda(prepared)
    with torch.no_grad():
        for a, b in zip(expected(x), prepared(x)):
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_every_norm_is_replaced_and_every_bias_before_one_goes():
    network = tiny_network()
    layers = [module for module in network.modules() if isinstance(module, ConvNormNonlin)]
    assert all(layer.conv.bias is not None for layer in layers if layer.conv.kernel_size != (1, 1, 1))
    prepare_for_cuda(network)
    assert all(layer.conv.bias is None and layer.norm is layer.all_modules[1] and type(layer.norm) is ChannelsLastNorm3d for layer in layers)
    assert network.decoder.seg_layers[-1].bias is not None and network.decoder.transpconvs[0].bias is not None


def test_preparing_twice_is_preparing_once():
    x, network = torch.randn(1, 1, *SHAPE), tiny_network()
    prepare_for_cuda(network)
    with torch.no_grad():
        once = network(x)[0]
        prepare_for_cuda(network)
        assert torch.equal(network(x)[0], once)


@pytest.mark.parametrize("ops", [
    LayerOps(nn.Conv3d, True),  # no norm
    LayerOps(nn.Conv3d, True, nn.InstanceNorm3d, {"affine": True}, nonlin=nn.LeakyReLU, nonlin_first=True),  # something between
    LayerOps(nn.Conv3d, True, nn.InstanceNorm3d, {"affine": True}, dropout_op=nn.Dropout3d),
    LayerOps(nn.Conv3d, True, nn.BatchNorm3d),
])
def test_a_bias_that_no_instance_norm_follows_stays(ops):
    layer = ConvNormNonlin(ops, 1, 2, 3).eval()
    x = torch.randn(1, 1, 4, 4, 4)
    with torch.no_grad():
        expected = layer(x)
        prepare_for_cuda(layer)
        torch.testing.assert_close(layer(x), expected)
    assert layer.conv.bias is not None


def test_only_convolutions_are_halved():
    network = tiny_network()
    halve_convolutions(network)
    for module in network.modules():
        expected = torch.float16 if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) else torch.float32
        assert {parameter.dtype for parameter in module.parameters(recurse=False)} <= {expected}
    assert network.encoder.stem.convs[0].conv.weight.dtype == torch.float16


def test_the_class_head_is_left_out_when_the_class_is_not_wanted():
    network, x = tiny_network(), torch.randn(1, 1, *SHAPE)
    engine = TorchEngine(network, torch.device("cpu"), half=False)
    seg_logits, class_logits = engine(x)
    network.class_head.forward = None  # would fail if called
    without, nothing = engine(x, classify=False)
    assert torch.equal(without, seg_logits) and nothing is None and class_logits is not None


def test_the_class_by_the_networks_own_segmentation_is_its_class():
    engine, x = TorchEngine(tiny_network(), torch.device("cpu"), half=False), torch.randn(2, 1, *SHAPE)
    seg_logits, class_logits = engine(x)
    torch.testing.assert_close(engine.classify(x, seg_logits), class_logits)
    assert not torch.allclose(engine.classify(x, seg_logits.flip(1)), class_logits)


def test_a_network_that_knows_no_such_choice_has_its_class_dropped():
    class Net(nn.Module):
        def forward(self, x):
            return x, x.mean((2, 3, 4))

    engine, x = TorchEngine(Net(), torch.device("cpu"), half=False), torch.randn(1, 1, 2, 2, 2)
    seg_logits, class_logits = engine(x, classify=False)
    assert torch.equal(seg_logits, x) and class_logits is None
    assert engine.classify(x, seg_logits).tolist() == [[pytest.approx(float(x.mean()))]]
