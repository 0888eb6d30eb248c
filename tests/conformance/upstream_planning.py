"""Upstream's fingerprint extraction and planners, called on the bench's folders."""

import json
import os
from pathlib import Path

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name


def _preprocessed(dataset: int) -> Path:
    return Path(os.environ["nnUNet_preprocessed"]) / convert_id_to_dataset_name(dataset)


def fingerprint(dataset, samples):
    """`samples`: foreground voxels drawn over the data set; upstream's own number is 1e8."""
    extractor = DatasetFingerprintExtractor(dataset, num_processes=2)
    extractor.num_foreground_voxels_for_intensitystats = samples
    extractor.run(overwrite_existing=True)
    return json.loads((_preprocessed(dataset) / "dataset_fingerprint.json").read_text())


def plan(dataset, planner, memory=None, spacing=None, name=None):
    identifier = plan_experiments([dataset], planner, memory, overwrite_target_spacing=spacing, overwrite_plans_name=name)
    return json.loads((_preprocessed(dataset) / f"{identifier}.json").read_text())
