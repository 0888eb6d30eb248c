"""The validation that counts: whole cases, exported on the image's grid, compared with the reference in its own geometry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.case_prediction import CasePrediction
from nnunetv2.inference.class_tables import ClassTables
from nnunetv2.inference.export_prediction import convert_prediction_to_segmentation, write_prediction
from nnunetv2.inference.pipeline import Case, Pipeline
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.case_store import load_case, save_seg
from nnunetv2.training.dataloading.nnunet_dataset import network_input, nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer import unfinished_validation
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager


@dataclass(frozen=True)
class NextStage:
    """The configuration of a cascade that refines what is predicted here."""

    configuration: ConfigurationManager
    preprocessed: Path  # its preprocessed cases, whose grid counts
    folder: Path  # gets a segmentation per case


def validate_cases(predictor: nnUNetPredictor, weights: Mapping[str, Any], dataset: nnUNetBaseDataset, folder: Path, references: Path,
                   save_probabilities: bool = False, next_stages: Sequence[NextStage] = ()) -> dict[str, Any]:
    """Fill `folder` anew: a mask per case of `dataset`, `.npz` with `save_probabilities`, class tables, summary.json. Returns the summary.

    Starts from the preprocessed cases and otherwise predicts as `nnUNetv2_predict` does by default. Class labels of the
    validation cases are not read; the tables hold predictions only. `weights` is the network's state dict: a validation with the same
    ones that was ended is gone on with (unfinished_validation.py).
    """
    plans, configuration, labels, ending = (
        predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, predictor.dataset_json["file_ending"])
    goes_on = unfinished_validation.begin(folder, unfinished_validation.made_with(predictor, weights, dataset, save_probabilities))
    tables = None if predictor.task is None else ClassTables(predictor.task, folder)

    of_case: dict[str, dict] = {}

    def prepare(case: Case) -> tuple[torch.Tensor, dict]:
        data, _, previous, properties = dataset.load_case(case.name)
        of_case[case.name] = properties
        return torch.from_numpy(network_input(np.asarray(data[:]), previous, labels.foreground_labels)), properties

    def export(case: Case, properties: dict, prediction: CasePrediction) -> None:
        prediction = prediction.decided()
        for stage in next_stages:
            _save_for(stage, case.name, prediction, configuration, labels)
        mask, probabilities = convert_prediction_to_segmentation(prediction, properties, plans, configuration, labels, save_probabilities)
        if tables is not None:
            tables.add(f"{case.name}{ending}", prediction.class_probabilities, prediction.lesion_found)
        write_prediction(mask, probabilities, properties, plans, case.output, ending)

    pipeline = Pipeline(prepare, predict=lambda case, data: predictor._predict_data(
        data, case.name, properties=of_case.pop(case.name), decide=False), export=export)
    files = {name: [folder / f"{name}{part}" for part in (ending, *((".npz", ".pkl") if save_probabilities else ()))]
             + [stage.folder / f"{name}.b2nd" for stage in next_stages] for name in dataset.identifiers}
    to_do = unfinished_validation.missing(files)
    if goes_on:
        print(f"{folder}: {len(dataset.identifiers) - len(to_do)} of {len(dataset.identifiers)} cases are there from a validation that was ended; they are kept.")
    if tables is not None:
        tables.begin(f"{name}{ending}" for name in to_do)
    pipeline.run([Case(name, (), folder / name) for name in to_do])
    if tables is not None:
        tables.finish()
    summary = compute_metrics_on_folder(
        str(references), str(folder), str(folder / "summary.json"), plans.image_reader_writer_class(), ending,
        labels.foreground_regions if labels.has_regions else labels.foreground_labels, labels.ignore_label, default_num_processes, chill=True)
    unfinished_validation.finish(folder)
    return summary


def _save_for(stage: NextStage, case: str, prediction: CasePrediction, configuration: ConfigurationManager, labels) -> None:
    """The case's segmentation on the grid of the next stage of the cascade."""
    shape = load_case(stage.preprocessed, case)[0].shape[1:]
    logits = configuration.resampling_fn_probabilities(prediction.full_logits(labels.has_regions).float().numpy(), shape,
                                                       configuration.spacing, stage.configuration.spacing)
    save_seg(np.asarray(labels.convert_logits_to_segmentation(np.asarray(logits))), stage.folder, case)
