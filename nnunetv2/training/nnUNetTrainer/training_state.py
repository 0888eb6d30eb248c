"""Everything a training needs to go on as if it had never stopped, and that inference needs to rebuild the network.

Batches, dropout and learning rates follow from seed and epoch, so no generator state has to be kept.
"""

from typing import TYPE_CHECKING, Any

from nnunetv2.utilities.checkpoint import load_network_weights, split_network_weights

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SCHEDULE = ("seed", "initial_lr", "weight_decay", "num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")  # what an exact resume must not change


def training_state(trainer: "nnUNetTrainer", averaged: bool = False) -> dict[str, Any]:
    """A checkpoint: upstream's keys, plus the class task's and the schedule. `averaged`: with the averaged weights, to predict with."""
    segmentation_weights, head_weights = split_network_weights(trainer.average.module if averaged else trainer.module)
    return {
        "network_weights": segmentation_weights,
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
        "logging": trainer.log.values,
        "_best_ema": trainer._best_ema,
        "current_epoch": trainer.current_epoch,
        "init_args": trainer.my_init_kwargs,
        "trainer_name": type(trainer).__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        "class_head_weights": head_weights,
        "class_optimizer_state": trainer.class_optimizer.state_dict() if trainer.class_optimizer is not None else None,
        "average_state": trainer.average.state_dict() if trainer.average is not None and not averaged else None,
        "schedule": {name: getattr(trainer, name) for name in SCHEDULE},
    }


def restore_training_state(trainer: "nnUNetTrainer", checkpoint: dict[str, Any], path: str) -> None:
    """Undo `training_state`; `path` is for errors. Refuses another schedule: the learning rate would jump."""
    schedule = checkpoint.get("schedule", {})  # upstream's checkpoints have none
    changed = [f"{name} was {old}, is {getattr(trainer, name)}" for name, old in schedule.items() if getattr(trainer, name) != old]
    if changed:
        raise ValueError(f"{path} belongs to a training with another schedule: {'; '.join(changed)}. Give the old values "
                         "(--epochs, --iterations, --val_iterations, --seed), or start anew without --c.")
    load_network_weights(trainer.module, checkpoint)
    trainer.optimizer.load_state_dict(checkpoint["optimizer_state"])
    if trainer.class_optimizer is not None and checkpoint.get("class_optimizer_state") is not None:
        trainer.class_optimizer.load_state_dict(checkpoint["class_optimizer_state"])
    if trainer.average is not None and checkpoint.get("average_state") is not None:  # else it starts from these weights
        trainer.average.load_state_dict(checkpoint["average_state"])
    if trainer.grad_scaler is not None and checkpoint["grad_scaler_state"] is not None:
        trainer.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])
    trainer.log.values = trainer.log.values | checkpoint["logging"]
    trainer._best_ema, trainer.current_epoch = checkpoint["_best_ema"], checkpoint["current_epoch"]
    trainer.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]
