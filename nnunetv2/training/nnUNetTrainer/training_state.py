"""Everything a training needs to go on as if it had never stopped, and that inference needs to rebuild the network.

Batches, dropout and learning rates follow from seed and epoch, so no generator state has to be kept.
"""

from typing import TYPE_CHECKING, Any

import torch

from nnunetv2.class_evidence.head import EVIDENCE_KEY, EvidenceHead
from nnunetv2.training.nnUNetTrainer.training_identity import differences_without_identity, identity_differences, validation_problems
from nnunetv2.utilities.checkpoint import load_network_weights, split_network_weights
from nnunetv2.utilities.errors import InputError, list_some

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SCHEDULE = ("seed", "initial_lr", "weight_decay", "num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")  # what a validation of the model takes over

HEAD_BEFORE_REFIT = "class_head_weights_before_refit"  # key of a checkpoint whose class head was refitted


def training_state(trainer: "nnUNetTrainer", averaged: bool = False) -> dict[str, Any]:
    """A checkpoint: upstream's keys, plus the class task's and the schedule. `averaged`: with the averaged weights, to predict with."""
    segmentation_weights, head_weights = split_network_weights(trainer.average.module if averaged else trainer.module)
    return {
        "network_weights": segmentation_weights,
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
        "logging": trainer.logger.get_checkpoint(),
        "_best_ema": trainer._best_ema,
        "current_epoch": trainer.current_epoch + 1,  # the running epoch counts as done
        "init_args": trainer.my_init_kwargs,
        "trainer_name": name_for_predictions(type(trainer)),
        "trained_by": type(trainer).__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        "class_head_weights": head_weights,
        "class_optimizer_state": trainer.class_optimizer.state_dict() if trainer.class_optimizer is not None else None,
        "average_state": trainer.average.state_dict() if trainer.average is not None and not averaged else None,
        "identity": trainer.identity,
        "schedule": {name: getattr(trainer, name) for name in SCHEDULE},
    }


def name_for_predictions(trainer: type) -> str:
    """Of the trainer that a checkpoint names: nnU-Net looks it up before it predicts, and refuses names that it does not have."""
    return vars(trainer).get("predicts_as") or trainer.__name__


def restore_training_state(trainer: "nnUNetTrainer", checkpoint: dict[str, Any], path: str, to_validate: bool = False) -> None:
    """Undo `training_state`; `path` is for errors.

    Raises InputError when the checkpoint is of another training, whatever differs; with `to_validate` only when its weights
    do not belong to the present plans or were trained on cases that are validated now.
    """
    problems = checkpoint_problems(trainer, checkpoint, to_validate)
    if problems:
        raise InputError(not_the_same(path, problems, to_validate, trainer))
    load_network_weights(trainer.module, checkpoint)
    trainer.class_evidence = None if checkpoint.get(EVIDENCE_KEY) is None or trainer.class_task is None else EvidenceHead.from_checkpoint(
        checkpoint[EVIDENCE_KEY], len(trainer.class_task.classes), path)
    if "inference_allowed_mirroring_axes" in checkpoint:  # nnU-Net's first version 2 did not write them
        trainer.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]
    if checkpoint.get("logging") is not None:
        trainer.logger.load_checkpoint(checkpoint["logging"])
    trainer._best_ema, trainer.current_epoch = checkpoint.get("_best_ema"), checkpoint.get("current_epoch", 0)
    if to_validate:
        return
    trainer.optimizer.load_state_dict(checkpoint["optimizer_state"])
    if trainer.class_optimizer is not None and checkpoint.get("class_optimizer_state") is not None:
        trainer.class_optimizer.load_state_dict(checkpoint["class_optimizer_state"])
    if trainer.average is not None and checkpoint.get("average_state") is not None:  # else it starts from these weights
        trainer.average.load_state_dict(checkpoint["average_state"])
    if trainer.grad_scaler is not None and checkpoint["grad_scaler_state"] is not None:
        trainer.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])


def checkpoint_problems(trainer: "nnUNetTrainer", checkpoint: dict[str, Any], to_validate: bool = False) -> list[str]:
    """Why `trainer` must not go on from `checkpoint`, or validate it; [] when nothing speaks against it."""
    identity = checkpoint.get("identity")
    if identity is not None:
        return (validation_problems if to_validate else identity_differences)(identity, trainer.identity)
    trainer.print_to_log_file("note: this checkpoint holds no record of its data; its plans and schedule alone are compared.")
    return [] if to_validate else differences_without_identity(checkpoint, trainer)


def not_the_same(path: str, problems: list[str], to_validate: bool = False, trainer: "nnUNetTrainer | None" = None) -> str:
    """Message of the error; `trainer`: to tell the author of another one than this package's what it may be about."""
    remedy = ("Train anew, or bring back the old plans and split." if to_validate else
              "Give the old values (--epochs, --iterations, --val_iterations, --seed, --batch_size) and data, or start anew without --c.")
    if trainer is not None and not to_validate and not type(trainer).__module__.startswith("nnunetv2."):
        remedy += f" What {type(trainer).__name__} notes and no weight depends on, such as a time, gets a name that begins with an underscore."
    return f"{path} belongs to another training, {len(problems)} difference(s):\n{list_some(problems)}\n{remedy}"


def as_trained(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with the class head as its training left it: before a refit, without the temperature that calibration found for it."""
    head = checkpoint.get(HEAD_BEFORE_REFIT) or checkpoint.get("class_head_weights")
    if head is None:
        return checkpoint
    return checkpoint | {"class_head_weights": head | {"temperature": torch.ones(())}}
