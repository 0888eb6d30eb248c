"""Losses of the trainer: Dice + cross-entropy for the segmentation, weighted cross-entropy for the case's class."""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from nnunetv2.training.loss.dice import SoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss, TopKLoss


class DC_and_CE_loss(nn.Module):
    """weight_dice * Dice(softmax) + weight_ce * cross-entropy. Voxels of `ignore_label` count in neither."""

    def __init__(self, soft_dice_kwargs: dict, ce_kwargs: dict, weight_ce: float = 1, weight_dice: float = 1,
                 ignore_label: int | None = None, dice_class: type[nn.Module] = SoftDiceLoss):
        super().__init__()
        self.weight_dice = weight_dice
        self.weight_ce = weight_ce
        self.ignore_label = ignore_label
        if ignore_label is not None:
            ce_kwargs = {**ce_kwargs, "ignore_index": ignore_label}
        self.ce = RobustCrossEntropyLoss(**ce_kwargs)
        self.dc = dice_class(apply_nonlin=softmax_dim1, **soft_dice_kwargs)

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """Logits (B, C, D, H, W), labels (B, 1, D, H, W)."""
        mask, dice_target, anything_known = None, target, True
        if self.ignore_label is not None:
            assert target.shape[1] == 1, f"with an ignore label the target holds labels (B, 1, ...), not {tuple(target.shape)}"
            mask = target != self.ignore_label
            dice_target = torch.where(mask, target, 0)  # any real label: the mask takes it out
            anything_known = bool(mask.any())  # cross-entropy of no voxel is NaN
        loss = 0.0
        if self.weight_dice != 0:
            loss = loss + self.weight_dice * self.dc(net_output, dice_target, loss_mask=mask)
        if self.weight_ce != 0 and anything_known:
            loss = loss + self.weight_ce * self.ce(net_output, target)
        return loss


class DC_and_topk_loss(DC_and_CE_loss):
    """Dice + cross-entropy of the worst voxels (TopKLoss, which `ce_kwargs` describe)."""

    def __init__(self, soft_dice_kwargs: dict, ce_kwargs: dict, weight_ce: float = 1, weight_dice: float = 1, ignore_label: int | None = None):
        super().__init__(soft_dice_kwargs, {}, weight_ce, weight_dice, ignore_label)
        self.ce = TopKLoss(**ce_kwargs if ignore_label is None else {**ce_kwargs, "ignore_index": ignore_label})


class DC_and_BCE_loss(nn.Module):
    """weight_dice * Dice(sigmoid) + weight_ce * binary cross-entropy, for overlapping regions.

    With `use_ignore_label` the last channel of the target marks the voxels to leave out.
    """

    def __init__(self, bce_kwargs: dict, soft_dice_kwargs: dict, weight_ce: float = 1, weight_dice: float = 1,
                 use_ignore_label: bool = False, dice_class: type[nn.Module] = SoftDiceLoss):
        super().__init__()
        self.weight_dice = weight_dice
        self.weight_ce = weight_ce
        self.use_ignore_label = use_ignore_label
        if use_ignore_label:
            bce_kwargs = {**bce_kwargs, "reduction": "none"}
        self.ce = nn.BCEWithLogitsLoss(**bce_kwargs)
        self.dc = dice_class(apply_nonlin=torch.sigmoid, **soft_dice_kwargs)

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """Logits (B, R, D, H, W), one-hot regions (B, R, D, H, W), (B, R + 1, D, H, W) with an ignore channel."""
        mask = None
        if self.use_ignore_label:
            mask = ~target[:, -1:].bool()
            target = target[:, :-1]
        dice = self.dc(net_output, target, loss_mask=mask)
        ce = self.ce(net_output, target.float())
        if mask is not None:
            # the sum runs over R regions, the count over voxels: the scale that published models were trained with
            ce = (ce * mask).sum() / mask.sum().clamp_min(1)
        return self.weight_ce * ce + self.weight_dice * dice


class DC_and_CE_and_weighted_CE_loss(nn.Module):
    """Segmentation loss + ramp(step) * class_loss_weight * weighted cross-entropy of the case's class.

    seg_loss: of (seg_logits, seg_target), deep supervision included.
    class_weights: (K,), e.g. n / (K * n_k) with the training cases' counts n_k; ones where the sampling balances already.
    label_smoothing: share of the target spread over all classes. warmup_steps: length of the linear ramp from 0.
    ddp: the mean is that over the rows of all processes, once their gradients are averaged as DistributedDataParallel does.
    """

    def __init__(self, seg_loss: nn.Module, class_weights: Tensor, class_loss_weight: float = 0.5,
                 label_smoothing: float = 0.05, warmup_steps: int = 0, ddp: bool = False):
        super().__init__()
        self.seg_loss, self.ddp = seg_loss, ddp
        self.register_buffer("class_weights", torch.as_tensor(class_weights, dtype=torch.float32))
        self.class_loss_weight = class_loss_weight
        self.label_smoothing = label_smoothing
        self.warmup_steps = warmup_steps

    def forward(self, seg_logits: Tensor | list[Tensor], seg_target: Tensor | list[Tensor], class_logits: Tensor | None,
                class_target: Tensor, has_lesion: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """-> (total, {"seg", "class"} detached and unscaled).

        class_logits (B, K), None without class head; class_target (B,), -1 = unknown; has_lesion (B,) bool: rows without
        lesion say nothing about its class and are left out. "class" is NaN if no row is left: average with nanmean.
        """
        seg = self.seg_loss(seg_logits, seg_target)
        if class_logits is None:
            return seg, {"seg": seg.detach(), "class": torch.full_like(seg.detach(), float("nan"))}

        counted = has_lesion & (class_target >= 0)  # (B,)
        n = counted.sum()
        if self.ddp:  # processes show unlike numbers of lesions, which a mean per process would weigh alike
            distributed.all_reduce(n)
            n = n / distributed.get_world_size()
        rows = F.cross_entropy(class_logits.float(), class_target.clamp_min(0), self.class_weights, reduction="none",
                               label_smoothing=self.label_smoothing)
        # divided by the number of rows, not by their weights as torch's "mean" does: in a batch of 2 that would cancel the weights
        class_sum = torch.where(counted, rows, 0).sum()
        ramp = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps > 0 else 1.0
        total = seg + ramp * self.class_loss_weight * class_sum / torch.where(n > 0, n, 1)
        return total, {"seg": seg.detach(), "class": (class_sum / n).detach()}


def softmax_dim1(logits: Tensor) -> Tensor:
    """Probabilities over the channels; a function with a name, so that losses can be pickled."""
    return logits.softmax(1)
