"""Steps of a training on torch's meta device in a GPU's place: see tests/inference/test_without_waiting.py."""

from contextlib import nullcontext

import pytest
import torch

META = torch.device("meta")


class Scaler:
    """As a gradient scaler whose steps are all taken; torch's own looks for itself whether a gradient is finite, once per optimiser."""

    def scale(self, loss):
        return loss

    def unscale_(self, optimizer):
        pass

    def step(self, optimizer):
        optimizer.step()

    def update(self):
        pass


@pytest.fixture
def trainer(make_trainer, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    trainer = make_trainer(ema_decay=0.9, picture_every=1)
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()  # on the CPU
    trainer.device, trainer.grad_scaler = META, Scaler()
    for part in (trainer.network, trainer.multitask_loss):
        part.to(META)
    trainer._make_average()
    trainer.optimizer, _ = trainer.configure_optimizers()
    trainer.class_optimizer = trainer.class_training.make_optimiser(trainer.network.class_head)
    return trainer


def test_a_training_step_asks_the_gpu_nothing(trainer):
    trainer.network.train()
    found = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)]
    assert {value.device for output in found for value in output.values() if isinstance(value, torch.Tensor)} == {META}


def test_a_validation_step_asks_the_gpu_nothing_for_its_picture_either(trainer):
    trainer.network.eval()
    with torch.no_grad():
        found = [trainer.validation_step(next(trainer.dataloader_val)) for _ in range(2)]
    assert {value.device for output in found for value in output.values()} == {META}
    assert trainer.worst_patch._error is None and {part.device for part in trainer.worst_patch._worst} == {META}
