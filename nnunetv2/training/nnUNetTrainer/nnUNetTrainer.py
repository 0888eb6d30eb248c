"""The trainer: nnU-Net's training (Isensee et al. 2021), and a class head beside the segmentation when the dataset asks for one.

    trainer = nnUNetTrainer(plans, "3d_fullres", fold=0, dataset_json=dataset_json, device=torch.device("cuda"))
    trainer.run_training()
    trainer.perform_actual_validation()

Subclasses change attributes in `__init__` or override a method; `nnunetv2_train -tr NAME` finds those in `variants/`.
An epoch is a pure function of (weights and optimiser state at its start, seed, fold, epoch): nothing else is remembered,
so a run that was killed and resumed ends, on CPU, with the same weights as one that was not.
"""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from nnunetv2 import paths
from nnunetv2.training.dataloading.batch_stream import BatchStream, augmentation_workers, training_requests
from nnunetv2.training.logging import TrainingLog
from nnunetv2.training.loss.compound_losses import DC_and_CE_and_weighted_CE_loss
from nnunetv2.training.lr_scheduler import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.bad_steps import BadSteps
from nnunetv2.training.nnUNetTrainer.class_training import ClassTraining, inverse_frequency_weights, read_training_labels
from nnunetv2.training.nnUNetTrainer.collapse_alarm import watch_class_head
from nnunetv2.training.nnUNetTrainer.distributed import finite_mean_over_gpus, gather_rows, is_distributed, mean_over_gpus, sum_over_gpus
from nnunetv2.training.nnUNetTrainer.objective import deep_supervision_scales, segmentation_loss
from nnunetv2.training.nnUNetTrainer.patches import make_batches
from nnunetv2.training.nnUNetTrainer.pseudo_dice import dice_from_counts, foreground_counts
from nnunetv2.training.nnUNetTrainer.training_identity import record_checkpoint, training_identity, write_fold_manifest
from nnunetv2.training.nnUNetTrainer.training_state import restore_training_state, training_state
from nnunetv2.training.splits import load_split
from nnunetv2.utilities.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.files import atomic_write, save_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.leftovers import sweep
from nnunetv2.utilities.network_size import check_patch_size, finest_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.safe_names import plain_ending, plain_name

RANDOM_STREAMS = {"weights": 0, "epoch": 1}  # parts of the seed; batches have their own


class nnUNetTrainer:
    def __init__(self, plans: dict, configuration: str, fold: int | str, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        self.my_init_kwargs = {"plans": plans, "configuration": configuration, "fold": fold, "dataset_json": dataset_json,
                               "device": device}
        self.plans_manager = PlansManager(plans)
        self.configuration_manager = self.plans_manager.get_configuration(configuration)
        self.configuration_name, self.dataset_json, self.fold, self.device = configuration, dataset_json, fold, device
        if self.configuration_manager.previous_stage_name is not None:
            raise NotImplementedError(f"{configuration} refines the segmentation of {self.configuration_manager.previous_stage_name}; "
                                      "cascades cannot be trained here. Train 3d_fullres or 3d_lowres.")
        self.label_manager = self.plans_manager.get_label_manager(dataset_json)
        plain_ending(dataset_json["file_ending"], "dataset.json")
        channels = finest_channels(self.configuration_manager.network_arch_init_kwargs, self.label_manager.num_segmentation_heads)
        check_patch_size(self.configuration_manager.patch_size, self.configuration_manager.batch_size, channels, self.plans_manager.source)
        self.class_task = ClassificationTask.from_dataset_json(dataset_json, self.label_manager.foreground_labels)
        if self.configuration_manager.class_head is None:
            self.class_task = None  # plans without a head: plain segmentation, whatever the dataset offers
        if self.class_task is not None and self.label_manager.has_regions:
            raise ValueError("A class head pools over labels and cannot be trained with overlapping regions. Use plain labels "
                             "in dataset.json, or take 'class_head' out of the plans.")

        self.is_ddp = is_distributed()
        self.local_rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if self.is_ddp else (0, 1)

        self.seed = 0
        self.initial_lr, self.weight_decay = 1e-2, 3e-5
        self.oversample_foreground_percent = 0.33  # share of a batch's patches that show foreground for sure
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1000, 250, 50
        self.enable_deep_supervision = True
        self.gradient_clip = 12.0  # L2 norm, of the segmentation network and of the head, each on its own
        # None: without blur, low resolution and gamma when there is a class task, nnU-Net's full set otherwise
        self.texture_keeping: bool | None = None
        self.class_training = ClassTraining()
        self.ema_decay: float | None = None  # per iteration; also keep an exponential moving average of the weights, in checkpoint_ema.pth
        self.save_every: int | None = None  # epochs between latest checkpoints; None: 20 in a training, at most 10 apart
        self.disable_checkpointing = False
        self.num_workers: int | None = None  # data loading processes, 0 = none; None: nnUNet_n_proc_DA or by cores

        self.start_weights: str | Path | None = None  # checkpoint that the training starts from
        self.current_epoch = 0
        self.bad_steps = BadSteps()
        self._best_ema: float | None = None
        self.inference_allowed_mirroring_axes: tuple[int, ...] = tuple(range(len(self.configuration_manager.patch_size)))
        self.was_initialized = False

    # ---- where things are ------------------------------------------------------------------------------------------

    @property
    def preprocessed_dataset_folder_base(self) -> Path:
        return Path(paths.nnUNet_preprocessed) / self.plans_manager.dataset_name

    @property
    def preprocessed_dataset_folder(self) -> Path:
        return self.preprocessed_dataset_folder_base / self.configuration_manager.data_identifier

    @property
    def output_folder_base(self) -> Path:
        name = f"{type(self).__name__}__{self.plans_manager.plans_name}__{self.configuration_name}"
        return Path(paths.nnUNet_results) / self.plans_manager.dataset_name / name

    @property
    def output_folder(self) -> Path:
        return self.output_folder_base / plain_name(f"fold_{self.fold}", "fold", "-f")

    @property
    def deep_supervision_scales(self) -> list[list[float]] | None:
        return deep_supervision_scales(self.configuration_manager.pool_op_kernel_sizes) if self.enable_deep_supervision else None

    @property
    def module(self) -> nn.Module:
        """The network without its wrapper for several GPUs."""
        return self.network.module if self.is_ddp else self.network

    # ---- building --------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Network, optimisers, loss and log; reads the splits and the training cases' class labels, no images."""
        if self.was_initialized:
            raise RuntimeError("initialize() was called twice on the same trainer.")
        self._seed_everything("weights", 0)
        self.train_cases, self.val_cases = load_split(self.preprocessed_dataset_folder_base, self.fold)
        self.log = TrainingLog(self.output_folder, self.class_task is not None, active=self.local_rank == 0)
        network = self.build_network_architecture(
            self.plans_manager, self.configuration_manager,
            determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json),
            self.label_manager.num_segmentation_heads, self.enable_deep_supervision).to(self.device)
        if self.device.type == "cuda" and os.environ.get("nnUNet_compile", "f").lower() in ("t", "true", "1"):
            network.compile()
        # the lowest decoder output has loss weight 0 and a batch may hold no lesion: some parameters get no gradient
        self.network = DistributedDataParallel(network, find_unused_parameters=True) if self.is_ddp else network
        self.average = None if self.ema_decay is None else AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(self.ema_decay))
        # of the training cases alone: what the validation cases are stays unread
        self.class_labels = {} if self.class_task is None else read_training_labels(
            self.class_task, self.preprocessed_dataset_folder_base, self.train_cases)
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        self.class_optimizer = None if self.class_task is None else self.class_training.make_optimiser(self.module.class_head)
        self.class_lr_scheduler = None if self.class_task is None else PolyLRScheduler(
            self.class_optimizer, self.class_training.lr, self.num_epochs)
        self.grad_scaler = torch.amp.GradScaler("cuda") if self.device.type == "cuda" else None
        self.loss = self._build_loss().to(self.device)
        self.identity = training_identity(self)
        self.was_initialized = True

    @staticmethod
    def build_network_architecture(plans_manager: PlansManager, configuration_manager: ConfigurationManager,
                                   num_input_channels: int, num_output_channels: int,
                                   enable_deep_supervision: bool = True) -> nn.Module:
        """Also called by inference, which has no trainer object."""
        return get_network_from_plans(
            configuration_manager.network_arch_class_name, configuration_manager.network_arch_init_kwargs,
            configuration_manager.network_arch_init_kwargs_req_import, num_input_channels, num_output_channels,
            allow_init=True, deep_supervision=enable_deep_supervision, class_head=configuration_manager.class_head, where=configuration_manager.source)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """Of everything but the class head, which has its own."""
        parameters = [parameter for name, parameter in self.module.named_parameters() if not name.startswith("class_head.")]
        optimizer = torch.optim.SGD(parameters, self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _build_loss(self) -> nn.Module:
        self.seg_loss = segmentation_loss(self.label_manager, self.configuration_manager.batch_dice, self.is_ddp,
                                          len(self.deep_supervision_scales) if self.enable_deep_supervision else None)
        if self.class_task is None:
            return self.seg_loss
        settings, n_classes = self.class_training, len(self.class_task.classes)
        weights = torch.ones(n_classes)
        if settings.balance == "weights":
            weights = inverse_frequency_weights(list(self.class_labels.values()), n_classes)
        self.log.print(f"Class weights from {len(self.class_labels)} training cases: {weights.tolist()}")
        warm_up = round(settings.warm_up * self.num_epochs * self.num_iterations_per_epoch)
        return DC_and_CE_and_weighted_CE_loss(self.seg_loss, weights, settings.loss_weight, settings.label_smoothing, warm_up)

    def _seed_everything(self, stream: str, epoch: int) -> None:
        """Seed what draws in this process: weights, dropout."""
        fold = self.fold if isinstance(self.fold, int) else 2**31
        words = [self.seed, fold, RANDOM_STREAMS[stream], epoch, self.local_rank]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    # ---- training --------------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Train from `current_epoch` on; returns at once when the training was finished before."""
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch >= self.num_epochs:
            self.log.print(f"The training of fold {self.fold} is finished.")
            return
        sweep(self.output_folder, self.output_folder_base)
        self._on_train_start()
        workers = augmentation_workers(self.device) if self.num_workers is None else self.num_workers
        requests = training_requests(self.current_epoch, self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch)
        with BatchStream(make_batches(self), requests, workers, pin_memory=self.device.type == "cuda") as batches:
            for epoch in range(self.current_epoch, self.num_epochs):
                self._run_epoch(epoch, batches)
        self.save_checkpoint(self.output_folder / "checkpoint_final.pth")
        if self.average is not None:
            self.save_checkpoint(self.output_folder / "checkpoint_ema.pth", averaged=True)
        if self.local_rank == 0:
            (self.output_folder / "checkpoint_latest.pth").unlink(missing_ok=True)
            for name in ("checkpoint_final.pth", "checkpoint_ema.pth", "checkpoint_best.pth"):
                record_checkpoint(self.output_folder / name)
            self.log.plot(force=True)
        self.log.print("Training done.")

    def _on_train_start(self) -> None:
        if self.local_rank == 0:
            save_json(self.plans_manager.plans, self.output_folder_base / "plans.json")
            save_json(self.dataset_json, self.output_folder_base / "dataset.json")
            write_fold_manifest(self)
            fingerprint = self.preprocessed_dataset_folder_base / "dataset_fingerprint.json"
            if fingerprint.is_file():
                with atomic_write(self.output_folder_base / fingerprint.name) as temporary:
                    shutil.copyfile(fingerprint, temporary)
        self.log.print(f"{self.plans_manager.dataset_name}, {self.configuration_name}, fold {self.fold}: {len(self.train_cases)} training and "
                       f"{len(self.val_cases)} validation cases, epochs {self.current_epoch} to {self.num_epochs - 1} on {self.device}")
        self.log.print(f"Configuration: {self.configuration_manager}")
        if self.class_task is not None:
            self.log.print(f"Class task {self.class_task.name!r}: {self.class_training}")

    def _run_epoch(self, epoch: int, batches: BatchStream) -> None:
        self.log.log("epoch_start_timestamps", time.time(), epoch)
        self._seed_everything("epoch", epoch)
        self.lr_scheduler.step(epoch)
        self.log.log("lrs", self.optimizer.param_groups[0]["lr"], epoch)
        self.log.print(f"\nEpoch {epoch}, learning rate {self.log.values['lrs'][epoch]:.5f}")
        if self.class_task is not None:
            self.class_lr_scheduler.step(epoch)
            self.module.class_head.encoder_gradient = self.class_training.encoder_gradient_at(epoch / self.num_epochs)

        self.network.train()
        outputs = [self.train_step(next(batches), epoch * self.num_iterations_per_epoch + i)
                   for i in self._progress(self.num_iterations_per_epoch, f"epoch {epoch}")]
        self._on_train_epoch_end(epoch, outputs)
        self.network.eval()
        with torch.no_grad():
            outputs = [self.validation_step(next(batches)) for _ in self._progress(self.num_val_iterations_per_epoch, "validation")]
        self._on_validation_epoch_end(epoch, outputs)
        self._on_epoch_end(epoch)

    def train_step(self, batch: dict, step: int) -> dict[str, Tensor]:
        """One update; `step` counts from the training's start. Nothing is copied from the GPU, so nothing waits for it."""
        data, target = self._to_device(batch)
        finest = target[0] if self.enable_deep_supervision else target
        for optimizer in self._optimizers():
            optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            if self.class_task is None:
                loss = self.loss(self.network(data)[0], target)
                class_rows = {}
            else:
                teacher_weight = self.class_training.teacher_weight(step / (self.num_epochs * self.num_iterations_per_epoch))
                seg_logits, class_logits = self.network(data, teacher=finest, teacher_weight=teacher_weight)
                class_target, has_lesion = batch["class_target"].to(self.device), batch["has_lesion"].to(self.device)
                loss, _ = self.loss(seg_logits, target, class_logits, class_target, has_lesion, step)
                class_rows = {"class_logits": class_logits.detach(), "class_target": torch.where(has_lesion, class_target, -1)}
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

    def validation_step(self, batch: dict) -> dict[str, Tensor]:
        """Segmentation only: monitoring needs no class labels of validation cases."""
        data, target = self._to_device(batch)
        with self._autocast():
            seg_logits, _ = self.network(data)
            loss = self.seg_loss(seg_logits, target)
        if self.enable_deep_supervision:
            seg_logits, target = seg_logits[0], target[0]
        return {"loss": loss, "counts": foreground_counts(seg_logits, target, self.label_manager)}

    # ---- after an epoch --------------------------------------------------------------------------------------------

    def _on_train_epoch_end(self, epoch: int, outputs: list[dict]) -> None:
        self.log.log("train_losses", finite_mean_over_gpus(torch.stack([output["loss"] for output in outputs])), epoch)
        self.bad_steps.count(outputs, self.module, self.log, epoch)
        if self.class_task is None:
            return
        logits, targets = (torch.cat([output[key] for output in outputs]) for key in ("class_logits", "class_target"))
        targets = torch.where(torch.isfinite(logits).all(1), targets, -1)
        watch_class_head(self.log, epoch, *gather_rows(logits, targets), first_epoch=round(self.class_training.warm_up * self.num_epochs))

    def _on_validation_epoch_end(self, epoch: int, outputs: list[dict]) -> None:
        dice = dice_from_counts(sum_over_gpus(torch.stack([output["counts"] for output in outputs]).sum(0)).cpu())
        self.log.log("dice_per_class_or_region", dice, epoch)
        self.log.log("mean_fg_dice", float(np.nanmean(dice)) if np.isfinite(dice).any() else 0.0, epoch)
        self.log.log("val_losses", mean_over_gpus(torch.stack([output["loss"] for output in outputs])), epoch)

    def _on_epoch_end(self, epoch: int) -> None:
        self.log.log("epoch_end_timestamps", time.time(), epoch)
        values = {key: entries[epoch] for key, entries in self.log.values.items()}
        self.log.print(f"Loss {values['train_losses']:.4f}, validation {values['val_losses']:.4f}; pseudo Dice "
                       f"{np.round(values['dice_per_class_or_region'], 4).tolist()}; {values['epoch_end_timestamps'] - values['epoch_start_timestamps']:.1f} s")
        self.log.save()
        self.current_epoch = epoch + 1
        save_every = self.save_every or max(1, min(10, self.num_epochs // 20))
        improved = self._best_ema is None or values["ema_fg_dice"] > self._best_ema
        if improved:
            self._best_ema = values["ema_fg_dice"]
            self.save_checkpoint(self.output_folder / "checkpoint_best.pth")
        if self.current_epoch % save_every == 0 and self.current_epoch < self.num_epochs:
            self.save_checkpoint(self.output_folder / "checkpoint_latest.pth")
        self.log.plot()

    # ---- checkpoints and validation --------------------------------------------------------------------------------

    def save_checkpoint(self, path: str | Path, averaged: bool = False) -> None:
        if self.local_rank == 0 and not self.disable_checkpointing:
            save_checkpoint(training_state(self, averaged), path)

    def load_checkpoint(self, path: str | Path, to_validate: bool = False) -> None:
        """Continue from a checkpoint of ours or upstream's; `to_validate`: use it for validation alone, which asks less of it."""
        if not self.was_initialized:
            self.initialize()
        restore_training_state(self, load_checkpoint(path), str(path), to_validate)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        self.module.decoder.deep_supervision = enabled

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict the fold's validation cases whole, into `fold_X/validation/`."""
        from nnunetv2.training.nnUNetTrainer.validation import validate_cases  # brings in the inference room, which training does not need

        validate_cases(self, save_probabilities)

    # ---- small things ----------------------------------------------------------------------------------------------

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer] if self.class_optimizer is None else [self.optimizer, self.class_optimizer]

    def _autocast(self) -> torch.autocast:
        """float16 on CUDA; full precision elsewhere, where half is slow (CPU) or patchy (MPS)."""
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda")

    def _to_device(self, batch: dict) -> tuple[Tensor, Tensor | list[Tensor]]:
        target = batch["target"]
        move = {"device": self.device, "non_blocking": True}
        return batch["data"].to(**move), [t.to(**move) for t in target] if isinstance(target, list) else target.to(**move)

    def _progress(self, iterations: int, label: str) -> tqdm:
        return tqdm(range(iterations), label, leave=False, disable=None if self.local_rank == 0 else True)
