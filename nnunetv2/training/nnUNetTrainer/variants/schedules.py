"""Trainers of other lengths and learning rates, under upstream's names. `--epochs` does the former without a name of its own."""

import torch

from nnunetv2.training.lr_scheduler import CosineAnnealingLR_offset, Lin_incr_LRScheduler, PolyLRScheduler_offset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.augmentation import nnUNetTrainerNoMirroring


def with_epochs(epochs: int, base: type[nnUNetTrainer] = nnUNetTrainer, suffix: str = "") -> type[nnUNetTrainer]:
    def __init__(self, *args, **kwargs):
        base.__init__(self, *args, **kwargs)
        self.num_epochs = epochs

    name = f"nnUNetTrainer_{epochs}epoch{'s' if epochs > 1 else ''}{suffix}"
    return type(name, (base,), {"__init__": __init__, "__module__": __name__})


nnUNetTrainer_1epoch = with_epochs(1)
nnUNetTrainer_5epochs = with_epochs(5)
nnUNetTrainer_10epochs = with_epochs(10)
nnUNetTrainer_20epochs = with_epochs(20)
nnUNetTrainer_50epochs = with_epochs(50)
nnUNetTrainer_100epochs = with_epochs(100)
nnUNetTrainer_250epochs = with_epochs(250)
nnUNetTrainer_500epochs = with_epochs(500)
nnUNetTrainer_750epochs = with_epochs(750)
nnUNetTrainer_2000epochs = with_epochs(2000)
nnUNetTrainer_4000epochs = with_epochs(4000)
nnUNetTrainer_8000epochs = with_epochs(8000)
nnUNetTrainer_250epochs_NoMirroring = with_epochs(250, nnUNetTrainerNoMirroring, "_NoMirroring")
nnUNetTrainer_2000epochs_NoMirroring = with_epochs(2000, nnUNetTrainerNoMirroring, "_NoMirroring")
nnUNetTrainer_4000epochs_NoMirroring = with_epochs(4000, nnUNetTrainerNoMirroring, "_NoMirroring")
nnUNetTrainer_8000epochs_NoMirroring = with_epochs(8000, nnUNetTrainerNoMirroring, "_NoMirroring")


class nnUNetTrainerCosAnneal(nnUNetTrainer):
    """Half a cosine instead of the polynomial."""

    def configure_optimizers(self):
        optimizer, _ = super().configure_optimizers()
        return optimizer, CosineAnnealingLR_offset(optimizer, T_max=self.num_epochs)


class nnUNetTrainer_warmup(nnUNetTrainer):
    """A linear warm-up of 50 epochs, then the polynomial over the rest."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.warmup_duration_whole_net = 50

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.segmentation_parameters(), self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True)
        return optimizer, WarmUpThenPoly(optimizer, self.initial_lr, self.num_epochs, self.warmup_duration_whole_net)


class WarmUpThenPoly:
    """One schedule out of the two, so that a resumed training is where it was."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial_lr: float, n_epochs: int, n_warm_up: int):
        self.n_warm_up = n_warm_up
        self.rising, self.falling = Lin_incr_LRScheduler(optimizer, initial_lr, n_warm_up), PolyLRScheduler_offset(optimizer, initial_lr, n_epochs, n_warm_up)

    def change_length(self, before: int, after: int) -> None:
        self.falling.change_length(before, after)

    def step(self, current_step: int) -> None:
        (self.rising if current_step < self.n_warm_up else self.falling).step(current_step)
