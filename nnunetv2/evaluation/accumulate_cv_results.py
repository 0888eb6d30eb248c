"""Gather the validation predictions of several folds into one folder and score them together."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nnunetv2 import paths
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, list_files
from nnunetv2.inference.mean_class_table import mean_class_rows, write_class_rows
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.data_manifest import read_manifest
from nnunetv2.utilities.derived_manifest import STEP, Source, derived_manifest, made_by_fold
from nnunetv2.utilities.splits import SPLITS_FILE, trained_split
from nnunetv2.utilities.errors import InputError, name_most
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import atomic_write, load_json
from nnunetv2.utilities.folder_lock import refuse_in_use
from nnunetv2.utilities.manifest import MANIFEST_FILE
from nnunetv2.utilities.own_output import own_files, own_files_of_postprocessed, refuse_overlap
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.prediction_manifest import read_prediction_manifest
from nnunetv2.utilities.sidecars import sidecars, sidecars_of_masks


GATHERED = "gathered validation"  # what the manifest calls this step
BESIDE_MASKS = ("manifest.json", "plans.json", "dataset.json", "summary.json", "postprocessing.json", "postprocessing.pkl")
TRAINED_ON = ("Fold 'all' trained on the very cases that it is scored on here. These scores say how well the training cases were learned, "
              "nothing about new ones.")


def accumulate_cv_results(trained_model_folder: str | os.PathLike, merged_output_folder: str | os.PathLike, folds: Sequence[int | str],
                          num_processes: int | None = None, overwrite: bool = True) -> None:
    """Copy fold_X/validation of `folds` into `merged_output_folder`, with tables of classes, plans.json and dataset.json, and write summary.json.

    Args:
        overwrite: delete what an earlier call left there and start anew; else predictions that are already there are kept, and so is a summary to
            which nothing was added.
    Raises:
        FileNotFoundError: lists all folds that have no validation folder.
        InputError: lists all cases that a fold should have predicted and did not, as an interrupted validation leaves it.
        InputError: the output folder is, holds or lies in one that is read, or is to be made anew and holds files of another origin.
        ValueError: lists all cases that more than one fold predicts.
    """
    model, merged = Path(trained_model_folder), Path(merged_output_folder)
    dataset_json, plans_manager = load_json(model / "dataset.json", DatasetJson), PlansManager(model / "plans.json")
    labels = plans_manager.get_label_manager(dataset_json)
    task = ClassificationTask.from_dataset_json(dataset_json, labels.foreground_labels)
    validation = {fold: model / f"fold_{fold}" / "validation" for fold in folds}
    untrained = [str(fold) for fold, folder in validation.items() if not folder.is_dir()]
    if untrained:
        raise FileNotFoundError(f"{model} has no validation predictions of fold(s) {', '.join(untrained)}. Train them, or validate with nnUNetv2_train --val.")

    refuse_overlap(merged, [folder.parent for folder in validation.values()], nested=True)
    refuse_in_use([folder.parent for folder in validation.values()], "training")
    old = _own_files(merged, model, dataset_json["file_ending"], task) if overwrite else []
    _refuse_incomplete(validation, plans_manager.dataset_name, dataset_json["file_ending"])
    if "all" in validation:
        print(TRAINED_ON)
    predictions: dict[str, list[Path]] = {}
    for folder in validation.values():
        for name in list_files(folder, dataset_json["file_ending"]):
            predictions.setdefault(name, []).append(folder / name)
    repeated = [name for name, found in predictions.items() if len(found) > 1]
    if repeated:
        raise ValueError(f"More than one of the folds {list(folds)} predicts these cases: {name_most(repeated)}. Choose folds that do not overlap.")

    rows = mean_class_rows([list(validation.values())], predictions, task)
    deleted = {path.name for path in old}
    added = [found[0] for name, found in predictions.items() if name in deleted or not (merged / name).exists()]
    makers = {folder: made_by_fold(folder.parent, plans_manager.plans, dataset_json) for folder in validation.values()}
    sources = {name: [Source(path, makers[path.parent])] for name, (path,) in predictions.items()}
    with derived_manifest(merged, {STEP: GATHERED}, sources, {path.name for path in added}, old):
        for path in (model / "dataset.json", model / "plans.json", *sidecars(added), *added):
            with atomic_write(merged / path.name) as temporary:
                shutil.copyfile(path, temporary)
        write_class_rows(rows, merged, task)
    if added or not (merged / "summary.json").exists():
        compute_metrics_on_folder(reference_folder(plans_manager.dataset_name), merged, merged / "summary.json",
                                  plans_manager.image_reader_writer_class(), dataset_json["file_ending"],
                                  labels.foreground_regions if labels.has_regions else labels.foreground_labels,
                                  labels.ignore_label, num_processes, chill=True, known_labels=labels.labels_of_masks)  # the folds may not cover all cases


def _own_files(merged: Path, model: Path, ending: str, task: ClassificationTask | None) -> list[Path]:
    """What an earlier call, and a decision on postprocessing, left in `merged`. Before there were manifests only the default name told that it was one."""
    tables = () if task is None else (task.results_file, task.probabilities_file)
    manifest = read_prediction_manifest(merged)
    if manifest["cases"]:
        masks = set(manifest["cases"]) if manifest["made_with"]["settings"].get(STEP) == GATHERED else None
    elif merged.resolve().parent == model.resolve() and merged.name.startswith("crossval_results_folds_"):
        masks = {path.name for path in merged.glob(f"*{ending}")}
    else:
        masks = None

    def is_own(path: Path) -> bool:
        if masks is None:
            return False
        return path.name == "postprocessed" and not path.is_symlink() if path.is_dir() else path.name in {*masks, *sidecars_of_masks(masks), *BESIDE_MASKS, *tables}

    here = own_files(merged, is_own)
    return own_files_of_postprocessed(merged / "postprocessed", {*(masks or ()), *tables}) + here  # the manifest, which tells whose they are, last


def _refuse_incomplete(validation: dict[int | str, Path], dataset_name: str, ending: str) -> None:
    """The split says which cases each fold validates; without preprocessed data nobody can tell, which is said."""
    preprocessed = paths.path_if_set("nnUNet_preprocessed")
    folder = None if preprocessed is None else preprocessed / dataset_name
    if folder is None or not ((folder / SPLITS_FILE).is_file() if any(fold != "all" for fold in validation) else (folder / "gt_segmentations").is_dir()):
        print(f"Whether the folds' validations are complete cannot be told: {SPLITS_FILE} of {dataset_name} is not in nnUNet_preprocessed.")
        return
    missing = {}
    for fold, predicted in validation.items():
        trained = read_manifest(predicted.parent)
        expected = trained_split(trained.get("training"), folder, int(fold) if str(fold).isdecimal() else fold, predicted.parent / MANIFEST_FILE)[1]
        absent = [case for case in expected if not (predicted / f"{case}{ending}").is_file()]
        if absent:
            missing[fold] = f"fold {fold}: {len(absent)} of {len(expected)} cases are not predicted: {name_most(absent)}"
    if missing:
        listed = "\n".join(f"  {line}" for line in missing.values())
        raise InputError(f"{next(iter(validation.values())).parents[1]} has validations that were interrupted:\n{listed}\n"
                         "Finish them with nnUNetv2_train DATASET CONFIGURATION FOLD --val.")


def reference_folder(dataset_name: str) -> Path:
    """labelsTr of the raw data set, or the copies made by preprocessing where there are no raw data."""
    raw = paths.path_if_set("nnUNet_raw")
    if raw is not None and (raw / dataset_name / "labelsTr").is_dir():
        return raw / dataset_name / "labelsTr"
    return paths.nnUNet_preprocessed / dataset_name / "gt_segmentations"
