"""Upstream's evaluation, ensembling and postprocessing."""

import json
from pathlib import Path

import numpy as np
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component
from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2, compute_metrics_on_folder_simple
from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing


def summary(reference, predictions, dataset_json, plans, output):
    compute_metrics_on_folder2(reference, predictions, dataset_json, plans, output, num_processes=2)
    return json.loads(Path(output).read_text())


def simple(reference, predictions, labels, output, ignore=None):
    compute_metrics_on_folder_simple(reference, predictions, labels, output, num_processes=2, ignore_label=ignore)
    return json.loads(Path(output).read_text())


def ensemble(folders, output):
    ensemble_folders(folders, output, True, num_processes=2)
    return {}


def postprocessing(predictions, reference, plans, dataset_json):
    determine_postprocessing(predictions, reference, plans, dataset_json, num_processes=2)
    return json.loads((Path(predictions) / "postprocessing.json").read_text())


def largest_components(masks):
    return np.stack([remove_all_but_largest_component(mask) for mask in masks])
