"""bf16 in a training on a CPU that has tiles for it."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

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


def in_float32(seg_logits: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
    """For the loss, whose sums and logarithms bf16 would round; autocast looks after fp16."""
    if not isinstance(seg_logits, Tensor):
        return [in_float32(logits) for logits in seg_logits]
    return seg_logits.float() if seg_logits.dtype == torch.bfloat16 else seg_logits
