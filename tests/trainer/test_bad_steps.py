"""One batch that overflows costs one step; many in a row, or broken weights, end the training."""

import copy
from pathlib import Path

import pytest
import torch

from dynamic_network_architectures.building_blocks.class_head import RunningStandardiser
from nnunetv2.training.logging import TrainingLog
from nnunetv2.training.nnUNetTrainer.bad_steps import MOST_IN_A_ROW, BadSteps
from nnunetv2.training.nnUNetTrainer.distributed import finite_mean_over_gpus
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.training_state import HEAD_BEFORE_REFIT, as_trained
from nnunetv2.utilities.checkpoint import load_checkpoint


class OverflowsOnce(nnUNetTrainer):
    """The image of the second batch is infinite in one voxel."""

    def train_step(self, batch):
        if self._step == 1:
            batch["data"][0, 0, 4, 8, 8] = float("inf")
        return super().train_step(batch)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3e38])
def test_a_bad_batch_leaves_weights_optimisers_and_statistics_alone(make_trainer, value):
    trainer = make_trainer()
    trainer.initialize()
    trainer.on_epoch_start()
    trainer.network.train()
    batches = trainer.get_dataloaders()[0].batches
    trainer.train_step(batches.batch(0, 0))
    before = copy.deepcopy([trainer.module.state_dict(), *(optimizer.state_dict()["state"] for optimizer in trainer._optimizers())])
    batch = batches.batch(0, 1)
    batch["data"][:] = value
    assert not trainer.train_step(batch)["taken"]
    after = [trainer.module.state_dict(), *(optimizer.state_dict()["state"] for optimizer in trainer._optimizers())]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert trainer.train_step(batches.batch(0, 2))["taken"]


@pytest.mark.slow
def test_a_training_with_one_bad_batch_ends_well_and_says_which_cases(make_trainer):
    trainer = make_trainer(OverflowsOnce)
    trainer.run_training()
    checkpoint = load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")
    assert all(value.isfinite().all() for part in ("network_weights", "class_head_weights") for value in checkpoint[part].values())
    assert all(loss == loss for loss in checkpoint["logging"]["train_losses"])
    log = next(Path(trainer.output_folder).glob("training_log_*")).read_text()
    assert "Epoch 0: 1 of 3 steps skipped" in log and "(cases case_" in log


def outputs(taken):
    return [{"taken": torch.tensor(one), "keys": ["case_1"]} for one in taken]


def test_many_bad_steps_in_a_row_end_the_training_over_epochs_too(tmp_path):
    steps, log, network = BadSteps(), TrainingLog(tmp_path, False), torch.nn.Linear(1, 1)
    steps.count(outputs([True] + [False] * (MOST_IN_A_ROW - 1)), network, log, 0)
    with pytest.raises(FloatingPointError, match="100 steps in a row .*case_1.*untouched.*initial_lr"):
        steps.count(outputs([False]), network, log, 1)


def test_bad_steps_between_good_ones_do_not(tmp_path):
    steps, log = BadSteps(), TrainingLog(tmp_path, False)
    for epoch in range(4):
        steps.count(outputs([False, False, True] * MOST_IN_A_ROW), torch.nn.Linear(1, 1), log, epoch)


def test_weights_that_are_not_finite_end_the_training_at_once(tmp_path):
    network = torch.nn.Linear(1, 1)
    network.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="1 of the network's tensors are not finite: bias"):
        BadSteps().count(outputs([True]), network, TrainingLog(tmp_path, False), 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e25])
def test_statistics_take_in_the_finite_rows_alone(bad):
    with_bad, without = RunningStandardiser(2), RunningStandardiser(2)
    good = torch.tensor([[1.0, 5.0]])
    for rows in ([good, torch.tensor([[bad, 1.0]])] if abs(bad) == 1e25 else [torch.cat([good, torch.tensor([[bad, 1.0]])])]):
        with_bad(rows)
    without(good)
    torch.testing.assert_close(with_bad.state_dict(), without.state_dict())


@pytest.mark.parametrize(("losses", "mean"), [([1.0, 3.0], 2.0), ([1.0, float("inf"), float("nan")], 1.0)])
def test_the_mean_loss_is_of_finite_losses(losses, mean):
    assert finite_mean_over_gpus(torch.tensor(losses)) == mean


def test_a_start_from_a_refitted_head_takes_the_trained_one_without_temperature():
    trained, refitted = {"weight": 1, "temperature": torch.tensor(1.0)}, {"weight": 2, "temperature": torch.tensor(7.0)}
    head = as_trained({"class_head_weights": refitted, HEAD_BEFORE_REFIT: trained})["class_head_weights"]
    assert head["weight"] == 1 and head["temperature"] == 1
    assert as_trained({"class_head_weights": refitted})["class_head_weights"]["temperature"] == 1


def test_a_start_from_weights_without_head_stays_without():
    assert as_trained({"class_head_weights": None}) == {"class_head_weights": None}
