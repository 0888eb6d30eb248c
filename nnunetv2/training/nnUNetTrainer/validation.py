"""The validation that counts: whole cases, exported on the image's grid, compared with the reference in its own geometry."""

import shutil
from typing import TYPE_CHECKING

import numpy as np
import torch

from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.case_prediction import CasePrediction
from nnunetv2.inference.class_tables import ClassTables
from nnunetv2.inference.export_prediction import convert_prediction_to_segmentation, write_prediction
from nnunetv2.inference.pipeline import Case, Pipeline
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.case_store import load_case

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def validate_cases(trainer: "nnUNetTrainer", save_probabilities: bool = False) -> None:
    """Fill `fold_X/validation/` anew: a mask a case, `.npz` with `save_probabilities`, class tables, summary.json.

    Starts from the preprocessed cases and otherwise predicts as `nnUNetv2_predict` does by default. Class labels of the
    validation cases are not read; the tables hold predictions only.
    """
    if not trainer.val_cases:
        trainer.log.print(f"Fold {trainer.fold} has no validation cases; nothing is validated.")
        return
    folder, ending = trainer.output_folder / "validation", trainer.dataset_json["file_ending"]
    shutil.rmtree(folder, ignore_errors=True)  # masks of another split or checkpoint must not enter the summary
    folder.mkdir(parents=True)
    plans, configuration, labels = trainer.plans_manager, trainer.configuration_manager, trainer.label_manager
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(trainer.module, plans, configuration, None, trainer.dataset_json, type(trainer).__name__,
                                    trainer.inference_allowed_mirroring_axes)
    tables = None if trainer.class_task is None else ClassTables(trainer.class_task, folder)

    def prepare(case: Case) -> tuple[torch.Tensor, dict]:
        data, _, properties = load_case(trainer.preprocessed_dataset_folder, case.name)
        return torch.from_numpy(data[:]), properties

    def export(case: Case, properties: dict, prediction: CasePrediction) -> None:
        mask, probabilities = convert_prediction_to_segmentation(prediction, properties, plans, configuration, labels, save_probabilities)
        if tables is not None:
            tables.add(f"{case.name}{ending}", prediction.class_probabilities)
        write_prediction(mask, probabilities, properties, plans, case.output, ending)

    trainer.log.print(f"Validating {len(trainer.val_cases)} cases into {folder}")
    pipeline = Pipeline(prepare, predict=lambda case, data: predictor.case_predictor(data, case.name), export=export)
    pipeline.run([Case(name, (), folder / name) for name in trainer.val_cases])
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)

    metrics = compute_metrics_on_folder(
        str(trainer.preprocessed_dataset_folder_base / "gt_segmentations"), str(folder), str(folder / "summary.json"),
        plans.image_reader_writer_class(), ending, labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label, default_num_processes, chill=True)
    trainer.log.print(f"Validation of whole cases: mean foreground Dice {np.round(metrics['foreground_mean']['Dice'], 4)}")
