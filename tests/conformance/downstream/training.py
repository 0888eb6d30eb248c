"""Train with one of the custom trainers, and say which hooks were called and what came of it; the same file runs here and upstream."""

import os
from functools import wraps
from pathlib import Path

import numpy as np
import torch

from . import trainers

HOOKS = ("initialize", "_set_batch_size_and_oversample", "build_network_architecture", "configure_optimizers", "_build_loss", "on_train_start",
         "get_dataloaders", "configure_rotation_dummyDA_mirroring_and_inital_patch_size", "get_training_transforms", "get_validation_transforms",
         "get_tr_and_val_datasets", "do_split", "set_deep_supervision_enabled", "print_plans", "on_epoch_start", "on_train_epoch_start", "train_step",
         "on_train_epoch_end", "on_validation_epoch_start", "validation_step", "on_validation_epoch_end", "on_epoch_end", "save_checkpoint",
         "on_train_end")
STATIC = ("build_network_architecture", "get_training_transforms", "get_validation_transforms")


def traced(base, calls, transforms, datasets):
    """A subclass of the same name that notes every hook when it is entered, not what a hook calls of its own base class.

    `transforms` receives the names of the training transforms, `datasets` the cases of the training and the validation dataset.
    """

    def note(name):
        original, running = getattr(base, name), []

        @wraps(original)
        def hook(*args, **kwargs):
            if not running:
                calls.append(name if name != "save_checkpoint" else f"{name} {Path(args[1]).name}")
            running.append(True)
            try:
                result = original(*args, **kwargs)
            finally:
                running.pop()
            if name == "get_training_transforms":
                transforms[:] = [type(getattr(transform, "transform", transform)).__name__ for transform in result.transforms]
            if name == "get_tr_and_val_datasets":
                datasets[:] = [sorted(dataset.identifiers) for dataset in result]
            return result

        return staticmethod(hook) if name in STATIC else hook

    return type(base.__name__, (base,), {name: note(name) for name in HOOKS} | {"__module__": base.__module__})


def train(trainer, plans, dataset_json, configuration, weights=None):
    """{calls, settings, outcome} of a training from the weights in file `weights`, which is written first when it is not there."""
    torch.manual_seed(0)
    calls, transforms, datasets = [], [], []
    made = traced(getattr(trainers, trainer), calls, transforms, datasets)({**plans, "continue_training": False}, configuration, 0, dataset_json, device=torch.device("cpu"))
    made.initialize()
    if weights is not None and os.path.isfile(weights):
        made.network.load_state_dict(torch.load(weights, weights_only=True))
    elif weights is not None:
        torch.save(made.network.state_dict(), weights)
    steps = []
    step = made.train_step
    made.train_step = lambda batch: _seen(steps, batch, step(batch))
    made.run_training()
    made.network.eval()
    with torch.no_grad():
        probe = torch.linspace(-1, 1, int(np.prod(made.configuration_manager.patch_size))).reshape(1, 1, *made.configuration_manager.patch_size)
        out = made.network(probe)
    group = made.optimizer.param_groups[0]
    drawn = {key for _, keys in steps for key in keys}
    outcome = {
        "losses": [float(np.mean(made.logger.get_value(key, step=-1))) for key in ("train_losses", "val_losses")],
        "weights": np.concatenate([value.detach().numpy().ravel() for value in made.network.state_dict().values()]).astype(np.float64),
    } if isinstance(made, trainers.FixedBatches) else {}
    return {
        "calls": calls,
        "settings": {
            "network": type(made.network).__name__, "parameters": sum(p.numel() for p in made.network.parameters()),
            "output": [list(o.shape) for o in out] if isinstance(out, (list, tuple)) else list(out.shape),
            "optimizer": type(made.optimizer).__name__, "weight_decay": group["weight_decay"], "last_rate": round(group["lr"], 9),
            "rates": [round(float(made.logger.get_value("lrs", step=epoch)), 9) for epoch in range(made.num_epochs)],
            "loss": type(made.loss).__name__, "mirroring": made.inference_allowed_mirroring_axes, "oversampling": made.oversample_foreground_percent,
            "batches": sorted({tuple(shape) for shape, _ in steps}), "cases": datasets, "drawn_elsewhere": sorted(drawn - set(datasets[0])) if datasets else sorted(drawn),
            "checkpoints": sorted(file.name for file in Path(made.output_folder).glob("*.pth")),
            "checkpoint": sorted(set(torch.load(Path(made.output_folder) / "checkpoint_final.pth", weights_only=False)) & CHECKPOINT_KEYS),
            "epoch": made.current_epoch, "folder": Path(made.output_folder).parent.name, "transforms": transforms, "own": [len(getattr(made, "seen", [])), len(getattr(made, "read", []))],
        },
        "outcome": outcome,
    }


CHECKPOINT_KEYS = {"network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args", "trainer_name",
                   "inference_allowed_mirroring_axes"}


def _seen(steps, batch, result):
    steps.append((list(batch["data"].shape), list(batch.get("keys", ()))))
    return result
