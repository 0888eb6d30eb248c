"""Small helpers on tensors that nnU-Net's modules offer under names of their own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn


def softmax_helper_dim0(x: Tensor) -> Tensor:
    """Softmax over the first axis: classes of one case (C, ...)."""
    return torch.softmax(x, 0)


def softmax_helper_dim1(x: Tensor) -> Tensor:
    """Softmax over the second axis: classes of a batch (B, C, ...)."""
    return torch.softmax(x, 1)


def empty_cache(device: torch.device) -> None:
    """Hand the allocator's unused memory back; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class dummy_context:  # noqa: N801 (upstream's name)
    """A `with` block that does nothing, where another device would take autocast."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        return None


def collate_outputs(outputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The steps' dictionaries as one: numbers to a list, arrays and tensors stacked on a new first axis of an array, lists joined. Keys are those of the first."""
    joined: dict[str, Any] = {}
    for key, first in outputs[0].items():
        values = [output[key] for output in outputs]
        if np.isscalar(first):
            joined[key] = values
        elif isinstance(first, np.ndarray):
            joined[key] = np.stack(values)
        elif isinstance(first, Tensor):  # this package's steps leave them on the GPU
            joined[key] = torch.stack(values).detach().cpu().numpy()
        elif isinstance(first, (list, tuple)):
            joined[key] = [item for value in values for item in value]
        else:
            raise ValueError(f"step outputs[{key!r}] is {type(first).__name__}; numbers, arrays, tensors and lists can be collated.")
    return joined


def print_if_rank0(*values: object) -> None:
    """print on one process of a distributed training."""
    if distributed.get_rank() == 0:
        print(*values)


class AllGatherGrad(torch.autograd.Function):
    """Every rank's tensor, stacked on a new first axis (world size, ...), with gradients that flow back to the rank they came from."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any = None) -> Tensor:
        ctx.group = group
        everyone = [torch.empty_like(tensor) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(everyone, tensor.contiguous(), group=group)
        return torch.stack(everyone)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.contiguous()
        distributed.all_reduce(summed, op=distributed.ReduceOp.SUM, group=ctx.group)
        return summed[distributed.get_rank(ctx.group)], None


class InitWeights_He:  # noqa: N801 (upstream's name)
    """For `network.apply`: He's initialisation (He et al. 2015) of convolutions for a leaky ReLU of slope `neg_slope`, biases zero."""

    def __init__(self, neg_slope: float = 1e-2):
        self.neg_slope = neg_slope

    def __call__(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(module.weight, a=self.neg_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
