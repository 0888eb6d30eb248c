"""Upstream's trainers under upstream's names, each by what it changes."""

import math

import numpy as np
import pytest
import torch

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.loss.robust_ce_loss import TopKLoss
from nnunetv2.training.nnUNetTrainer.architecture import trainer_with_own_network
from nnunetv2.training.nnUNetTrainer.registry import available_trainers, find_trainer
from nnunetv2.training.nnUNetTrainer.training_state import name_for_predictions
from nnunetv2.utilities.errors import InputError

ONE_EPOCH = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
# nnU-Net 2.8.1's, but for those of Primus, which needs further packages
UPSTREAM = """nnUNetTrainerAdam nnUNetTrainerAdam1en3 nnUNetTrainerAdam3en4 nnUNetTrainerAdan nnUNetTrainerAdan1en1 nnUNetTrainerAdan1en3 nnUNetTrainerAdan3en4
nnUNetTrainerAdanCosAnneal nnUNetTrainerBN nnUNetTrainerBenchmark_5epochs nnUNetTrainerBenchmark_5epochs_noDataLoading nnUNetTrainerCELoss
nnUNetTrainerCELoss_5epochs nnUNetTrainerCosAnneal nnUNetTrainerDA5 nnUNetTrainerDA5Segord0 nnUNetTrainerDA5_10epochs nnUNetTrainerDA5ord0
nnUNetTrainerDiceCELoss_noSmooth nnUNetTrainerDiceLoss nnUNetTrainerDiceTopK10Loss nnUNetTrainerNoDA nnUNetTrainerNoDeepSupervision nnUNetTrainerNoMirroring
nnUNetTrainerTopk10Loss nnUNetTrainerTopk10LossLS01 nnUNetTrainerVanillaAdam nnUNetTrainerVanillaAdam1en3 nnUNetTrainerVanillaAdam3en4 nnUNetTrainer_100epochs
nnUNetTrainer_10epochs nnUNetTrainer_1epoch nnUNetTrainer_2000epochs nnUNetTrainer_2000epochs_NoMirroring nnUNetTrainer_20epochs nnUNetTrainer_250epochs
nnUNetTrainer_250epochs_NoMirroring nnUNetTrainer_4000epochs nnUNetTrainer_4000epochs_NoMirroring nnUNetTrainer_500epochs nnUNetTrainer_50epochs
nnUNetTrainer_5epochs nnUNetTrainer_750epochs nnUNetTrainer_8000epochs nnUNetTrainer_8000epochs_NoMirroring nnUNetTrainer_DASegOrd0
nnUNetTrainer_DASegOrd0_NoMirroring nnUNetTrainer_noDummy2DDA nnUNetTrainer_onlyMirror01 nnUNetTrainer_onlyMirror01_1500ep nnUNetTrainer_onlyMirror01_DA5
nnUNetTrainer_onlyMirror01_DASegOrd0 nnUNetTrainer_probabilisticOversampling nnUNetTrainer_probabilisticOversampling_010
nnUNetTrainer_probabilisticOversampling_033 nnUNetTrainer_warmup nnUNet_Trainer_BS8""".split()


@pytest.fixture
def made(folders, plans, dataset_json):
    """A trainer by name, as its class makes it."""
    def make(name):
        return find_trainer(name)(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))

    return make


def test_all_of_upstreams_are_there():
    assert set(UPSTREAM) <= set(available_trainers())


def test_checkpoints_name_trainers_that_upstream_has_too():
    """Upstream refuses to predict with others."""
    named = {name: name_for_predictions(find_trainer(name)) for name in available_trainers()}
    assert set(named.values()) <= {*UPSTREAM, "nnUNetTrainer"}
    assert named["nnUNetTrainerShort"] == named["nnUNetTrainerMuon"] == "nnUNetTrainer" and named["nnUNetTrainerBN"] == "nnUNetTrainerBN"


def test_a_trainer_of_ones_own_keeps_its_name_whatever_it_is_made_from():
    class Own(find_trainer("nnUNetTrainerShort")):
        pass

    assert name_for_predictions(Own) == "Own"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "epochs"), [(f"nnUNetTrainer_{n}epochs", n) for n in (5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)] + [
    ("nnUNetTrainer_1epoch", 1), ("nnUNetTrainer_onlyMirror01_1500ep", 1500), ("nnUNetTrainerDA5_10epochs", 10), ("nnUNetTrainerCELoss_5epochs", 5),
    ("nnUNetTrainerBenchmark_5epochs", 5), *((f"nnUNetTrainer_{n}epochs_NoMirroring", n) for n in (250, 2000, 4000, 8000))])
def test_lengths(made, name, epochs):
    assert made(name).num_epochs == epochs


@pytest.mark.parametrize(("name", "axes"), [
    ("nnUNetTrainer", (0, 1, 2)), ("nnUNetTrainerNoMirroring", None), ("nnUNetTrainer_250epochs_NoMirroring", None), ("nnUNetTrainer_DASegOrd0_NoMirroring", None),
    ("nnUNetTrainer_onlyMirror01", (0, 1)), ("nnUNetTrainer_onlyMirror01_DA5", (0, 1)), ("nnUNetTrainer_onlyMirror01_DASegOrd0", (0, 1)), ("nnUNetTrainerNoDA", None)])
def test_mirrored_axes_in_training_and_at_inference(made, name, axes):
    trainer = made(name)
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] == axes == trainer.inference_allowed_mirroring_axes


@pytest.mark.parametrize(("name", "seg", "image"), [("nnUNetTrainer", "bilinear", "bilinear"), ("nnUNetTrainer_DASegOrd0", "nearest", "bilinear"),
                                                    ("nnUNetTrainerDA5", "bilinear", "bilinear"), ("nnUNetTrainerDA5Segord0", "nearest", "bilinear"),
                                                    ("nnUNetTrainerDA5ord0", "nearest", "nearest"), ("nnUNetTrainer_onlyMirror01_DA5", "bilinear", "bilinear")])
def test_interpolation_in_augmentation(name, seg, image):
    steps = find_trainer(name).get_training_transforms((8, 8, 8), (-0.5, 0.5), None, (0, 1, 2), False).transforms
    assert (steps[0].mode_seg, steps[0].mode_image) == (seg, image)


def test_thick_slices_can_be_rotated_in_all_planes(plans, made):
    plans["configurations"]["3d_fullres"]["patch_size"] = [4, 16, 16]
    assert made("nnUNetTrainer").configure_rotation_dummyDA_mirroring_and_inital_patch_size()[1] is True
    rotation, dummy_2d, _, _ = made("nnUNetTrainer_noDummy2DDA").configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert dummy_2d is False and rotation[1] == pytest.approx(math.radians(30))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "rate"), [
    ("nnUNetTrainerAdam", "AdamW", 1e-2), ("nnUNetTrainerAdam1en3", "AdamW", 1e-3), ("nnUNetTrainerAdam3en4", "AdamW", 3e-4),
    ("nnUNetTrainerVanillaAdam", "Adam", 1e-2), ("nnUNetTrainerVanillaAdam1en3", "Adam", 1e-3), ("nnUNetTrainerVanillaAdam3en4", "Adam", 3e-4)])
def test_optimisers(made, name, kind, rate):
    trainer = made(name)
    trainer.initialize()
    assert type(trainer.optimizer).__name__ == kind and trainer.optimizer.param_groups[0]["lr"] == rate


def test_adan_says_which_package_it_needs(made):
    with pytest.raises(ModuleNotFoundError, match="pip install adan-pytorch"):
        made("nnUNetTrainerAdan").initialize()


@pytest.mark.slow
def test_cosine_schedule(made):
    trainer = made("nnUNetTrainerCosAnneal")
    trainer.initialize()
    rates = []
    for epoch in (0, 250, 500, 1000):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 1e-2 * (1 + 0.5**0.5) / 2, 5e-3, 0], abs=1e-12)


@pytest.mark.slow
def test_warm_up_rises_to_the_full_rate_and_then_falls(made):
    trainer = made("nnUNetTrainer_warmup")
    trainer.initialize()
    rates = []
    for epoch in (0, 24, 49, 50, 525, 999):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2 / 50, 1e-2 / 2, 1e-2, 1e-2, 1e-2 * 0.5**0.9, 1e-2 * (1 / 950) ** 0.9])


@pytest.mark.parametrize(("name", "inner"), [("nnUNetTrainerCELoss", "RobustCrossEntropyLoss"), ("nnUNetTrainerDiceLoss", "SoftDiceLoss"),
                                             ("nnUNetTrainerTopk10Loss", "TopKLoss"), ("nnUNetTrainerDiceTopK10Loss", "DC_and_topk_loss"),
                                             ("nnUNetTrainerDiceCELoss_noSmooth", "DC_and_CE_loss")])
def test_losses(made, name, inner):
    trainer = made(name)
    assert type(trainer._build_loss().loss).__name__ == inner
    if name.endswith("noSmooth"):
        assert trainer._build_loss().loss.dc.smooth == 0


def test_smoothed_labels(made):
    assert made("nnUNetTrainerTopk10LossLS01")._build_loss().loss.label_smoothing == 0.1


def test_top_k_is_the_mean_of_the_worst_voxels():
    logits = torch.zeros(1, 2, 20)
    logits[0, 1, :2] = torch.tensor([3.0, 1.0])  # two wrong voxels of twenty
    target = torch.zeros(1, 1, 20)
    assert TopKLoss(k=10)(logits, target).item() == pytest.approx((math.log(1 + math.exp(3)) + math.log(1 + math.exp(1))) / 2)


def test_losses_of_labels_refuse_regions(plans, dataset_json, made):
    del plans["configurations"]["3d_fullres"]["architecture"]["class_head"], dataset_json["classification"]
    dataset_json |= {"labels": {"background": 0, "whole": [1, 2], "lesion": 2}, "regions_class_order": [1, 2]}
    with pytest.raises(ValueError, match="nnUNetTrainerCELoss needs labels that exclude each other"):
        made("nnUNetTrainerCELoss")._build_loss()


FOR_REGIONS = ("nnUNetTrainer", "nnUNetTrainerDiceLoss", "nnUNetTrainerDiceCELoss_noSmooth")
FOR_LABELS = (*FOR_REGIONS, "nnUNetTrainerCELoss", "nnUNetTrainerTopk10Loss", "nnUNetTrainerDiceTopK10Loss")


@pytest.mark.parametrize(("name", "regions"), [*((name, False) for name in FOR_LABELS), *((name, True) for name in FOR_REGIONS)])
def test_ignored_voxels_change_no_loss(plans, dataset_json, made, name, regions):
    del dataset_json["classification"], plans["configurations"]["3d_fullres"]["architecture"]["class_head"]
    dataset_json |= {"labels": {"background": 0, "a": [1, 2] if regions else 1, "b": 2, "ignore": 3}, "regions_class_order": [1, 2]}
    trainer = made(name)
    trainer.enable_deep_supervision = False
    loss, target = trainer._build_loss(), torch.zeros(2, 1, 6, 6, 6)
    target[:, :, 2:4] = 1
    ignored = torch.zeros_like(target, dtype=torch.bool)
    ignored[:, :, 4:] = True
    given = torch.cat([target, target, ignored], dim=1) if regions else torch.where(ignored, 3, target)
    logits = torch.randn(2, 2 if regions else 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    here, elsewhere = (loss(torch.where(ignored, value, logits), given).item() for value in (-5.0, 5.0))
    assert math.isfinite(here) and here == pytest.approx(elsewhere)


def test_batch_normalisation_leaves_the_plans_as_they_are(made):
    trainer = made("nnUNetTrainerBN")
    trainer.initialize()
    kinds = {type(module).__name__ for module in trainer.network.modules()}
    assert "BatchNorm3d" in kinds and "InstanceNorm3d" not in kinds
    assert trainer.configuration_manager.network_arch_init_kwargs["norm_op"].endswith("InstanceNorm3d")


@pytest.mark.slow
def test_prediction_builds_the_network_of_the_trainer(make_trainer):
    trainer = make_trainer(find_trainer("nnUNetTrainerBN"), **ONE_EPOCH)
    trainer.run_training()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    image = np.random.default_rng(0).normal(size=(1, 14, 22, 20)).astype(np.float32)
    assert predictor.predict_single_npy_array(image, {"spacing": [2.0, 1.0, 1.0]}).shape == (14, 22, 20)


@pytest.mark.parametrize("name", ["os:system", "nnUNetTrainerOfNobody", "../x", "nnUNetTrainer", "nnUNetTrainer_5epochs"])
def test_a_trainers_name_in_a_checkpoint_imports_nothing_else(name):
    assert trainer_with_own_network(name) is None


@pytest.mark.parametrize(("name", "share"), [("nnUNetTrainer_probabilisticOversampling", 0.5), ("nnUNetTrainer_probabilisticOversampling_033", 0.33),
                                             ("nnUNetTrainer_probabilisticOversampling_010", 0.1)])
def test_probabilistic_oversampling(made, name, share):
    trainer = made(name)
    assert trainer.probabilistic_oversampling and trainer.oversample_foreground_percent == share


def test_batches_of_eight(made):
    trainer = made("nnUNet_Trainer_BS8")
    trainer.initialize()
    assert trainer.batch_size == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnUNetTrainerDA5", "nnUNetTrainerNoDeepSupervision", "nnUNetTrainerBenchmark_5epochs", "nnUNetTrainerBenchmark_5epochs_noDataLoading",
                                  "nnUNetTrainerNoDA", "nnUNetTrainerCosAnneal"])
def test_they_train(make_trainer, name):
    trainer = make_trainer(find_trainer(name), **ONE_EPOCH)
    trainer.run_training()
    assert math.isfinite(trainer.logger.get_value("train_losses", -1))


def test_a_trainer_in_a_folder_of_ones_own_is_found(tmp_path, monkeypatch):
    (tmp_path / "trainers_of_this_test.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\nclass nnUNetTrainerOfThisTest(nnUNetTrainer):\n    pass\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert find_trainer("nnUNetTrainerOfThisTest").__name__ == "nnUNetTrainerOfThisTest"


def test_a_folder_of_trainers_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/no/such/folder")
    with pytest.raises(InputError, match="/no/such/folder, which is not a folder"):
        find_trainer("nnUNetTrainerOfAnotherTest")


@pytest.mark.slow
def test_short_training_sets_a_rate_in_every_step(folders, make_trainer):
    from nnunetv2.training.nnUNetTrainer.variants.short_training import nnUNetTrainerShort, rate_at

    rates = []

    class Watched(nnUNetTrainerShort):
        def train_step(self, batch):
            outcome = super().train_step(batch)
            rates.append(self.optimizer.param_groups[0]["lr"])
            return outcome

    trainer = make_trainer(Watched, num_epochs=2, num_iterations_per_epoch=3, num_val_iterations_per_epoch=1)
    trainer.run_training()
    assert isinstance(trainer.optimizer, torch.optim.AdamW) and trainer.optimizer.param_groups[0]["weight_decay"] == 1e-2
    # a sixth of the way: past the warm-up of 5 %, on half a cosine that falls to 1 %
    assert rates == pytest.approx([1e-3 * rate_at(step / 6) for step in range(6)])
    assert rate_at(0) == 0.01 and rate_at(0.025) == 0.5 and rate_at(0.05) == 1 and rate_at(0.525) == pytest.approx(0.505) and rate_at(1) == pytest.approx(0.01)
