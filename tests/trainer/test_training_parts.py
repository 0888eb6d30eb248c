"""Splits, checkpoints, learning rate, log, class figures and the collapse alarm, each alone."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nnunetv2.cli.common import model_folder
from nnunetv2.training.logging import TrainingLog
from nnunetv2.training.lr_scheduler import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.architecture import trainer_with_own_network
from nnunetv2.training.nnUNetTrainer.class_training import ClassTraining, class_epoch_metrics, inverse_frequency_weights
from nnunetv2.training.nnUNetTrainer.collapse_alarm import find_collapse, record_collapse
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.objective import deep_supervision_scales, deep_supervision_weights
from nnunetv2.training.nnUNetTrainer.pseudo_dice import dice_from_counts, foreground_counts
from nnunetv2.training.nnUNetTrainer.registry import available_trainers, find_trainer
from nnunetv2.training.nnUNetTrainer.variants.short_training import nnUNetTrainerShort
from nnunetv2.training.run_training import run_training
from nnunetv2.utilities.splits import default_splits, load_split
from nnunetv2.utilities.checkpoint import load_checkpoint, load_network_weights, load_pretrained_weights, save_checkpoint, stored_tensors
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager

# ---- splits ----


def dataset_folder(path: Path, cases, **dataset_json) -> Path:
    (path / "gt_segmentations").mkdir(parents=True)
    for case in cases:
        (path / "gt_segmentations" / f"{case}.nii.gz").touch()
    save_json({"file_ending": ".nii.gz", **dataset_json}, path / "dataset.json")
    return path


def test_default_split_is_upstreams():
    """Expected list: nnunetv2 2.8.1 on the same names."""
    splits = default_splits([f"c{i:02d}" for i in range(12)])
    assert [split["val"] for split in splits] == [
        ["c00", "c03", "c08"], ["c07", "c10", "c11"], ["c06", "c09"], ["c01", "c04"], ["c02", "c05"]]


def test_default_split_is_written_once_and_then_used(tmp_path):
    folder = dataset_folder(tmp_path, [f"c{i}" for i in range(10)])
    train, val = load_split(folder, 2)
    written = load_json(folder / "splits_final.json")
    assert (train, val) == (written[2]["train"], written[2]["val"]) and sorted(train + val) == [f"c{i}" for i in range(10)]
    save_json([{"train": ["c2", "c1"], "val": ["c3"]}], folder / "splits_final.json")
    assert load_split(folder, 0) == (["c1", "c2"], ["c3"])


def test_held_out_cases_are_in_no_default_fold_and_not_in_all(tmp_path):
    folder = dataset_folder(tmp_path, [f"c{i}" for i in range(10)], holdout=["c3"])
    assert "c3" not in load_split(folder, "all")[0]
    assert all("c3" not in ids for ids in load_split(folder, 0))


# ---- checkpoints ----


class TinyNetwork(nn.Module):
    def __init__(self, with_head: bool = True):
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.decoder = nn.ModuleDict({"seg_layers": nn.ModuleList([nn.Linear(2, 2)])})
        self.class_head = nn.Linear(2, 3) if with_head else None


def test_numpy_scalars_of_upstreams_checkpoints_load(tmp_path):
    save_checkpoint({"logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)]}, "n": np.int64(3), "array": np.arange(2.0)}, tmp_path / "c.pth")
    loaded = load_checkpoint(tmp_path / "c.pth")
    assert loaded["logging"]["mean_fg_dice"] == [0.5, 0.25] and loaded["n"] == 3 and loaded["array"].tolist() == [0, 1]


def test_device_and_plans_of_init_args_load(tmp_path):
    save_checkpoint({"init_args": {"device": torch.device("cuda"), "fold": "all", "plans": {"a": [1, None]}}}, tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth")["init_args"]["device"] == torch.device("cuda")


def test_stored_tensors_tell_weights_apart_without_reading_them(tmp_path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / name).mkdir()
        torch.save({"network_weights": {"w": torch.full((3,), value)}}, tmp_path / name / "checkpoint.pth")
    a, b, c = (stored_tensors(tmp_path / name / "checkpoint.pth") for name in "abc")
    assert a == b != c and ("data/0", 12) in {(name.partition("/")[2], size) for name, size, _ in a}


def test_a_checkpoint_of_the_old_kind_has_no_directory_of_tensors(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "c.pth", lazy=True)["w"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="c.pth is no zip archive"):
        stored_tensors(tmp_path / "c.pth")


class Malicious:
    def __reduce__(self):
        return print, ("this code must not run",)


def test_checkpoint_with_code_is_refused(tmp_path, capsys):
    torch.save({"x": Malicious()}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="c.pth holds code"):
        load_checkpoint(tmp_path / "c.pth")
    assert "must not run" not in capsys.readouterr().out


def test_failed_write_keeps_the_old_checkpoint(tmp_path):
    save_checkpoint({"a": 1}, tmp_path / "c.pth")
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint({"a": lambda: 0}, tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


def test_weights_go_to_network_and_head():
    source, target = TinyNetwork(), TinyNetwork()
    load_network_weights(target, {"network_weights": {k: v for k, v in source.state_dict().items() if "class_head" not in k},
                                  "class_head_weights": source.class_head.state_dict()})
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))


def test_upstreams_weights_leave_the_head_alone():
    source, target = TinyNetwork(with_head=False), TinyNetwork()
    head = target.class_head.weight.clone()
    load_network_weights(target, {"network_weights": {f"module.{k}": v for k, v in source.state_dict().items()}})
    assert torch.equal(target.encoder.weight, source.encoder.weight) and torch.equal(target.class_head.weight, head)


def test_weights_of_another_network_are_listed():
    weights = TinyNetwork(with_head=False).state_dict()
    weights["encoder.weight"] = torch.zeros(3, 2)
    weights["extra"] = weights.pop("encoder.bias")
    with pytest.raises(ValueError, match="3 differences: missing encoder.bias; unexpected extra; encoder.weight is \\(3, 2\\)"):
        load_network_weights(TinyNetwork(), {"network_weights": weights})


def test_pretrained_weights_leave_segmentation_layers_and_head_alone(tmp_path):
    source, target = TinyNetwork(), TinyNetwork()
    save_checkpoint({"network_weights": source.state_dict()}, tmp_path / "c.pth")
    before = {key: value.clone() for key, value in target.state_dict().items()}
    load_pretrained_weights(target, tmp_path / "c.pth")
    taken = {key for key, value in target.state_dict().items() if not torch.equal(value, before[key])}
    assert taken == {"encoder.weight", "encoder.bias"}


# ---- learning rate ----


@pytest.mark.slow
def test_poly_rate_by_hand():
    optimizer = torch.optim.SGD([{"params": nn.Parameter(torch.zeros(1))}, {"params": nn.Parameter(torch.zeros(1)), "initial_lr": 1.0}], lr=0.01)
    scheduler = PolyLRScheduler(optimizer, 0.01, 10)
    scheduler.step(5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * 0.5**0.9, 0.5**0.9])
    scheduler.step(0)
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_a_schedule_is_saved_and_goes_on_where_it_was():
    """(1 - t / 2) ** 1: rates 1 and 0.5 in the two epochs; -1 is nnU-Net's word for the next one."""
    optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2)]
    first, second = (PolyLRScheduler(optimizer, 1.0, 2, exponent=1.0) for optimizer in optimizers)
    first.step(-1)
    assert first.get_last_lr() == [1.0]
    second.load_state_dict(first.state_dict())
    second.step()
    assert second.get_last_lr() == [0.5]


# ---- log ----


def test_ema_of_pseudo_dice(tmp_path):
    log = TrainingLog(tmp_path, has_classes=False)
    for epoch, dice in enumerate((0.5, 0.7)):
        log.log("mean_fg_dice", dice, epoch)
    assert log.values["ema_fg_dice"] == pytest.approx([0.5, 0.52])


def test_log_refuses_a_gap_and_takes_a_correction(tmp_path):
    log = TrainingLog(tmp_path, has_classes=False)
    log.log("lrs", 1.0, 0)
    log.log("lrs", 2.0, 0)
    assert log.values["lrs"] == [2.0]
    with pytest.raises(ValueError, match="epoch 2"):
        log.log("lrs", 1.0, 2)


@pytest.mark.slow
def test_progress_picture_is_drawn_with_and_without_classes(tmp_path):
    for has_classes in (False, True):
        folder = tmp_path / str(has_classes)
        folder.mkdir()
        log = TrainingLog(folder, has_classes)
        for key in log.values:
            if key != "ema_fg_dice":
                log.log(key, [1, 2] if key.startswith(("class_p", "class_t", "dice")) else 0.5, 0)
        log.plot(force=True)
        assert (folder / "progress.png").stat().st_size > 5000


# ---- deep supervision, pseudo Dice ----


def test_deep_supervision_weights_halve_and_skip_the_lowest():
    assert deep_supervision_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    assert deep_supervision_weights(1) == [1]


def test_deep_supervision_scales():
    assert deep_supervision_scales([[1, 1, 1], [1, 2, 2], [2, 2, 2]]) == [[1, 1, 1], [1, 0.5, 0.5]]


def counts_of(predicted, target, labels):
    logits = nn.functional.one_hot(torch.tensor(predicted), 3).T[None].float()  # (1, 3, N)
    return foreground_counts(logits, torch.tensor(target)[None, None], labels).tolist()


def test_pseudo_dice_counts_by_hand():
    labels = LabelManager({"background": 0, "a": 1, "b": 2}, None)
    assert counts_of([0, 1, 1, 2], [0, 1, 2, 2], labels) == [[1, 1], [1, 0], [0, 1]]
    assert dice_from_counts(torch.tensor([[1, 0], [1, 0], [0, 0]])) == pytest.approx([2 / 3, math.nan], nan_ok=True)


def test_ignored_voxels_do_not_count():
    labels = LabelManager({"background": 0, "a": 1, "b": 2, "ignore": 3}, None)
    assert counts_of([1, 1, 2], [1, 3, 3], labels) == [[1, 0], [0, 0], [0, 0]]


def test_pseudo_dice_of_regions():
    labels = LabelManager({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])
    logits = torch.tensor([[[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]]])  # (1, 2, 3)
    target = torch.tensor([[[1, 1, 0], [0, 0, 0], [0, 0, 1]]], dtype=torch.bool)
    assert foreground_counts(logits, target, labels).tolist() == [[2, 0], [0, 1], [0, 0]]


# ---- class task ----


def test_inverse_frequency_weights_average_to_one_over_cases():
    weights = inverse_frequency_weights([0, 0, 0, 1], 2)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0])


@given(st.floats(0, 1))
def test_schedules_stay_in_range(progress):
    settings = ClassTraining(encoder_gradient=0.1)
    assert 0.5 <= settings.teacher_weight(progress) <= 1
    assert settings.encoder_gradient_at(progress) == (0.1 if progress >= 0.2 else 0)


def test_class_figures_by_hand():
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0]])
    metrics = class_epoch_metrics(logits, torch.tensor([0, 1, 1]), 3)
    assert metrics["class_predicted"] == [2, 1, 0] and metrics["class_true"] == [1, 2, 0]
    assert metrics["class_macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert metrics["class_ce"] == pytest.approx((2 * 0.000247 + 9.000247) / 3, abs=1e-4)


def test_epoch_without_class_patches_has_nan_figures():
    metrics = class_epoch_metrics(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 3)
    assert math.isnan(metrics["class_ce"]) and metrics["class_predicted"] == [0, 0, 0]


def history(ce, predicted, true, epochs=3):
    return {"class_ce": [ce] * epochs, "class_predicted": [predicted] * epochs, "class_true": [true] * epochs}


def test_alarm_on_one_predicted_class():
    collapse = find_collapse(history(0.8, [0, 20, 0], [7, 7, 6]), 3, 0)
    assert "class index 1 is 100% of the predictions" in collapse["reasons"][0] and collapse["epoch"] == 2


def test_alarm_at_chance():
    assert "chance" in find_collapse(history(1.09, [7, 7, 6], [7, 7, 6]), 3, 0)["reasons"][0]


def test_no_alarm_for_a_head_that_learns():
    assert find_collapse(history(0.8, [7, 7, 6], [7, 7, 6]), 3, 0) is None


def test_no_alarm_when_the_truth_is_one_class():
    assert find_collapse(history(0.1, [0, 20, 0], [1, 19, 0]), 3, 0) is None


def test_alarm_when_no_patch_can_be_classified():
    assert "no training patch" in find_collapse(history(math.nan, [0, 0, 0], [0, 0, 0]), 3, 0)["reasons"][0]


def test_no_judgement_on_few_patches_or_during_warm_up():
    assert find_collapse(history(1.1, [0, 9, 0], [3, 3, 3]), 3, 0) is None
    assert find_collapse(history(1.1, [0, 20, 0], [7, 7, 6]), 3, first_epoch=1) is None


def test_alarm_file_says_when_the_alarm_is_over(tmp_path):
    record_collapse(tmp_path, None)
    assert not list(tmp_path.iterdir())
    record_collapse(tmp_path, {"epoch": 4})
    record_collapse(tmp_path, None)
    assert json.loads((tmp_path / "class_alarm.json").read_text()) == {"active": False, "epoch": 4}


@pytest.mark.slow
def test_missing_class_among_training_cases_is_refused(make_trainer, plans, dataset_json):
    dataset_json["classification"]["classes"].append("rare")
    plans["configurations"]["3d_fullres"]["architecture"]["class_head"]["n_classes"] = 4
    with pytest.raises(ValueError, match="none of the 6 training cases has subtype rare"):
        make_trainer().initialize()


def test_class_head_with_regions_is_refused(make_trainer, dataset_json):
    dataset_json |= {"labels": {"background": 0, "whole": [1, 2], "lesion": 2}, "regions_class_order": [1, 2]}
    with pytest.raises(ValueError, match="overlapping regions"):
        make_trainer()


# ---- trainers, arguments ----


def test_custom_trainers_are_found_by_name():
    assert find_trainer("nnUNetTrainer") is nnUNetTrainer
    assert {"nnUNetTrainer_5epochs", "nnUNetTrainerNaiveClassHead", "nnUNetTrainerTextureKeeping"} <= available_trainers().keys()
    assert find_trainer("nnUNetTrainer_5epochs").__name__ == "nnUNetTrainer_5epochs"


def test_trainer_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_trainers.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\nclass Mine(nnUNetTrainer):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_trainer("my_trainers:Mine").__name__ == "Mine"
    with pytest.raises(ValueError, match="Other"):
        find_trainer("my_trainers:Other")


def test_a_trainer_that_a_command_names_by_its_path_is_found_by_the_name_in_its_checkpoints(tmp_path, monkeypatch):
    """Prediction asks it for the network."""
    (tmp_path / "trainers_of_a_command.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\nclass TrainerOfACommand(nnUNetTrainer):\n"
        "    @staticmethod\n    def build_network_architecture(plans_manager, *arguments):\n        pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    assert trainer_with_own_network("TrainerOfACommand") is None
    folder = model_folder(argparse.Namespace(d="Dataset001_A", c="2d", p="P", tr="trainers_of_a_command:TrainerOfACommand"))
    assert folder == str(tmp_path / "Dataset001_A" / "TrainerOfACommand__P__2d")
    assert trainer_with_own_network("TrainerOfACommand").__module__ == "trainers_of_a_command"


def test_unknown_trainer_names_the_known_ones():
    with pytest.raises(ValueError, match="no trainer 'nnUNetTrainerX'.*nnUNetTrainer_5epochs"):
        find_trainer("nnUNetTrainerX")


def test_variants_set_their_attributes(make_trainer):
    assert make_trainer(find_trainer("nnUNetTrainer_5epochs"), num_iterations_per_epoch=1, num_epochs=5).num_epochs == 5
    naive = make_trainer(find_trainer("nnUNetTrainerNaiveClassHead")).class_training
    assert (naive.optimiser, naive.lr, naive.encoder_gradient) == ("sgd", 0.01, 1.0)
    short = {name: make_trainer(find_trainer(f"nnUNetTrainerShort{name}")) for name in ("NaiveClassHead", "NoClassLoss", "ClassGradient", "ClassGradientNoTeacher")}
    assert all(isinstance(trainer, nnUNetTrainerShort) and trainer.predicts_as == "nnUNetTrainer" for trainer in short.values())
    naive, no_loss, gradient, no_teacher = (trainer.class_training for trainer in short.values())
    assert (naive.optimiser, naive.lr, naive.weight_decay, naive.encoder_gradient) == ("adamw", 1e-3, 1e-2, 1.0)
    assert no_loss == replace(ClassTraining(), loss_weight=0.0) and gradient == replace(ClassTraining(), encoder_gradient=0.1)
    assert no_teacher == replace(gradient, teacher_start=0.0, teacher_end=0.0)


def test_contradicting_arguments_are_listed_together(folders):
    with pytest.raises(ValueError, match="--c continues.*--val_best needs"):
        run_training("Dataset900_Tiny", "3d_fullres", 0, continue_training=True, only_run_validation=True, disable_checkpointing=True,
                     val_with_best=True, device=torch.device("cpu"))


def test_fold_must_be_a_number_or_all(folders):
    with pytest.raises(ValueError, match="fold 'first'"):
        run_training("Dataset900_Tiny", "3d_fullres", "first", device=torch.device("cpu"))


def test_missing_cases_are_listed(make_trainer):
    class HasOthers(nnUNetTrainer):
        def do_split(self):
            train, val = super().do_split()
            return [*train, "gone_1", "gone_2"], val

    trainer = make_trainer(HasOthers)
    trainer.class_task = None
    with pytest.raises(FileNotFoundError, match="lacks 2 cases of fold 0: gone_1, gone_2"):
        trainer.run_training()
