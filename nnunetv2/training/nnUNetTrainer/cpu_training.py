"""bf16 in a training on a CPU that has instructions for it."""

import os
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.bf16_convolutions import trust_bf16
from dynamic_network_architectures.architectures.cpu_layout import lay_out_for_cpu
from nnunetv2.utilities.cpu_flags import cpu_flags
from nnunetv2.utilities.errors import InputError

PRECISION = "nnUNet_cpu_training"  # environment variable
PRECISIONS = ("auto", "fp32", "bf16")
FAST_IN_BF16 = {"amx_bf16", "avx512_bf16"}  # Intel's tiles; AMD from Zen 4 on and Intel's Cooper Lake


def bf16_on_cpu() -> bool:
    """Whether convolutions of a training on the CPU run in bf16: where it is made for it, unless $nnUNet_cpu_training says fp32 or bf16."""
    wish = os.environ.get(PRECISION, "auto")
    if wish not in PRECISIONS:
        raise InputError(f"{PRECISION} is {wish!r}; set it to one of {', '.join(PRECISIONS)}.")
    return wish == "bf16" or wish == "auto" and bool(FAST_IN_BF16 & cpu_flags())


def lay_out_for_training(network: nn.Module, batch: tuple[int, ...]) -> bool:
    """Change `network`, in place, into one that a CPU trains faster; True where batches of shape (B, C, *spatial) are to be computed in bf16."""
    if not lay_out_for_cpu(network) or not bf16_on_cpu():
        return False
    if trust_bf16(network, batch):
        return True
    warnings.warn("This CPU computes convolutions of this network wrongly in bf16; the training runs in fp32.", stacklevel=2)
    return False


def in_float32(seg_logits: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
    """For the loss, whose sums and logarithms bf16 would round; autocast looks after fp16."""
    if not isinstance(seg_logits, Tensor):
        return [in_float32(logits) for logits in seg_logits]
    return seg_logits.float() if seg_logits.dtype == torch.bfloat16 else seg_logits
