"""Training on a GPU: fp16 with a gradient scaler, data loading processes, resumption, validation."""

import math
from pathlib import Path

import pytest
import torch

from nnunetv2.utilities.checkpoint import load_checkpoint
from tests.trainer.stopping_trainer import StopsAfterOneEpoch

CUDA = torch.device("cuda")


@pytest.fixture
def make_cuda_trainer(make_trainer):
    def make(**attributes):
        trainer = make_trainer(**attributes)
        trainer.device = CUDA
        return trainer

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_training_runs_in_fp16_and_leaves_a_checkpoint(make_cuda_trainer, workers):
    trainer = make_cuda_trainer(num_workers=workers, ema_decay=0.9)
    trainer.run_training()
    assert next(trainer.network.parameters()).device.type == "cuda" and trainer.grad_scaler.get_scale() > 1
    assert all(map(math.isfinite, trainer.logger.values["train_losses"]))
    checkpoint = load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")
    assert checkpoint["current_epoch"] == 2 and checkpoint["grad_scaler_state"]["scale"] > 1
    assert all(weights.device.type == "cpu" and weights.isfinite().all() for weights in checkpoint["network_weights"].values())


def test_training_goes_on_from_its_checkpoint(make_cuda_trainer):
    broken = make_cuda_trainer(trainer=StopsAfterOneEpoch, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        broken.run_training()
    resumed = make_cuda_trainer(save_every=1)
    resumed.load_checkpoint(Path(broken.output_folder) / "checkpoint_latest.pth")
    assert resumed.current_epoch == 1 and resumed.grad_scaler.get_scale() == broken.grad_scaler.get_scale()
    resumed.run_training()
    assert len(resumed.logger.values["train_losses"]) == 2


def test_validation_after_training_writes_every_mask(make_cuda_trainer):
    trainer = make_cuda_trainer(num_epochs=1)
    trainer.run_training()
    trainer.perform_actual_validation()
    assert {path.name for path in (Path(trainer.output_folder) / "validation").glob("*.nii.gz")} == {"case_6.nii.gz", "case_7.nii.gz"}
