"""nnU-Net's two U-Nets, with an optional class head on the encoder.

    net = ResidualEncoderUNet(1, 6, [32, 64, 128, 256, 320, 320], nn.Conv3d, 3, [1, 2, 2, 2, 2, 2], [1, 3, 4, 6, 6, 6], 3, 1,
                              conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU)
    seg_logits = net(x)                 # a list under deep supervision; (seg_logits, class_logits) with a class head

Constructor keywords and state_dict keys are those of dynamic-network-architectures 0.4.4, so published plans and weights
work; `class_head` is the one addition, and its weights are the only further keys, under `class_head.`.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dynamic_network_architectures.building_blocks.class_head import ClassHead
from dynamic_network_architectures.building_blocks.conv_blocks import LayerOps
from dynamic_network_architectures.building_blocks.decoder import UNetDecoder
from dynamic_network_architectures.building_blocks.encoders import Encoder, PlainConvEncoder, ResidualEncoder
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, ResidualBlock
from dynamic_network_architectures.initialization import initialize_he, initialize_residual_as_skip

PerStage = int | Sequence[int] | Sequence[Sequence[int]]


class UNet(nn.Module):
    """Encoder, decoder and, if `class_head` describes one, a class head.

    class_head: keywords of ClassHead that depend on the task (n_classes, lesion_labels, regions, stages, ...), or None.
    """

    def __init__(self, encoder: Encoder, num_classes: int, n_conv_per_stage_decoder: int | Sequence[int],
                 deep_supervision: bool, class_head: dict | None):
        super().__init__()
        self.encoder = encoder
        self.decoder = UNetDecoder(encoder, num_classes, n_conv_per_stage_decoder, deep_supervision)
        self.class_head = None if class_head is None else ClassHead(
            encoder.output_channels, encoder.strides, num_classes, **class_head)

    def forward(self, x: Tensor, teacher: Tensor | None = None, teacher_weight: float = 0.0,
                classify: bool = True) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor | None]:
        """x (B, C, D, H, W), every axis divisible by the product of its strides -> seg_logits; with a class head (seg_logits, class_logits).

        seg_logits (B, num_classes, D, H, W), under deep supervision a list of them, finest first; class_logits
        (B, n_classes) float32, None without `classify`. `seg_and_class` tells the outputs of both kinds apart. teacher (B, 1, D, H, W) holds labels that the head's regions
        trust with weight `teacher_weight`; the segmentation never sees it.
        """
        skips = self.encoder(x)
        seg_logits = self.decoder(skips)
        if self.class_head is None:
            return seg_logits
        if not classify:
            return seg_logits, None
        return seg_logits, self.class_head(skips, _finest(seg_logits), teacher, teacher_weight, x)

    def classify(self, x: Tensor, seg_logits: Tensor) -> Tensor:
        """Class logits (B, n_classes) float32 of x (B, C, D, H, W) whose segmentation is known: seg_logits (B, num_classes, D, H, W).

        Computes the encoder as far as the head looks, and no decoder. Needs a class head.
        """
        return self.class_head(self.encoder(x, self.class_head.n_stages), seg_logits, image=x)

    def describe(self, x: Tensor, teacher: Tensor | None = None, teacher_weight: float = 0.0) -> tuple[Tensor, Tensor]:
        """seg_logits (B, num_classes, D, H, W), and the head's pooled features (B, F) float32 before it standardises them. Needs a class head."""
        skips = self.encoder(x)
        seg_logits = _finest(self.decoder(skips))
        return seg_logits, self.class_head.features(skips, seg_logits, teacher, teacher_weight, x)

    def features_under(self, x: Tensor, seg_logits: Tensor) -> Tensor:
        """The head's pooled features (B, F) of x (B, C, D, H, W) whose segmentation is known: what `classify` decides by."""
        return self.class_head.features(self.encoder(x, self.class_head.n_stages), seg_logits, image=x)

    def class_features(self, x: Tensor, teacher: Tensor | None = None, teacher_weight: float = 0.0) -> Tensor:
        """The features of `describe` alone."""
        return self.describe(x, teacher, teacher_weight)[1]

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Elements of all conv outputs for one item of spatial size `input_size`, the planner's measure of memory.

        The class head does not count: plans with and without it shall be the same.
        """
        return self.encoder.compute_conv_feature_map_size(input_size) + self.decoder.compute_conv_feature_map_size(input_size)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise one module; for `network.apply(network.initialize)`."""
        initialize_he(module)
        initialize_residual_as_skip(module)


class PlainConvUNet(UNet):
    """nnU-Net's classic network: stacked convolutions on both sides."""

    def __init__(self, input_channels: int, n_stages: int, features_per_stage: PerStage, conv_op: type[nn.Module],
                 kernel_sizes: PerStage, strides: PerStage, n_conv_per_stage: PerStage, num_classes: int,
                 n_conv_per_stage_decoder: PerStage, conv_bias: bool = False, norm_op: type[nn.Module] | None = None,
                 norm_op_kwargs: dict | None = None, dropout_op: type[nn.Module] | None = None,
                 dropout_op_kwargs: dict | None = None, nonlin: type[nn.Module] | None = None,
                 nonlin_kwargs: dict | None = None, deep_supervision: bool = False, nonlin_first: bool = False,
                 class_head: dict | None = None):
        ops = LayerOps(conv_op, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs,
                       nonlin_first)
        encoder = PlainConvEncoder(ops, input_channels, n_stages, features_per_stage, kernel_sizes, strides, n_conv_per_stage)
        super().__init__(encoder, num_classes, n_conv_per_stage_decoder, deep_supervision, class_head)


class ResidualEncoderUNet(UNet):
    """Residual encoder, plain decoder: the network of the ResEnc presets (Isensee et al. 2024, nnU-Net Revisited)."""

    def __init__(self, input_channels: int, n_stages: int, features_per_stage: PerStage, conv_op: type[nn.Module],
                 kernel_sizes: PerStage, strides: PerStage, n_blocks_per_stage: PerStage, num_classes: int,
                 n_conv_per_stage_decoder: PerStage, conv_bias: bool = False, norm_op: type[nn.Module] | None = None,
                 norm_op_kwargs: dict | None = None, dropout_op: type[nn.Module] | None = None,
                 dropout_op_kwargs: dict | None = None, nonlin: type[nn.Module] | None = None,
                 nonlin_kwargs: dict | None = None, deep_supervision: bool = False,
                 block: type[ResidualBlock] = BasicBlockD, bottleneck_channels: int | Sequence[int] | None = None,
                 stem_channels: int | None = None, class_head: dict | None = None):
        ops = LayerOps(conv_op, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs)
        encoder = ResidualEncoder(ops, input_channels, n_stages, features_per_stage, kernel_sizes, strides,
                                  n_blocks_per_stage, block, bottleneck_channels, stem_channels)
        super().__init__(encoder, num_classes, n_conv_per_stage_decoder, deep_supervision, class_head)


def seg_and_class(output: Tensor | Sequence[Any]) -> tuple[Tensor | list[Tensor], Tensor | None]:
    """What any network returned -> (seg_logits, class_logits), class_logits None where it has no class head.

    A network says its classes as the second of two, a tensor (B, n_classes) or None; a tensor, a list, or a tuple of tensors with
    spatial axes is segmentation, of several resolutions, finest first.
    """
    if isinstance(output, tuple):
        if len(output) == 2 and (output[1] is None or output[1].ndim == 2):
            return output[0], output[1]
        return list(output), None
    return output, None


def finest_and_class(output: Tensor | Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """As `seg_and_class`, the finest resolution of the segmentation alone: (B, num_classes, D, H, W)."""
    seg_logits, class_logits = seg_and_class(output)
    return _finest(seg_logits), class_logits


def _finest(seg_logits: Tensor | list[Tensor]) -> Tensor:
    return seg_logits[0] if isinstance(seg_logits, list) else seg_logits
