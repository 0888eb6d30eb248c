"""Recipes for trainings of some hundred to some thousand steps, in which nnU-Net's momentum of 0.99 hardly gets going."""

from math import cos, pi

import torch

from nnunetv2.training.lr_scheduler import EpochScheduler
from nnunetv2.training.muon import Muon, split
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

WARM_UP = 0.05  # of all steps
FLOOR = 0.01  # of the rate, in the last step


def rate_at(part: float) -> float:
    """Factor of the learning rate when `part` (0 to 1) of all steps is done: a linear rise, then half a cosine."""
    if part < WARM_UP:
        return max(part / WARM_UP, FLOOR)
    return FLOOR + (1 - FLOOR) * (1 + cos(pi * (part - WARM_UP) / (1 - WARM_UP))) / 2


class nnUNetTrainerShort(nnUNetTrainer):
    """AdamW (Loshchilov and Hutter 2019) with a learning rate of its own in every step."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.initial_lr, self.weight_decay = 1e-3, 1e-2

    def configure_optimizers(self):
        optimizer = self.make_optimiser()
        return optimizer, EpochScheduler(optimizer, self.initial_lr, lambda epoch: rate_at(epoch / self.num_epochs))

    def make_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.segmentation_parameters(), lr=self.initial_lr, weight_decay=self.weight_decay, fused=self.fused_optimizer)

    def train_step(self, batch):
        self.lr_scheduler.step(self._step / self.num_iterations_per_epoch)
        return super().train_step(batch)


class nnUNetTrainerMuon(nnUNetTrainerShort):
    """Muon for convolutions, AdamW for what is left."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.initial_lr = 1e-2

    def make_optimiser(self) -> torch.optim.Optimizer:
        return Muon(*split(self.module, self.segmentation_parameters()), lr=self.initial_lr, weight_decay=self.weight_decay)
