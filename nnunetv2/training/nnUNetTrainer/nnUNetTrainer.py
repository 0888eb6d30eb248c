"""The trainer: nnU-Net's training (Isensee et al. 2021), and a class head beside the segmentation when the dataset asks for one.

    trainer = nnUNetTrainer(plans, "3d_fullres", fold=0, dataset_json=dataset_json, device=torch.device("cuda"))
    trainer.run_training()
    trainer.perform_actual_validation()

Subclasses change attributes in `__init__` or override a method; hooks and attributes have nnU-Net 2.8.1's names and are
called when it calls them. `nnunetv2_train -tr NAME` finds trainers anywhere below this folder and in $nnUNet_extTrainer.
An epoch is a pure function of (weights and optimiser state at its start, seed, fold, epoch): nothing else is remembered,
so a run that was killed and resumed ends, on CPU, with the same weights as one that was not.
"""

import os
import shutil
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from dynamic_network_architectures.architectures.unet import UNet, seg_and_class
from dynamic_network_architectures.building_blocks.class_head import RunningStandardiser
from nnunetv2 import paths
from nnunetv2.class_evidence.head import EvidenceHead
from nnunetv2.preprocessing.normalization import check_schemes
from nnunetv2.training.adopted_log import AdoptedLog
from nnunetv2.training.dataloading.batch_stream import BatchStream, ending_workers
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.training.log_sinks import check_switches
from nnunetv2.training.logging import PLOT_INTERVAL, TrainingLog
from nnunetv2.training.lr_scheduler import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.architecture import build_network
from nnunetv2.training.nnUNetTrainer.bad_steps import BadSteps
from nnunetv2.training.nnUNetTrainer.class_training import ClassTraining, classes_of_batch, read_training_labels, refuse_classes
from nnunetv2.training.nnUNetTrainer.collapse_alarm import watch_class_head
from nnunetv2.training.nnUNetTrainer.cpu_training import in_float32, lay_out_for_training, right_in_bf16
from nnunetv2.training.nnUNetTrainer.distributed import finite_mean_over_gpus, gather_rows, is_distributed, mean_over_gpus, sum_over_gpus
from nnunetv2.training.nnUNetTrainer.hooks import refuse_unknown_hooks
from nnunetv2.training.nnUNetTrainer.objective import segmentation_loss
from nnunetv2.training.nnUNetTrainer.pseudo_dice import counts_by_patch, dice_from_counts
from nnunetv2.training.nnUNetTrainer.trainer_data import TrainingData
from nnunetv2.training.nnUNetTrainer.training_identity import record_checkpoint, training_identity, write_fold_manifest
from nnunetv2.training.nnUNetTrainer.training_state import restore_training_state, training_state
from nnunetv2.training.nnUNetTrainer.worst_patch import WorstPatch, draw_patch
from nnunetv2.training.time_budget import Pacing
from nnunetv2.utilities.allocator import keep_freed_memory
from nnunetv2.utilities.checkpoint import check_contents, load_checkpoint, save_checkpoint
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import with_channel_names
from nnunetv2.utilities.files import atomic_write, save_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.network_size import check_patch_size, finest_channels
from nnunetv2.utilities.leftovers import sweep
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.safe_names import plain_ending, plain_name

HYPERPARAMETERS = ("initial_lr", "weight_decay", "oversample_foreground_percent", "probabilistic_oversampling", "num_iterations_per_epoch",
                   "num_val_iterations_per_epoch", "num_epochs", "enable_deep_supervision")  # told to Weights & Biases
_NOT_MADE: Any = object()
RANDOM_STREAMS = {"weights": 0, "epoch": 1}  # parts of the seed; batches have their own


class nnUNetTrainer(TrainingData):
    """See the module; hooks of the data are in trainer_data.py."""

    # The trainer that checkpoints name for predictions, where nnU-Net lacks this one and makes the same network. Not inherited: a subclass may make another.
    predicts_as: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_unknown_hooks(cls)

    def __init__(self, plans: dict, configuration: str, fold: int | str, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        plans.pop("continue_training", None)  # nnU-Net's own entry point passes it this way
        self.my_init_kwargs = {"plans": plans, "configuration": configuration, "fold": fold, "dataset_json": dataset_json,
                               "device": device}
        dataset_json = with_channel_names(dataset_json)
        self.plans_manager = PlansManager(plans)
        self.configuration_manager = self.plans_manager.get_configuration(configuration)
        self.configuration_name, self.dataset_json, self.fold, self.device = configuration, dataset_json, fold, device
        self.label_manager = self.plans_manager.get_label_manager(dataset_json)
        plain_ending(dataset_json["file_ending"], "dataset.json")
        check_schemes(self.configuration_manager.configuration, self.plans_manager.source)
        channels = finest_channels(self.configuration_manager.network_arch_init_kwargs, self.label_manager.num_segmentation_heads)
        check_patch_size(self.configuration_manager.patch_size, self.configuration_manager.batch_size, channels, self.plans_manager.source)
        self.class_task = ClassificationTask.from_dataset_json(dataset_json, self.label_manager.foreground_labels)
        if self.configuration_manager.class_head is None:
            self.class_task = None  # plans without a head: plain segmentation, whatever the dataset offers
        if self.class_task is not None and self.label_manager.has_regions:
            raise ValueError("A class head pools over labels and cannot be trained with overlapping regions. Use plain labels "
                             "in dataset.json, or take 'class_head' out of the plans.")
        if self.class_task is not None and self.configuration_manager.class_head["n_classes"] != len(self.class_task.classes):
            raise InputError(f"{self.plans_manager.source}: class_head has n_classes {self.configuration_manager.class_head['n_classes']}, dataset.json "
                             f"declares {len(self.class_task.classes)} classes. Plan the dataset again.")

        self.is_ddp = is_distributed()
        self.local_rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if self.is_ddp else (0, 1)

        self.preprocessed_dataset_folder_base = _folder("nnUNet_preprocessed", self.plans_manager.dataset_name)
        self.preprocessed_dataset_folder = _folder("nnUNet_preprocessed", self.plans_manager.dataset_name, self.configuration_manager.data_identifier)
        self.output_folder_base = self._model_folder(configuration)
        self.output_folder = None if self.output_folder_base is None else os.path.join(self.output_folder_base, plain_name(f"fold_{fold}", "fold", "-f"))
        previous = self.configuration_manager.previous_stage_name
        self.is_cascaded = previous is not None
        model = self._model_folder(previous) if self.is_cascaded else None
        self.folder_with_segs_from_previous_stage = None if model is None else os.path.join(model, "predicted_next_stage", configuration)
        self.dataset_class: type[nnUNetBaseDataset] | None = None  # by the files of the preprocessed folder, unless a subclass sets it

        self.seed = 0
        self.initial_lr, self.weight_decay = 1e-2, 3e-5
        self.oversample_foreground_percent = 0.33  # share of a batch's patches that show foreground for sure
        self.probabilistic_oversampling = False  # that chance for every patch instead
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1000, 250, 50
        self.enable_deep_supervision = True
        self.gradient_clip = 12.0  # L2 norm, of the segmentation network and of the head, each on its own
        self.texture_keeping = False  # leave blur, low resolution and gamma out of nnU-Net's augmentation
        self.bf16_on_cpu = False  # see initialize
        self.class_training = ClassTraining()
        self.ema_decay: float | None = None  # per iteration; also keep an exponential moving average of the weights, in checkpoint_ema.pth
        self.save_every = None  # epochs between latest checkpoints; None: 20 in a training, at most 10 apart
        self.picture_every: int | None = 10  # epochs between pictures of the worst validation patch, worst_patch.png; None: no picture
        self.disable_checkpointing = False
        self.to_validate = False  # checkpoints are loaded for a validation alone, which asks less of them
        self.num_workers: int | None = None  # processes per loader, 0 = none; None: nnUNet_n_proc_DA or by cores

        self.pacing: Pacing | None = None  # a budget of hours, or patience: time_budget.py
        self.start_weights: str | Path | None = None  # checkpoint that the training starts from

        self.num_input_channels = self.network = self.optimizer = self.lr_scheduler = self.loss = None  # see initialize
        self.dataloader_train = self.dataloader_val = None  # see on_train_start
        # a trainer with an `initialize` of its own makes none of these; see _complete_initialisation
        self.average = self.class_optimizer = self.class_lr_scheduler = self.multitask_loss = None
        self.class_labels: dict[str, int] = {}
        self.logger = TrainingLog(self.output_folder, self.class_task is not None, active=self.local_rank == 0)
        self.class_evidence: EvidenceHead | None = None  # of a refitted checkpoint that was loaded, for the validation
        self.current_epoch = self._step = 0
        self.bad_steps = BadSteps()
        self.worst_patch = WorstPatch()
        self._last_picture = time.monotonic()
        self._best_ema: float | None = None
        self._split: tuple[list[str], list[str]] | None = None
        self._identity: dict[str, Any] | None = None
        self.inference_allowed_mirroring_axes: tuple[int, ...] | None = None  # set with the augmentation's
        self.was_initialized = False
        self._grad_scaler: torch.amp.GradScaler | None = _NOT_MADE

    def _model_folder(self, configuration: str) -> str | None:
        model = f"{type(self).__name__}__{self.plans_manager.plans_name}__{configuration}"
        return _folder("nnUNet_results", self.plans_manager.dataset_name, model)

    @property
    def logger(self) -> TrainingLog:
        """What is logged; a logger of another author that is set takes part in it (adopted_log.py)."""
        return self._logger

    @logger.setter
    def logger(self, logger: Any) -> None:
        self._logger = logger if isinstance(logger, TrainingLog) else AdoptedLog(logger, self.output_folder, self.class_task is not None, self.local_rank == 0)

    @property
    def log_file(self) -> Path | None:
        """The text log of this start."""
        return self.logger.file

    @log_file.setter
    def log_file(self, file: str | os.PathLike) -> None:
        self.logger.file = Path(file)

    @property
    def save_every(self) -> int:
        """Epochs between latest checkpoints. A number at any time: hooks of other authors count with it."""
        return self._save_every or max(1, min(10, self.num_epochs // 20))

    @save_every.setter
    def save_every(self, epochs: int | None) -> None:
        self._save_every = epochs

    @property
    def module(self) -> nn.Module:
        """The network without its wrappers, for several GPUs and of torch.compile."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return getattr(network, "_orig_mod", network)

    @property
    def grad_scaler(self) -> torch.amp.GradScaler | None:
        """On CUDA, from the first use on; a trainer that sets None steps without one."""
        if self._grad_scaler is _NOT_MADE:
            self._grad_scaler = torch.amp.GradScaler("cuda") if self.device.type == "cuda" else None
        return self._grad_scaler

    @grad_scaler.setter
    def grad_scaler(self, scaler: torch.amp.GradScaler | None) -> None:
        self._grad_scaler = scaler

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        self.logger.print(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)

    @property
    def identity(self) -> dict[str, Any]:
        """What this training's weights depend on (training_identity.py); read when it is first asked for, after `initialize`."""
        if self._identity is None:
            self._identity = training_identity(self)
        return self._identity

    # ---- building --------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Network, optimisers and loss; of the data only, for a class task, the training cases' labels."""
        if self.was_initialized:
            raise RuntimeError("initialize() was called twice on the same trainer.")
        for variable in paths.VARIABLES[1:]:
            getattr(paths, variable).require()  # an unset variable ends here, with its name
        self.logger.move_to(self.output_folder)
        self._seed_everything("weights", 0)
        self._set_batch_size_and_oversample()
        self.num_input_channels = determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json)
        self.network = build_network(self, self.plans_manager, self.configuration_manager, self.num_input_channels,
                                     self.label_manager.num_segmentation_heads, self.enable_deep_supervision).to(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
            self.bf16_on_cpu = lay_out_for_training(self.network)
        if self._do_i_compile():
            self.network.compile()
        self._make_average()
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        if self.is_ddp:
            # the lowest decoder output has loss weight 0 and a batch may hold no lesion: some parameters get no gradient
            self.network = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(self.network), find_unused_parameters=True)
        self.loss = self._build_loss()
        if isinstance(self.loss, nn.Module):
            self.loss.to(self.device)
            if self.class_task is not None and type(self.loss).__module__.startswith("nnunetv2."):  # a loss of another author may want both
                self.loss.register_forward_pre_hook(refuse_classes)
        self._initialize_class_task()
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        self.was_initialized = True

    def _complete_initialisation(self) -> None:
        """`initialize`, and what one of another author, who knows nothing of this package, leaves out."""
        if not self.was_initialized:
            self.initialize()
        if self.average is None:
            self._make_average()
        if self.class_task is not None and self.multitask_loss is None:
            self._initialize_class_task()

    def _make_average(self) -> None:
        self.average = None if self.ema_decay is None else AveragedModel(self.module, multi_avg_fn=get_ema_multi_avg_fn(self.ema_decay))

    @staticmethod
    def build_network_architecture(plans_manager: PlansManager, configuration_manager: ConfigurationManager,
                                   num_input_channels: int, num_output_channels: int,
                                   enable_deep_supervision: bool = True) -> nn.Module:
        """Also called by inference, which has no trainer object."""
        return get_network_from_plans(
            configuration_manager.network_arch_class_name, configuration_manager.network_arch_init_kwargs,
            configuration_manager.network_arch_init_kwargs_req_import, num_input_channels, num_output_channels,
            allow_init=True, deep_supervision=enable_deep_supervision, class_head=configuration_manager.class_head, where=configuration_manager.source)

    def _do_i_compile(self) -> bool:
        """Only when nnUNet_compile asks for it, and on a GPU."""
        return self.device.type == "cuda" and os.environ.get("nnUNet_compile", "f").lower() in ("t", "true", "1")

    @cached_property
    def _runs_in_bf16(self) -> bool:
        """Whether the steps do so where they shall, `bf16_on_cpu`. Asked for by the first step, or before it: what is never trained is not tried."""
        return self.bf16_on_cpu and right_in_bf16(self.module, (self.batch_size, self.num_input_channels, *self.configuration_manager.patch_size))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """Of everything but the class head, which has its own unless its parameters are given to this one."""
        optimizer = torch.optim.SGD(self.segmentation_parameters(), self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True,
                                    fused=self.fused_optimizer)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    @property
    def fused_optimizer(self) -> bool | None:
        """For torch's optimisers: one pass over the weights per step on a CPU; elsewhere what torch prefers."""
        return True if self.device.type == "cpu" else None

    def segmentation_parameters(self) -> list[nn.Parameter]:
        """Of the network without the class head."""
        return [parameter for name, parameter in self.module.named_parameters() if not name.startswith("class_head.")]

    def _build_loss(self) -> nn.Module:
        """Of the segmentation: called with the network's segmentation output and the target, lists of them under deep supervision."""
        scales = self._get_deep_supervision_scales()
        return segmentation_loss(self.label_manager, self.configuration_manager.batch_dice, self.is_ddp, len(scales) if scales is not None else None)

    def _initialize_class_task(self) -> None:
        if self.class_task is None:
            return
        head = getattr(self.module, "class_head", None)
        if head is None:
            raise ValueError(f"The plans ask for a class head, but {type(self).__name__} builds a network without one. Take 'class_head' out of the "
                             "plans, or hand configuration_manager.class_head to get_network_from_plans.")
        # of the training cases alone: what the validation cases are stays unread
        self.class_labels = read_training_labels(self.class_task, Path(self.preprocessed_dataset_folder_base), self.train_cases)
        taken = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        if not any(id(parameter) in taken for parameter in head.parameters()):
            self.class_optimizer = self.class_training.make_optimiser(head)
            self.class_lr_scheduler = PolyLRScheduler(self.class_optimizer, self.class_training.lr, self.num_epochs)
        self.multitask_loss = self.class_training.make_loss(self.loss, list(self.class_labels.values()), len(self.class_task.classes),
                                                            self.num_epochs * self.num_iterations_per_epoch, self.is_ddp).to(self.device)
        for module in head.modules():
            if isinstance(module, RunningStandardiser):
                module.over_processes = self.is_ddp
        self.print_to_log_file(f"Class weights from the {len(self.class_labels)} of {len(self.train_cases)} training cases that have a class: {self.multitask_loss.class_weights.tolist()}")

    def _seed_everything(self, stream: str, epoch: int) -> None:
        """Seed what draws in this process: weights, dropout."""
        fold = self.fold if isinstance(self.fold, int) else 2**31
        words = [self.seed, fold, RANDOM_STREAMS[stream], epoch, self.local_rank]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    # ---- training --------------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Train from `current_epoch` on; returns at once when the training was finished before."""
        if self.was_initialized and self.current_epoch >= self.num_epochs:
            self._record_the_end(unless_known=True)  # a process that was killed in its last moments did not
            self.print_to_log_file(f"The training of fold {self.fold} is finished.")
            return
        check_switches()
        self.on_train_start()
        with ExitStack() as stack:
            stack.enter_context(ending_workers(self.dataloader_train, self.dataloader_val))
            self._open_sinks()
            stack.callback(self.logger.close_sinks)
            epoch = self.current_epoch
            if self.pacing is not None:
                self.pacing.before_first_epoch(self)
            while epoch < self.num_epochs:
                self._begin_epoch()  # an on_epoch_start of another author need not
                self.on_epoch_start()
                self.on_train_epoch_start()
                outputs = [self.train_step(next(self.dataloader_train)) for _ in self._progress(self.num_iterations_per_epoch, f"epoch {epoch}")]
                self.on_train_epoch_end(outputs)
                with torch.no_grad():
                    self.on_validation_epoch_start()
                    outputs = [self.validation_step(next(self.dataloader_val)) for _ in self._progress(self.num_val_iterations_per_epoch, "validation")]
                    self.on_validation_epoch_end(outputs)
                self.on_epoch_end()
                epoch += 1
                if self.pacing is not None:
                    self.pacing.after_epoch(self)
                self.logger.send_epoch(epoch - 1)
                self._draw_worst_patch(epoch - 1)
            self.on_train_end()

    def _open_sinks(self) -> None:
        """TensorBoard and Weights & Biases, as far as they are switched on, with what nnU-Net tells them of the training."""
        self.logger.update_config({
            **{name: self.my_init_kwargs[name] for name in ("plans", "configuration", "fold")}, "dataset": self.my_init_kwargs["dataset_json"],
            "hparas": {name: getattr(self, name) for name in HYPERPARAMETERS} | {"batch_size": self.configuration_manager.batch_size}})
        self.logger.open_sinks(self.current_epoch)

    def _draw_worst_patch(self, epoch: int) -> None:
        """When it is time for a picture, and seldom enough for short epochs not to feel it. Without a picture the training goes on as well."""
        last = epoch + 1 >= self.num_epochs
        if self.picture_every is None or not self.logger.active:
            return
        try:
            patch = self.worst_patch.take()
            due = (epoch + 1) % self.picture_every == 0 and time.monotonic() - self._last_picture > PLOT_INTERVAL
            if patch is not None and (due or last):
                self.logger.sinks.log_picture("worst_patch", draw_patch(patch, epoch, Path(self.output_folder, "worst_patch.png")), epoch)
                self._last_picture = time.monotonic()
        except Exception as error:
            self.picture_every = None
            self.logger.print(f"WARNING: the worst validation patch cannot be drawn ({type(error).__name__}: {error}). No more is tried.")

    def on_train_start(self) -> None:
        self._complete_initialisation()
        sweep(self.output_folder, self.output_folder_base)
        if self.device.type == "cpu" and self._runs_in_bf16:  # tried here, not in the first step, which a time budget measures
            self.print_to_log_file("Convolutions run in bf16.")
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        self.print_plans()
        if self.local_rank == 0:
            self.dataset_class.unpack_dataset(self.preprocessed_dataset_folder)
            self._save_model_description()
        self.plot_network_architecture()
        self._save_debug_information()
        if self.is_ddp:
            dist.barrier()

    def _save_model_description(self) -> None:
        """plans.json, dataset.json and the fingerprint, which prediction and others read, beside the folds."""
        base = Path(self.output_folder_base)
        save_json(self.plans_manager.plans, base / "plans.json")
        save_json(self.dataset_json, base / "dataset.json")
        write_fold_manifest(self)
        fingerprint = Path(self.preprocessed_dataset_folder_base) / "dataset_fingerprint.json"
        if fingerprint.is_file():
            with atomic_write(base / fingerprint.name) as temporary:
                shutil.copyfile(fingerprint, temporary)

    def plot_network_architecture(self) -> None:
        """A hook of nnU-Net's, called when a training starts. Nothing is plotted unless a subclass does it."""

    def _save_debug_information(self) -> None:
        """A hook of nnU-Net's, called when a training starts. Nothing is written unless a subclass does it."""

    def print_plans(self) -> None:
        """What is trained on what, into the log."""
        self.print_to_log_file(f"{self.plans_manager.dataset_name}, {self.configuration_name}, fold {self.fold}: "
                               f"{len(self.dataloader_train.batches.dataset.identifiers) if isinstance(self.dataloader_train, BatchStream) else 'own'} training cases, "
                               f"epochs {self.current_epoch} to {self.num_epochs - 1} on {self.device}")
        self.print_to_log_file(f"Configuration: {self.configuration_manager}")
        if self.class_task is not None:
            self.print_to_log_file(f"Class task {self.class_task.name!r}: {self.class_training}")

    def on_epoch_start(self) -> None:
        self.logger.log("epoch_start_timestamps", time.time(), self.current_epoch)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._seed_everything("epoch", self.current_epoch)
        self._step = self.current_epoch * self.num_iterations_per_epoch  # counts from the training's start

    def on_train_epoch_start(self) -> None:
        self.network.train()
        self.lr_scheduler.step(self.current_epoch)
        rate = self.optimizer.param_groups[0]["lr"]
        self.logger.log("lrs", rate, self.current_epoch)
        self.print_to_log_file(f"\nEpoch {self.current_epoch}, learning rate {rate:.5f}")
        if self.class_task is not None:
            if self.class_lr_scheduler is not None:
                self.class_lr_scheduler.step(self.current_epoch)
            self.module.class_head.encoder_gradient = self.class_training.encoder_gradient_at(self.current_epoch / self.num_epochs)

    def train_step(self, batch: dict) -> dict[str, Any]:
        """One update. Nothing is copied from the GPU, so nothing waits for it."""
        data, target = self._to_device(batch)
        for optimizer in self._optimizers():
            optimizer.zero_grad(set_to_none=True)
        class_rows = {}
        with self._autocast():
            if self.class_task is None:
                loss = self.loss(in_float32(seg_and_class(self.network(data))[0]), target)
            else:
                class_target, has_lesion = (value.to(self.device, non_blocking=True)  # first: it may wait for what the GPU has been given before
                                            for value in classes_of_batch(batch, self.class_labels, self.class_task.lesion_labels))
                teacher_weight = self.class_training.teacher_weight(self._step / (self.num_epochs * self.num_iterations_per_epoch))
                seg_logits, class_logits = self.network(data, teacher=target[0] if self.enable_deep_supervision else target, teacher_weight=teacher_weight)
                loss, _ = self.multitask_loss(in_float32(seg_logits), target, class_logits, class_target, has_lesion, self._step)
                class_rows = {"class_logits": class_logits.detach(), "class_target": torch.where(has_lesion, class_target, -1)}
        self._step += 1
        return {"loss": loss.detach(), "taken": self._update(loss), "keys": batch.get("keys", ()), **class_rows}

    def _update(self, loss: Tensor) -> Tensor:
        """One step of all optimisers, none where a gradient is not finite. Returns whether it was taken (), on the loss's device."""
        scaler = self.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        norms = []
        for optimizer in self._optimizers():
            if scaler is not None:
                scaler.unscale_(optimizer)
            norms.append(clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], self.gradient_clip))
        taken = torch.isfinite(torch.stack(norms)).all()
        for optimizer in self._optimizers():
            if scaler is not None:
                scaler.step(optimizer)  # looks for itself
            elif taken:
                optimizer.step()
        if scaler is not None:
            scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.module)
        return taken

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        losses = torch.stack([torch.as_tensor(output["loss"]) for output in train_outputs])
        self.logger.log("train_losses", finite_mean_over_gpus(losses), self.current_epoch)
        if "taken" in train_outputs[0]:
            self.bad_steps.count(train_outputs, self.module, self.logger, self.current_epoch)
        if "class_logits" in train_outputs[0]:
            logits, targets = (torch.cat([output[key] for output in train_outputs]) for key in ("class_logits", "class_target"))
            targets = torch.where(torch.isfinite(logits).all(1), targets, -1)
            first_epoch = round(self.class_training.warm_up * self.num_epochs)
            watch_class_head(self.logger, self.current_epoch, *gather_rows(logits, targets), first_epoch=first_epoch)

    def on_validation_epoch_start(self) -> None:
        self.network.eval()

    def validation_step(self, batch: dict) -> dict[str, Any]:
        """Segmentation only: monitoring needs no class labels of validation cases."""
        data, target = self._to_device(batch)
        with self._autocast():
            seg_logits = in_float32(seg_and_class(self.network(data))[0])
            loss = self.loss(seg_logits, target)
        if self.enable_deep_supervision:
            seg_logits, target = seg_logits[0], target[0]
        counts = counts_by_patch(seg_logits, target, self.label_manager)
        if self.picture_every is not None and self.logger.active:
            self.worst_patch.offer(data, seg_logits, target, counts, self.label_manager, batch.get("keys", ()))
        return {"loss": loss, **dict(zip(("tp_hard", "fp_hard", "fn_hard"), counts.sum(1)))}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        counts = torch.stack([torch.stack([torch.as_tensor(output[key]) for key in ("tp_hard", "fp_hard", "fn_hard")]) for output in val_outputs]).sum(0)
        dice = dice_from_counts(sum_over_gpus(counts).cpu())
        self.logger.log("dice_per_class_or_region", dice, self.current_epoch)
        self.logger.log("mean_fg_dice", float(np.nanmean(dice)) if np.isfinite(dice).any() else 0.0, self.current_epoch)
        self.logger.log("val_losses", mean_over_gpus(torch.stack([torch.as_tensor(output["loss"]) for output in val_outputs])), self.current_epoch)

    def on_epoch_end(self) -> None:
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        value = {key: self.logger.get_value(key, -1) for key in ("train_losses", "val_losses", "dice_per_class_or_region", "ema_fg_dice",
                                                                 "epoch_end_timestamps", "epoch_start_timestamps")}
        self.print_to_log_file(f"Loss {value['train_losses']:.4f}, validation {value['val_losses']:.4f}; pseudo Dice "
                               f"{np.round(value['dice_per_class_or_region'], 4).tolist()}; {value['epoch_end_timestamps'] - value['epoch_start_timestamps']:.1f} s")
        self.logger.save()
        if self._best_ema is None or value["ema_fg_dice"] > self._best_ema:
            self._best_ema = value["ema_fg_dice"]
            self.save_checkpoint(os.path.join(self.output_folder, "checkpoint_best.pth"))
        if (self.current_epoch + 1) % self.save_every == 0 and self.current_epoch + 1 < self.num_epochs:
            self.save_checkpoint(os.path.join(self.output_folder, "checkpoint_latest.pth"))
        self.logger.plot()
        self.current_epoch += 1

    def on_train_end(self) -> None:
        self.current_epoch -= 1  # a checkpoint counts the epoch that is running as done
        if self.average is not None:
            self.save_checkpoint(os.path.join(self.output_folder, "checkpoint_ema.pth"), averaged=True)
        self.save_checkpoint(os.path.join(self.output_folder, "checkpoint_final.pth"))  # last: with it the training is finished
        self.current_epoch += 1
        self._record_the_end()
        if self.local_rank == 0:
            self.logger.plot(force=True)
        self.print_to_log_file("Training done.")

    def _record_the_end(self, unless_known: bool = False) -> None:
        """The hashes of a finished training's checkpoints go into its manifest; the latest one is needed no more."""
        if self.local_rank == 0:
            Path(self.output_folder, "checkpoint_latest.pth").unlink(missing_ok=True)
            for name in ("checkpoint_final.pth", "checkpoint_ema.pth", "checkpoint_best.pth"):
                record_checkpoint(Path(self.output_folder, name), unless_known)

    # ---- checkpoints and validation --------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str | os.PathLike, averaged: bool = False) -> None:
        if self.local_rank == 0 and not self.disable_checkpointing:
            save_checkpoint(training_state(self, averaged), filename)

    def length_changed(self) -> None:
        """Between two epochs the schedule got another length: identity, manifest and the latest checkpoint say so."""
        self._identity = None
        if self.local_rank == 0:
            write_fold_manifest(self)
        self.current_epoch -= 1  # a checkpoint counts the epoch that is running as done
        self.save_checkpoint(os.path.join(self.output_folder, "checkpoint_latest.pth"))
        self.current_epoch += 1

    def load_checkpoint(self, filename_or_checkpoint: str | os.PathLike | dict) -> None:
        """Continue from a checkpoint of ours or upstream's, or with `to_validate` take of it what a validation needs."""
        self._complete_initialisation()
        given = isinstance(filename_or_checkpoint, dict)
        checkpoint = filename_or_checkpoint if given else load_checkpoint(filename_or_checkpoint)
        where = "the checkpoint" if given else str(filename_or_checkpoint)
        check_contents(checkpoint, where, also=() if self.to_validate else ("optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch"))
        restore_training_state(self, checkpoint, where, self.to_validate)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Whether the network returns all resolutions. A network that has no such switch at its decoder returns what it always does."""
        decoder = getattr(self.module, "decoder", None)
        if hasattr(decoder, "deep_supervision"):
            decoder.deep_supervision = enabled

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict the fold's validation cases whole, into `fold_X/validation/`."""
        # these bring in the inference room, which training does not need
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.training.nnUNetTrainer.validation import NextStage, validate_cases

        cases = self.val_cases
        if not cases:
            self.print_to_log_file(f"Fold {self.fold} has no validation cases; nothing is validated.")
            return
        base = Path(self.preprocessed_dataset_folder_base)
        following = {name: self.plans_manager.get_configuration(name) for name in self.configuration_manager.next_stage_names or ()}
        next_stages = [NextStage(stage, base / stage.data_identifier, Path(self.output_folder_base, "predicted_next_stage", name))
                       for name, stage in following.items()]
        self.set_deep_supervision_enabled(False)
        self.network.eval()
        # as nnUNetv2_predict chooses it; a network of somebody else stays in torch
        predictor = nnUNetPredictor(device=self.device, allow_tqdm=False, engine="auto" if isinstance(self.module, UNet) else None)
        predictor.manual_initialization(self.module, self.plans_manager, self.configuration_manager, None, self.dataset_json,
                                        type(self).__name__, self.inference_allowed_mirroring_axes, [self.class_evidence])
        dataset = self.dataset_class(self.preprocessed_dataset_folder, list(cases), folder_with_segs_from_previous_stage=self.folder_with_segs_from_previous_stage)
        folder = Path(self.output_folder, "validation")
        self.print_to_log_file(f"Validating {len(cases)} cases into {folder}")
        metrics = validate_cases(predictor, self.module.state_dict(), dataset, folder, base / "gt_segmentations", save_probabilities, next_stages)
        self.print_to_log_file(f"Validation of whole cases: mean foreground Dice {np.round(metrics['foreground_mean']['Dice'], 4)}")
        self._send_validation(metrics)
        self.set_deep_supervision_enabled(self.enable_deep_supervision)

    def _send_validation(self, metrics: dict[str, Any]) -> None:
        """The Dice of whole cases, to what is switched on."""
        self.logger.open_sinks(self.current_epoch, training=False)
        for label, values in metrics["mean"].items():
            self.logger.log_summary(f"final_val/class_{label}_dice", values["Dice"])
        self.logger.log_summary("final_val/foreground_dice", metrics["foreground_mean"]["Dice"])
        self.logger.close_sinks()

    # ---- small things ----------------------------------------------------------------------------------------------

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer] if self.class_optimizer is None else [self.optimizer, self.class_optimizer]

    def _autocast(self) -> torch.autocast:
        """float16 on CUDA, bfloat16 on CPUs made for it; full precision elsewhere, where half is slow (other CPUs) or patchy (MPS)."""
        if self.device.type == "cpu":
            return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._runs_in_bf16)
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda")

    def _to_device(self, batch: dict) -> tuple[Tensor, Tensor | list[Tensor]]:
        target = batch["target"]
        move = {"device": self.device, "non_blocking": True}
        return batch["data"].to(**move), [t.to(**move) for t in target] if isinstance(target, list) else target.to(**move)

    def _progress(self, iterations: int, label: str) -> tqdm:
        return tqdm(range(iterations), label, leave=False, disable=None if self.local_rank == 0 else True)


def _folder(variable: str, *parts: str) -> str | None:
    """A folder below one of nnU-Net's; None while its variable is unset, so that a trainer can be made for inference."""
    base = paths.path_if_set(variable)
    return None if base is None else os.path.join(base, *parts)
