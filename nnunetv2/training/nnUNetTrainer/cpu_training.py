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


def lay_out_for_training(network: nn.Module) -> bool:
    """Change `network`, in place, into one that a CPU trains faster; True where it shall be trained in bf16, which `right_in_bf16` has to allow."""
    return lay_out_for_cpu(network) and bf16_on_cpu()


def right_in_bf16(network: nn.Module, batch: tuple[int, ...]) -> bool:
    """Whether batches of shape (B, C, *spatial) can be trained on in bf16; single layers that cannot are set to stay in fp32. It takes a minute for large patches."""
    if trust_bf16(network, batch):
        return True
    warnings.warn("This CPU computes convolutions of this network wrongly in bf16; the training runs in fp32.", stacklevel=2)
    return False


def in_float32(seg_logits: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
    """For the loss, whose sums and logarithms bf16 would round; autocast looks after fp16."""
    if not isinstance(seg_logits, Tensor):
        return [in_float32(logits) for logits in seg_logits]
    return seg_logits.float() if seg_logits.dtype == torch.bfloat16 else seg_logits
