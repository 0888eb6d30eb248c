"""Six small programs as people write them around nnU-Net 2.8.1; the same file runs here and upstream, and returns plain values and arrays."""

from pathlib import Path

import numpy as np
import torch

from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple, load_summary_json
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.utils import unpack_dataset  # noqa: F401  # old scripts import it
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def _predictor(model, folds=(0,), **more):
    predictor = nnUNetPredictor(tile_step_size=0.5, use_gaussian=True, use_mirroring=False, device=torch.device("cpu"), verbose=False, allow_tqdm=False,
                                **{"perform_everything_on_device": False, **more})
    predictor.initialize_from_trained_model_folder(str(model), use_folds=folds, checkpoint_name="checkpoint_final.pth")
    return predictor


def arrays_in_memory(model, images):
    """Masks and probabilities of arrays that never were files here."""
    predictor = _predictor(model)
    reader = SimpleITKIO()
    read = [reader.read_images([image]) for image in images]
    results = predictor.predict_from_list_of_npy_arrays([data for data, _ in read], None, [properties for _, properties in read], None,
                                                        num_processes=1, save_probabilities=True, num_processes_segmentation_export=1)
    return {"masks": [np.asarray(mask) for mask, _ in results], "probabilities": [np.asarray(p, np.float32) for _, p in results]}


def own_loop(model, image):
    """Preprocessing, network and export called one by one."""
    predictor = _predictor(model)
    data, properties = SimpleITKIO().read_images([image])
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(data, None, properties, predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.asarray(data))).cpu()
    mask = convert_predicted_logits_to_segmentation_with_correct_shape(logits, predictor.plans_manager, predictor.configuration_manager,
                                                                       predictor.label_manager, properties, return_probabilities=False)
    return {"preprocessed": np.asarray(data, np.float32), "logits": logits.numpy().astype(np.float32), "mask": np.asarray(mask)}


def own_network(model, image):
    """A network built from plans, its weights taken from a checkpoint, handed to a predictor that has no model folder."""
    loaded = _predictor(model)
    plans, configuration = loaded.plans_manager, loaded.configuration_manager
    network = get_network_from_plans(configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
                                     configuration.network_arch_init_kwargs_req_import, determine_num_input_channels(plans, configuration, loaded.dataset_json),
                                     plans.get_label_manager(loaded.dataset_json).num_segmentation_heads, allow_init=True, deep_supervision=False)
    checkpoint = torch.load(Path(model) / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    network.load_state_dict(checkpoint["network_weights"])
    predictor = nnUNetPredictor(use_mirroring=True, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(network, plans, configuration, [checkpoint["network_weights"]], loaded.dataset_json, "nnUNetTrainer", (0, 1))
    data, properties = SimpleITKIO().read_images([image])
    return {"mask": np.asarray(predictor.predict_single_npy_array(data, properties, None, None, False))}


def plans_as_data(plans, dataset_json):
    """What scripts read out of plans."""
    manager = PlansManager(plans)
    labels = manager.get_label_manager(dataset_json)
    values = {}
    for name in ("3d_fullres", "tiny"):
        configuration = manager.get_configuration(name)
        values[name] = [configuration.data_identifier, configuration.preprocessor_name, configuration.batch_size, list(configuration.patch_size),
                        list(configuration.spacing), configuration.normalization_schemes, configuration.use_mask_for_norm,
                        configuration.network_arch_class_name, configuration.batch_dice, configuration.next_stage_names, configuration.previous_stage_name]
    return {**values, "plans": [manager.dataset_name, manager.plans_name, list(manager.original_median_spacing_after_transp), manager.transpose_forward,
                                manager.transpose_backward, manager.available_configurations, manager.image_reader_writer_class.__name__],
            "labels": [labels.foreground_labels, labels.has_regions, labels.has_ignore_label, labels.num_segmentation_heads, labels.all_labels],
            "steps": compute_steps_for_sliding_window((40, 61, 80), (16, 24, 32), 0.5),
            "gaussian": compute_gaussian((8, 12, 10), 1 / 8, 10, torch.float32, torch.device("cpu")).numpy()}


class SmallerPatch(ExperimentPlanner):
    """A planner of one's own: half the memory, another name."""

    def __init__(self, dataset_name_or_id, gpu_memory_target_in_gb=4, preprocessor_name="DefaultPreprocessor", plans_name="smallerPlans", **more):
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, **more)
        self.UNet_base_num_features, self.UNet_featuremap_min_edge_length = 16, 8


def own_planner(dataset):
    plans = SmallerPatch(dataset).plan_experiment()
    return {name: {key: configuration[key] for key in ("patch_size", "batch_size", "spacing", "architecture") if key in configuration}
            for name, configuration in plans["configurations"].items()} | {"name": plans["plans_name"]}


def metrics_of_folders(truth, predicted):
    """Scores of two folders by label, and the file read back."""
    out = Path(predicted) / "own_summary.json"
    compute_metrics_on_folder_simple(str(truth), str(predicted), [1, 2], output_file=str(out), num_processes=1, chill=True)
    summary = load_summary_json(str(out))
    return {"mean": summary["mean"], "foreground": summary["foreground_mean"], "cases": sorted(Path(case["prediction_file"]).name for case in summary["metric_per_case"])}


def batches_of_one_s_own(folder, plans, dataset_json, cases):
    """Patches straight from the preprocessed folder, without a trainer or a transform."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    manager = PlansManager(plans)
    dataset = infer_dataset_class(str(folder))(str(folder), list(cases))
    data, seg, _, properties = dataset.load_case(cases[0])
    loader = nnUNetDataLoader(dataset, 2, (16, 24, 32), (16, 24, 32), manager.get_label_manager(dataset_json), 1.0, None, None, transforms=None)
    batch = next(loader)
    return {"data": np.asarray(data[:], np.float32), "seg": np.asarray(seg[:], np.int16), "locations": sorted(int(k) for k in properties["class_locations"]),
            "batch": [list(batch["data"].shape), list(batch["target"].shape), sorted(batch), sorted(set(batch["keys"]) - set(cases))],
            "foreground": bool(all((np.asarray(target) > 0).any() for target in batch["target"]))}
