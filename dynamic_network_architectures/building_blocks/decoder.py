"""The U-Net decoder: upsample, join the skip, convolve; a segmentation layer on every resolution."""

from collections.abc import Sequence
from dataclasses import fields, replace
from math import prod

import torch
from torch import Tensor, nn

from dynamic_network_architectures.building_blocks.conv_blocks import LayerOps, StackedConvBlocks, per_stage, strided_size
from dynamic_network_architectures.building_blocks.encoders import Encoder


class UNetDecoder(nn.Module):
    """Stage 0 is the coarsest. All segmentation layers always exist, so that weights load with and without deep supervision.

    `deep_supervision` may be switched at any time; see `forward`. The layers' settings are the encoder's, but for those that are given. An
    encoder of another author has `output_channels`, `strides`, `kernel_sizes`, and `conv_op`, `norm_op` and so on as attributes.
    """

    def __init__(self, encoder: Encoder | nn.Module, num_classes: int, n_conv_per_stage, deep_supervision: bool = False,
                 nonlin_first: bool | None = None, norm_op: type[nn.Module] | None = None, norm_op_kwargs: dict | None = None,
                 dropout_op: type[nn.Module] | None = None, dropout_op_kwargs: dict | None = None, nonlin: type[nn.Module] | None = None,
                 nonlin_kwargs: dict | None = None, conv_bias: bool | None = None):
        super().__init__()
        self.encoder = encoder  # not used in forward; registered because published weights list it as decoder.encoder.*
        self.num_classes = num_classes
        self.deep_supervision = deep_supervision
        given = {"nonlin_first": nonlin_first, "norm_op": norm_op, "norm_op_kwargs": norm_op_kwargs, "dropout_op": dropout_op,
                 "dropout_op_kwargs": dropout_op_kwargs, "nonlin": nonlin, "nonlin_kwargs": nonlin_kwargs, "conv_bias": conv_bias}
        ops = replace(_ops_of(encoder), **{name: value for name, value in given.items() if value is not None})
        n_stages = len(encoder.output_channels) - 1
        n_convs = per_stage(n_conv_per_stage, n_stages, "n_conv_per_stage_decoder")

        stages, transpconvs, seg_layers = [], [], []
        for s in range(n_stages):
            below, skip = encoder.output_channels[-1 - s], encoder.output_channels[-2 - s]
            stride = encoder.strides[-1 - s]
            transpconvs.append(ops.counterpart("ConvTranspose")(below, skip, stride, stride, bias=ops.conv_bias))
            stages.append(StackedConvBlocks(n_convs[s], ops, 2 * skip, skip, encoder.kernel_sizes[-2 - s]))
            seg_layers.append(ops.conv_op(skip, num_classes, 1, bias=True))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transpconvs)
        self.seg_layers = nn.ModuleList(seg_layers)

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        """Encoder features, finest first -> logits (B, n, D, H, W); with deep supervision a list of them, finest first."""
        x = skips[-1]
        seg_logits = []
        for skip, upsample, stage, seg_layer in zip(skips[-2::-1], self.transpconvs, self.stages, self.seg_layers):
            x = stage(torch.cat((upsample(x), skip), dim=1))  # (B, C_skip, D_s, H_s, W_s)
            if self.deep_supervision:
                seg_logits.insert(0, seg_layer(x))
        return seg_logits if self.deep_supervision else self.seg_layers[-1](x)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Sum of the conv output elements for one item; `input_size` is the grid the encoder gets."""
        total = 0
        finest_first = zip(reversed(self.stages), self.encoder.output_channels, self.encoder.strides)
        for i, (stage, channels, stride) in enumerate(finest_first):
            input_size = strided_size(input_size, stride)
            segmented = self.num_classes if self.deep_supervision or i == 0 else 0
            total += stage.compute_conv_feature_map_size(input_size) + (channels + segmented) * prod(input_size)
        return total


def _ops_of(encoder: nn.Module) -> LayerOps:
    """Of an encoder of this code base, or of one that has them as attributes."""
    ops = getattr(encoder, "ops", None)
    return ops if isinstance(ops, LayerOps) else LayerOps(**{field.name: getattr(encoder, field.name) for field in fields(LayerOps) if hasattr(encoder, field.name)})
