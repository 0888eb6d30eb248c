"""The picture of the worst validation patch: which patch, which slice, and trainings of all kinds that draw it."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.pseudo_dice import counts_by_patch
from nnunetv2.training.nnUNetTrainer.worst_patch import Patch, WorstPatch, dice_of_patches, draw_patch, most_wrong_slice
from nnunetv2.utilities.label_handling.label_handling import LabelManager

LABELS = LabelManager({"background": 0, "organ": 1}, None)
ONE_EPOCH = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "picture_every": 10}


def offer(worst, truth, prediction, labels=LABELS, cases=()):
    """truth, prediction (B, W) labels: patches of one row; the image is 10 times the truth."""
    truth, prediction = torch.tensor(truth)[:, None, None], torch.tensor(prediction)[:, None]
    logits = torch.stack([(prediction == label).float() for label in (0, 1)], 1)
    worst.offer(10.0 * truth, logits, truth, counts_by_patch(logits, truth, labels), labels, cases)


def test_it_is_the_patch_with_the_lowest_dice_that_holds_foreground():
    worst = WorstPatch()
    offer(worst, [[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 1, 1]], cases=["a", "b"])  # 2/3; no foreground
    offer(worst, [[1, 0, 0, 0], [1, 1, 1, 0]], [[1, 1, 1, 0], [1, 1, 1, 0]], cases=["c", "d"])  # 2/4; 1
    offer(worst, [[1, 0, 1, 0]], [[1, 0, 0, 1]], cases=["e"])  # 2/4 again, later
    patch = worst.take()
    assert (patch.case, patch.dice) == ("c", 0.5)
    assert patch.truth.tolist() == [[1, 0, 0, 0]] and patch.prediction.tolist() == [[1, 1, 1, 0]] and patch.image.tolist() == [[10, 0, 0, 0]]
    assert worst.take() is None


def test_without_foreground_there_is_no_worst_patch():
    worst = WorstPatch()
    offer(worst, [[0, 0]], [[1, 1]])
    assert worst.take() is None


def test_dice_of_a_patch_is_the_mean_over_labels_that_are_there_or_predicted():
    counts = torch.tensor([[[2, 0, 0]], [[0, 1, 0]], [[2, 0, 0]]])  # label 1: 4/6, label 2: predicted in vain, label 3: neither
    assert dice_of_patches(counts).tolist() == pytest.approx([(4 / 6 + 0) / 2])


def test_ignored_voxels_are_neither_truth_nor_prediction():
    worst = WorstPatch()
    offer(worst, [[1, 2, 2, 0]], [[1, 1, 0, 0]], LabelManager({"background": 0, "organ": 1, "ignore": 2}, None))
    patch = worst.take()
    assert patch.dice == 1 and patch.truth.tolist() == patch.prediction.tolist() == [[1, 0, 0, 0]]


def test_of_regions_the_inner_one_is_drawn_over_the_outer():
    labels = LabelManager({"background": 0, "whole": (1, 2), "core": 2}, (1, 2))
    target = torch.tensor([[[[1, 1, 0]], [[0, 1, 0]]]])  # (1, 2 regions, 1, 3)
    logits = torch.tensor([[[[5.0, 5.0, 5.0]], [[-5.0, -5.0, -5.0]]]])
    worst = WorstPatch()
    worst.offer(torch.zeros(1, 1, 1, 3), logits, target, counts_by_patch(logits, target, labels), labels)
    patch = worst.take()
    assert patch.truth.tolist() == [[1, 2, 0]] and patch.prediction.tolist() == [[1, 1, 1]] and patch.dice == pytest.approx((4 / 5 + 0) / 2)


def test_the_slice_is_that_with_most_errors_then_with_most_foreground():
    truth = np.array([[[0, 0, 0]], [[1, 0, 0]], [[1, 1, 0]]])
    assert most_wrong_slice(truth, truth) == 2
    assert most_wrong_slice(truth, np.array([[[0, 0, 0]], [[0, 1, 0]], [[1, 0, 0]]])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8)])
def test_the_file_holds_the_picture_that_is_returned(tmp_path, shape):
    truth = np.zeros(shape, dtype=int)
    truth[..., 2:5] = 1
    picture = draw_patch(Patch(np.zeros(shape), truth, 1 - truth, 0.0, "case_7"), 9, tmp_path / "worst_patch.png")
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and len(np.unique(picture)) > 10
    np.testing.assert_array_equal(np.round(matplotlib.image.imread(tmp_path / "worst_patch.png")[..., :3] * 255), picture)
    assert [file.name for file in tmp_path.iterdir()] == ["worst_patch.png"]


def drawn(trainer, monkeypatch):
    """Epochs of which a picture was drawn, of `trainer`'s training."""
    epochs = []
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.draw_patch", lambda patch, epoch, path: epochs.append(epoch))
    trainer.run_training()
    return epochs


@pytest.mark.slow
def test_pictures_are_of_every_nth_epoch_and_the_last(make_trainer, monkeypatch):
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.PLOT_INTERVAL", -1.0)
    assert drawn(make_trainer(**ONE_EPOCH | {"num_epochs": 5, "picture_every": 2}), monkeypatch) == [1, 3, 4]


@pytest.mark.slow
def test_short_epochs_have_a_picture_of_the_last_alone(make_trainer, monkeypatch):
    assert drawn(make_trainer(**ONE_EPOCH | {"num_epochs": 3, "picture_every": 1}), monkeypatch) == [2]


@pytest.mark.slow
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_a_training_with_a_class_head_leaves_the_picture(make_trainer, deep_supervision):
    trainer = make_trainer(**ONE_EPOCH, enable_deep_supervision=deep_supervision, oversample_foreground_percent=1.0)
    trainer.run_training()
    assert Path(trainer.output_folder, "worst_patch.png").is_file()


@pytest.mark.slow
def test_a_training_with_regions_leaves_the_picture(make_trainer, plans, dataset_json):
    del plans["configurations"]["3d_fullres"]["architecture"]["class_head"], dataset_json["classification"]
    dataset_json |= {"labels": {"background": 0, "whole": [1, 2], "lesion": [2]}, "regions_class_order": [1, 2]}
    trainer = make_trainer(**ONE_EPOCH, oversample_foreground_percent=1.0)
    trainer.run_training()
    assert Path(trainer.output_folder, "worst_patch.png").is_file()


@pytest.mark.slow
def test_a_validation_step_of_ones_own_has_no_picture(make_trainer):
    class Own(nnUNetTrainer):
        def validation_step(self, batch):
            return {"loss": np.float32(1.0), "tp_hard": np.array([1, 2]), "fp_hard": np.array([0, 1]), "fn_hard": np.array([1, 0])}

    trainer = make_trainer(Own, **ONE_EPOCH)
    trainer.run_training()
    assert not Path(trainer.output_folder, "worst_patch.png").exists()


@pytest.mark.slow
def test_what_cannot_be_drawn_warns_once_and_the_training_goes_on(make_trainer, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("no such shape")

    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.worst_patch.label_maps", broken)
    trainer = make_trainer(**ONE_EPOCH | {"num_epochs": 3})
    trainer.run_training()
    assert trainer.current_epoch == 3 and capsys.readouterr().out.count("cannot be drawn (RuntimeError: no such shape)") == 1
