"""Upstream's training: schedule, optimiser steps, augmentation, sampling, splits."""

import os

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.crossval_split import generate_crossval_split
from transforms_view import describe, statistics


def learning_rates(initial, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=initial)
    schedule = PolyLRScheduler(optimizer, initial, steps)
    rates = []
    for step in range(steps):
        schedule.step(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return np.array(rates)


def _trainer(plans, dataset_json, configuration, fold=0):
    return nnUNetTrainer({**plans, "continue_training": False}, configuration, fold, dataset_json, device=torch.device("cpu"))


def sgd(plans, dataset_json, configuration, weights, data, targets):
    """Losses and final weights of one step a batch; data (N, B, C, D, H, W), targets a list over resolutions."""
    trainer = _trainer(plans, dataset_json, configuration)
    trainer.initialize()
    trainer.network.load_state_dict(torch.load(weights, weights_only=True))
    trainer.network.train()
    losses = []
    for i, x in enumerate(data):
        batch = {"data": torch.from_numpy(x), "target": [torch.from_numpy(t[i]) for t in targets]}
        losses.append(float(trainer.train_step(batch)["loss"]))
    torch.save(trainer.network.state_dict(), weights)
    return {"losses": np.array(losses), "learning_rate": trainer.optimizer.param_groups[0]["lr"],
            "settings": {k: v for k, v in trainer.optimizer.param_groups[0].items() if k in ("momentum", "weight_decay", "nesterov", "dampening")},
            "deep_supervision_weights": list(trainer.loss.weight_factors)}


def validation(plans, dataset_json, configuration, weights, data, targets):
    trainer = _trainer(plans, dataset_json, configuration)
    trainer.initialize()
    trainer.network.load_state_dict(torch.load(weights, weights_only=True))
    trainer.network.eval()
    outputs = []
    with torch.no_grad():
        for i, x in enumerate(data):
            outputs.append(trainer.validation_step({"data": torch.from_numpy(x), "target": [torch.from_numpy(t[i]) for t in targets]}))
    trainer.current_epoch = 0
    trainer.on_validation_epoch_end(outputs)
    return {"loss": float(trainer.logger.get_value("val_losses", step=-1)),
            "dice": [float(d) for d in trainer.logger.get_value("dice_per_class_or_region", step=-1)]}


def ema(values):
    logger = LocalLogger()
    smoothed = []
    for epoch, value in enumerate(values):  # the rule MetaLogger applies on every new pseudo Dice
        previous = logger.get_value("ema_fg_dice", step=None)
        logger.log("ema_fg_dice", previous[-1] * 0.9 + 0.1 * value if previous else value, epoch)
        smoothed.append(logger.get_value("ema_fg_dice", step=epoch))
    return smoothed


class _Configuration:
    def __init__(self, patch):
        self.patch_size = patch


def augmentation_geometry(patch):
    """Rotation range, in-plane augmentation, size read from disk and mirror axes for a patch size."""
    trainer = object.__new__(nnUNetTrainer)
    trainer.configuration_manager = _Configuration(patch)
    trainer.print_to_log_file = lambda *args, **kwargs: None
    rotation, dummy_2d, initial, mirror = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    return {"rotation": list(rotation), "dummy_2d": bool(dummy_2d), "initial": [int(i) for i in initial], "mirror": list(mirror)}


def _pipeline(patch, scales, use_mask, regions, ignore):
    geometry = augmentation_geometry(patch)
    pipeline = nnUNetTrainer.get_training_transforms(
        patch, tuple(geometry["rotation"]), scales, tuple(geometry["mirror"]), geometry["dummy_2d"], use_mask_for_norm=use_mask,
        is_cascaded=False, foreground_labels=[1, 2], regions=None if regions is None else [tuple(r) for r in regions], ignore_label=ignore)
    for transform in pipeline.transforms:
        blur = getattr(transform, "transform", transform)
        if hasattr(blur, "benchmark"):  # picks convolution or FFT by timing them, which no two runs repeat
            blur.benchmark = False
    return pipeline


def augment(patch, scales, use_mask, regions, ignore, image, seg, seeds):
    """The whole training pipeline on one patch (C, *initial size), once a seed."""
    pipeline = _pipeline(patch, scales, use_mask, regions, ignore)
    images, segs = [], []
    for seed in seeds:
        np.random.seed(seed)
        torch.manual_seed(seed)
        out = pipeline(image=torch.from_numpy(image.copy()), segmentation=torch.from_numpy(seg.copy()))
        images.append(out["image"].numpy())
        segs.append([s.numpy() for s in out["segmentation"]] if isinstance(out["segmentation"], list) else [out["segmentation"].numpy()])
    return {"images": np.stack(images), "segs": [np.stack(scale) for scale in zip(*segs)]}


def look_at_pipeline(patch, draws, seed):
    """Settings of the transforms, and statistics of `draws` draws of each."""
    transforms = _pipeline(patch, None, [False], None, None).transforms
    geometry = augmentation_geometry(patch)
    shape = (1, *geometry["initial"][geometry["dummy_2d"]:])
    return {"settings": describe(transforms), "statistics": statistics(transforms, shape, draws, seed)}


class _Cases:
    """Just enough of a data set for the loader's constructor."""
    identifiers = ["case"]


class _Labels:
    def __init__(self, ignore):
        self.all_labels, self.has_ignore_label = [0, 1, 2], ignore


def boxes(shape, initial, patch, locations, ignore, forced, n):
    """Lower corners of `n` boxes drawn for a case."""
    loader = nnUNetDataLoader(_Cases(), 2, initial, patch, _Labels(ignore))
    np.random.seed(0)
    keys = {tuple(eval(k)) if k.startswith("(") else int(k): v for k, v in locations.items()}
    return np.array([loader.get_bbox(np.array(shape), forced, keys)[0] for _ in range(n)])


def forced_foreground(batch_sizes, share):
    loader = nnUNetDataLoader(_Cases(), 2, (8, 8, 8), (8, 8, 8), _Labels(False), oversample_foreground_percent=share)
    found = []
    for size in batch_sizes:
        loader.batch_size = size
        found.append([bool(loader.get_do_oversample(i)) for i in range(size)])
    return found


def splits(cases):
    return [{k: [str(c) for c in v] for k, v in fold.items()} for fold in generate_crossval_split(cases)]


def train(plans, dataset_json, configuration, fold, epochs, iterations):
    """A short training with its final validation, probabilities included; returns the model's folder."""
    os.environ["nnUNet_n_proc_DA"] = "0"
    torch.manual_seed(fold)
    np.random.seed(fold)
    try:
        trainer = _trainer(plans, dataset_json, configuration, fold)
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = epochs, iterations, 2
        trainer.run_training()
        trainer.perform_actual_validation(save_probabilities=True)
    finally:
        os.environ["nnUNet_n_proc_DA"] = "1"
    return {"folder": trainer.output_folder_base}
