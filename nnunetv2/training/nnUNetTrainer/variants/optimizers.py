"""Trainers with other optimisers, under upstream's names. Adan needs the package adan-pytorch."""

import torch

from nnunetv2.training.lr_scheduler import CosineAnnealingLR_offset, PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class _OtherOptimiser(nnUNetTrainer):
    learning_rate: float | None = None  # None: nnU-Net's

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.learning_rate is not None:
            self.initial_lr = self.learning_rate

    def make_optimiser(self) -> torch.optim.Optimizer:
        raise NotImplementedError

    def configure_optimizers(self):
        optimizer = self.make_optimiser()
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)


class nnUNetTrainerAdam(_OtherOptimiser):
    """AdamW with AMSGrad."""

    def make_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.segmentation_parameters(), lr=self.initial_lr, weight_decay=self.weight_decay, amsgrad=True)


class nnUNetTrainerAdam1en3(nnUNetTrainerAdam):
    learning_rate = 1e-3


class nnUNetTrainerAdam3en4(nnUNetTrainerAdam):
    learning_rate = 3e-4


class nnUNetTrainerVanillaAdam(_OtherOptimiser):
    """Adam with L2 regularisation."""

    def make_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.segmentation_parameters(), lr=self.initial_lr, weight_decay=self.weight_decay)


class nnUNetTrainerVanillaAdam1en3(nnUNetTrainerVanillaAdam):
    learning_rate = 1e-3


class nnUNetTrainerVanillaAdam3en4(nnUNetTrainerVanillaAdam):
    learning_rate = 3e-4


class nnUNetTrainerAdan(_OtherOptimiser):
    def make_optimiser(self) -> torch.optim.Optimizer:
        try:
            from adan_pytorch import Adan
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{type(self).__name__} needs a package that is not installed: pip install adan-pytorch") from error
        return Adan(self.segmentation_parameters(), lr=self.initial_lr, weight_decay=self.weight_decay)


class nnUNetTrainerAdan1en1(nnUNetTrainerAdan):
    learning_rate = 1e-1


class nnUNetTrainerAdan1en3(nnUNetTrainerAdan):
    learning_rate = 1e-3


class nnUNetTrainerAdan3en4(nnUNetTrainerAdan):
    learning_rate = 3e-4


class nnUNetTrainerAdanCosAnneal(nnUNetTrainerAdan):
    def configure_optimizers(self):
        optimizer = self.make_optimiser()
        return optimizer, CosineAnnealingLR_offset(optimizer, T_max=self.num_epochs)
