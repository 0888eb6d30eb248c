"""Cross-entropy for segmentation targets as the data loader hands them out."""

from torch import Tensor, nn


class RobustCrossEntropyLoss(nn.CrossEntropyLoss):
    """Cross-entropy of logits (B, C, D, H, W) against labels (B, 1, D, H, W) or (B, D, H, W) of any dtype."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if target.ndim == input.ndim:
            assert target.shape[1] == 1, f"labels must have one channel, not shape {tuple(target.shape)}"
            target = target[:, 0]
        return super().forward(input, target.long())
