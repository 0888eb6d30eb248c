"""The suite must notice: break one component on purpose and demand that its check fails.

Each mutation first sees its check pass, so that a check that always fails proves nothing.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dynamic_network_architectures.building_blocks import residual
from nnunetv2.evaluation import evaluate_predictions
from nnunetv2.experiment_planning import experiment_planner
from nnunetv2.imageio import reorientation
from nnunetv2.inference import case_prediction, export_prediction, sliding_window_prediction
from nnunetv2.postprocessing import remove_connected_components
from nnunetv2.preprocessing import class_locations, cropping, normalization, resampling
from nnunetv2.preprocessing.preprocessors import default_preprocessor
from nnunetv2.training import augmentation, lr_scheduler
from nnunetv2.training.loss.dice import SoftDiceLoss
from nnunetv2.training.nnUNetTrainer import objective
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.conformance import (check_downstream, check_evaluation, check_imageio, check_inference, check_loss, check_network, check_planning, check_preprocessing,
                               check_training)
from tests.conformance.run import run_check

Patch = Callable[[pytest.MonkeyPatch], None]
MUTATIONS: list[tuple[str, Callable, Patch]] = []


def mutation(name: str, check: Callable) -> Callable[[Patch], Patch]:
    """Register `patch`, which breaks something that `check` must notice."""

    def register(patch: Patch) -> Patch:
        MUTATIONS.append((name, check, patch))
        return patch

    return register


def wrap(m: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Replace function `owner.name` by one whose result goes through `change`."""
    original = getattr(owner, name)
    m.setattr(owner, name, lambda *args, **kwargs: change(original(*args, **kwargs)))


@mutation("Gaussian of a wrong sigma", check_inference.check_gaussian)
def wrong_sigma(m):
    original = sliding_window_prediction.gaussian_filter1d
    m.setattr(sliding_window_prediction, "gaussian_filter1d", lambda impulse, sigma, **kwargs: original(impulse, 1.05 * sigma, **kwargs))


@mutation("second tile shifted by a voxel", check_inference.check_sliding_window)
def shifted_tile(m):
    original = sliding_window_prediction.compute_steps_for_sliding_window

    def shifted(image, tile, step):
        # not the last: voxels that no tile covers are refused before any figure is compared
        return [[starts[0], starts[1] - 1, *starts[2:]] if len(starts) > 2 else starts for starts in original(image, tile, step)]

    m.setattr(sliding_window_prediction, "compute_steps_for_sliding_window", shifted)


@mutation("a mirror axis left out of TTA", check_inference.check_sliding_window)
def missing_mirror_axis(m):
    original = case_prediction.mirror_views
    m.setattr(case_prediction, "mirror_views", lambda axes, tta: original(axes and axes[:-1], tta))


@mutation("padding at the end instead of around the centre", check_inference.check_sliding_window)
def uncentred_padding(m):
    def pad(data, size):
        missing = [max(0, s - n) for s, n in zip(size, data.shape[-len(size):])]
        inner = (slice(None), *(slice(0, n) for n in data.shape[1:]))
        return torch.nn.functional.pad(data, [n for missed in reversed(missing) for n in (0, missed)]), inner

    m.setattr(sliding_window_prediction, "pad_centred", pad)


@mutation("order 0 instead of order 1", check_preprocessing.check_resampling)
def wrong_order(m):
    original = resampling.interpolation_matrix
    m.setattr(resampling, "interpolation_matrix", lambda n_in, n_out, order: original(n_in, n_out, 0 if order == 1 else order))


@mutation("thick slices interpolated like the others", check_preprocessing.check_resampling)
def no_separate_z(m):
    m.setattr(resampling, "low_resolution_axis", lambda *args, **kwargs: None)


@mutation("forgotten transpose of the mask", check_inference.check_export)
def forgotten_transpose(m):
    m.setattr(PlansManager, "transpose_backward", property(lambda self: [0, 1, 2]))


@mutation("holes of the non-zero mask left open", check_preprocessing.check_crop)
def holes_left_open(m):
    m.setattr(cropping, "fill_holes", lambda mask: mask)


@mutation("clip at the maximum instead of the 99.5 percentile", check_preprocessing.check_normalisation)
def wrong_percentile(m):
    class Unclipped(normalization.CTNormalization):
        def __init__(self, intensityproperties, **kwargs):
            super().__init__(intensityproperties={**intensityproperties, "percentile_99_5": intensityproperties["max"]}, **kwargs)

    m.setitem(normalization.SCHEMES, "CTNormalization", Unclipped)


@mutation("other seed for the candidate centres", check_preprocessing.check_2d_and_lowres)
def wrong_location_seed(m):
    m.setattr(default_preprocessor.DefaultPreprocessor, "_sample_foreground_locations",
              staticmethod(lambda seg, classes_or_regions, seed=4321, verbose=False: class_locations.sample_class_locations(seg, classes_or_regions, 4321)))


@mutation("resample first, normalise after", check_preprocessing.check_2d_and_lowres)
def normalise_after_resampling(m):
    def swapped(data, seg, plans_manager, configuration_manager, resample):
        out = resample(data.astype(np.float32))
        for i, channel in enumerate(out):
            normalization.normalize(channel, configuration_manager.normalization_schemes[i], False, None,
                                    plans_manager.foreground_intensity_properties_per_channel[str(i)])
        return out

    m.setattr(default_preprocessor, "_normalize_and_resample", swapped)


@mutation("pool until an edge of 6 voxels instead of 4", check_planning.check_plans)
def wrong_pooling_threshold(m):
    m.setattr(experiment_planner.ExperimentPlanner, "UNet_featuremap_min_edge_length", 6)


@mutation("smaller memory reference of the default planner", check_planning.check_plans)
def wrong_memory_reference(m):
    m.setattr(experiment_planner.ExperimentPlanner, "UNet_reference_val_3d", 500_000_000)


@mutation("max pooling in the residual skip", check_network.check_weights_and_logits)
def wrong_skip(m):
    original = residual.LayerOps.counterpart
    m.setattr(residual.LayerOps, "counterpart", lambda self, name: original(self, "MaxPool" if name == "AvgPool" else name))


@mutation("Dice smoothed by 1 instead of 1e-5", check_loss.check_dice)
def wrong_smoothing(m):
    original = SoftDiceLoss.__init__
    m.setattr(SoftDiceLoss, "__init__", lambda self, *args, **kwargs: original(self, *args, **{**kwargs, "smooth": 2.0}))


@mutation("lowest resolution counted in deep supervision", check_training.check_sgd_steps)
def lowest_resolution_counted(m):
    m.setattr(objective, "deep_supervision_weights", lambda n: (np.array([0.5**i for i in range(n)]) / sum(0.5**i for i in range(n))).tolist())


@mutation("momentum 0.9 instead of 0.99", check_training.check_sgd_steps)
def wrong_momentum(m):
    def optimiser(self):
        optimizer = torch.optim.SGD(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay, momentum=0.9, nesterov=True)
        return optimizer, lr_scheduler.PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    m.setattr(nnUNetTrainer, "configure_optimizers", optimiser)


@mutation("linear instead of polynomial decay", check_training.check_schedule)
def wrong_decay(m):
    m.setattr(check_training, "PolyLRScheduler", partial(lr_scheduler.PolyLRScheduler, exponent=1.0))


@mutation("brightness after contrast", check_training.check_augmented_arrays)
def swapped_transforms(m):
    def swapped(transforms):
        transforms[2], transforms[3] = transforms[3], transforms[2]
        return transforms

    wrap(m, augmentation, "intensity_transforms", swapped)


@mutation("rotation of 15 degrees instead of 30", check_training.check_transforms)
def smaller_rotation(m):
    original = augmentation.AugmentationGeometry.from_patch_size.__func__

    def narrowed(cls, patch_size):
        geometry = original(cls, patch_size)
        return dataclasses.replace(geometry, rotation=tuple(r / 2 for r in geometry.rotation))

    m.setattr(augmentation.AugmentationGeometry, "from_patch_size", classmethod(narrowed))


@mutation("the last of equal maxima wins", check_inference.check_labels)
def last_maximum_wins(m):
    m.setattr(check_inference, "convert_logits_to_labels",
              lambda logits, labels: (len(logits) - 1 - np.argmax(logits.numpy()[::-1], axis=0)).astype(np.uint8)
              if not labels.has_regions else export_prediction.convert_logits_to_labels(logits, labels))


@mutation("empty against empty counted as Dice 0", check_evaluation.check_summary)
def empty_is_zero(m):
    def zero(metrics):
        return {k: {**v, "Dice": 0.0 if np.isnan(v["Dice"]) else v["Dice"]} for k, v in metrics.items()}

    wrap(m, evaluate_predictions, "overlap_metrics", zero)


@mutation("components by 6 instead of 26 neighbours", check_evaluation.check_components)
def fewer_neighbours(m):
    original = remove_connected_components.ndimage.label
    m.setattr(remove_connected_components.ndimage, "label", lambda mask, structure=None: original(mask))


@mutation("a hook that is never called", check_downstream.check_custom_trainers)
def silent_hook(m):
    original = nnUNetTrainer.on_train_start

    def start(self):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(type(self), "print_plans", lambda self: None)
            original(self)

    m.setattr(nnUNetTrainer, "on_train_start", start)


@mutation("a custom trainer's split is ignored", check_downstream.check_custom_trainers)
def ignored_split(m):
    original = nnUNetTrainer.get_tr_and_val_datasets

    def datasets(self):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(type(self), "do_split", lambda self: (["case_000"], ["case_001"]))
            return original(self)

    m.setattr(nnUNetTrainer, "get_tr_and_val_datasets", datasets)


@mutation("volumes turned with one axis unflipped", check_imageio.check_volumes)
def unflipped_axis(m):
    original = reorientation.Reorientation.of_affine.__func__
    m.setattr(reorientation.Reorientation, "of_affine", classmethod(
        lambda cls, affine: dataclasses.replace(original(cls, affine), flipped=(False, *original(cls, affine).flipped[1:]))))


@pytest.mark.conformance
@pytest.mark.parametrize(("check", "patch"), [(check, patch) for _, check, patch in MUTATIONS], ids=[name for name, _, _ in MUTATIONS])
def test_a_broken_component_is_noticed(check, patch, bench, monkeypatch):
    intact = bench.once(f"rows of {check.__name__}", lambda: run_check(check, bench))
    assert all(row.passed for row in intact)
    patch(monkeypatch)
    broken = next((row for row in check(bench) if not row.passed), None)  # a crash is no wrong result: it fails this test
    assert broken is not None
