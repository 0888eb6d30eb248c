"""Whole trainings on a tiny dataset: artefacts, exact resume, kills, several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.class_head_refit import REPORT_FILE, refit_class_head
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetNumpy
from nnunetv2.training.nnUNetTrainer.class_training import ClassTraining
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.short_training import nnUNetTrainerMuon
from nnunetv2.training.run_training import TrainingJob, run_training
from nnunetv2.utilities.checkpoint import load_checkpoint, split_network_weights
from nnunetv2.utilities.files import load_json
from tests.trainer.conftest import make_case
from tests.trainer.stopping_trainer import StopsAfterOneEpoch

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def weights(path):
    checkpoint = load_checkpoint(path)
    return {**checkpoint["network_weights"], **{f"head.{k}": v for k, v in checkpoint["class_head_weights"].items()}}


def assert_same_weights(path_a, path_b):
    a, b = weights(path_a), weights(path_b)
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, different


def test_training_leaves_the_files_upstream_leaves(make_trainer):
    trainer = make_trainer()
    trainer.run_training()
    names = {path.name for path in Path(trainer.output_folder).iterdir()}
    assert {"checkpoint_best.pth", "checkpoint_final.pth"} <= names and "checkpoint_latest.pth" not in names
    assert any(name.startswith("training_log_") for name in names)
    assert {path.name for path in Path(trainer.output_folder_base).iterdir()} == {"plans.json", "dataset.json", "fold_0"}
    checkpoint = load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")
    assert {"network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args",
            "trainer_name", "inference_allowed_mirroring_axes"} <= checkpoint.keys()
    assert not any(key.startswith("class_head") for key in checkpoint["network_weights"])
    assert checkpoint["class_head_weights"].keys() == trainer.network.class_head.state_dict().keys()
    assert checkpoint["current_epoch"] == 2 and checkpoint["init_args"]["configuration"] == "3d_fullres"
    lengths = {key: len(values) for key, values in checkpoint["logging"].items()}
    assert set(lengths.values()) == {2}, lengths


def test_training_does_not_read_class_labels_of_validation_cases(make_trainer):
    """The fixture's csv says 'unreadable' for them, which the reader refuses when asked."""
    trainer = make_trainer(num_epochs=1)
    trainer.run_training()
    with pytest.raises(ValueError, match="unreadable"):
        trainer.class_task.read_labels(trainer.preprocessed_dataset_folder_base, trainer.do_split()[1])


@pytest.mark.parametrize("trainer", [nnUNetTrainer, nnUNetTrainerMuon])
def test_resumed_training_ends_with_the_weights_of_an_unbroken_one(make_trainer, monkeypatch, tmp_path, trainer):
    whole = make_trainer(trainer, num_epochs=3, save_every=1)
    whole.run_training()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "broken"))
    broken = make_trainer(type("Broken", (StopsAfterOneEpoch, trainer), {}), num_epochs=3, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        broken.run_training()
    resumed = make_trainer(trainer, num_epochs=3, save_every=1)
    resumed.load_checkpoint(Path(broken.output_folder) / "checkpoint_latest.pth")
    assert resumed.current_epoch == 1
    resumed.run_training()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    final = Path(whole.output_folder) / "checkpoint_final.pth"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "broken"))
    assert_same_weights(final, Path(resumed.output_folder) / "checkpoint_final.pth")
    assert whole.logger.values["lrs"] == resumed.logger.values["lrs"]
    assert whole.logger.values["train_losses"] == resumed.logger.values["train_losses"]


class RecordsWeights(nnUNetTrainer):
    """Keeps a bias of the segmentation and one of the head after each update."""

    def train_step(self, batch):
        result = super().train_step(batch)
        steps = self.__dict__.setdefault("steps", [])
        steps.append([self.module.decoder.seg_layers[-1].bias.detach().clone(), self.module.class_head.classifier.bias.detach().clone()])
        return result


def test_averaged_weights_follow_the_formula_and_leave_the_training_alone(make_trainer):
    averaged = make_trainer(RecordsWeights, num_epochs=1, ema_decay=0.75)
    averaged.run_training()
    segmentation, head = averaged.steps[0]  # the average begins with the first update's weights
    for next_segmentation, next_head in averaged.steps[1:]:
        segmentation, head = 0.75 * segmentation + 0.25 * next_segmentation, 0.75 * head + 0.25 * next_head
    saved = load_checkpoint(Path(averaged.output_folder) / "checkpoint_ema.pth")
    torch.testing.assert_close(saved["network_weights"]["decoder.seg_layers.1.bias"], segmentation)
    torch.testing.assert_close(saved["class_head_weights"]["classifier.bias"], head)
    assert not torch.equal(segmentation, averaged.steps[-1][0])

    plain = make_trainer(num_epochs=1)
    plain.run_training()
    assert not (Path(plain.output_folder) / "checkpoint_ema.pth").exists()
    assert_same_weights(Path(averaged.output_folder) / "checkpoint_final.pth", Path(plain.output_folder) / "checkpoint_final.pth")


def test_resumed_training_ends_with_the_same_averaged_weights(make_trainer, monkeypatch, tmp_path):
    whole = make_trainer(ema_decay=0.75, save_every=1)
    whole.run_training()
    unbroken = Path(whole.output_folder) / "checkpoint_ema.pth"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "broken"))
    broken = make_trainer(StopsAfterOneEpoch, ema_decay=0.75, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        broken.run_training()
    resumed = make_trainer(ema_decay=0.75, save_every=1)
    resumed.load_checkpoint(Path(broken.output_folder) / "checkpoint_latest.pth")
    resumed.run_training()
    assert_same_weights(unbroken, Path(resumed.output_folder) / "checkpoint_ema.pth")


@pytest.mark.parametrize("same_task", [True, False])
def test_only_weights_of_the_same_task_bring_their_output_layers(make_trainer, monkeypatch, same_task):
    source = make_trainer(num_epochs=1)
    source.run_training()
    final = Path(source.output_folder) / "checkpoint_final.pth"
    trained = weights(final)
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda self: None)
    started = TrainingJob("Dataset900_Tiny", "3d_fullres", 0, "nnUNetTrainer", "nnUNetPlans", {"seed": 5}, str(final),
                          same_task=same_task).train(torch.device("cpu"))
    segmentation, head = split_network_weights(started.module)
    begun = {**segmentation, **{f"head.{key}": value for key, value in head.items()}}
    own = {key for key, value in trained.items() if not torch.equal(begun[key], value)}
    assert not own if same_task else own and all(".seg_layers." in key or key.startswith("head.") for key in own)


SCHEDULE = {"num_epochs": 4, "num_iterations_per_epoch": 6, "num_val_iterations_per_epoch": 1, "save_every": 1, "num_workers": 0}
COMMAND = f"""
import torch
from nnunetv2.training.run_training import TrainingJob
if __name__ == "__main__":
    job = TrainingJob("Dataset900_Tiny", "3d_fullres", 0, "nnUNetTrainer", "nnUNetPlans", overrides={SCHEDULE})
    job.train(torch.device("cpu"))
"""


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_weights(folders, tmp_path, make_trainer, monkeypatch):
    whole = make_trainer(**SCHEDULE)
    whole.run_training()
    final = Path(whole.output_folder) / "checkpoint_final.pth"
    script = tmp_path / "train.py"
    script.write_text(COMMAND)
    environment = {**os.environ, "nnUNet_results": str(tmp_path / "killed"), "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums depend on it
                   "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.DEVNULL)
    latest = tmp_path / "killed" / Path(whole.output_folder).relative_to(folders) / "checkpoint_latest.pth"
    deadline = time.monotonic() + 60
    while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the training ended before it was killed"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "killed"))
    resumed = make_trainer(**SCHEDULE)
    resumed.load_checkpoint(latest)
    resumed.run_training()
    assert_same_weights(final, latest.with_name("checkpoint_final.pth"))


def test_other_seed_gives_another_training(make_trainer):
    losses = []
    for seed in (0, 1):
        trainer = make_trainer(num_epochs=1, seed=seed)
        trainer.run_training()
        losses.append(trainer.logger.values["train_losses"])
    assert losses[0] != losses[1]


def test_resume_under_another_schedule_is_refused(make_trainer):
    trainer = make_trainer(num_epochs=1)
    trainer.run_training()
    other = make_trainer(num_epochs=5)
    with pytest.raises(ValueError, match="num_epochs was 1, is 5"):
        other.load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")


def test_finished_training_is_not_repeated(make_trainer):
    trainer = make_trainer(num_epochs=1)
    trainer.run_training()
    final = Path(trainer.output_folder) / "checkpoint_final.pth"
    written = final.stat().st_mtime_ns
    again = make_trainer(num_epochs=1)
    again.load_checkpoint(final)
    again.run_training()
    assert final.stat().st_mtime_ns == written


@pytest.mark.parametrize("last_moment", ["checkpoint_ema.pth", "checkpoint_final.pth", "recording"])
def test_a_training_killed_in_its_last_moments_is_complete_after_going_on(folders, monkeypatch, last_moment):
    saved = nnUNetTrainer.save_checkpoint

    def save(self, filename, averaged=False):
        saved(self, filename, averaged)
        if str(filename).endswith(last_moment):
            raise KeyboardInterrupt

    def record(self, *args, **kwargs):
        raise KeyboardInterrupt

    job = TrainingJob("Dataset900_Tiny", "3d_fullres", 0, "nnUNetTrainerEMA", "nnUNetPlans", {
        "num_epochs": 2, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "num_workers": 0, "save_every": 1})
    with monkeypatch.context() as killed:
        killed.setattr(nnUNetTrainer, "save_checkpoint", save)
        if last_moment == "recording":
            killed.setattr(nnUNetTrainer, "_record_the_end", record)
        with pytest.raises(KeyboardInterrupt):
            job.train(torch.device("cpu"))
    fold = Path(replace(job, continue_training=True).train(torch.device("cpu")).output_folder)
    names = {"checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_ema.pth"}
    assert {path.name for path in fold.glob("*.pth")} == names == set(load_json(fold / "manifest.json")["checkpoints"])


def test_disabled_checkpointing_writes_none(make_trainer):
    trainer = make_trainer(num_epochs=1, disable_checkpointing=True)
    trainer.run_training()
    assert not list(Path(trainer.output_folder).glob("*.pth"))


def test_collapsed_head_rings_in_log_and_file(make_trainer):
    """A head that cannot learn (lr 0) stays at ln 3 and at one class."""
    settings = ClassTraining(warm_up=0.0, lr=0.0)
    trainer = make_trainer(num_epochs=4, num_iterations_per_epoch=10, num_val_iterations_per_epoch=1, class_training=settings)
    trainer.run_training()
    assert trainer.logger.values["class_alarm"] == [0, 0, 1, 1]
    alarm = json.loads((Path(trainer.output_folder) / "class_alarm.json").read_text())
    assert alarm["active"] and "refit" in alarm["advice"] and len(alarm["reasons"]) == 2


def test_encoder_gets_no_class_gradient_before_its_release(make_trainer):
    trainer = make_trainer(num_epochs=4, class_training=ClassTraining(encoder_gradient=0.3, encoder_release=0.5))
    seen = []
    step = trainer.train_step
    trainer.train_step = lambda batch: (seen.append(trainer.network.class_head.encoder_gradient), step(batch))[1]
    trainer.run_training()
    assert seen == [0.0] * 6 + [0.3] * 6


def test_dataset_without_class_task_trains_plain_segmentation(make_trainer, plans, dataset_json):
    del plans["configurations"]["3d_fullres"]["architecture"]["class_head"], dataset_json["classification"]
    trainer = make_trainer(num_epochs=1)
    trainer.run_training()
    assert load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")["class_head_weights"] is None
    assert "class_ce" not in trainer.logger.values


def test_without_deep_supervision(make_trainer):
    trainer = make_trainer(num_epochs=1, enable_deep_supervision=False)
    trainer.run_training()
    assert len(trainer.logger.values["mean_fg_dice"]) == 1


@pytest.mark.slow
def test_two_processes_train_one_network(folders, preprocessed_template):
    """gloo on CPU stands in for nccl: same code path, batch of 2 split in two."""
    from torch import multiprocessing as mp

    from nnunetv2.training.run_training import TrainingJob, free_port, _train_rank

    overrides = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "num_workers": 0}
    job = TrainingJob("Dataset900_Tiny", "3d_fullres", 0, "nnUNetTrainer", "nnUNetPlans", overrides)
    mp.spawn(_train_rank, args=(job, 2, "cpu", f"tcp://127.0.0.1:{free_port()}"), nprocs=2)
    final = next(folders.rglob("checkpoint_final.pth"))
    logging = load_checkpoint(final)["logging"]
    assert len(logging["val_losses"]) == 1 and sum(logging["class_true"][0]) <= 4


def test_run_training_ends_with_validated_cases(folders, monkeypatch):
    """The whole way of `nnUNetv2_train`, then `--val` over its checkpoint."""
    arguments = {"device": torch.device("cpu"), "epochs": 1, "iterations": 2, "val_iterations": 1}
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.trainer_data.augmentation_workers", lambda device: 0)
    run_training("900", "3d_fullres", "0", export_validation_probabilities=True, continue_training=True, **arguments)
    validation = next(folders.rglob("validation"))
    names = {path.name for path in validation.iterdir()}
    assert {"case_6.nii.gz", "case_7.nii.gz", "case_6.npz", "summary.json", "subtype_results.csv", "subtype_probabilities.csv"} <= names
    summary = load_json(validation / "summary.json")
    assert len(summary["metric_per_case"]) == 2 and set(summary["mean"]) == {"1", "2"}
    (validation / "case_of_another_split.nii.gz").touch()
    run_training("Dataset900_Tiny", "3d_fullres", 0, only_run_validation=True, device=torch.device("cpu"))
    assert not (validation / "case_of_another_split.nii.gz").exists()
    assert load_json(validation / "summary.json")["mean"] == summary["mean"]


def test_what_no_option_asks_for_stays_as_the_trainer_sets_it(folders, monkeypatch):
    class OwnSeed(nnUNetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seed, self.disable_checkpointing, self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 42, True, 1, 1, 1

        def on_train_end(self):
            seeds.append(self.seed)
            super().on_train_end()

    seeds = []
    monkeypatch.setattr("nnunetv2.training.run_training.find_trainer", lambda name: OwnSeed)
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.trainer_data.augmentation_workers", lambda device: 0)
    run_training("900", "3d_fullres", 0, "OwnSeed", device=torch.device("cpu"), final_validation=False)
    run_training("900", "3d_fullres", 0, "OwnSeed", device=torch.device("cpu"), final_validation=False, seed=0)
    assert seeds == [42, 0] and not list(folders.rglob("*.pth"))


def test_several_processes_of_a_trainer_without_checkpoints_end_well(folders, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    run_training("900", "3d_fullres", 0, "nnUNetTrainerBenchmark_5epochs", num_gpus=2, device=torch.device("cpu"), epochs=1, iterations=1, val_iterations=1)
    assert list(folders.rglob("benchmark_result.json")) and not list(folders.rglob("*.pth"))


class OwnSplit(nnUNetTrainer):
    """Trains on the cases that the split file validates, and the other way round."""

    def do_split(self):
        train, val = super().do_split()
        return [*val, "case_0", "case_1", "case_2"], [case for case in train if case not in ("case_0", "case_1", "case_2")]


def test_a_trainer_with_a_split_of_its_own_is_refitted_validated_and_gathered(folders, monkeypatch, tmp_path, preprocessed_template):
    table = tmp_path / "classes.csv"
    table.write_text((preprocessed_template / "Dataset900_Tiny" / "subtypes.csv").read_text().replace("unreadable", "0").replace("case_5,2", "case_5,unreadable"))
    monkeypatch.setattr("nnunetv2.training.run_training.find_trainer", lambda name: OwnSplit)
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.trainer_data.augmentation_workers", lambda device: 0)
    shutil.copytree(preprocessed_template, tmp_path / "preprocessed")
    shutil.copyfile(table, tmp_path / "preprocessed" / "Dataset900_Tiny" / "subtypes.csv")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    run_training("900", "3d_fullres", 0, "OwnSplit", device=torch.device("cpu"), epochs=1, iterations=1, val_iterations=1)
    model = next(folders.rglob("fold_0")).parent
    assert load_json(model / "fold_0" / REPORT_FILE)["cases_per_class"] == [3, 1, 1]  # of what it trained on, case_5 unread
    assert refit_class_head(model, 0)["cases_per_class"] == [3, 1, 1]
    accumulate_cv_results(model, tmp_path / "gathered", (0,))
    assert {path.name for path in (tmp_path / "gathered").glob("*.nii.gz")} == {f"case_{i}.nii.gz" for i in (3, 4, 5)}


class OwnFiles(nnUNetDatasetNumpy):
    """Cases under names of their own."""

    def load_case(self, identifier):
        return super().load_case(identifier.replace("case", "mine"))


@pytest.mark.parametrize("dataset_class", [None, OwnFiles])
def test_cases_in_other_files_are_refitted_and_validated(folders, monkeypatch, tmp_path, preprocessed_template, dataset_class):
    class Trainer(nnUNetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.dataset_class = dataset_class

        def get_tr_and_val_datasets(self):
            return tuple(self.dataset_class(self.preprocessed_dataset_folder, part) for part in self.do_split())

    monkeypatch.setattr("nnunetv2.training.run_training.find_trainer", lambda name: Trainer)
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.trainer_data.augmentation_workers", lambda device: 0)
    shutil.copytree(preprocessed_template, tmp_path / "preprocessed", ignore=shutil.ignore_patterns("*.b2nd", "*.pkl"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    data = tmp_path / "preprocessed" / "Dataset900_Tiny" / "nnUNetPlans_3d_fullres"
    for i in range(8):
        nnUNetDatasetNumpy.save_case(*make_case(i), str(data / f"{'case' if dataset_class is None else 'mine'}_{i}"))
    run_training("900", "3d_fullres", 0, "Trainer", device=torch.device("cpu"), epochs=1, iterations=1, val_iterations=1)
    fold = next(folders.rglob("fold_0"))
    assert load_json(fold / REPORT_FILE)["cases_per_class"] == [2, 2, 2] and (fold / "validation" / "case_6.nii.gz").is_file()


def test_a_validation_that_was_ended_goes_on_with_the_cases_that_are_left(folders, monkeypatch):
    predicted = []

    def predict(self, data, name, **settings):
        if len(predicted) == stop_after:
            raise KeyboardInterrupt
        predicted.append(name)
        return original(self, data, name, **settings)

    def validate(npz):
        run_training("900", "3d_fullres", 0, only_run_validation=True, export_validation_probabilities=npz, device=torch.device("cpu"))

    original, stop_after = nnUNetPredictor._predict_data, None
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.trainer_data.augmentation_workers", lambda device: 0)
    run_training("900", "3d_fullres", 0, device=torch.device("cpu"), epochs=1, iterations=1, val_iterations=1)
    validation = next(folders.rglob("validation"))
    whole = {path.name: path.read_bytes() for path in validation.iterdir()}
    monkeypatch.setattr(nnUNetPredictor, "_predict_data", predict)
    for npz, then_npz, again in ((False, False, ["case_7"]), (False, True, ["case_6", "case_7"])):
        predicted, stop_after = [], 1
        with pytest.raises(KeyboardInterrupt):
            validate(npz)
        assert predicted == ["case_6"] and (validation / "case_6.nii.gz").is_file()
        predicted, stop_after = [], None
        validate(then_npz)
        assert predicted == again
        assert {name: (validation / name).read_bytes() for name in whole if name != "summary.json"} == {name: whole[name] for name in whole if name != "summary.json"}
        assert load_json(validation / "summary.json")["mean"] == json.loads(whole["summary.json"])["mean"]
    predicted = []
    validate(False)
    assert predicted == ["case_6", "case_7"]  # that one was finished
    assert {path.name for path in validation.iterdir()} == set(whole)
