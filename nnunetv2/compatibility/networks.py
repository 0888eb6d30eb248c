"""Building blocks of networks with the signatures of dynamic-network-architectures 0.4.4, on top of this code base's own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamic_network_architectures.building_blocks import conv_blocks, encoders
from dynamic_network_architectures.building_blocks.conv_blocks import LayerOps
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, ResidualBlock
from dynamic_network_architectures.initialization import initialize_residual_as_skip

PerAxis = int | Sequence[int]
Module = type[nn.Module]


def convert_dim_to_conv_op(dimension: int) -> Module:
    """3 -> nn.Conv3d."""
    return _layer("Conv", None, dimension)


def convert_conv_op_to_dim(conv_op: Module) -> int:
    """nn.Conv3d -> 3."""
    return LayerOps(conv_op).n_dims


def get_matching_pool_op(conv_op: Module | None = None, dimension: int | None = None, adaptive: bool = False, pool_type: str = "avg") -> Module:
    """The pooling of as many axes; pool_type "avg" or "max". Either conv_op or dimension is given, here and below."""
    if pool_type not in ("avg", "max"):
        raise ValueError(f"pool_type is {pool_type!r}; choose avg or max.")
    return _layer(("Adaptive" if adaptive else "") + pool_type.capitalize() + "Pool", conv_op, dimension)


def get_matching_instancenorm(conv_op: Module | None = None, dimension: int | None = None) -> Module:
    return _layer("InstanceNorm", conv_op, dimension)


def get_matching_batchnorm(conv_op: Module | None = None, dimension: int | None = None) -> Module:
    return _layer("BatchNorm", conv_op, dimension)


def get_matching_convtransp(conv_op: Module | None = None, dimension: int | None = None) -> Module:
    return _layer("ConvTranspose", conv_op, dimension)


def get_matching_dropout(conv_op: Module | None = None, dimension: int | None = None) -> Module:
    """Of whole channels; in one dimension, as nn.Dropout says, of single values."""
    n_dims = _n_dims(conv_op, dimension)
    return nn.Dropout if n_dims == 1 else _layer("Dropout", None, n_dims)


def maybe_convert_scalar_to_list(conv_op: Module, scalar: Any) -> Any:
    """One value as a list of one an axis; lists, tuples and arrays come back as they are."""
    return scalar if isinstance(scalar, (tuple, list)) or hasattr(scalar, "__len__") else [scalar] * convert_conv_op_to_dim(conv_op)


def _n_dims(conv_op: Module | None, dimension: int | None) -> int:
    if (conv_op is None) == (dimension is None):
        raise ValueError("Give either conv_op or dimension.")
    n_dims = dimension if conv_op is None else convert_conv_op_to_dim(conv_op)
    if n_dims not in (1, 2, 3):
        raise ValueError(f"dimension is {n_dims}; there are layers of 1, 2 and 3 axes.")
    return n_dims


def _layer(name: str, conv_op: Module | None, dimension: int | None) -> Module:
    return getattr(nn, f"{name}{_n_dims(conv_op, dimension)}d")


def _ops(conv_op: Module, conv_bias: bool, norm_op: Module | None, norm_op_kwargs: dict | None, dropout_op: Module | None,
         dropout_op_kwargs: dict | None, nonlin: Module | None, nonlin_kwargs: dict | None, nonlin_first: bool = False) -> LayerOps:
    return LayerOps(conv_op, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs, nonlin_first)


class ConvDropoutNormReLU(conv_blocks.ConvNormNonlin):
    """One convolution and what follows it."""

    def __init__(self, conv_op: Module, input_channels: int, output_channels: int, kernel_size: PerAxis, stride: PerAxis, conv_bias: bool = False,
                 norm_op: Module | None = None, norm_op_kwargs: dict | None = None, dropout_op: Module | None = None,
                 dropout_op_kwargs: dict | None = None, nonlin: Module | None = None, nonlin_kwargs: dict | None = None, nonlin_first: bool = False):
        super().__init__(_ops(conv_op, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs, nonlin_first),
                         input_channels, output_channels, kernel_size, stride)
        self.input_channels, self.output_channels = input_channels, output_channels


class StackedConvBlocks(nn.Module):
    """Several in a row; the first one strides. output_channels: one number, or one a convolution."""

    def __init__(self, num_convs: int, conv_op: Module, input_channels: int, output_channels: int | Sequence[int], kernel_size: PerAxis,
                 initial_stride: PerAxis, conv_bias: bool = False, norm_op: Module | None = None, norm_op_kwargs: dict | None = None,
                 dropout_op: Module | None = None, dropout_op_kwargs: dict | None = None, nonlin: Module | None = None,
                 nonlin_kwargs: dict | None = None, nonlin_first: bool = False):
        super().__init__()
        outputs = [output_channels] * num_convs if isinstance(output_channels, int) else list(output_channels)
        layer = (conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs, nonlin_first)
        self.convs = nn.Sequential(*[
            ConvDropoutNormReLU(conv_op, [input_channels, *outputs][i], outputs[i], kernel_size, initial_stride if i == 0 else 1, *layer)
            for i in range(num_convs)])
        self.output_channels = outputs[-1]
        self.initial_stride = maybe_convert_scalar_to_list(conv_op, initial_stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        return conv_blocks.chained_feature_map_size(self.convs, input_size)


class _Described:
    """What other people's decoders ask an encoder for."""

    return_skips: bool

    def _describe(self, ops: LayerOps, return_skips: bool) -> None:
        self.return_skips, self.conv_op, self.conv_bias = return_skips, ops.conv_op, ops.conv_bias
        self.norm_op, self.norm_op_kwargs, self.nonlin, self.nonlin_kwargs = ops.norm_op, ops.norm_op_kwargs, ops.nonlin, ops.nonlin_kwargs
        self.dropout_op, self.dropout_op_kwargs = ops.dropout_op, ops.dropout_op_kwargs


class PlainConvEncoder(_Described, encoders.PlainConvEncoder):
    """Returns the features of all stages, finest first, or without `return_skips` those of the last. Stages stride by their convolutions."""

    def __init__(self, input_channels: int, n_stages: int, features_per_stage: PerAxis, conv_op: Module, kernel_sizes: Any, strides: Any,
                 n_conv_per_stage: PerAxis, conv_bias: bool = False, norm_op: Module | None = None, norm_op_kwargs: dict | None = None,
                 dropout_op: Module | None = None, dropout_op_kwargs: dict | None = None, nonlin: Module | None = None,
                 nonlin_kwargs: dict | None = None, return_skips: bool = False, nonlin_first: bool = False, pool: str = "conv"):
        if pool != "conv":
            raise ValueError(f"pool is {pool!r}; this encoder strides by its convolutions, 'conv'.")
        ops = _ops(conv_op, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs, nonlin_first)
        super().__init__(ops, input_channels, n_stages, features_per_stage, kernel_sizes, strides, n_conv_per_stage)
        self._describe(ops, return_skips)

    def forward(self, x: Tensor, n_stages: int | None = None) -> Any:
        skips = super().forward(x, n_stages)
        return skips if self.return_skips else skips[-1]


class ResidualEncoder(_Described, encoders.ResidualEncoder):
    """As PlainConvEncoder, with residual blocks behind a stem. Of upstream's further levers, those that change the network are refused."""

    def __init__(self, input_channels: int, n_stages: int, features_per_stage: PerAxis, conv_op: Module, kernel_sizes: Any, strides: Any,
                 n_blocks_per_stage: PerAxis, conv_bias: bool = False, norm_op: Module | None = None, norm_op_kwargs: dict | None = None,
                 dropout_op: Module | None = None, dropout_op_kwargs: dict | None = None, nonlin: Module | None = None,
                 nonlin_kwargs: dict | None = None, block: type[ResidualBlock] = BasicBlockD, bottleneck_channels: Any = None,
                 return_skips: bool = False, disable_default_stem: bool = False, stem_channels: int | None = None, pool_type: str = "conv",
                 stochastic_depth_p: float = 0.0, squeeze_excitation: bool = False, squeeze_excitation_reduction_ratio: float = 1.0 / 16):
        if disable_default_stem or pool_type != "conv" or stochastic_depth_p or squeeze_excitation:
            raise ValueError("This encoder has a stem, strides by its convolutions, and knows neither stochastic depth nor squeeze and excitation.")
        ops = _ops(conv_op, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs)
        super().__init__(ops, input_channels, n_stages, features_per_stage, kernel_sizes, strides, n_blocks_per_stage, block,
                         bottleneck_channels, stem_channels)
        self._describe(ops, return_skips)

    def forward(self, x: Tensor, n_stages: int | None = None) -> Any:
        skips = super().forward(x, n_stages)
        return skips if self.return_skips else skips[-1]


class InitWeights_XavierUniform:  # noqa: N801 (upstream's name)
    """For `network.apply`: Xavier's uniform initialisation (Glorot and Bengio 2010) of convolutions, biases zero."""

    def __init__(self, gain: float = 1):
        self.gain = gain

    def __call__(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.xavier_uniform_(module.weight, self.gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_last_bn_before_add_to_0(module: nn.Module) -> None:  # noqa: N802 (upstream's name)
    """Zero the last norm of a residual block, so that it starts as its skip."""
    initialize_residual_as_skip(module)


def drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False, scale_by_keep: bool = True) -> Tensor:
    """Stochastic depth (Huang et al. 2016): in training, items of the batch become zero with this chance, the others grow to make up for it."""
    if drop_prob == 0.0 or not training:
        return x
    kept = torch.empty((len(x), *[1] * (x.ndim - 1)), dtype=x.dtype, device=x.device).bernoulli_(1 - drop_prob)
    return x * (kept / (1 - drop_prob) if scale_by_keep and drop_prob < 1 else kept)


class DropPath(nn.Module):
    """`drop_path` as a layer."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True):
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_prob, self.training, self.scale_by_keep)
