"""`--c` goes on with the same training alone: whatever the weights depend on is compared, by name."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from nnunetv2.preprocessing.case_store import save_case
from nnunetv2.training import class_head_refit
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.training_identity import identity_differences, training_identity
from nnunetv2.training.nnUNetTrainer.training_state import HEAD_BEFORE_REFIT
from nnunetv2.training.run_training import TrainingJob, run_training
from nnunetv2.utilities.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2.utilities.data_manifest import read_manifest, record
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.verification import verify
from tests.trainer.conftest import DATASET, TRAIN, VAL, make_case

SCHEDULE = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "num_workers": 0, "save_every": 1}
CPU = torch.device("cpu")


@pytest.fixture
def base(folders, preprocessed_template, tmp_path, monkeypatch):
    """A copy of the preprocessed dataset that a test may change."""
    monkeypatch.setattr("nnunetv2.training.logging.draw_progress", lambda values, path: None)
    shutil.copytree(preprocessed_template, tmp_path / "preprocessed")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    return tmp_path / "preprocessed" / DATASET


def job(continue_training=False, batch_size=None, **overrides):
    return TrainingJob(DATASET, "3d_fullres", 0, "nnUNetTrainer", "nnUNetPlans", SCHEDULE | overrides, None, continue_training, batch_size)


def kill_after_one_epoch(monkeypatch):
    step = nnUNetTrainer.train_step

    def die(self, batch):
        if self._step == self.num_iterations_per_epoch:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as context:
        context.setattr(nnUNetTrainer, "train_step", die)
        with pytest.raises(KeyboardInterrupt):
            job().train(CPU)


def correct_class_label(base):
    table = base / "subtypes.csv"
    table.write_text(table.read_text().replace("case_1,1", "case_1,0"))


def correct_mask(base):
    data, labels, properties = make_case(1)
    labels[labels == 2] = 1
    save_case(data, labels, properties, base / "nnUNetPlans_3d_fullres", "case_1", patch_size=(8, 16, 16))


def move_a_case(base):
    save_json([{"train": TRAIN[:-1], "val": [*VAL, TRAIN[-1]]}], base / "splits_final.json")


def edit_plans(**changes):
    def edit(base):
        plans = load_json(base / "nnUNetPlans.json")
        plans["configurations"]["3d_fullres"] |= changes
        save_json(plans, base / "nnUNetPlans.json")

    return edit


def edit_dataset(base):
    description = load_json(base / "dataset.json")
    description["labels"] = {"background": 0, "pancreas": 1, "cyst": 2}
    save_json(description, base / "dataset.json")


@pytest.mark.slow
@pytest.mark.parametrize(("change", "overrides", "batch_size", "named"), [
    (None, {}, 3, "batch_size was 2, is 3"),
    (None, {"seed": 1}, None, "seed was 0, is 1"),
    (None, {"initial_lr": 0.1}, None, "initial_lr was 0.01, is 0.1"),
    (None, {"gradient_clip": 1.0}, None, "gradient_clip was 12.0, is 1.0"),
    (None, {"num_iterations_per_epoch": 3}, None, "num_iterations_per_epoch was 2, is 3"),
    (edit_plans(patch_size=[8, 8, 16]), {}, None, "patch_size was [8, 16, 16], is [8, 8, 16]"),
    (edit_dataset, {}, None, "labels.cyst was None, is 2"),
    (correct_class_label, {}, None, "class of case_1 was '1', is '0'"),
    (correct_mask, {}, None, "image or label of case_1 changed"),
    (move_a_case, {}, None, "case_5 moved from train to validation"),
])
def test_a_difference_is_refused_by_name(base, monkeypatch, change, overrides, batch_size, named):
    kill_after_one_epoch(monkeypatch)
    if change is not None:
        change(base)
    with pytest.raises(InputError) as error:
        job(True, batch_size, **overrides).train(CPU)
    assert "checkpoint_latest.pth belongs to another training" in str(error.value) and named in str(error.value)


@pytest.mark.slow
def test_workers_and_checkpoint_intervals_may_differ(base, monkeypatch):
    kill_after_one_epoch(monkeypatch)
    assert job(True, save_every=5).train(CPU).current_epoch == 2


@pytest.mark.slow
def test_the_number_of_processes_that_share_a_batch_is_no_difference(make_trainer):
    identities = []
    for processes, rank in ((1, 0), (2, 0), (2, 1)):
        trainer = make_trainer(world_size=processes, local_rank=rank)
        trainer.configuration_manager.configuration["batch_size"] = 3  # shares of two and one
        trainer.initialize()
        assert trainer.batch_size == (3 if processes == 1 else 2 - rank)
        identities.append(training_identity(trainer))
    assert not any(identity_differences(old, new) for old in identities for new in identities)


def test_a_training_in_bf16_on_a_cpu_may_go_on_elsewhere(make_trainer):
    trainer = make_trainer()
    identity = training_identity(trainer)
    trainer.bf16_on_cpu = True
    assert identity_differences(identity, training_identity(trainer)) == []


def test_a_validation_needs_weights_and_names_alone(make_trainer):
    trainer = make_trainer()
    trainer.initialize()
    trainer.save_checkpoint(path := Path(trainer.output_folder) / "shared.pth")
    content = load_checkpoint(path)
    save_checkpoint({key: content[key] for key in ("network_weights", "class_head_weights", "init_args", "trainer_name", "identity")}, path)
    validating = make_trainer(to_validate=True)
    validating.load_checkpoint(path)
    assert torch.equal(*(next(one.network.parameters()) for one in (trainer, validating)))
    with pytest.raises(InputError, match="optimizer_state"):
        make_trainer().load_checkpoint(path)


def test_a_batch_size_that_a_trainer_sets_itself_is_a_difference(make_trainer):
    as_planned, other = make_trainer(), make_trainer()
    for trainer in (as_planned, other):
        trainer.initialize()
    other.batch_size = 5
    assert identity_differences(training_identity(as_planned), training_identity(other)) == ["batch_size was None, is 5"]


def test_a_finished_training_of_other_labels_is_not_finished(base):
    job().train(CPU)
    correct_class_label(base)
    with pytest.raises(InputError, match="checkpoint_final.pth belongs to another training"):
        job(True).train(CPU)


@pytest.mark.slow
def test_trained_anew_on_corrected_labels_and_killed_it_goes_on_with_the_new_training(base, monkeypatch, capsys):
    old = job().train(CPU)
    correct_class_label(base)
    kill_after_one_epoch(monkeypatch)
    folder = Path(old.output_folder)
    assert (folder / "earlier_1" / "checkpoint_final.pth").is_file() and not (folder / "checkpoint_final.pth").exists()
    capsys.readouterr()
    resumed = job(True).train(CPU)
    assert "is finished" not in capsys.readouterr().out and resumed.current_epoch == 2
    assert load_checkpoint(folder / "checkpoint_final.pth")["identity"]["class_labels"]["case_1"] == "0"


@pytest.mark.slow
def test_the_same_training_again_sets_nothing_aside(base):
    folder = Path(job().train(CPU).output_folder)
    job().train(CPU)
    assert not list(folder.glob("earlier_*"))


@pytest.mark.slow
def test_a_damaged_checkpoint_does_not_keep_one_from_training_anew(base):
    folder = Path(job().make_trainer(CPU).output_folder)
    folder.mkdir(parents=True)
    (folder / "checkpoint_final.pth").write_bytes(b"half")
    job().train(CPU)
    assert (folder / "earlier_1" / "checkpoint_final.pth").read_bytes() == b"half"


@pytest.mark.slow
def test_checkpoints_without_a_record_are_compared_by_plans_and_schedule(base, monkeypatch):
    kill_after_one_epoch(monkeypatch)
    latest = Path(job().make_trainer(CPU).output_folder) / "checkpoint_latest.pth"
    content = load_checkpoint(latest)
    del content["identity"]
    save_checkpoint(content, latest)
    (latest.parent / "checkpoint_best.pth").unlink()
    with pytest.raises(InputError, match="batch_size was 2, is 3"):
        job(True, 3).train(CPU)
    assert job(True).train(CPU).current_epoch == 2


@pytest.mark.slow
def test_validating_a_model_on_what_it_was_trained_on_is_refused(base):
    job().train(CPU)
    move_a_case(base)
    with pytest.raises(InputError, match="case_5 is a validation case now, and it was trained on"):
        run_training(DATASET, "3d_fullres", 0, only_run_validation=True, device=CPU)


@pytest.mark.slow
def test_validating_after_a_mask_was_corrected_is_possible(base):
    job().train(CPU)
    correct_mask(base)
    run_training(DATASET, "3d_fullres", 0, only_run_validation=True, device=CPU)


def test_two_trainings_of_one_fold_are_refused(base):
    from nnunetv2.utilities.folder_lock import FolderBusy, folder_lock

    folder = Path(job().make_trainer(CPU).output_folder)
    with folder_lock(folder, "training", "by another"), pytest.raises(FolderBusy, match="by another"):
        run_training(DATASET, "3d_fullres", 0, device=CPU)


def test_while_a_fold_is_trained_its_cases_are_known_to_be_in_use(base, monkeypatch):
    from nnunetv2.utilities.folder_lock import is_in_use

    class Stop(Exception):
        pass

    def train(*arguments):
        raise Stop(is_in_use(base, "training_nnUNetPlans_3d_fullres"))

    monkeypatch.setattr("nnunetv2.training.run_training.train_in_this_process", train)
    with pytest.raises(Stop, match="True"):
        run_training(DATASET, "3d_fullres", 0, device=CPU)
    assert not is_in_use(base, "training_nnUNetPlans_3d_fullres")


@pytest.mark.slow
def test_the_folds_manifest_tells_data_settings_code_and_checkpoints(base):
    description = {"dataset_json": load_json(base / "dataset.json"), "cases": [*TRAIN, *VAL], "split": None, "class_labels": None}
    record(base, planned=description, preprocessed={"nnUNetPlans_3d_fullres": {case: case for case in (*TRAIN, *VAL)}})
    folder = Path(job().train(CPU).output_folder)
    manifest = read_manifest(folder)
    assert manifest["training"]["settings"]["seed"] == 0 and set(manifest["training"]["cases"]) == {*TRAIN, *VAL}
    assert manifest["code"]["source"] and set(manifest["checkpoints"]) == {"checkpoint_final.pth", "checkpoint_best.pth"}


@pytest.mark.slow
def test_a_trained_fold_fits_its_manifest(base):
    folder = Path(job().train(CPU).output_folder)
    found = verify(folder)
    assert not found.misfits and any("checkpoint_final.pth" in line for line in found.fits)


@pytest.mark.slow
def test_a_checkpoint_or_plans_exchanged_afterwards_do_not_fit(base):
    folder = Path(job().train(CPU).output_folder)
    content = load_checkpoint(folder / "checkpoint_final.pth")
    next(iter(content["network_weights"].values())).add_(1)
    save_checkpoint(content, folder / "checkpoint_final.pth")
    plans = load_json(folder.parent / "plans.json")
    plans["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    save_json(plans, folder.parent / "plans.json")
    misfits = "\n".join(verify(folder.parent).misfits)
    assert "is not the one that the training or refit wrote" in misfits and "spacing was [2.0, 1.0, 1.0], is [1.0, 1.0, 1.0]" in misfits


@pytest.mark.slow
@pytest.mark.parametrize("last_moment", ["save_json", "save_checkpoint", "record_checkpoint"])
def test_a_refit_that_was_killed_is_whole_after_going_on(base, monkeypatch, last_moment):
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.trainer_data.augmentation_workers", lambda device: 0)
    arguments = {"device": CPU, "epochs": 1, "iterations": 1, "val_iterations": 1, "final_validation": False}

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(class_head_refit, last_moment, die)
        with pytest.raises(KeyboardInterrupt):
            run_training(DATASET, "3d_fullres", 0, **arguments)
    run_training(DATASET, "3d_fullres", 0, continue_training=True, **arguments)
    fold = next(Path(os.environ["nnUNet_results"]).rglob("fold_0"))
    assert (fold / class_head_refit.REPORT_FILE).is_file() and not verify(fold).misfits
    assert all(HEAD_BEFORE_REFIT in load_checkpoint(path) for path in fold.glob("*.pth"))
