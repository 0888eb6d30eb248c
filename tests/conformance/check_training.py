"""Rows: training. Schedule, optimiser steps, validation figures, augmentation, patch sampling and splits."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nnunetv2.training.augmentation import AugmentationGeometry, PatchAugmentation
from nnunetv2.training.dataloading.patch_location import draw_foreground_voxels, draw_lower_corner, is_forced_foreground, lower_corner_range
from nnunetv2.training.logging import TrainingLog
from nnunetv2.training.lr_scheduler import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.objective import deep_supervision_weights
from nnunetv2.utilities.splits import default_splits
from tests.conformance.bench import Bench, Row, equal, within
from tests.conformance.check_network import build
from tests.conformance.datasets import tiny_model
from tests.conformance.transforms_view import describe, statistics

LOSS_BOUND = 1e-3  # relative, after 20 steps
SAMPLE_SD = 4  # standard errors a frequency of two random samples may be apart


def check_schedule(bench: Bench) -> Iterator[Row]:
    for steps in (1000, 37):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
        schedule = PolyLRScheduler(optimizer, 1e-2, steps)
        rates = []
        for step in range(steps):
            schedule.step(step)
            rates.append(optimizer.param_groups[0]["lr"])
        yield within(f"learning rate over {steps} epochs", np.array(rates), bench.upstream.call(
            "upstream_training:learning_rates", initial=1e-2, steps=steps), 1e-12)


def batches(plans: dict[str, Any], configuration: str, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """`n` batches: data (n, B, 1, D, H, W) and targets a resolution (n, B, 1, ...), labels that depend on the data."""
    settings = plans["configurations"][configuration]
    rng = np.random.default_rng(5)
    data = rng.normal(size=(n, settings["batch_size"], 1, *settings["patch_size"])).astype(np.float32)
    data = (data + np.roll(data, 1, -1) + np.roll(data, 1, -2)) / 1.7
    labels = np.digitize(data, [0.4, 1.2]).astype(np.int16)
    targets, strides = [], np.array(settings["architecture"]["arch_kwargs"]["strides"])
    for stage in range(len(strides) - 1):
        step = np.prod(strides[: stage + 1], axis=0)
        targets.append(labels[(..., *(slice(None, None, s) for s in step))].copy())
    return data, targets


def trainer_here(bench: Bench, plans: dict[str, Any], dataset_json: dict[str, Any], configuration: str) -> nnUNetTrainer:
    trainer = nnUNetTrainer(json.loads(json.dumps(plans)), configuration, 0, dataset_json, device=torch.device("cpu"))
    trainer.initialize()
    return trainer


def check_sgd_steps(bench: Bench) -> Iterator[Row]:
    folder, plans = tiny_model(bench)
    dataset_json = json.loads((folder / "dataset.json").read_text())
    data, targets = batches(plans, "tiny", 20)
    start, end = bench.folder / "start.pth", bench.folder / "end.pth"
    torch.manual_seed(1)
    torch.save(build(plans["configurations"]["tiny"]["architecture"], 1, 3, initialise=True).state_dict(), start)
    end.write_bytes(start.read_bytes())
    theirs = bench.upstream.call("upstream_training:sgd", plans=plans, dataset_json=dataset_json, configuration="tiny", weights=end,
                                 data=data, targets=targets)
    with bench.environment():
        trainer = trainer_here(bench, plans, dataset_json, "tiny")
    trainer.network.load_state_dict(torch.load(start, weights_only=True))
    trainer.on_epoch_start()
    trainer.network.train()
    losses = []
    for i, x in enumerate(data):
        batch = {"data": torch.from_numpy(x), "target": [torch.from_numpy(t[i]) for t in targets]}
        losses.append(float(trainer.train_step(batch)["loss"]))
    group = trainer.optimizer.param_groups[0]
    yield equal("optimiser settings", {"lr": group["lr"], **{k: group[k] for k in theirs["settings"]}},
                {"lr": theirs["learning_rate"], **theirs["settings"]})
    yield within("deep supervision weights", np.array(deep_supervision_weights(len(targets))), np.array(theirs["deep_supervision_weights"]), 1e-12)
    yield within("20 SGD steps, fp32, same weights and batches: losses", np.array(losses), theirs["losses"], LOSS_BOUND, relative=True,
                 note=f"loss {losses[0]:.3f} to {losses[-1]:.3f}")
    final, reference = trainer.network.state_dict(), torch.load(end, weights_only=True)
    flat = [np.concatenate([side[k].numpy().ravel() for k in reference]) for side in (final, reference)]
    yield within("20 SGD steps: final weights", *flat, LOSS_BOUND, relative=True)


def check_validation_figures(bench: Bench) -> Iterator[Row]:
    folder, plans = tiny_model(bench)
    dataset_json = json.loads((folder / "dataset.json").read_text())
    data, targets = batches(plans, "tiny", 3)
    weights = bench.folder / "validation.pth"
    torch.manual_seed(2)
    torch.save(build(plans["configurations"]["tiny"]["architecture"], 1, 3, initialise=True).state_dict(), weights)
    theirs = bench.upstream.call("upstream_training:validation", plans=plans, dataset_json=dataset_json, configuration="tiny",
                                 weights=weights, data=data, targets=targets)
    with bench.environment(), torch.no_grad():
        trainer = trainer_here(bench, plans, dataset_json, "tiny")
        trainer.network.load_state_dict(torch.load(weights, weights_only=True))
        trainer.network.eval()
        outputs = [trainer.validation_step({"data": torch.from_numpy(x), "target": [torch.from_numpy(t[i]) for t in targets]})
                   for i, x in enumerate(data)]
        trainer.on_validation_epoch_end(outputs)
    yield within("pseudo Dice of validation patches", np.array(trainer.logger.values["dice_per_class_or_region"][0]), np.array(theirs["dice"]), 1e-6)
    yield within("validation loss", trainer.logger.values["val_losses"][0], theirs["loss"], 1e-6, relative=True)
    series = np.random.default_rng(0).uniform(0, 1, 12).tolist()
    log = TrainingLog(bench.folder / "log", has_classes=False, active=False)
    for epoch, value in enumerate(series):
        log.log("mean_fg_dice", value, epoch)
    yield within("moving average of the pseudo Dice (chooses checkpoint_best)", np.array(log.values["ema_fg_dice"]),
                 np.array(bench.upstream.call("upstream_training:ema", values=series)), 1e-12)


PATCHES = [(64, 128, 192), (128, 128, 128), (24, 256, 256), (32, 96, 128), (48, 160, 160), (320, 320), (256, 96)]


def check_augmentation_geometry(bench: Bench) -> Iterator[Row]:
    for patch in PATCHES:
        theirs = bench.upstream.call("upstream_training:augmentation_geometry", patch=patch)
        g = AugmentationGeometry.from_patch_size(patch)
        yield equal(f"augmentation of patch {patch}: in-plane, size read, mirror axes", [g.dummy_2d, g.initial_patch_size, g.mirror_axes],
                    [theirs["dummy_2d"], theirs["initial"], theirs["mirror"]])
        yield within(f"augmentation of patch {patch}: rotation, radians", np.array(g.rotation), np.array(theirs["rotation"]), 1e-12)


def check_transforms(bench: Bench) -> Iterator[Row]:
    """Settings of every transform, and statistics of 2000 draws of each from one seed."""
    draws = 200 if bench.reduced else 2000
    for patch in ((16, 20, 24), (8, 28, 28)):
        theirs = bench.upstream.call("upstream_training:look_at_pipeline", patch=patch, draws=draws, seed=3)
        g = AugmentationGeometry.from_patch_size(patch)
        transforms = nnUNetTrainer.get_training_transforms(patch, g.rotation, None, g.mirror_axes, g.dummy_2d).transforms
        yield equal(f"augmentation: transforms, order, probabilities and settings, patch {patch}", describe(transforms), theirs["settings"])
        ours = statistics(transforms, (1, *g.initial_patch_size[g.dummy_2d:]), draws, seed=3)
        for name, reference in theirs["statistics"].items():
            yield equal(f"augmentation: {draws} draws of {name}, patch {patch}", ours.get(name), reference, note=f"applied {reference['applied']:.3f}")


def augment_here(patch: tuple[int, ...], scales: list, use_mask: list[bool], regions: list | None, ignore: int | None, image: np.ndarray,
                 seg: np.ndarray, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """One patch through our pipeline as the loader runs it: the margin is cut off where no rotation or scaling is drawn."""
    geometry = AugmentationGeometry.from_patch_size(patch)
    pipeline = nnUNetTrainer.get_training_transforms(patch, geometry.rotation, scales, geometry.mirror_axes, geometry.dummy_2d,
                                                     use_mask_for_norm=use_mask, regions=regions, ignore_label=ignore)
    augmentation = PatchAugmentation(pipeline, geometry.initial_patch_size)
    np.random.seed(seed)
    torch.manual_seed(seed)
    sample = {"image": torch.from_numpy(image.copy()), "segmentation": torch.from_numpy(seg.copy())}
    spatial = augmentation.draw_spatial()
    if spatial is None:
        low = np.array(image.shape[1:]) // 2 - np.array(patch) // 2
        inside = (slice(None), *(slice(a, a + p) for a, p in zip(low, patch)))
        sample = {k: v[inside] for k, v in sample.items()}
    out = augmentation(sample, spatial)
    targets = out["segmentation"] if isinstance(out["segmentation"], list) else [out["segmentation"]]
    return out["image"].numpy(), [t.numpy() for t in targets]


def check_augmented_arrays(bench: Bench) -> Iterator[Row]:
    """Same seed, same patch: equal arrays out of the whole pipeline."""
    seeds = list(range(12 if bench.reduced else 60))
    cases = [((16, 24, 32), [False], None, None), ((8, 28, 28), [True], None, None), ((16, 20, 24), [False], [[1, 2], [2]], 3)]
    for patch, use_mask, regions, ignore in cases:
        size = AugmentationGeometry.from_patch_size(patch).initial_patch_size
        rng = np.random.default_rng(0)
        image = rng.normal(size=(1, *size)).astype(np.float32)
        seg = rng.integers(-1, 3 if ignore is None else 4, (1, *size)).astype(np.int16)
        scales = [[1, 1, 1], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
        theirs = bench.upstream.call("upstream_training:augment", patch=patch, scales=scales, use_mask=use_mask, regions=regions,
                                     ignore=ignore, image=image, seg=seg, seeds=seeds)
        as_tuples = None if regions is None else [tuple(r) for r in regions]
        ours = [augment_here(patch, scales, use_mask, as_tuples, ignore, image, seg, seed) for seed in seeds]
        name = f"patch {patch}, mask {use_mask[0]}, regions {regions is not None}"
        yield within(f"augmented images, {len(seeds)} seeds, {name}", np.stack([i for i, _ in ours]), theirs["images"], 1e-5)
        for scale in range(len(scales)):
            yield within(f"augmented targets, resolution {scale}, {name}", np.stack([s[scale] for _, s in ours]), theirs["segs"][scale], 0.0)


def check_patch_sampling(bench: Bench) -> Iterator[Row]:
    """Where patches are drawn from. The generators differ, so the range must be equal and frequencies alike."""
    sizes = [2, 3, 5, 12]
    theirs = bench.upstream.call("upstream_training:forced_foreground", batch_sizes=sizes, share=0.33)
    yield equal("which samples of a batch must show foreground", [[is_forced_foreground(i, n, 0.33) for i in range(n)] for n in sizes], theirs)
    rng = np.random.default_rng(0)
    n = 4000
    for shape, initial, patch in (((50, 70, 60), (40, 44, 48), (32, 32, 32)), ((20, 30, 90), (32, 48, 48), (24, 40, 40))):
        locations = {1: np.array([[0, 4, 5, 6], [0, 15, 20, 40]]), 2: np.array([[0, 10, 12, 50]])}
        for forced in (False, True):
            reference = bench.upstream.call("upstream_training:boxes", shape=shape, initial=initial, patch=patch, locations=locations,
                                            ignore=False, forced=forced, n=n)
            drawn = np.array([draw_lower_corner(rng, shape, initial, patch, draw_foreground_voxels(rng, locations, None) if forced else None)
                              for _ in range(n)])
            what = f"patch corners in {shape}, size read {initial}, foreground {forced}"
            yield equal(f"{what}: range", [drawn.min(0), drawn.max(0)], [reference.min(0), reference.max(0)])
            error = np.abs(drawn.mean(0) - reference.mean(0)) / np.maximum(np.sqrt((drawn.var(0) + reference.var(0)) / n), 1e-12)
            yield Row(f"{what}: mean over {n} draws", str(drawn.mean(0).round(2)), str(reference.mean(0).round(2)),
                      f"{error.max():.2f} standard errors", f"<= {SAMPLE_SD}", bool(error.max() <= SAMPLE_SD))
            low, high = lower_corner_range(shape, initial, patch)
            if not forced:
                yield equal(f"{what}: declared range", [low, high], [reference.min(0), reference.max(0)])


def check_splits(bench: Bench) -> Iterator[Row]:
    for n in (12, 252):
        cases = [f"case_{i:03d}" for i in range(n)]
        yield equal(f"default five folds of {n} cases", default_splits(cases), bench.upstream.call("upstream_training:splits", cases=cases))


CHECKS = [check_schedule, check_sgd_steps, check_validation_figures, check_augmentation_geometry, check_transforms, check_augmented_arrays,
          check_patch_sampling, check_splits]
