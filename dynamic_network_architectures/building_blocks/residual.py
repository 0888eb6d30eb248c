"""Residual blocks in the "D" form: the skip averages before it projects (He et al. 2019, Bag of Tricks, fig. 2c)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from math import prod
from typing import Any

from torch import Tensor, nn

from dynamic_network_architectures.building_blocks.conv_blocks import (
    ConvNormNonlin, LayerOps, PerAxis, chained_feature_map_size, strided_size)

SETTINGS = ("conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs")
NOT_HERE = ("stochastic_depth_p", "squeeze_excitation")
PUBLISHED_NAMES = {"conv_op": "ops", "input_channels": "in_channels", "output_channels": "out_channels", "initial_stride": "stride"}


def also_as_published(*names: str) -> Callable:
    """For an `__init__` that takes `ops`: callers may give the published library's arguments instead, in its order or by its names.

    names: this code's names of the arguments in that order; after `ops` come SETTINGS one by one, where "settings" stands.
    ValueError for levers that these blocks do not have.
    """
    at = names.index("settings")
    order = (*names[:at], *SETTINGS, *names[at + 1:], *NOT_HERE, "squeeze_excitation_reduction_ratio")

    def decorate(init: Callable) -> Callable:
        @wraps(init)
        def either(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            if any(isinstance(value, LayerOps) for value in (*args, *kwargs.values())):
                return init(self, *args, **kwargs)
            if len(args) > len(order):
                raise TypeError(f"{type(self).__name__} takes {len(order)} arguments, {len(args)} were given.")
            given = dict(zip(order, args))
            for name, value in kwargs.items():
                if (here := PUBLISHED_NAMES.get(name, name)) in given:
                    raise TypeError(f"{type(self).__name__} got {name!r} twice.")
                given[here] = value
            if missing := [lever for lever in NOT_HERE if given.pop(lever, None)]:
                raise ValueError(f"{type(self).__name__} knows no {' and no '.join(missing)}.")
            given.pop("squeeze_excitation_reduction_ratio", None)
            settings = {name: given.pop(name) for name in SETTINGS if name in given}
            return init(self, ops=LayerOps(given.pop("ops"), **settings), **given)
        return either
    return decorate


class ResidualBlock(nn.Module):
    """nonlin(layers(x) + skip(x)); the last layer must be linear. Layers are named conv1, conv2, ... ."""

    def __init__(self, ops: LayerOps, in_channels: int, out_channels: int, stride: PerAxis, layers: list[ConvNormNonlin]):
        super().__init__()
        self.n_layers = len(layers)
        self.out_channels = self.output_channels = out_channels
        self.input_channels = in_channels
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

    @also_as_published("ops", "in_channels", "out_channels", "kernel_size", "stride", "settings")
    def __init__(self, ops: LayerOps, in_channels: int, out_channels: int, kernel_size: PerAxis, stride: PerAxis,
                 bottleneck_channels: int | None = None):
        super().__init__(ops, in_channels, out_channels, stride, [
            ConvNormNonlin(ops, in_channels, out_channels, kernel_size, stride),
            ConvNormNonlin(ops.linear(), out_channels, out_channels, kernel_size)])


class BottleneckD(ResidualBlock):
    """1x1 to `bottleneck_channels`, strided `kernel_size`, 1x1 to `out_channels`; only the middle one has dropout."""

    @also_as_published("ops", "in_channels", "bottleneck_channels", "out_channels", "kernel_size", "stride", "settings")
    def __init__(self, ops: LayerOps, in_channels: int, out_channels: int, kernel_size: PerAxis, stride: PerAxis,
                 bottleneck_channels: int | None = None):
        if bottleneck_channels is None:
            raise ValueError("BottleneckD needs bottleneck_channels")
        super().__init__(ops, in_channels, out_channels, stride, [
            ConvNormNonlin(replace(ops, dropout_op=None), in_channels, bottleneck_channels, 1),
            ConvNormNonlin(ops, bottleneck_channels, bottleneck_channels, kernel_size, stride),
            ConvNormNonlin(ops.linear(), bottleneck_channels, out_channels, 1)])


class StackedResidualBlocks(nn.Module):
    """One encoder stage: `n_blocks` blocks, the first one strides and changes the number of channels.

    out_channels, bottleneck_channels: one number, or one a block.
    """

    @also_as_published("n_blocks", "ops", "in_channels", "out_channels", "kernel_size", "stride", "settings", "block", "bottleneck_channels")
    def __init__(self, n_blocks: int, ops: LayerOps, in_channels: int, out_channels: int | Sequence[int], kernel_size: PerAxis,
                 stride: PerAxis, block: type[ResidualBlock] = BasicBlockD, bottleneck_channels: int | None | Sequence[int | None] = None):
        super().__init__()
        channels = [in_channels, *(_one_each(out_channels, n_blocks, "output_channels"))]
        narrow = _one_each(bottleneck_channels, n_blocks, "bottleneck_channels")
        self.output_channels, self.initial_stride = channels[-1], ops.per_axis(stride)
        self.blocks = nn.Sequential(*[
            block(ops, channels[i], channels[i + 1], kernel_size, stride if i == 0 else 1, narrow[i]) for i in range(n_blocks)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        return chained_feature_map_size(self.blocks, input_size)


def _one_each(value: Any, n_blocks: int, name: str) -> list:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * n_blocks
    if len(values) != n_blocks:
        raise ValueError(f"{name} has {len(values)} entries for {n_blocks} blocks.")
    return values
