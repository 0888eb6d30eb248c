"""Trainers of time_to_quality.py, found by their names through $nnUNet_extTrainer: after each epoch the weights are kept."""

import os

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.short_training import nnUNetTrainerMuon, nnUNetTrainerShort


class KeptDefault(nnUNetTrainer):
    def on_epoch_end(self):
        super().on_epoch_end()
        self.save_checkpoint(os.path.join(self.output_folder, f"checkpoint_epoch_{self.current_epoch:03d}.pth"))


class KeptShort(KeptDefault, nnUNetTrainerShort):
    """The same of the short recipe."""


class KeptMuon(KeptDefault, nnUNetTrainerMuon):
    """The same with Muon."""


class _OtherRate(KeptDefault):
    rate: float

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.initial_lr = self.rate


class KeptMuon1en3(_OtherRate, nnUNetTrainerMuon):
    rate = 1e-3


class KeptMuon3en3(_OtherRate, nnUNetTrainerMuon):
    rate = 3e-3


class KeptMuon1en2(_OtherRate, nnUNetTrainerMuon):
    rate = 1e-2


class KeptMuon3en2(_OtherRate, nnUNetTrainerMuon):
    rate = 3e-2


class KeptShort3en3(_OtherRate, nnUNetTrainerShort):
    rate = 3e-3


class KeptShort1en2(_OtherRate, nnUNetTrainerShort):
    rate = 1e-2
