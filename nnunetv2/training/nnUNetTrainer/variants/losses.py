"""Trainers with other segmentation losses, under upstream's names."""

import torch
from torch import nn

from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss, DC_and_topk_loss, softmax_dim1
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss, TopKLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.objective import segmentation_loss, supervise_deeply


class _OtherLoss(nnUNetTrainer):
    def make_loss(self) -> nn.Module:
        """Of one decoder output."""
        raise NotImplementedError

    def _build_loss(self) -> nn.Module:
        scales = self._get_deep_supervision_scales()
        return supervise_deeply(self.make_loss(), None if scales is None else len(scales))

    def _refuse_regions(self) -> None:
        if self.label_manager.has_regions:
            raise ValueError(f"{type(self).__name__} needs labels that exclude each other; this dataset has regions. Use nnUNetTrainer.")

    @property
    def _ignore_index(self) -> int:
        return self.label_manager.ignore_label if self.label_manager.has_ignore_label else -100


class nnUNetTrainerCELoss(_OtherLoss):
    """Cross-entropy alone."""

    def make_loss(self) -> nn.Module:
        self._refuse_regions()
        return RobustCrossEntropyLoss(ignore_index=self._ignore_index)


class nnUNetTrainerCELoss_5epochs(nnUNetTrainerCELoss):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_epochs = 5


class nnUNetTrainerDiceLoss(_OtherLoss):
    """Dice alone."""

    def make_loss(self) -> nn.Module:
        labels = self.label_manager
        dice = {"do_bg": labels.has_regions, "smooth": 1e-5, "batch_dice": self.configuration_manager.batch_dice, "ddp": self.is_ddp}
        if not labels.has_ignore_label:
            return MemoryEfficientSoftDiceLoss(apply_nonlin=torch.sigmoid if labels.has_regions else softmax_dim1, **dice)
        if labels.has_regions:  # the compound losses know what to leave out; their other part weighs nothing
            return DC_and_BCE_loss({}, dice, weight_ce=0, use_ignore_label=True, dice_class=MemoryEfficientSoftDiceLoss)
        return DC_and_CE_loss(dice, {}, weight_ce=0, ignore_label=labels.ignore_label, dice_class=MemoryEfficientSoftDiceLoss)


class nnUNetTrainerDiceCELoss_noSmooth(nnUNetTrainer):
    """Dice without a smoothing term: an absent label has a Dice of zero."""

    def _build_loss(self) -> nn.Module:
        scales = self._get_deep_supervision_scales()
        return segmentation_loss(self.label_manager, self.configuration_manager.batch_dice, self.is_ddp, None if scales is None else len(scales), smooth=0)


class nnUNetTrainerTopk10Loss(_OtherLoss):
    """Cross-entropy of the worst tenth of the voxels."""

    label_smoothing = 0.0

    def make_loss(self) -> nn.Module:
        self._refuse_regions()
        return TopKLoss(ignore_index=self._ignore_index, k=10, label_smoothing=self.label_smoothing)


class nnUNetTrainerTopk10LossLS01(nnUNetTrainerTopk10Loss):
    label_smoothing = 0.1


class nnUNetTrainerDiceTopK10Loss(_OtherLoss):
    """Dice and the cross-entropy of the worst tenth."""

    def make_loss(self) -> nn.Module:
        self._refuse_regions()
        dice = {"batch_dice": self.configuration_manager.batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": self.is_ddp}
        return DC_and_topk_loss(dice, {"k": 10, "label_smoothing": 0.0}, ignore_label=self.label_manager.ignore_label)
