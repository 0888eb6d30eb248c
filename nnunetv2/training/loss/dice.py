"""Soft Dice loss (Milletari et al. 2016; with sums instead of squares in the denominator, Drozdzal et al. 2016)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed, nn


class SoftDiceLoss(nn.Module):
    """-mean Dice over classes (and items, unless `batch_dice`), Dice = (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth).

    apply_nonlin: turns the network's output into probabilities; None if they are that already.
    batch_dice: one Dice for the whole batch, all processes together if `ddp` and a process group is running.
    do_bg: count channel 0 too. clip_tp: lower bound for sum(p g).
    """

    def __init__(self, apply_nonlin: Callable[[Tensor], Tensor] | None = None, batch_dice: bool = False, do_bg: bool = True,
                 smooth: float = 1.0, ddp: bool = True, clip_tp: float | None = None):
        super().__init__()
        self.apply_nonlin = apply_nonlin
        self.batch_dice = batch_dice
        self.do_bg = do_bg
        self.smooth = smooth
        self.ddp = ddp
        self.clip_tp = clip_tp

    def forward(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """x (B, C, D, H, W); y labels (B, [1,] D, H, W) or one-hot like x; loss_mask (B, 1, D, H, W), 0 = leave out."""
        if self.apply_nonlin is not None:
            x = self.apply_nonlin(x)
        target = one_hot_like(x, y)
        if not self.do_bg:
            x, target = x[:, 1:], target[:, 1:]
        if loss_mask is not None:
            target = target * loss_mask  # masks sum(p g) as well
        space = tuple(range(2, x.ndim))
        intersection = (x * target).sum(space, dtype=torch.float32)  # (B, C)
        predicted = (x if loss_mask is None else x * loss_mask).sum(space, dtype=torch.float32)
        reference = target.sum(space, dtype=torch.float32)

        if self.batch_dice:
            sums = torch.stack([intersection, predicted, reference]).sum(1)  # (3, C)
            if self.ddp and distributed.is_available() and distributed.is_initialized():
                sums = sum_over_processes(sums)
            intersection, predicted, reference = sums
        if self.clip_tp is not None:
            # the false positives and negatives stay what they are
            clipped = intersection.clamp_min(self.clip_tp)
            predicted = predicted + 2 * (clipped - intersection)
            intersection = clipped
        dice = (2 * intersection + self.smooth) / (predicted + reference + self.smooth).clamp_min(1e-8)
        return -dice.mean()


MemoryEfficientSoftDiceLoss = SoftDiceLoss  # trainers ask for it by this name


def get_tp_fp_fn_tn(net_output: Tensor, gt: Tensor, axes: Sequence[int] | None = None, mask: Tensor | None = None,
                    square: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Soft true positives, false positives, false negatives and true negatives, summed over `axes` (default: space).

    net_output (B, C, D, H, W) in 0..1; gt labels (B, [1,] D, H, W) or one-hot; mask (B, 1, D, H, W), 0 = leave out;
    square: square each voxel's share before the sum. `axes=()` sums nothing.
    """
    axes = tuple(range(2, net_output.ndim)) if axes is None else tuple(axes)
    target = one_hot_like(net_output, gt)
    shares = (net_output * target, net_output * (1 - target), (1 - net_output) * target, (1 - net_output) * (1 - target))
    if mask is not None:
        shares = tuple(share * mask for share in shares)
    if square:
        shares = tuple(share.square() for share in shares)
    if axes:
        shares = tuple(share.sum(axes, dtype=torch.float32) for share in shares)
    return shares


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of x over all processes, differentiable if they all go on to compute the same loss from it.

    Each process then sees the same gradient of the sum, so adding the gradients up, as the sum's derivative demands, is
    multiplying by their number; DistributedDataParallel's average takes it out again.
    """
    total = x.detach().clone()
    distributed.all_reduce(total)
    return total + distributed.get_world_size() * (x - x.detach())


@torch.no_grad()
def one_hot_like(x: Tensor, y: Tensor) -> Tensor:
    """Labels y (B, [1,] D, H, W) -> float32 one-hot of x's shape (B, C, D, H, W); what has x's shape is one-hot already."""
    if y.shape == x.shape:
        return y.float()
    if y.ndim < x.ndim:
        y = y[:, None]
    return torch.zeros(x.shape, device=x.device).scatter_(1, y.long(), 1)
