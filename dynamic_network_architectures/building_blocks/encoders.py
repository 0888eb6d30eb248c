"""Encoders of the U-Nets: they return the features of every stage, finest first."""

from collections.abc import Sequence

from torch import Tensor, nn

from dynamic_network_architectures.building_blocks.conv_blocks import (
    LayerOps, PerAxis, StackedConvBlocks, per_stage, strided_size)
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, ResidualBlock, StackedResidualBlocks


class Encoder(nn.Module):
    """What both encoders share. Attributes for decoder and head: ops, output_channels, strides and kernel_sizes per stage."""

    def __init__(self, ops: LayerOps, n_stages: int, features_per_stage, kernel_sizes, strides):
        super().__init__()
        self.ops = ops
        self.output_channels: list[int] = per_stage(features_per_stage, n_stages, "features_per_stage")
        self.kernel_sizes: list[PerAxis] = per_stage(kernel_sizes, n_stages, "kernel_sizes")
        self.strides = [ops.per_axis(s) for s in per_stage(strides, n_stages, "strides")]

    def forward(self, x: Tensor, n_stages: int | None = None) -> list[Tensor]:
        """(B, C, D, H, W) -> features of the first `n_stages` stages, of all by default: [(B, C_s, D_s, H_s, W_s)], finest first."""
        skips = []
        for stage in list(self.stages)[:n_stages]:
            x = stage(x)
            skips.append(x)
        return skips

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Sum of the conv output elements for one item of spatial size `input_size`."""
        total = 0
        for stage, stride in zip(self.stages, self.strides):
            blocks = stage[-1] if isinstance(stage, nn.Sequential) else stage
            total += blocks.compute_conv_feature_map_size(input_size)
            input_size = strided_size(input_size, stride)
        return total


class PlainConvEncoder(Encoder):
    """Stacks of convolutions; the first of each stage strides."""

    def __init__(self, ops: LayerOps, input_channels: int, n_stages: int, features_per_stage, kernel_sizes, strides,
                 n_conv_per_stage):
        super().__init__(ops, n_stages, features_per_stage, kernel_sizes, strides)
        n_convs = per_stage(n_conv_per_stage, n_stages, "n_conv_per_stage")
        channels = [input_channels, *self.output_channels]
        # a Sequential of one: published weights are named encoder.stages.S.0.convs
        self.stages = nn.Sequential(*[
            nn.Sequential(StackedConvBlocks(n_convs[s], ops, channels[s], channels[s + 1], self.kernel_sizes[s], self.strides[s]))
            for s in range(n_stages)])


class ResidualEncoder(Encoder):
    """One unstrided convolution (stem), then stages of residual blocks."""

    def __init__(self, ops: LayerOps, input_channels: int, n_stages: int, features_per_stage, kernel_sizes, strides,
                 n_blocks_per_stage, block: type[ResidualBlock] = BasicBlockD,
                 bottleneck_channels: int | Sequence[int] | None = None, stem_channels: int | None = None):
        super().__init__(ops, n_stages, features_per_stage, kernel_sizes, strides)
        n_blocks = per_stage(n_blocks_per_stage, n_stages, "n_blocks_per_stage")
        bottleneck = per_stage(bottleneck_channels, n_stages, "bottleneck_channels")
        stem_channels = stem_channels or self.output_channels[0]
        self.stem = StackedConvBlocks(1, ops, input_channels, stem_channels, self.kernel_sizes[0])
        channels = [stem_channels, *self.output_channels]
        self.stages = nn.Sequential(*[
            StackedResidualBlocks(n_blocks[s], ops, channels[s], channels[s + 1], self.kernel_sizes[s], self.strides[s],
                                  block, bottleneck[s])
            for s in range(n_stages)])

    def forward(self, x: Tensor, n_stages: int | None = None) -> list[Tensor]:
        return super().forward(self.stem(x), n_stages)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        return self.stem.compute_conv_feature_map_size(input_size) + super().compute_conv_feature_map_size(input_size)
