"""Convolution layers of the U-Nets: conv -> dropout -> norm -> nonlinearity, and stacks of them.

Tensors are (B, C, D, H, W), or (B, C, H, W) in 2D. Module and attribute names make up the state_dict keys of published
nnU-Net weights; renaming one breaks loading in both directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from dynamic_network_architectures.building_blocks.norm_nonlin import has_norm_nonlin, norm_nonlin

PerAxis = int | Sequence[int]


@dataclass(frozen=True)
class LayerOps:
    """What the convolution layers of one network have in common. An op that is None is left out of every layer."""

    conv_op: type[nn.Module]
    conv_bias: bool = False
    norm_op: type[nn.Module] | None = None
    norm_op_kwargs: dict | None = None
    dropout_op: type[nn.Module] | None = None
    dropout_op_kwargs: dict | None = None
    nonlin: type[nn.Module] | None = None
    nonlin_kwargs: dict | None = None
    nonlin_first: bool = False  # conv -> nonlinearity -> norm

    @property
    def n_dims(self) -> int:
        """Number of spatial axes of `conv_op`."""
        for n_dims, conv in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), start=1):
            if issubclass(self.conv_op, conv):
                return n_dims
        raise ValueError(f"conv_op must be Conv1d, Conv2d or Conv3d, not {self.conv_op}")

    def counterpart(self, name: str) -> type[nn.Module]:
        """The class `name` of torch.nn for as many axes as `conv_op` has: "AvgPool" -> AvgPool3d."""
        return getattr(nn, f"{name}{self.n_dims}d")

    def per_axis(self, value: PerAxis) -> tuple[int, ...]:
        return (value,) * self.n_dims if isinstance(value, int) else tuple(value)

    def linear(self) -> "LayerOps":
        """The same without dropout and nonlinearity: the last layer of a residual branch."""
        return replace(self, dropout_op=None, nonlin=None)

    def make_nonlin(self) -> nn.Module:
        return nn.Identity() if self.nonlin is None else self.nonlin(**(self.nonlin_kwargs or {}))


class ConvNormNonlin(nn.Module):
    """One "same"-padded convolution and what follows it. Strides divide the grid, kernels are odd.

    For trainings on a CPU: in_one_step: norm and nonlinearity by `norm_nonlin`, where that computes the same. conv_in_float32: whatever
    autocast says, the convolution is computed in float32.
    """

    in_one_step = False
    conv_in_float32 = False

    def __init__(self, ops: LayerOps, in_channels: int, out_channels: int, kernel_size: PerAxis, stride: PerAxis = 1):
        super().__init__()
        kernel_size = ops.per_axis(kernel_size)
        self.out_channels = out_channels
        self.stride = ops.per_axis(stride)
        self.conv = ops.conv_op(in_channels, out_channels, kernel_size, self.stride,
                                padding=[k // 2 for k in kernel_size], bias=ops.conv_bias)
        layers = [self.conv]
        if ops.dropout_op is not None:
            self.dropout = ops.dropout_op(**(ops.dropout_op_kwargs or {}))
            layers.append(self.dropout)
        if ops.norm_op is not None:
            self.norm = ops.norm_op(out_channels, **(ops.norm_op_kwargs or {}))
            layers.append(self.norm)
        if ops.nonlin is not None:
            self.nonlin = ops.make_nonlin()
            layers.append(self.nonlin)
        if ops.nonlin_first and ops.norm_op is not None and ops.nonlin is not None:
            layers[-2:] = layers[:-3:-1]
        self.all_modules = nn.Sequential(*layers)  # second name of the same tensors: published weights carry both

    def forward(self, x: Tensor) -> Tensor:
        if not (self.in_one_step or self.conv_in_float32) or torch.jit.is_tracing():  # a trace, for OpenVINO, knows no steps of our own
            return self.all_modules(x)
        x = self._in_float32(x) if self.conv_in_float32 else self.conv(x)
        if not self.in_one_step or x[0, 0].numel() == 1:
            return self.all_modules[1:](x)  # refuses one voxel in training, in torch's own words
        return norm_nonlin(x, self.norm, self.nonlin.negative_slope if hasattr(self, "nonlin") else 1.0)

    def _in_float32(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.conv(x.float())

    def can_be_in_one_step(self) -> bool:
        norm, nonlin = getattr(self, "norm", None), getattr(self, "nonlin", None)
        return list(self.all_modules) == [m for m in (self.conv, norm, nonlin) if m is not None] and has_norm_nonlin(norm, nonlin)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        return self.out_channels * prod(strided_size(input_size, self.stride))


class StackedConvBlocks(nn.Module):
    """`n_convs` ConvNormNonlin in a row; the first one strides."""

    def __init__(self, n_convs: int, ops: LayerOps, in_channels: int, out_channels: int, kernel_size: PerAxis,
                 stride: PerAxis = 1):
        super().__init__()
        self.convs = nn.Sequential(*[
            ConvNormNonlin(ops, in_channels if i == 0 else out_channels, out_channels, kernel_size, stride if i == 0 else 1)
            for i in range(n_convs)])

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        return chained_feature_map_size(self.convs, input_size)


def strided_size(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Grid after a strided "same" convolution whose stride divides the grid."""
    assert len(size) == len(stride), f"spatial size {tuple(size)} (no batch, no channels) does not fit stride {tuple(stride)}"
    return tuple(n // s for n, s in zip(size, stride))


def chained_feature_map_size(layers: Sequence[nn.Module], input_size: Sequence[int]) -> int:
    """Sum of the layers' conv output elements (C*D*H*W) for one item; each layer sees the grid the one before leaves."""
    total = 0
    for layer in layers:
        total += layer.compute_conv_feature_map_size(input_size)
        input_size = strided_size(input_size, layer.stride)
    return total


def per_stage(value, n_stages: int, name: str) -> list:
    """One entry per stage: scalars (and None) are repeated, sequences must already have `n_stages` entries."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * n_stages
    if len(values) != n_stages:
        raise ValueError(f"{name} must have {n_stages} entries, one per stage, not {len(values)}: {values}")
    return values
