"""Upstream's sliding window, export and label handling."""

from contextlib import contextmanager

import numpy as np
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def steps(images, tiles, step):
    return [compute_steps_for_sliding_window(image, tile, step) for image, tile in zip(images.tolist(), tiles.tolist())]


def gaussian(tile, double):
    compute_gaussian.cache_clear()
    dtype = torch.float64 if double else torch.float16
    return compute_gaussian(tuple(tile), 1 / 8, 10, dtype=dtype, device=torch.device("cpu")).double().numpy()


@contextmanager
def _accumulate_in(dtype):
    """Upstream names torch.half where it allocates its sums; for the fp32 reference that name means another type."""
    half, torch.half = torch.half, dtype
    try:
        yield
    finally:
        torch.half = half


def sliding_window(plans, dataset_json, configuration, files, data, mirroring, step, gaussian=True, fp32=False):
    """Mean logits over the models in `files` for preprocessed data (C, Z, Y, X)."""
    manager = PlansManager(plans)
    config = manager.get_configuration(configuration)
    network = nnUNetTrainer.build_network_architecture(
        manager, config, determine_num_input_channels(manager, config, dataset_json),
        manager.get_label_manager(dataset_json).num_segmentation_heads, enable_deep_supervision=False)
    predictor = predict_from_raw_data.nnUNetPredictor(
        tile_step_size=step, use_gaussian=gaussian, use_mirroring=mirroring is not None, device=torch.device("cpu"), allow_tqdm=False)
    parameters = [torch.load(f, weights_only=True) for f in files]
    predictor.manual_initialization(network, manager, config, parameters, dataset_json, "nnUNetTrainer",
                                    None if mirroring is None else tuple(mirroring))
    compute_gaussian.cache_clear()
    with _accumulate_in(torch.float32 if fp32 else torch.float16):
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    compute_gaussian.cache_clear()
    return {"logits": logits.float().numpy()}


def export(logits, plans, dataset_json, configuration, images, target, save_probabilities):
    """Preprocess `images` for their properties, then export `logits` (S, Z, Y, X) of the preprocessed shape to `target`."""
    manager = PlansManager(plans)
    config = manager.get_configuration(configuration)
    _, _, properties = config.preprocessor_class(verbose=False).run_case(images, None, manager, config, dataset_json)
    export_prediction_from_logits(torch.from_numpy(logits), properties, config, manager, dataset_json, target, save_probabilities)
    return {}


def labels(dataset_json, plans, logits):
    manager = PlansManager(plans).get_label_manager(dataset_json)
    probabilities = manager.apply_inference_nonlin(torch.from_numpy(logits))
    return {"heads": manager.num_segmentation_heads, "foreground": [list(f) if isinstance(f, tuple) else f for f in (
                manager.foreground_regions if manager.has_regions else manager.foreground_labels)],
            "ignore": manager.ignore_label, "probabilities": np.asarray(probabilities),
            "segmentation": np.asarray(manager.convert_logits_to_segmentation(torch.from_numpy(logits)))}
