"""nnU-Net's loggers: values an epoch, the moving average, and what goes to Weights & Biases, which a stand-in plays here."""

import sys
from types import SimpleNamespace

import pytest

from nnunetv2.training.logging import TrainingLog
from nnunetv2.training.logging.nnunet_logger import LocalLogger, MetaLogger, WandbLogger, get_cluster_job_id


class Config(dict):
    """A resumed run's: it takes another value only where that is asked for."""

    def update(self, values, allow_val_change=False):
        assert allow_val_change
        super().update(values)


class Run:
    """What wandb.init returns, as far as it is used."""

    def __init__(self, **arguments):
        self.arguments, self.step, self.summary, self.sent, self.config = arguments, 1, {}, [], Config()

    def log(self, values, step):
        self.sent.append((step, values))


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=Run))
    monkeypatch.setenv("nnUNet_wandb_mode", "offline")


def test_the_file_of_that_name_still_holds_the_trainings_own_log():
    assert TrainingLog.__module__ == "nnunetv2.training.logging"


def test_values_are_kept_by_epoch_and_the_last_may_be_replaced(capsys):
    log = LocalLogger()
    for epoch, value in enumerate((3.0, 2.0)):
        log.log("train_losses", value, epoch)
    log.log("train_losses", 1.5, 1)
    assert log.get_value("train_losses", None) == [3.0, 1.5] and log.get_value("train_losses", -1) == 1.5
    assert "replaced" in capsys.readouterr().out


@pytest.mark.parametrize(("key", "epoch"), [("nothing_like_it", 0), ("lrs", 0)])
def test_other_keys_and_earlier_epochs_are_refused(key, epoch):
    log = LocalLogger()
    log.log("lrs", 1.0, 0)
    log.log("lrs", 1.0, 1)
    with pytest.raises(ValueError, match=key):
        log.log(key, 1.0, epoch)


def test_the_average_of_the_dice_comes_along(tmp_path):
    log = MetaLogger(tmp_path, resume=False)
    log.log("mean_fg_dice", 0.5, 0)
    log.log("mean_fg_dice", 0.7, 1)
    assert log.get_value("ema_fg_dice", None) == pytest.approx([0.5, 0.9 * 0.5 + 0.1 * 0.7])


@pytest.mark.slow
def test_a_checkpoint_brings_the_values_back_and_they_are_drawn(tmp_path):
    log, other = MetaLogger(tmp_path, False), MetaLogger(tmp_path, False)
    for key in log.get_checkpoint():
        if key != "ema_fg_dice":
            log.log(key, [0.5] if key == "dice_per_class_or_region" else 0.5, 0)
    other.load_checkpoint(log.get_checkpoint())
    other.plot_progress_png(tmp_path)
    assert other.get_value("lrs", 0) == 0.5 and (tmp_path / "progress.png").stat().st_size > 0


def test_wandb_is_used_where_the_environment_says_so(tmp_path, monkeypatch, wandb):
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    log = MetaLogger(tmp_path, resume=False)
    log.update_config({"a": 1})
    log.log("dice_per_class_or_region", [0.25, 0.75], 3)
    log.log_summary("final", 0.5)
    run = log.loggers[0].run
    assert run.arguments == {"project": "nnunet", "dir": str(tmp_path), "id": None, "mode": "offline", "resume": "never"}
    assert run.config == {"JobID": "77", "a": 1} and run.summary == {"current_epoch": 3, "final": 0.5}
    assert run.sent == [(3, {"dice_per_class_or_region/class_1": 0.25}), (3, {"dice_per_class_or_region/class_2": 0.75})]


def test_a_resumed_run_goes_on_where_it_was(tmp_path, wandb):
    (tmp_path / "wandb" / "latest-run").mkdir(parents=True)
    (tmp_path / "wandb" / "latest-run" / "run-abc123.wandb").touch()
    log = WandbLogger(tmp_path, resume=True)
    log.log("lrs", 1.0, 0)  # before the step that the run has reached
    log.log("lrs", 0.5, 1)
    assert log.run.arguments["id"] == "abc123" and log.run.sent == [(1, {"lrs": 0.5})]
    WandbLogger(tmp_path, resume=False)
    assert not (tmp_path / "wandb").exists()


def test_without_wandb_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RuntimeError, match="pip install wandb"):
        WandbLogger(tmp_path, resume=False)


def test_a_switch_that_is_neither_on_nor_off_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_wandb_enabled", "yes")
    with pytest.raises(RuntimeError, match="nnUNet_wandb_enabled is 'yes'"):
        MetaLogger(tmp_path, resume=False)


def test_the_job_is_slurms_before_lsfs(monkeypatch):
    for variable in ("SLURM_JOB_ID", "LSB_JOBID"):
        monkeypatch.delenv(variable, raising=False)
    assert get_cluster_job_id() is None
    monkeypatch.setenv("LSB_JOBID", "1")
    assert get_cluster_job_id() == "1"
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    assert get_cluster_job_id() == "2"
