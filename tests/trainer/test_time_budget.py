"""Trainings that end in time, or when nothing improves any more."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nnunetv2.training import run_training as command
from nnunetv2.training import time_budget
from nnunetv2.training.lr_scheduler import CosineAnnealingLR_offset, PolyLRScheduler, PolyLRScheduler_offset, change_schedule
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.registry import find_trainer
from nnunetv2.training.nnUNetTrainer.variants.schedules import WarmUpThenPoly
from nnunetv2.training.time_budget import Length, Pacing, Speed, length_in, spent_before
from nnunetv2.utilities.errors import InputError
from tests.trainer.conftest import DATASET

SPEED = Speed(train_step=2.0, validation_step=1.0, patch=0.1, afterwards=400.0)  # 250 + 50 steps: 550 s
WANTED = Length(1000, 250, 50)


def test_all_of_the_time_but_what_follows_is_for_epochs():
    assert length_in((400 + 100 * 550) / 0.95 + 1, SPEED, WANTED) == Length(100, 250, 50)


def test_with_little_time_epochs_become_shorter_before_they_become_few():
    length = length_in(5000, SPEED, WANTED)
    assert length.epochs >= 20 and length.iterations < 250 and length.validation_iterations == round(length.iterations / 5)
    assert 400 + length.epochs * SPEED.epoch(length.iterations, length.validation_iterations) <= 5000 * 0.95


def test_what_is_given_stays():
    assert length_in(1e6, SPEED, Length(7, 250, 50), epochs_free=False) == Length(7, 250, 50)
    assert length_in(1e5, SPEED, Length(1000, 30, 50), iterations_free=False).iterations == 30


@pytest.mark.parametrize(("seconds", "options"), [(300, {}), (402, {}), (5000, {"epochs_free": False}), (900, {"iterations_free": False})])
def test_too_little_time_is_refused_with_what_it_takes(seconds, options):
    with pytest.raises(InputError, match=r"--hours .* is too short: .* take about .* hours"):
        length_in(seconds, SPEED, WANTED, **options)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(time_budget.time, "monotonic", made.monotonic)
    return made


def slow_trainer(clock, seconds: float, after: int = 0):
    class Slow(nnUNetTrainer):
        def on_epoch_end(self):
            super().on_epoch_end()
            clock.now += seconds if self.current_epoch > after else 1.0

    return Slow


@pytest.mark.slow
def test_a_schedule_that_would_not_end_in_time_is_shortened_and_its_rates_still_fall_to_the_end(make_trainer, clock):
    trainer = make_trainer(slow_trainer(clock, 600), num_epochs=12, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1)
    trainer.pacing = Pacing(1.0, None, Speed(0, 0, 0, 300))
    trainer.run_training()
    assert trainer.num_epochs == 5 == trainer.current_epoch  # 5 x 600 s x 1.1 + 300 s fit 3600 s, 6 do not
    assert trainer.logger.get_value("lrs", None)[-1] == pytest.approx(0.01 * (1 - 4 / 5) ** 0.9)
    assert spent_before(trainer.output_folder) == (Speed(0, 0, 0, 300.0), 3000.0)
    assert "5 epochs" in Path(trainer.log_file).read_text() and "done about" in Path(trainer.log_file).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("epochs_free", "epochs"), [(True, 10), (False, 4)])
def test_a_schedule_measured_on_a_busy_machine_gets_longer_unless_its_epochs_are_given(make_trainer, clock, epochs_free, epochs):
    trainer = make_trainer(slow_trainer(clock, 300), num_epochs=4, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1)
    trainer.pacing = Pacing(1.0, None, Speed(0, 0, 0, 300), epochs_free=epochs_free)
    trainer.run_training()
    assert trainer.num_epochs == epochs == trainer.current_epoch  # 300 s for the first, then 9 x 300 s x 1.1 + 300 s fit what is left of 3600 s
    assert trainer.logger.get_value("lrs", None)[-1] == pytest.approx(0.01 * (1 - (epochs - 1) / epochs) ** 0.9)
    assert spent_before(trainer.output_folder)[1] <= 3300.0


def torchs_cosine(optimizer, epochs):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)


def steps_within_epochs(optimizer, epochs):
    return PolyLRScheduler(optimizer, 1.0, epochs * 10)


@pytest.mark.filterwarnings("ignore:The epoch parameter", "ignore:Detected call")
@pytest.mark.parametrize(("schedule", "steps"), [
    (lambda optimizer, epochs: CosineAnnealingLR_offset(optimizer, T_max=epochs), 1), (lambda optimizer, epochs: WarmUpThenPoly(optimizer, 1.0, epochs, 5), 1),
    (lambda optimizer, epochs: PolyLRScheduler_offset(optimizer, 1.0, epochs, 5), 1), (torchs_cosine, 1), (steps_within_epochs, 10)])
@pytest.mark.parametrize("epochs", [15, 40])
def test_every_schedule_follows_a_change_of_length_to_its_new_end(schedule, steps, epochs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made = schedule(optimizer, 20)
    change_schedule(made, 20, epochs)
    rates = []
    for step in range(10 * steps, epochs * steps):
        made.step(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnUNetTrainerCosAnneal", "nnUNetTrainer_warmup"])
def test_a_budget_of_hours_holds_for_trainers_with_other_schedules(make_trainer, clock, name):
    class Timed(find_trainer(name)):
        def on_epoch_end(self):
            super().on_epoch_end()
            clock.now += 300

    trainer = make_trainer(Timed, num_epochs=4, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1, warmup_duration_whole_net=1)
    trainer.pacing = Pacing(1.0, None, Speed(0, 0, 0, 300), epochs_free=True)
    trainer.run_training()
    rates = trainer.logger.get_value("lrs", None)
    assert len(rates) == 10 == trainer.num_epochs and rates == sorted(rates, reverse=True) and rates[-1] < 0.2 * rates[0]


@pytest.mark.slow
def test_without_improvement_the_training_ends(make_trainer):
    class Worse(nnUNetTrainer):
        def validation_step(self, batch):
            good = 100 if self.current_epoch == 1 else 50 - self.current_epoch
            return {"loss": torch.tensor(1.0), "tp_hard": torch.tensor([good, good]), "fp_hard": torch.tensor([50, 50]), "fn_hard": torch.tensor([50, 50])}

    trainer = make_trainer(Worse, num_epochs=30, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1)
    trainer.pacing = Pacing(None, 3)
    trainer.run_training()
    assert trainer.current_epoch == 5 and (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()


def train(**options):
    command.run_training(DATASET, "3d_fullres", 0, device=torch.device("cpu"), final_validation=False, **options)


@pytest.fixture
def quick(monkeypatch, folders, clock):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr("nnunetv2.training.logging.draw_progress", lambda values, path: None)
    monkeypatch.setattr(command, "refuse_changed_data", lambda *args: None)
    monkeypatch.setattr(command, "measure_speed", lambda trainer: Speed(10.0, 1.0, 0.1, 100.0))
    return folders / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"


@pytest.mark.slow
def test_a_killed_training_goes_on_in_what_is_left(quick, clock, monkeypatch):
    class Killed(RuntimeError):
        pass

    end = nnUNetTrainer.on_epoch_end

    def killed_after_two(self):
        end(self)
        clock.now += 100
        if self.current_epoch == 3:
            raise Killed

    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", killed_after_two)
    with pytest.raises(Killed):
        train(hours=0.25, iterations=1, val_iterations=1)
    assert spent_before(quick)[1] == 200.0
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", lambda self: (end(self), setattr(clock, "now", clock.now + 100))[0])
    train(hours=0.25, iterations=1, val_iterations=1, continue_training=True)
    spent = json.loads((quick / "time_budget.json").read_text())["spent_seconds"]
    assert 600 <= spent <= 800  # 900 s without the 100 s that follow the training
    schedule = torch.load(quick / "checkpoint_final.pth", weights_only=False)["schedule"]
    assert 5 <= schedule["num_epochs"] <= 8
    train(hours=0.25, iterations=1, val_iterations=1, continue_training=True)  # it is finished, and nothing is trained
    assert json.loads((quick / "time_budget.json").read_text())["spent_seconds"] == spent


@pytest.mark.slow
def test_too_few_hours_are_refused_before_anything_is_written(quick):
    with pytest.raises(InputError, match="--hours 0.01 is too short"):
        train(hours=0.01)
    assert not list(quick.glob("*.pth")) and not (quick / "time_budget.json").exists()


@pytest.mark.parametrize(("options", "message"), [({"hours": 1.0, "num_gpus": 2}, "one process"), ({"hours": -1.0}, "above 0"), ({"patience": 3, "num_gpus": 2}, "one process")])
def test_impossible_wishes_are_refused(quick, options, message):
    with pytest.raises(ValueError, match=message):
        train(**options)


def test_what_follows_counts_the_views_that_each_step_takes():
    """4 held-out cases of one window in 8 views; 10 training cases in the 2 views of a class, for two checkpoints."""
    configuration = SimpleNamespace(median_image_size_in_voxels=[8, 8, 8], patch_size=[8, 8, 8])
    trainer = SimpleNamespace(configuration_manager=configuration, inference_allowed_mirroring_axes=(0, 1, 2), val_cases=["v"] * 4, train_cases=["t"] * 10, class_task=None)
    assert time_budget._seconds_afterwards(trainer, 0.5) == 4 * 8 * 0.5
    trainer.class_task = "subtype"
    assert time_budget._seconds_afterwards(trainer, 0.5) == (4 * 8 + 2 * 10 * 2) * 0.5
    configuration.median_image_size_in_voxels = [8, 8, 16]  # three windows, and a look at the whole, which is two of them large
    assert time_budget._seconds_afterwards(trainer, 0.5) == (4 * 3 * 8 + 2 * 10 * (3 + 2) * 2) * 0.5
    configuration.median_image_size_in_voxels = [8, 8, 32]  # seven windows; too large for a look at the whole
    assert time_budget._seconds_afterwards(trainer, 0.5) == (4 * 7 * 8 + 2 * 10 * 7 * 2) * 0.5
    configuration.median_image_size_in_voxels = [8, 8, 8]
    trainer.inference_allowed_mirroring_axes = ()
    assert time_budget._seconds_afterwards(trainer, 0.5) == (4 + 2 * 10) * 0.5


@pytest.mark.slow
def test_speed_is_measured_and_leaves_nothing(make_trainer):
    trainer = make_trainer()
    speed = time_budget.measure_speed(trainer)
    assert min(speed.train_step, speed.validation_step, speed.patch, speed.afterwards) > 0
    assert not Path(trainer.output_folder).exists() or not list(Path(trainer.output_folder).iterdir())
