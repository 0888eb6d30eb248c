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


def at_rate(name: str, rate: float, recipe: type[nnUNetTrainer]) -> type[nnUNetTrainer]:
    """`recipe` with another learning rate."""
    def __init__(self, *args, **kwargs):
        recipe.__init__(self, *args, **kwargs)
        self.initial_lr = rate

    return type(name, (recipe,), {"__init__": __init__, "__module__": __name__, "rate": rate})


KeptMuon1en3 = at_rate("KeptMuon1en3", 1e-3, KeptMuon)
KeptMuon3en3 = at_rate("KeptMuon3en3", 3e-3, KeptMuon)
KeptMuon1en2 = at_rate("KeptMuon1en2", 1e-2, KeptMuon)
KeptMuon3en2 = at_rate("KeptMuon3en2", 3e-2, KeptMuon)
KeptShort3en3 = at_rate("KeptShort3en3", 3e-3, KeptShort)
KeptShort1en2 = at_rate("KeptShort1en2", 1e-2, KeptShort)
