"""Networks that are no U-Net of ours: a trainer builds them, trains them, validates with them, and prediction builds them anew."""

import numpy as np
import pytest
import torch
from torch import nn

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.class_head_refit import REPORT_FILE
from nnunetv2.training.nnUNetTrainer import registry, validation
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.run_training import run_training
from nnunetv2.utilities.files import load_json

PATCH = (8, 16, 16)
ONE_EPOCH = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}


class OnePatchNetwork(nn.Module):
    """Takes one size, as networks with a table of positions do; a value of it is in no checkpoint, and it is read while it is built."""

    def __init__(self, channels: int, outputs: int, resolutions: int):
        super().__init__()
        self.layer, self.places = nn.Conv3d(channels, outputs, 1), nn.Parameter(torch.zeros(1, 1, *PATCH), requires_grad=False)
        self.register_buffer("factor", torch.tensor(2.0), persistent=False)
        self.resolutions, self.size = resolutions, int(torch.tensor(PATCH).sum())

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        finest = self.layer(x + self.places) * self.factor
        return [finest[:, :, :: 2**i, :: 2**i, :: 2**i] for i in range(self.resolutions)] if self.resolutions > 1 else finest


class OwnNetworkTrainer(nnUNetTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.enable_deep_supervision = False

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True):
        return OnePatchNetwork(num_input_channels, num_output_channels, 2 if enable_deep_supervision else 1)


class DeeplySupervisedTrainer(OwnNetworkTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.enable_deep_supervision = True

    def _get_deep_supervision_scales(self):
        return [[1.0] * 3, [0.5] * 3]


@pytest.fixture
def trained(plans, dataset_json, make_trainer, monkeypatch):
    """Factory: a model folder of one epoch with the given trainer, and its trainer."""
    del plans["configurations"]["3d_fullres"]["architecture"]["class_head"], dataset_json["classification"]
    known = {trainer.__name__: trainer for trainer in (OwnNetworkTrainer, DeeplySupervisedTrainer)}
    monkeypatch.setattr(registry, "available_trainers", lambda: known)

    def train(kind: type[nnUNetTrainer]) -> nnUNetTrainer:
        trainer = make_trainer(kind, **ONE_EPOCH)
        trainer.run_training()
        return trainer

    return train


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OwnNetworkTrainer, DeeplySupervisedTrainer])
def test_the_fast_mode_shows_a_network_of_one_size_its_patches(trained, kind):
    trainer = trained(kind)
    predictor = nnUNetPredictor(device=torch.device("cpu"), engine="torch", allow_tqdm=False, mode="fast", roi="none")
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    assert isinstance(predictor.network, OnePatchNetwork) and predictor.network.resolutions == 1
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 10, 22, 20)).astype(np.float32))
    logits = predictor.predict_logits_from_preprocessed_data(data)
    with torch.no_grad():
        expected = predictor.network.layer(data) * 2  # without places every voxel is on its own, whatever the windows
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))  # at the rim windows weigh so little that half precision shows
    torch.testing.assert_close(logits.float()[inner], expected[inner], atol=0.05, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OwnNetworkTrainer, DeeplySupervisedTrainer])
def test_whole_cases_are_validated_with_it(trained, kind, folders):
    trainer = trained(kind)
    trainer.perform_actual_validation()
    assert sorted(path.name for path in folders.rglob("validation/*.nii.gz")) == ["case_6.nii.gz", "case_7.nii.gz"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wish"), [(OwnNetworkTrainer, "torch"), (nnUNetTrainer, "auto")])
def test_whole_cases_are_validated_by_the_engine_that_predicts_but_for_a_network_of_ones_own(trained, monkeypatch, kind, wish):
    def seen(predictor, *_):
        wishes.append(predictor.engine_wish or "torch")
        return {"foreground_mean": {"Dice": 0.0}, "mean": {}}

    wishes = []
    monkeypatch.setattr(validation, "validate_cases", seen)
    trained(kind).perform_actual_validation()
    assert wishes == [wish]


def test_a_trainer_that_is_not_found_is_named(trained, monkeypatch):
    trainer = trained(OwnNetworkTrainer)
    for function in ("available_trainers", "_imported_trainer"):
        monkeypatch.setattr(registry, function, lambda *_: {})
    predictor = nnUNetPredictor(device=torch.device("cpu"), engine="torch", allow_tqdm=False)
    with pytest.raises(ValueError, match="trainer OwnNetworkTrainer builds its own network"):
        predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))


class ClassifyingNetwork(nn.Module):
    def __init__(self, channels: int, outputs: int, classes: int):
        super().__init__()
        self.layer, self.segmentation, self.class_head = nn.Conv3d(channels, 4, 3, padding=1), nn.Conv3d(4, outputs, 1), nn.Linear(4, classes)

    def forward(self, x, teacher=None, teacher_weight=0.0):
        features = self.layer(x)
        return self.segmentation(features), self.class_head(features.mean((2, 3, 4)))


class ClassifyingTrainer(OwnNetworkTrainer):
    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True):
        return ClassifyingNetwork(num_input_channels, num_output_channels, configuration_manager.class_head["n_classes"])


@pytest.mark.slow
def test_a_class_head_of_ones_own_stays_as_it_was_trained(folders, monkeypatch):
    monkeypatch.setattr(registry, "available_trainers", lambda: {"ClassifyingTrainer": ClassifyingTrainer})
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.trainer_data.augmentation_workers", lambda device: 0)
    with pytest.warns(UserWarning, match=r"checkpoint_final.pth: ClassifyingNetwork has no ClassHead .* stays as it was trained"):
        run_training("900", "3d_fullres", 0, "ClassifyingTrainer", device=torch.device("cpu"), epochs=1, iterations=1, val_iterations=1)
    fold = next(folders.rglob("fold_0"))
    assert "ClassHead" in load_json(fold / REPORT_FILE)["not_refitted"]
    assert len((fold / "validation" / "subtype_results.csv").read_text().splitlines()) == 3
