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


class KeptMuon1en3(KeptMuon):
    rate = 1e-3

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.initial_lr = self.rate


class KeptMuon3en3(KeptMuon1en3):
    rate = 3e-3


class KeptMuon1en2(KeptMuon1en3):
    rate = 1e-2


class KeptMuon3en2(KeptMuon1en3):
    rate = 3e-2
