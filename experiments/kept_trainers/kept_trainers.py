"""Trainers of time_to_quality.py, found by their names through $nnUNet_extTrainer, here and in upstream's environment alike.

Length and seed come from $KEPT_LENGTH (epochs, steps an epoch) and $KEPT_SEED; after each epoch the weights are kept.
"""

import os

import torch

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def kept(base, name):
    class Kept(base):
        def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs, self.num_iterations_per_epoch = map(int, os.environ["KEPT_LENGTH"].split())
            self.num_val_iterations_per_epoch = 1
            self.seed = int(os.environ["KEPT_SEED"])
            torch.manual_seed(self.seed)  # upstream takes no seed
            if "OMP_NUM_THREADS" in os.environ:
                torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # upstream's command takes all cores

        def on_epoch_end(self):
            super().on_epoch_end()
            self.save_checkpoint(os.path.join(self.output_folder, f"checkpoint_epoch_{self.current_epoch:03d}.pth"))

        def perform_actual_validation(self, save_probabilities=False):
            """Left to the study, which segments the held-out cases by one program for all."""

    Kept.__name__ = Kept.__qualname__ = name
    Kept.__module__ = __name__
    return Kept


KeptDefault = kept(nnUNetTrainer, "KeptDefault")
try:
    from nnunetv2.training.nnUNetTrainer.variants.short_training import nnUNetTrainerShort
except ImportError:  # upstream has no such recipe
    pass
else:
    KeptShort = kept(nnUNetTrainerShort, "KeptShort")
