"""Residual blocks in the "D" form: the skip averages before it projects (He et al. 2019, Bag of Tricks, fig. 2c)."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from torch import Tensor, nn

from dynamic_network_architectures.building_blocks.conv_blocks import (
    ConvNormNonlin, LayerOps, PerAxis, chained_feature_map_size, strided_size)


class ResidualBlock(nn.Module):
    """nonlin(layers(x) + skip(x)); the last layer must be linear. Layers are named conv1, conv2, ... ."""

    def __init__(self, ops: LayerOps, in_channels: int, out_channels: int, stride: PerAxis, layers: list[ConvNormNonlin]):
        super().__init__()
        self.n_layers = len(layers)
        self.out_channels = out_channels
        self.stride = ops.per_axis(stride)
        for i, layer in enumerate(layers, start=1):
            self.add_module(f"conv{i}", layer)

        skip = []
        if any(s != 1 for s in self.stride):
            skip.append(ops.counterpart("AvgPool")(self.stride, self.stride))
        if in_channels != out_channels:
            skip.append(ConvNormNonlin(replace(ops.linear(), conv_bias=False), in_channels, out_channels, 1))
        self.skip = nn.Sequential(*skip)  # empty: identity
        self.nonlin = ops.make_nonlin()

    @property
    def layers(self) -> list[ConvNormNonlin]:
        return [getattr(self, f"conv{i}") for i in range(1, self.n_layers + 1)]

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.layers:
            out = layer(out)
        out += self.skip(x)
        return self.nonlin(out)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        size = chained_feature_map_size(self.layers, input_size)
        if len(self.skip) > 0:  # a skip that only pools counts like a convolution: the published planner's constants assume it
            size += self.out_channels * prod(strided_size(input_size, self.stride))
        return size


class BasicBlockD(ResidualBlock):
    """Two convolutions of `kernel_size`; the first strides. `bottleneck_channels` has no meaning here."""

    def __init__(self, ops: LayerOps, in_channels: int, out_channels: int, kernel_size: PerAxis, stride: PerAxis,
                 bottleneck_channels: int | None = None):
        super().__init__(ops, in_channels, out_channels, stride, [
            ConvNormNonlin(ops, in_channels, out_channels, kernel_size, stride),
            ConvNormNonlin(ops.linear(), out_channels, out_channels, kernel_size)])


class BottleneckD(ResidualBlock):
    """1x1 to `bottleneck_channels`, strided `kernel_size`, 1x1 to `out_channels`; only the middle one has dropout."""

    def __init__(self, ops: LayerOps, in_channels: int, out_channels: int, kernel_size: PerAxis, stride: PerAxis,
                 bottleneck_channels: int | None = None):
        if bottleneck_channels is None:
            raise ValueError("BottleneckD needs bottleneck_channels")
        super().__init__(ops, in_channels, out_channels, stride, [
            ConvNormNonlin(replace(ops, dropout_op=None), in_channels, bottleneck_channels, 1),
            ConvNormNonlin(ops, bottleneck_channels, bottleneck_channels, kernel_size, stride),
            ConvNormNonlin(ops.linear(), bottleneck_channels, out_channels, 1)])


class StackedResidualBlocks(nn.Module):
    """One encoder stage: `n_blocks` blocks, the first one strides and changes the number of channels."""

    def __init__(self, n_blocks: int, ops: LayerOps, in_channels: int, out_channels: int, kernel_size: PerAxis,
                 stride: PerAxis, block: type[ResidualBlock] = BasicBlockD, bottleneck_channels: int | None = None):
        super().__init__()
        self.blocks = nn.Sequential(*[
            block(ops, in_channels if i == 0 else out_channels, out_channels, kernel_size, stride if i == 0 else 1,
                  bottleneck_channels)
            for i in range(n_blocks)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        return chained_feature_map_size(self.blocks, input_size)
