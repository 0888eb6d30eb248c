"""Upstream's preprocessor, normalisation, cropping, resampling and .b2nd storage."""

import time

import numpy as np
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def _described(properties):
    """Properties with array-valued, string-keyed class locations."""
    locations = {str(k): np.asarray(v) for k, v in properties.get("class_locations", {}).items()}
    return {**properties, "class_locations": locations}


def run_case(plans, dataset_json, configuration, images, seg=None):
    manager = PlansManager(plans)
    data, seg, properties = DefaultPreprocessor(verbose=False).run_case(
        images, seg, manager, manager.get_configuration(configuration), dataset_json)
    return {"data": data, "seg": seg, "properties": _described(properties)}


def save_case(plans, dataset_json, configuration, images, seg, target):
    manager = PlansManager(plans)
    DefaultPreprocessor(verbose=False).run_case_save(target, images, seg, manager, manager.get_configuration(configuration), dataset_json)
    return {}


def load_case(folder, case):
    data, seg, _, properties = nnUNetDatasetBlosc2(folder).load_case(case)
    return {"data": data[:], "seg": seg[:], "properties": _described(properties)}


def preprocess(dataset, plans_name, configurations):
    """What nnUNetv2_preprocess does, references included."""
    preprocess_dataset(dataset, plans_name, configurations, [2])
    return {}


def normalise(scheme, image, seg, use_mask, intensities):
    module = getattr(schemes, scheme)(use_mask_for_norm=use_mask, intensityproperties=intensities)
    return {"image": module.run(image.copy(), seg)}


def crop(data, seg=None):
    data, seg, box = crop_to_nonzero(data, seg)
    return {"data": data, "seg": seg, "box": [list(map(int, b)) for b in box]}


def resample(data, shape, current, new, **options):
    start = time.monotonic()
    data = np.asarray(resample_data_or_seg_to_shape(data, shape, current, new, **options))
    return {"data": data, "seconds": time.monotonic() - start}


def new_shape(shape, current, new):
    return [int(n) for n in compute_new_shape(shape, current, new)]
