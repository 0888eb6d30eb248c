"""Cross-entropy for segmentation targets as the data loader hands them out."""

from torch import Tensor, nn


class RobustCrossEntropyLoss(nn.CrossEntropyLoss):
    """Cross-entropy of logits (B, C, D, H, W) against labels (B, 1, D, H, W) or (B, D, H, W) of any dtype."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if target.ndim == input.ndim:
            assert target.shape[1] == 1, f"labels must have one channel, not shape {tuple(target.shape)}"
            target = target[:, 0]
        return super().forward(input, target.long())


class TopKLoss(RobustCrossEntropyLoss):
    """Mean cross-entropy over the `k` per cent of the voxels where it is highest (Wu et al. 2016)."""

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, k: float = 10, label_smoothing: float = 0):
        super().__init__(weight, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing)
        self.k = k

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        losses = super().forward(input, target).flatten()
        return losses.topk(int(losses.numel() * self.k / 100), sorted=False).values.mean()
