"""What a training sends to TensorBoard and Weights & Biases, which stand-ins play, and that it changes nothing."""

import random
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunetv2.training import log_sinks
from nnunetv2.training.log_sinks import Sinks, by_class, check_switches
from nnunetv2.training.logging import TrainingLog
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.run_training import run_training
from nnunetv2.utilities.checkpoint import load_checkpoint
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json
from tests.trainer.stopping_trainer import StopsAfterOneEpoch

ONE_STEP = {"num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}


class Run:
    """A run of wandb that keeps what it gets, in `server`, as the real one does: a run goes on at the step after its last."""

    def __init__(self, server, **arguments):
        self.server, self.arguments, self.finished = server, arguments, False
        self.step, self.summary, self.config = max(server, default=-1) + 1, {}, SimpleNamespace(update=lambda values, allow_val_change: None)

    def log(self, values, step):
        assert step >= self.step
        for key, value in values.items():
            self.server.setdefault(step, {}).setdefault(key, []).append(value)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """Weights & Biases, switched on; returns the stand-in with its `runs` and `server` {epoch: {key: values}}."""
    module = SimpleNamespace(runs=[], server={}, Image=lambda picture: picture.shape)

    def init(**arguments):
        if arguments["resume"] == "never":
            module.server.clear()
        module.runs.append(Run(module.server, **arguments))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    return module


def weights(trainer):
    return load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")["network_weights"]


def assert_same_weights(a, b):
    assert all(torch.equal(a[key], b[key]) for key in a | b)


@pytest.mark.slow
def test_every_value_of_every_epoch_arrives(make_trainer, wandb):
    trainer = make_trainer(**ONE_STEP)
    trainer.run_training()
    assert sorted(wandb.server) == [0, 1] and wandb.runs[0].finished
    values, log = wandb.server[1], trainer.logger.values
    for key in ("train_losses", "val_losses", "lrs", "mean_fg_dice", "ema_fg_dice", "class_ce", "class_alarm"):
        np.testing.assert_equal(values[key], [log[key][1]])
    np.testing.assert_equal([values[f"dice_per_class_or_region/class_{n}"][0] for n in (1, 2)], log["dice_per_class_or_region"][1])
    assert [values[f"class_true/class_{n}"][0] for n in range(3)] == log["class_true"][1]
    assert values["epoch_seconds"] == [log["epoch_end_timestamps"][1] - log["epoch_start_timestamps"][1]]


@pytest.mark.slow
def test_the_picture_of_the_worst_patch_arrives_with_its_epoch(make_trainer, wandb):
    trainer = make_trainer(**ONE_STEP, picture_every=10, oversample_foreground_percent=1.0)
    trainer.run_training()
    assert "worst_patch" not in wandb.server[0] and wandb.server[1]["worst_patch"] == [(460, 1200, 3)]


def test_a_value_of_a_trainers_own_arrives_and_text_is_left_out():
    got = []
    sinks = Sinks([SimpleNamespace(log_epoch=lambda values, epoch: got.append((epoch, values)))], warn=pytest.fail)
    sinks.log_epoch({"mine": np.float32(0.5), "name": "text", "list": [1, 2], "nested": [[1]]}, 3)
    assert got == [(3, {"mine": 0.5, "list/class_1": 1.0, "list/class_2": 2.0})]


def test_classes_of_the_class_task_count_from_0_and_labels_from_1():
    assert by_class("class_true", [5, 6]) == {"class_true/class_0": 5, "class_true/class_1": 6}
    assert by_class("dice_per_class_or_region", [0.5]) == {"dice_per_class_or_region/class_1": 0.5}


def stop_and_resume(make_trainer):
    """A training that dies in its second epoch, with a latest checkpoint of the first, and the one that goes on from it."""
    broken = make_trainer(StopsAfterOneEpoch, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        broken.run_training()
    resumed = make_trainer(StopsAfterOneEpoch, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1, save_every=1)
    resumed.load_checkpoint(Path(broken.output_folder) / "checkpoint_latest.pth")
    resumed.train_step = lambda batch: nnUNetTrainer.train_step(resumed, batch)
    return resumed


@pytest.mark.slow
def test_a_resumed_training_sends_no_epoch_twice(make_trainer, wandb):
    resumed = stop_and_resume(make_trainer)
    resumed.run_training()
    assert [run.arguments["resume"] for run in wandb.runs] == ["never", "allow"]
    assert {epoch: values["train_losses"] for epoch, values in wandb.server.items()} == {
        epoch: [loss] for epoch, loss in enumerate(resumed.logger.values["train_losses"])}


def test_the_dice_of_whole_cases_is_a_summary(make_trainer, wandb):
    trainer = make_trainer(**ONE_STEP)
    metrics = {"mean": {1: {"Dice": 0.25}, 2: {"Dice": 0.75}}, "foreground_mean": {"Dice": 0.5}}
    trainer._send_validation(metrics)
    assert wandb.runs[0].summary == {"final_val/class_1_dice": 0.25, "final_val/class_2_dice": 0.75, "final_val/foreground_dice": 0.5}
    assert wandb.runs[0].arguments["resume"] == "allow" and wandb.runs[0].finished


def test_another_process_than_the_first_sends_nothing(make_trainer, wandb):
    trainer = make_trainer(**ONE_STEP)
    trainer.logger.active = False
    trainer._open_sinks()
    trainer.logger.send_epoch(0)
    assert not wandb.runs


class FailingSink:
    """Takes the first epoch, and draws random numbers meanwhile; then the disk is full."""

    def __init__(self):
        self.epochs = []

    def update_config(self, config):
        pass

    def log_epoch(self, values, epoch):
        torch.rand(7), np.random.rand(7), random.random()
        self.epochs.append(epoch)
        if epoch > 0:
            raise OSError(28, "No space left on device")

    def log_picture(self, name, picture, epoch):
        pytest.fail("no picture was asked for")

    def close(self):
        pass


@pytest.mark.slow
def test_a_failing_sink_warns_once_and_the_weights_are_those_without_it(make_trainer, monkeypatch, tmp_path, capsys):
    plain = make_trainer(num_epochs=3)
    plain.run_training()
    expected = weights(plain)
    sink = FailingSink()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "with_sink"))
    monkeypatch.setattr("nnunetv2.training.logging.open_sinks", lambda folder, epochs_done, training: [sink])
    watched = make_trainer(num_epochs=3, picture_every=1)
    capsys.readouterr()
    watched.run_training()
    assert capsys.readouterr().out.count("FailingSink failed (OSError") == 1 and sink.epochs == [0, 1]
    assert_same_weights(expected, weights(watched))


def test_a_sink_that_cannot_be_opened_does_not_end_a_validation(make_trainer, wandb, capsys):
    trainer = make_trainer(**ONE_STEP)
    wandb.init = lambda **arguments: 1 / 0
    trainer._send_validation({"mean": {}, "foreground_mean": {"Dice": 0.5}})
    assert "division by zero" in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError):
        trainer._open_sinks()


@pytest.mark.parametrize("variable", ["nnUNet_wandb_enabled", "nnUNet_tensorboard_enabled"])
def test_an_unknown_value_is_one_error_before_anything_starts(monkeypatch, variable, folders):
    monkeypatch.setenv(variable, "maybe")
    with pytest.raises(InputError, match=rf"{variable} is 'maybe'. export {variable}=1"):
        run_training("900", "3d_fullres", 0, device=torch.device("cpu"))
    assert not folders.exists()


@pytest.mark.parametrize(("variable", "module", "package"), [("nnUNet_wandb_enabled", "wandb", "wandb"),
                                                             ("nnUNet_tensorboard_enabled", "torch.utils.tensorboard", "tensorboard")])
def test_a_missing_package_is_named_before_the_training(make_trainer, monkeypatch, variable, module, package):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setitem(sys.modules, module, None)
    trainer = make_trainer(**ONE_STEP)
    trainer.on_train_start = lambda: pytest.fail("the training has begun")
    with pytest.raises(InputError, match=f"pip install {package}, or export {variable}=0"):
        trainer.run_training()


def test_nothing_is_needed_or_written_while_all_is_off(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    check_switches()
    assert log_sinks.open_sinks(Path("nowhere"), 0) == [] and not Path("nowhere").exists()


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def switched_on(self, monkeypatch):
        monkeypatch.setenv("nnUNet_tensorboard_enabled", "1")

    @staticmethod
    def read(trainer, tag):
        """[(epoch, value)] as TensorBoard shows them."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(Path(trainer.output_folder) / "tensorboard"))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars(tag)]

    @pytest.mark.slow
    def test_a_resumed_training_shows_each_epoch_once(self, make_trainer):
        resumed = stop_and_resume(make_trainer)
        resumed.logger.open_sinks(0)  # an epoch of the broken training that its checkpoint does not know
        resumed.logger.send_epoch(0)
        resumed.logger.sinks.log_epoch({"train_losses": 99.0}, 1)
        resumed.logger.close_sinks()
        resumed.run_training()
        shown = self.read(resumed, "train_losses")
        assert [epoch for epoch, _ in shown] == [0, 1]
        assert [value for _, value in shown] == pytest.approx(resumed.logger.values["train_losses"])
        resumed._send_validation({"mean": {}, "foreground_mean": {"Dice": 0.5}})
        assert self.read(resumed, "final_val/foreground_dice") == [(2, 0.5)] and len(self.read(resumed, "lrs")) == 2

    @pytest.mark.slow
    def test_a_new_training_in_the_folder_replaces_the_old(self, make_trainer):
        for _ in range(2):
            trainer = make_trainer(num_epochs=1, **ONE_STEP)
            trainer.run_training()
        assert len(self.read(trainer, "train_losses")) == 1
        assert len(list(Path(trainer.output_folder, "tensorboard").iterdir())) == 1

    @pytest.mark.slow
    def test_a_full_disk_warns_once(self, make_trainer, capsys, monkeypatch):
        from tensorboard.summary.writer.record_writer import RecordWriter

        trainer = make_trainer(num_epochs=3, **ONE_STEP)
        write = RecordWriter.write

        def full(self, data):
            if trainer.current_epoch > 1:
                raise OSError(28, "No space left on device")
            write(self, data)

        monkeypatch.setattr(RecordWriter, "write", full)
        monkeypatch.setattr("threading.excepthook", lambda arguments: None)
        trainer.run_training()
        assert capsys.readouterr().out.count("TensorBoardSink failed") == 1 and trainer.current_epoch == 3


def test_a_key_of_ones_own_may_be_logged_now_and_then(tmp_path):
    log = TrainingLog(tmp_path, has_classes=False)
    log.log("mine", 1.0, 2)
    assert np.isnan(log.values["mine"][:2]).all() and log.values["mine"][2] == 1.0
    with pytest.raises(ValueError, match="cannot be logged next"):
        log.log("train_losses", 1.0, 2)


def test_what_cannot_be_logged_is_named():
    with pytest.raises(TypeError, match="'mine': object cannot be logged"):
        TrainingLog(None, has_classes=False).log("mine", object(), 0)


def test_values_that_were_put_into_nnunets_dictionary_are_saved_as_those_that_were_logged(tmp_path):
    log = TrainingLog(tmp_path, has_classes=False)
    log.my_fantastic_logging["mine"] = [np.float32(1), np.array([2])]
    log.save()
    assert load_json(tmp_path / "progress.json")["mine"] == log.get_checkpoint()["mine"] == [1.0, [2]]


def test_a_log_that_cannot_be_written_ends_no_training(tmp_path, capsys):
    (tmp_path / "no_folder").touch()
    log = TrainingLog(tmp_path / "no_folder" / "fold_0", has_classes=False)
    log.print("Epoch 3")
    printed = capsys.readouterr().out
    assert "Epoch 3" in printed and "lacks this line" in printed
