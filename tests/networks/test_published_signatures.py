"""Blocks are made with the published library's arguments as well, as networks of other authors make them."""

import pytest
import torch
from torch import nn

import nnunetv2  # noqa: F401 (with it, all of the published modules are found)
from dynamic_network_architectures.building_blocks.conv_blocks import LayerOps
from dynamic_network_architectures.building_blocks.decoder import UNetDecoder
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD, StackedResidualBlocks

SETTINGS = {"conv_bias": True, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}, "dropout_op": nn.Dropout3d, "dropout_op_kwargs": {"p": 0.5},
            "nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
OPS = LayerOps(nn.Conv3d, **SETTINGS)


def described(module):
    """Layers with their settings, and names and shapes of the weights."""
    return str(module), [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]


@pytest.mark.parametrize("here, published, named", [
    (lambda: BasicBlockD(OPS, 4, 6, 3, 2), lambda *s: BasicBlockD(nn.Conv3d, 4, 6, 3, 2, *s),
     lambda **s: BasicBlockD(conv_op=nn.Conv3d, input_channels=4, output_channels=6, kernel_size=3, stride=2, **s)),
    (lambda: BottleneckD(OPS, 4, 6, 3, 2, 5), lambda *s: BottleneckD(nn.Conv3d, 4, 5, 6, 3, 2, *s),
     lambda **s: BottleneckD(nn.Conv3d, 4, bottleneck_channels=5, output_channels=6, kernel_size=3, stride=2, **s)),
    (lambda: StackedResidualBlocks(2, OPS, 4, 6, 3, 2, BottleneckD, 5), lambda *s: StackedResidualBlocks(2, nn.Conv3d, 4, 6, 3, 2, *s, BottleneckD, 5),
     lambda **s: StackedResidualBlocks(2, nn.Conv3d, input_channels=4, output_channels=[6, 6], kernel_size=3, initial_stride=2, block=BottleneckD,
                                       bottleneck_channels=[5, 5], **s))])
def test_residual_blocks_are_the_same_however_they_are_made(here, published, named):
    assert described(here()) == described(published(*SETTINGS.values())) == described(named(**SETTINGS))


def test_stacked_blocks_of_several_widths():
    stacked = StackedResidualBlocks(2, nn.Conv3d, 4, [5, 7], 3, 2)
    assert stacked.output_channels == 7 and stacked.initial_stride == (2, 2, 2)
    assert [(block.input_channels, block.output_channels) for block in stacked.blocks] == [(4, 5), (5, 7)]
    assert stacked(torch.zeros(1, 4, 4, 4, 4)).shape == (1, 7, 2, 2, 2)
    with pytest.raises(ValueError, match="output_channels has 3 entries for 2 blocks"):
        StackedResidualBlocks(2, nn.Conv3d, 4, [5, 7, 9], 3, 2)


def test_levers_that_the_blocks_lack_are_named():
    BasicBlockD(nn.Conv3d, 4, 6, 3, 2, stochastic_depth_p=0.0, squeeze_excitation=False)
    with pytest.raises(ValueError, match="BasicBlockD knows no squeeze_excitation"):
        BasicBlockD(nn.Conv3d, 4, 6, 3, 2, squeeze_excitation=True)
    with pytest.raises(TypeError, match="'output_channels' twice"):
        BasicBlockD(nn.Conv3d, 4, 6, 3, 2, output_channels=6)


class OwnEncoder(nn.Module):
    """What the published decoder asks of one."""

    output_channels, strides, kernel_sizes = [4, 6], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2
    conv_op, conv_bias, norm_op, norm_op_kwargs = nn.Conv3d, True, nn.InstanceNorm3d, {"affine": True}
    dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs = None, None, nn.LeakyReLU, {}


def test_the_decoder_takes_an_encoder_of_another_author_and_settings_of_its_own():
    skips = [torch.zeros(1, 4, 4, 4, 4), torch.zeros(1, 6, 2, 2, 2)]
    plain = UNetDecoder(OwnEncoder(), 3, 1, False, nonlin_first=False)
    assert plain(skips).shape == (1, 3, 4, 4, 4) and "LeakyReLU" in str(plain)
    other = UNetDecoder(OwnEncoder(), 3, 1, True, True, nn.BatchNorm3d, {}, nonlin=nn.GELU, conv_bias=False)
    assert "BatchNorm3d" in str(other) and "InstanceNorm3d" not in str(other) and "GELU" in str(other)
    assert other.transpconvs[0].bias is None and list(map(tuple, (logits.shape for logits in other(skips)))) == [(1, 3, 4, 4, 4)]
