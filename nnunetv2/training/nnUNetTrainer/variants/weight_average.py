"""A trainer that also keeps averaged weights."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerEMA(nnUNetTrainer):
    """The same training; besides, checkpoint_ema.pth holds a moving average over about the last hundred iterations."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ema_decay = 0.99
