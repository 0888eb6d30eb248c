"""Sums over the processes of a training on several GPUs; with one process they return what they get."""

import torch
from torch import Tensor
from torch import distributed as dist


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def sum_over_gpus(values: Tensor) -> Tensor:
    if is_distributed():
        dist.all_reduce(values)
    return values


def mean_over_gpus(losses: Tensor) -> float:
    """Mean of (N,) losses, N being the same in every process."""
    return sum_over_gpus(losses.float().mean()).item() / (dist.get_world_size() if is_distributed() else 1)


def finite_mean_over_gpus(losses: Tensor) -> float:
    """Mean of those of (N,) losses that are finite, NaN if none is; N may differ between processes."""
    finite = torch.isfinite(losses)
    total, n = sum_over_gpus(torch.stack([torch.where(finite, losses, 0).float().sum(), finite.sum().float()])).tolist()
    return total / n if n else float("nan")


def gather_rows(*rows: Tensor) -> tuple[Tensor, ...]:
    """Concatenate each of `rows` (N, ...) over all processes, in rank order, on CPU; N may differ."""
    mine = tuple(part.cpu() for part in rows)
    if not is_distributed():
        return mine
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return tuple(torch.cat(parts) for parts in zip(*everyone))
