"""What makes a training on a CPU fast: memory that is kept, layers in the layout that they compute in, bf16 where the CPU has tiles for it.

experiments/training_step.py measures each of them.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.unet import UNet
from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin
from dynamic_network_architectures.building_blocks.norm_nonlin import CHANNELS_LAST
from nnunetv2.utilities.cpu_flags import cpu_flags
from nnunetv2.utilities.errors import InputError

PRECISION = "nnUNet_cpu_training"  # environment variable
PRECISIONS = ("auto", "fp32", "bf16")


def bf16_on_cpu() -> bool:
    """Whether convolutions of a training on the CPU run in bf16: where it has AMX, unless $nnUNet_cpu_training says fp32 or bf16."""
    wish = os.environ.get(PRECISION, "auto")
    if wish not in PRECISIONS:
        raise InputError(f"{PRECISION} is {wish!r}; set it to one of {', '.join(PRECISIONS)}.")
    return wish == "bf16" or wish == "auto" and "amx_bf16" in cpu_flags()


def lay_out_for_cpu(network: nn.Module) -> bool:
    """Change `network`, in place, into one that computes the same faster on a CPU; False where it is none of this package's U-Nets.

    Names, weights and results in fp32 stay as they are, the last but for rounding. A network of somebody else is left alone: it may look at
    tensors in ways that another layout forbids, and have layers without code in bf16.
    """
    if not isinstance(network, UNet):
        return False
    for module in network.modules():
        if isinstance(module, ConvNormNonlin) and module.can_be_in_one_step():
            module.in_one_step = True
    n_dims = max(parameter.ndim for parameter in network.parameters())
    if n_dims in CHANNELS_LAST:
        network.to(memory_format=CHANNELS_LAST[n_dims])
    return True


def in_float32(seg_logits: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
    """For the loss, whose sums and logarithms bf16 would round; autocast looks after fp16."""
    if not isinstance(seg_logits, Tensor):
        return [in_float32(logits) for logits in seg_logits]
    return seg_logits.float() if seg_logits.dtype == torch.bfloat16 else seg_logits
