"""Custom trainers as people write them against nnU-Net: every hook is called, at its moment, and what it returns is used."""

import multiprocessing
import time
import warnings
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from torch import nn

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy, infer_dataset_class
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.class_training import classes_of_batch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.training_state import training_state
from nnunetv2.training.run_training import TrainingJob, _trained
from nnunetv2.utilities.collate_outputs import collate_outputs
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

ONE_EPOCH = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
HOOKS = ("initialize", "build_network_architecture", "configure_optimizers", "_build_loss", "_set_batch_size_and_oversample", "_get_deep_supervision_scales",
         "get_dataloaders", "configure_rotation_dummyDA_mirroring_and_inital_patch_size", "get_training_transforms", "get_validation_transforms",
         "get_tr_and_val_datasets", "do_split", "on_train_start", "on_train_end", "on_epoch_start", "on_epoch_end", "on_train_epoch_start", "on_train_epoch_end",
         "train_step", "on_validation_epoch_start", "validation_step", "on_validation_epoch_end", "print_to_log_file", "print_plans", "save_checkpoint",
         "set_deep_supervision_enabled")


@pytest.fixture
def plain(plans, dataset_json):
    """The dataset without its class task: nnU-Net as it is."""
    del plans["configurations"]["3d_fullres"]["architecture"]["class_head"], dataset_json["classification"]


@pytest.mark.slow
@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_called(plain, make_trainer, hook):
    called = []
    original = getattr(nnUNetTrainer, hook)
    static = isinstance(vars(nnUNetTrainer).get(hook) or vars(nnUNetTrainer.__mro__[1]).get(hook), staticmethod)

    @wraps(original)
    def watched(*args, **kwargs):
        called.append(hook)
        return original(*args, **kwargs)

    class Custom(nnUNetTrainer):
        pass

    setattr(Custom, hook, staticmethod(watched) if static else watched)
    make_trainer(Custom, **ONE_EPOCH).run_training()
    assert called


@pytest.mark.slow
def test_hooks_of_an_epoch_come_in_nnunets_order(plain, make_trainer):
    order = []
    names = ("on_train_start", "on_epoch_start", "on_train_epoch_start", "train_step", "on_train_epoch_end", "on_validation_epoch_start",
             "validation_step", "on_validation_epoch_end", "on_epoch_end", "on_train_end")

    class Custom(nnUNetTrainer):
        pass

    for name in names:
        def watched(self, *args, _name=name, **kwargs):
            order.append(_name)
            return getattr(nnUNetTrainer, _name)(self, *args, **kwargs)

        setattr(Custom, name, watched)
    make_trainer(Custom, **ONE_EPOCH).run_training()
    assert tuple(order) == names


@pytest.mark.slow
def test_a_split_of_ones_own_decides_what_is_trained_on_and_validated(plain, make_trainer):
    class OwnSplit(nnUNetTrainer):
        def do_split(self):
            return ["case_6", "case_7"], ["case_0"]

        def train_step(self, batch):
            assert set(batch["keys"]) <= {"case_6", "case_7"}
            return super().train_step(batch)

    trainer = make_trainer(OwnSplit, **ONE_EPOCH)
    trainer.run_training()
    trainer.perform_actual_validation()
    assert [path.name for path in (Path(trainer.output_folder) / "validation").glob("*.nii.gz")] == ["case_0.nii.gz"]


def test_a_trainer_without_mirroring_does_not_mirror_and_says_so_to_inference(plain, make_trainer):
    class OnlyFirstAxis(nnUNetTrainer):
        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
            rotation, dummy_2d, size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            self.inference_allowed_mirroring_axes = (0,)
            return rotation, dummy_2d, size, (0,)

    trainer = make_trainer(OnlyFirstAxis, **ONE_EPOCH)
    trainer.run_training()
    mirror = [step for step in trainer.dataloader_train.batches.augmentation.rest.transforms if type(step).__name__ == "MirrorTransform"]
    assert [tuple(step.allowed_axes) for step in mirror] == [(0,)] and trainer.inference_allowed_mirroring_axes == (0,)


def test_train_step_and_loss_of_ones_own(plain, make_trainer):
    class Own(nnUNetTrainer):
        def _build_loss(self):
            return nn.MSELoss()

        def train_step(self, batch):
            self.optimizer.zero_grad()
            output = self.network(batch["data"])
            output = output[0] if isinstance(output, (tuple, list)) else output
            output = output[0] if isinstance(output, (tuple, list)) else output
            loss = self.loss(output, torch.ones_like(output))
            loss.backward()
            self.optimizer.step()
            return {"loss": loss.detach().cpu().numpy()}

        def validation_step(self, batch):
            return {"loss": np.float32(1.0), "tp_hard": np.array([1, 2]), "fp_hard": np.array([0, 1]), "fn_hard": np.array([1, 0])}

    trainer = make_trainer(Own, **ONE_EPOCH)
    trainer.run_training()
    assert trainer.logger.get_value("dice_per_class_or_region", -1) == pytest.approx([2 / 3, 4 / 5])


class LoadersOfOnesOwn(nnUNetTrainer):
    def get_dataloaders(self):
        _, _, size, _ = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch = self.configuration_manager.patch_size
        transforms = self.get_validation_transforms(self._get_deep_supervision_scales())
        return tuple(SingleThreadedAugmenter(nnUNetDataLoader(dataset, self.batch_size, patch, patch, self.label_manager, 0.33, transforms=transforms), None)
                     for dataset in self.get_tr_and_val_datasets())


def test_loaders_of_ones_own(plain, make_trainer):
    trainer = make_trainer(LoadersOfOnesOwn, **ONE_EPOCH)
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value("train_losses", -1))


def test_with_loaders_of_ones_own_the_class_is_that_of_the_case(make_trainer):
    trainer = make_trainer(LoadersOfOnesOwn, **ONE_EPOCH | {"num_iterations_per_epoch": 4})
    trainer.run_training()
    assert sum(trainer.logger.get_value("class_true", -1)) > 0 and np.isfinite(trainer.logger.get_value("train_losses", -1))


def test_classes_of_a_batch_without_any_come_from_its_cases_and_its_target():
    target = torch.zeros(3, 1, 4, 4, 4, dtype=torch.int16)
    target[:2, :, :3, :3, :3] = 2
    for batch in ({"target": [target, target[..., ::2]], "keys": np.array(["a", "b", "c"])}, {"target": target, "keys": ["a", "b", "c"]}):
        classes, has_lesion = classes_of_batch(batch, {"a": 1, "c": 0}, (2,))
        assert classes.tolist() == [1, -1, 0] and has_lesion.tolist() == [True, True, False]


def test_a_step_that_forgets_the_class_is_told_how_to_take_the_output_apart(make_trainer):
    class StepOfNnUNet(nnUNetTrainer):
        def train_step(self, batch):
            return {"loss": self.loss(self.network(batch["data"]), batch["target"])}

    with pytest.raises(TypeError, match=r"seg_logits, class_logits = seg_and_class\(self.network\(data\)\)"):
        make_trainer(StepOfNnUNet, **ONE_EPOCH).run_training()


def test_a_loss_of_ones_own_may_take_segmentation_and_class(make_trainer):
    class Both(nn.Module):
        def forward(self, output, target):
            seg_logits, class_logits = output
            return seg_logits[0].square().mean() + class_logits.square().mean()

    class OwnLoss(nnUNetTrainer):
        def _build_loss(self):
            return Both()

        def train_step(self, batch):
            loss = self.loss(self.network(batch["data"]), batch["target"])
            return {"loss": loss.item()}

        def validation_step(self, batch):
            return {"loss": self.loss(self.network(batch["data"]), batch["target"]).item(), "tp_hard": np.ones(2), "fp_hard": np.ones(2), "fn_hard": np.ones(2)}

    make_trainer(OwnLoss, **ONE_EPOCH).run_training()


def test_output_folder_and_log_file_can_be_set(plain, make_trainer, tmp_path):
    class Elsewhere(nnUNetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.output_folder = str(tmp_path / "elsewhere")

    make_trainer(Elsewhere, **ONE_EPOCH).run_training()
    names = {path.name for path in (tmp_path / "elsewhere").iterdir()}
    assert "checkpoint_final.pth" in names and any(name.startswith("training_log_") for name in names)


def test_values_of_ones_own_can_be_logged(plain, make_trainer):
    class Logs(nnUNetTrainer):
        def on_train_epoch_end(self, outputs):
            super().on_train_epoch_end(outputs)
            self.logger.log("my_value", 3.5, self.current_epoch)
            self.print_to_log_file("my line", also_print_to_console=False)

    trainer = make_trainer(Logs, **ONE_EPOCH)
    trainer.run_training()
    assert trainer.logger.my_fantastic_logging["my_value"] == [3.5] and "my line" in Path(trainer.log_file).read_text()


class OldSignature(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import, num_input_channels, num_output_channels,
                                   enable_deep_supervision=True):
        return get_network_from_plans(architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import, num_input_channels, num_output_channels,
                                      deep_supervision=enable_deep_supervision)


def test_the_old_signature_of_build_network_architecture_is_served(plain, make_trainer):
    trainer = make_trainer(OldSignature, **ONE_EPOCH)
    with pytest.warns(DeprecationWarning, match="outdated signature"):
        trainer.run_training()


def test_a_network_without_the_class_head_that_the_plans_ask_for_is_refused(make_trainer):
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="OldSignature builds a network without one"):
        make_trainer(OldSignature).initialize()


@pytest.mark.parametrize("hook", ["get_plain_dataloaders", "_on_epoch_end", "_run_epoch"])
def test_a_hook_that_is_never_called_is_refused_when_the_class_is_defined(hook):
    with pytest.raises(TypeError, match=f"Mine overrides what is never called: {hook}"):
        type("Mine", (nnUNetTrainer,), {hook: lambda self: None})


def test_an_optimiser_that_takes_the_class_head_along_is_the_only_one(make_trainer):
    class One(nnUNetTrainer):
        def configure_optimizers(self):
            optimizer, schedule = super().configure_optimizers()
            optimizer.add_param_group({"params": list(self.module.class_head.parameters())})
            return optimizer, schedule

    trainer = make_trainer(One, **ONE_EPOCH)
    before = None
    trainer.initialize()
    before = trainer.module.class_head.classifier.weight.detach().clone()
    trainer.run_training()
    assert trainer.class_optimizer is None and not torch.equal(before, trainer.module.class_head.classifier.weight)


def test_datasets_are_told_by_their_files(tmp_path):
    assert infer_dataset_class(tmp_path) is nnUNetDatasetBlosc2
    nnUNetDatasetNumpy.save_case(np.ones((1, 2, 3, 4), np.float32), np.zeros((1, 2, 3, 4), np.int16), {"spacing": [1, 1, 1]}, str(tmp_path / "a"))
    assert infer_dataset_class(tmp_path) is nnUNetDatasetNumpy
    data, seg, previous, properties = nnUNetDatasetNumpy(tmp_path)["a"]
    assert data.shape == seg.shape == (1, 2, 3, 4) and previous is None and properties == {"spacing": [1, 1, 1]}
    nnUNetDatasetNumpy.unpack_dataset(tmp_path)
    assert isinstance(nnUNetDatasetNumpy(tmp_path)["a"][0], np.memmap)
    (tmp_path / "b.b2nd").touch()
    with pytest.raises(ValueError, match="two kinds"):
        infer_dataset_class(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("values", [np.float32(0.5), np.array([1.0, 2.0], np.float32), torch.tensor(3.0), {"a": [np.int64(1)]}])
def test_what_numpy_and_torch_compute_can_be_logged(plain, make_trainer, values):
    class Logs(nnUNetTrainer):
        def on_train_epoch_end(self, outputs):
            self.logger.log("train_losses", np.mean([output["loss"].numpy() for output in outputs]), self.current_epoch)  # np.float32
            self.logger.log("mine", values, self.current_epoch)

    trainer = make_trainer(Logs, **ONE_EPOCH)
    trainer.run_training()
    assert load_json(Path(trainer.output_folder) / "progress.json")["mine"] == trainer.logger.get_value("mine", None)


@pytest.mark.slow
@pytest.mark.parametrize("end, lists", [("on_train_epoch_end", "train_losses"), ("on_validation_epoch_end", "val_losses")])
def test_an_epochs_end_that_collates_what_this_packages_steps_return(plain, make_trainer, end, lists):
    def collating(self, outputs):
        found = collate_outputs(outputs)
        self.logger.log(lists, np.mean(found["loss"]), self.current_epoch)
        if end == "on_validation_epoch_end":
            self.logger.log("dice_per_class_or_region", np.sum(found["tp_hard"], 0), self.current_epoch)
            self.logger.log("mean_fg_dice", 0.5, self.current_epoch)

    trainer = make_trainer(type("Collates", (nnUNetTrainer,), {end: collating}), **ONE_EPOCH)
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value(lists, -1))


def _initialize(self):
    """As trainers of other authors have it, who build everything themselves and know nothing of this package."""
    self._set_batch_size_and_oversample()
    self.num_input_channels = 1
    self.network = self.build_network_architecture(self.plans_manager, self.configuration_manager, 1, self.label_manager.num_segmentation_heads, True)
    self.optimizer, self.lr_scheduler = self.configure_optimizers()
    self.loss = self._build_loss()
    self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
    self.was_initialized = True


def _on_epoch_start(self):
    self.logger.log("epoch_start_timestamps", 0.0, self.current_epoch)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("hooks", [{"initialize": _initialize}, {"on_epoch_start": _on_epoch_start}])
def test_hooks_that_replace_this_packages_and_do_not_call_them_train_and_go_on(make_trainer, plans, dataset_json, hooks, classes):
    if not classes:
        del plans["configurations"]["3d_fullres"]["architecture"]["class_head"], dataset_json["classification"]
    kind = type("Replaces", (nnUNetTrainer,), hooks)
    trainer = make_trainer(kind, **ONE_EPOCH, ema_decay=0.5)
    trainer.run_training()
    again = make_trainer(kind, **ONE_EPOCH, ema_decay=0.5)
    again.load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")
    assert (trainer.class_optimizer is not None) == (again.class_optimizer is not None) == classes and again.average is not None


@pytest.mark.slow
def test_an_on_epoch_start_of_ones_own_leaves_dropout_as_repeatable_as_before(make_trainer):
    trainers = [make_trainer(type("Replaces", (nnUNetTrainer,), {"on_epoch_start": _on_epoch_start}), **ONE_EPOCH) for _ in range(2)]
    for number, trainer in enumerate(trainers):
        torch.manual_seed(number)
        trainer.run_training()
    assert trainers[0].logger.get_value("train_losses", -1) == trainers[1].logger.get_value("train_losses", -1)


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["plot_network_architecture", "_save_debug_information"])
def test_what_nnunet_calls_when_a_training_starts_is_called(plain, make_trainer, hook):
    called = []
    make_trainer(type("Mine", (nnUNetTrainer,), {hook: lambda self: called.append(hook)}), **ONE_EPOCH).run_training()
    assert called == [hook]


@pytest.mark.slow
def test_a_compiled_network_is_saved_under_its_own_names(plain, make_trainer):
    class Compiled(nnUNetTrainer):
        def initialize(self):
            super().initialize()
            self.network = torch.compile(self.network, backend="eager")

    trainer = make_trainer(Compiled)
    trainer.initialize()
    assert not any(name.startswith("_orig_mod.") for name in training_state(trainer)["network_weights"])


def test_a_gradient_scaler_is_there_with_the_device_and_may_be_switched_off(plain, make_trainer):
    class Off(nnUNetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.grad_scaler = None

    off, plain_one = make_trainer(Off), make_trainer()
    off.initialize()
    off.device = plain_one.device = torch.device("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, where there is no GPU
        assert off.grad_scaler is None and isinstance(plain_one.grad_scaler, torch.amp.GradScaler)


def test_a_trainer_with_its_arguments_in_another_order_gets_each_by_its_name(folders, monkeypatch):
    class OtherOrder(nnUNetTrainer):
        def __init__(self, plans, configuration, fold, dataset_json, unpack_dataset=True, device=torch.device("cuda")):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.unpack = unpack_dataset

    monkeypatch.setattr("nnunetv2.training.run_training.find_trainer", lambda name: OtherOrder)
    trainer = TrainingJob("Dataset900_Tiny", "3d_fullres", 0, "OtherOrder", "nnUNetPlans").make_trainer(torch.device("cpu"))
    assert trainer.device.type == "cpu" and trainer.unpack is True


class Notes(nnUNetTrainer):
    """Notes a time when it is made, under a name that is given, and something when its training starts."""

    name = "started"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        setattr(self, self.name, time.monotonic_ns())

    def on_train_start(self):
        self.best_so_far = 0.5
        super().on_train_start()


@pytest.mark.slow
def test_what_a_trainer_notes_under_an_underscore_or_in_its_training_hinders_no_continuation(plain, make_trainer, monkeypatch):
    trainer = make_trainer(Notes, **ONE_EPOCH)
    trainer.run_training()
    checkpoint = Path(trainer.output_folder) / "checkpoint_final.pth"
    with pytest.raises(InputError, match="started was .*\n.*Notes notes .* begins with an underscore"):
        make_trainer(Notes, **ONE_EPOCH).load_checkpoint(checkpoint)
    monkeypatch.setattr(Notes, "name", "_started")
    make_trainer(Notes, **ONE_EPOCH).load_checkpoint(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("twice", [False, True])
def test_processes_of_batchgenerators_end_with_the_training(plain, make_trainer, twice):
    class LoadersOfAFork(nnUNetTrainer):
        def get_dataloaders(self):
            patch, transforms = self.configuration_manager.patch_size, self.get_validation_transforms(self._get_deep_supervision_scales())
            return tuple(NonDetMultiThreadedAugmenter(nnUNetDataLoader(dataset, 2, patch, patch, self.label_manager, transforms=transforms), None, 1, 1)
                         for dataset in self.get_tr_and_val_datasets())

        def on_train_end(self):
            super().on_train_end()
            for loader in (self.dataloader_train, self.dataloader_val) if twice else ():
                loader._finish()  # as nnU-Net does

    trainer = make_trainer(LoadersOfAFork, **ONE_EPOCH)  # kept: one that is thrown away takes its processes along
    trainer.run_training()
    assert not multiprocessing.active_children()


def _on_train_start(self):
    """As trainers of other authors have it."""
    if not self.was_initialized:
        self.initialize()
    self.dataloader_train, self.dataloader_val = self.get_dataloaders()
    self.set_deep_supervision_enabled(self.enable_deep_supervision)
    Path(self.output_folder).mkdir(parents=True, exist_ok=True)


@pytest.mark.slow
def test_an_on_train_start_of_ones_own_leaves_the_rhythm_of_checkpoints(plain, make_trainer):
    trainer = make_trainer(type("Starts", (nnUNetTrainer,), {"on_train_start": _on_train_start}), **ONE_EPOCH)
    trainer.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()


def test_the_rhythm_of_checkpoints_is_a_number_before_a_training(plain, make_trainer):
    trainer = make_trainer(num_epochs=100)
    assert trainer.save_every == 5
    trainer.num_epochs = 1000
    assert trainer.save_every == 10
    trainer.save_every = 50
    assert trainer.save_every == 50


def test_a_loader_tells_how_far_boxes_may_reach_over_the_border(plain, folders, plans, dataset_json):
    labels = nnUNetTrainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu")).label_manager
    cases = nnUNetDatasetBlosc2(nnUNetTrainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu")).preprocessed_dataset_folder)
    loader = nnUNetDataLoader(cases, 2, (10, 20, 20), (8, 16, 16), labels, pad_sides=(1, 0, 0), sampling_probabilities=None)
    assert loader.need_to_pad.tolist() == [3, 4, 4] and loader.sampling_probabilities is None and loader.num_channels is None
    flat = nnUNetDataLoader(cases, 2, (20, 20), (16, 16), labels, pad_sides=(0, 1))
    assert flat.need_to_pad.tolist() == [0, 4, 5]


def test_a_case_is_saved_with_upstreams_arguments_in_their_order(tmp_path):
    image, labels = np.ones((1, 2, 3, 4), np.float32), np.zeros((1, 2, 3, 4), np.int16)
    nnUNetDatasetBlosc2.save_case(image, labels, {"spacing": [1, 1, 1]}, str(tmp_path / "a"), (1, 2, 3, 4), (1, 1, 3, 4), (1, 2, 3, 4), (1, 1, 3, 4), 5)
    nnUNetDatasetBlosc2.save_seg(labels[0], str(tmp_path / "b"), (2, 3, 4), (1, 3, 4))
    cases = nnUNetDatasetBlosc2(tmp_path, ["a"])
    assert np.array_equal(cases.load_case("a")[0][:], image) and cases.mmap_kwargs in ({}, {"mmap_mode": "r"})


class OwnLogger:
    """As much of a logger as nnU-Net's trainer asks for; its moving average is the last value."""

    def __init__(self):
        self.my_fantastic_logging, self.config, self.summary = {}, {}, {}

    def log(self, key, value, epoch):
        self.my_fantastic_logging.setdefault(key, []).append(value)
        if key == "mean_fg_dice":
            self.log("ema_fg_dice", value, epoch)

    def get_value(self, key, step):
        return self.my_fantastic_logging[key] if step is None else self.my_fantastic_logging[key][step]

    def update_config(self, config):
        self.config |= config

    def plot_progress_png(self, output_folder):
        Path(output_folder, "mine.png").touch()

    def get_checkpoint(self):
        return {"mine": self.my_fantastic_logging}

    def load_checkpoint(self, checkpoint):
        self.my_fantastic_logging = checkpoint["mine"]


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_logger_of_ones_own_takes_part_and_training_goes_on_with_it(plain, make_trainer, epochs):
    class WithOwnLogger(nnUNetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.logger = OwnLogger()

    trainer = make_trainer(WithOwnLogger, **ONE_EPOCH | {"num_epochs": epochs})
    trainer.run_training()
    own = trainer.logger.other
    assert own.my_fantastic_logging["ema_fg_dice"] == own.my_fantastic_logging["mean_fg_dice"] == trainer.logger.get_value("ema_fg_dice", None)
    assert trainer.logger.my_fantastic_logging is own.my_fantastic_logging and own.config["fold"] == 0
    assert len(load_json(Path(trainer.output_folder) / "progress.json")["train_losses"]) == epochs and (Path(trainer.output_folder) / "mine.png").is_file()
    again = make_trainer(WithOwnLogger, **ONE_EPOCH | {"num_epochs": epochs})
    again.load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")
    assert again.logger.other.my_fantastic_logging == own.my_fantastic_logging
    again.logger.log("train_losses", 0.5, epochs)
    assert again.logger.get_value("train_losses", -1) == 0.5


@pytest.mark.slow
def test_a_logger_that_only_logs_is_enough(plain, make_trainer):
    class Silent:
        def log(self, key, value, epoch):
            seen.add(key)

    class WithSilentLogger(nnUNetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.logger = Silent()

    seen = set()
    trainer = make_trainer(WithSilentLogger, **ONE_EPOCH)
    trainer.run_training()
    assert {"train_losses", "val_losses", "mean_fg_dice", "lrs"} <= seen and len(trainer.logger.get_value("ema_fg_dice", None)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_further_loggers_get_each_value(plain, make_trainer, own):
    class Further:
        def log(self, name, value, epoch):
            seen.append((name, epoch))

        def update_config(self, config):
            seen.append(("config", config["fold"]))

    class WithFurtherLogger(nnUNetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if own:
                self.logger = MetaLogger(self.output_folder, False)
            self.logger.loggers.append(Further())

    seen = []
    make_trainer(WithFurtherLogger, **ONE_EPOCH).run_training()
    assert [seen.count((name, 0)) for name in ("train_losses", "ema_fg_dice", "dice_per_class_or_region/class_1", "dice_per_class_or_region/class_2", "config")] == [1] * 5


class LoadsAsNnunetDoes(nnUNetTrainer):
    """Its `load_checkpoint` has nnU-Net's signature and asks, as nnU-Net's own does, whether it got a path as text."""

    def load_checkpoint(self, filename_or_checkpoint):
        assert isinstance(filename_or_checkpoint, str)
        super().load_checkpoint(filename_or_checkpoint)


def test_a_load_checkpoint_of_ones_own_is_called_as_nnunet_calls_it(plain, make_trainer, monkeypatch):
    first = make_trainer(LoadsAsNnunetDoes, **ONE_EPOCH)
    first.initialize()
    first.save_checkpoint(Path(first.output_folder) / "checkpoint_final.pth")
    job = TrainingJob("Dataset900_Tiny", "3d_fullres", 0, "", "nnUNetPlans", continue_training=True)
    monkeypatch.setattr(TrainingJob, "make_trainer", lambda self, device: make_trainer(LoadsAsNnunetDoes, **ONE_EPOCH))
    assert _trained(job, torch.device("cpu"), "checkpoint_final.pth").current_epoch == 1
    assert job.train(torch.device("cpu")).current_epoch == 1


def test_a_split_of_arrays_serves(plain, make_trainer):
    class OwnSplit(nnUNetTrainer):
        def do_split(self):
            return np.array(["case_6", "case_7"]), np.array(["case_0", "case_1"])

    trainer = make_trainer(OwnSplit)
    assert trainer.val_cases == ["case_0", "case_1"] and {type(case) for case in [*trainer.train_cases, *trainer.val_cases]} == {str}
