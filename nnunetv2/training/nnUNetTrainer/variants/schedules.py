"""Trainers of other lengths, under upstream's names. `--epochs` does the same without a name of its own."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def _with_epochs(epochs: int) -> type[nnUNetTrainer]:
    def __init__(self, *args, **kwargs):
        nnUNetTrainer.__init__(self, *args, **kwargs)
        self.num_epochs = epochs

    name = f"nnUNetTrainer_{epochs}epoch{'s' if epochs > 1 else ''}"
    return type(name, (nnUNetTrainer,), {"__init__": __init__, "__module__": __name__})


nnUNetTrainer_1epoch = _with_epochs(1)
nnUNetTrainer_5epochs = _with_epochs(5)
nnUNetTrainer_20epochs = _with_epochs(20)
nnUNetTrainer_100epochs = _with_epochs(100)
nnUNetTrainer_250epochs = _with_epochs(250)
nnUNetTrainer_500epochs = _with_epochs(500)
