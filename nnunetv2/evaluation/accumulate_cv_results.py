"""Gather the validation predictions of several folds into one folder and score them together."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nnunetv2 import paths
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, labels_of_masks, list_files
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import atomic_write, load_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def accumulate_cv_results(trained_model_folder: str | os.PathLike, merged_output_folder: str | os.PathLike, folds: Sequence[int | str],
                          num_processes: int | None = None, overwrite: bool = True) -> None:
    """Copy fold_X/validation of `folds` into `merged_output_folder`, with plans.json and dataset.json, and write summary.json.

    Args:
        overwrite: start from an empty folder; else predictions that are already there are kept, and so is a summary to
            which nothing was added.
    Raises:
        FileNotFoundError: lists all folds that have no validation folder.
        ValueError: lists all cases that more than one fold predicts.
    """
    model, merged = Path(trained_model_folder), Path(merged_output_folder)
    dataset_json, plans_manager = load_json(model / "dataset.json", DatasetJson), PlansManager(model / "plans.json")
    validation = {fold: model / f"fold_{fold}" / "validation" for fold in folds}
    untrained = [str(fold) for fold, folder in validation.items() if not folder.is_dir()]
    if untrained:
        raise FileNotFoundError(f"{model} has no validation predictions of fold(s) {', '.join(untrained)}. Train them, or validate with nnUNetv2_train --val.")

    predictions: dict[str, list[Path]] = {}
    for folder in validation.values():
        for name in list_files(folder, dataset_json["file_ending"]):
            predictions.setdefault(name, []).append(folder / name)
    repeated = [name for name, found in predictions.items() if len(found) > 1]
    if repeated:
        raise ValueError(f"More than one of the folds {list(folds)} predicts these cases: {', '.join(repeated)}. Choose folds that do not overlap.")

    if overwrite and merged.is_dir():
        shutil.rmtree(merged)
    merged.mkdir(parents=True, exist_ok=True)
    added = [found[0] for name, found in predictions.items() if not (merged / name).exists()]
    for path in (model / "dataset.json", model / "plans.json", *added):
        with atomic_write(merged / path.name) as temporary:
            shutil.copyfile(path, temporary)
    if added or not (merged / "summary.json").exists():
        labels = plans_manager.get_label_manager(dataset_json)
        compute_metrics_on_folder(reference_folder(plans_manager.dataset_name), merged, merged / "summary.json",
                                  plans_manager.image_reader_writer_class(), dataset_json["file_ending"],
                                  labels.foreground_regions if labels.has_regions else labels.foreground_labels,
                                  labels.ignore_label, num_processes, chill=True, known_labels=labels_of_masks(labels))  # the folds may not cover all cases


def reference_folder(dataset_name: str) -> Path:
    """labelsTr of the raw data set, or the copies made by preprocessing where there are no raw data."""
    raw = paths.path_if_set("nnUNet_raw")
    if raw is not None and (raw / dataset_name / "labelsTr").is_dir():
        return raw / dataset_name / "labelsTr"
    return paths.nnUNet_preprocessed / dataset_name / "gt_segmentations"
