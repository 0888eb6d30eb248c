"""Average the probabilities of several predictions, and the class probabilities where the dataset has a classification task."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.reader_writer_registry import refuse_unread_ending
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.mean_class_table import mean_class_rows, write_class_rows
from nnunetv2.utilities.parallel import in_threads
from nnunetv2.preprocessing.safe_pickle import load_properties, save_pickle
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.derived_manifest import STEP, Source, derived_manifest, made_by_fold, source_in
from nnunetv2.utilities.file_shapes import DatasetJson, FileShape, Plans
from nnunetv2.utilities.errors import InputError, list_some, name_most
from nnunetv2.utilities.files import atomic_write, is_there, load_json, save_json
from nnunetv2.utilities.folder_lock import refuse_in_use
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.npz_files import read_npz
from nnunetv2.utilities.own_output import refuse_overlap
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.prediction_manifest import read_prediction_manifest


def average_probabilities(list_of_files: Sequence[str | os.PathLike]) -> np.ndarray:
    """Mean of the arrays `probabilities` (C, Z, Y, X) of some .npz files, float32. One file is held beside the sum."""
    total: np.ndarray | None = None
    for file in list_of_files:
        probabilities = read_npz(file, "probabilities")
        if total is None:
            total = probabilities.astype(np.float32)
        elif total.shape != probabilities.shape:
            raise ValueError(f"{file} has shape {probabilities.shape}, {list_of_files[0]} {total.shape}. Both must predict the same image with the same labels.")
        else:
            total += probabilities
        if not np.isfinite(total).all():
            raise InputError(f"{file} holds values that are not finite. Predict its case again.")
    total /= len(list_of_files)
    return total


def merge_files(list_of_files: Sequence[str | os.PathLike], output_filename_truncated: str | os.PathLike, output_file_ending: str,
                image_reader_writer: SimpleITKIO, label_manager: LabelManager, save_probabilities: bool = False) -> None:
    """Write the segmentation of the mean of some .npz files, with a .pkl beside the first, as `output_filename_truncated` + `output_file_ending`.

    InputError where the .pkl beside another says that it lies on another voxel grid.
    """
    files, output = [Path(file) for file in list_of_files], Path(output_filename_truncated)
    properties = load_properties(files[0].with_suffix(".pkl"))
    _refuse_other_grids(files, properties)
    probabilities = average_probabilities(files)
    if save_probabilities:
        with atomic_write(output.with_name(f"{output.name}.npz")) as temporary:
            np.savez_compressed(temporary, probabilities=probabilities)
        save_pickle(properties, output.with_name(f"{output.name}.pkl"))
    segmentation = label_manager.convert_probabilities_to_segmentation(probabilities)
    try:
        image_reader_writer.write_seg(segmentation, output.with_name(f"{output.name}{output_file_ending}"), properties)
    except KeyError as error:  # each reader has keys of its own
        raise InputError(f"{files[0].with_suffix('.pkl')} lacks {error}, which {type(image_reader_writer).__name__} needs. Predict its case again.") from error


def _refuse_other_grids(files: Sequence[Path], properties: dict) -> None:
    shape = properties.get("shape_before_cropping")
    others = [(file, load_properties(file.with_suffix(".pkl"))) for file in files[1:] if file.with_suffix(".pkl").is_file()]
    problems = [f"{file} {difference} (as {files[0]})" for file, other in others
                if shape is not None and "sitk_stuff" in other and "sitk_stuff" in properties
                and (difference := grid_difference(properties["sitk_stuff"], other["sitk_stuff"], shape, other.get("shape_before_cropping", shape)))]
    problems += [f"{file} has the spacing {list(other['spacing'])}, {files[0]} {list(properties['spacing'])}" for file, other in others
                 if not ("sitk_stuff" in other and "sitk_stuff" in properties) and "spacing" in other and "spacing" in properties
                 and not (len(other["spacing"]) == len(properties["spacing"]) and np.allclose(other["spacing"], properties["spacing"], rtol=1e-3))]
    if problems:
        raise InputError("\n".join(problems))


def ensemble_folders(list_of_input_folders: Sequence[str | os.PathLike], output_folder: str | os.PathLike, save_merged_probabilities: bool = False,
                     num_processes: int | None = None, dataset_json_file_or_dict: str | os.PathLike | dict | None = None,
                     plans_json_file_or_dict: str | os.PathLike | dict | None = None) -> None:
    """Ensemble predictions that were made with --save_probabilities.

    dataset.json and plans.json are taken from the first folder unless given; a classification task that it does not declare, from the next that does.
    The tables of classes are averaged over the folders whose model has a class head. A folder given twice counts twice.

    Raises:
        FileNotFoundError: a folder lacks cases, or a table of classes, that another has; all are listed.
        InputError: the output is a folder that is read, or the labels of two folders mean different things.
    """
    folders, output = [Path(folder) for folder in list_of_input_folders], Path(output_folder)
    refuse_overlap(output, folders)
    refuse_in_use(folders)
    dataset_json = _json(dataset_json_file_or_dict, folders[0] / "dataset.json", DatasetJson)
    plans = _json(plans_json_file_or_dict, folders[0] / "plans.json", Plans)
    plans_manager = PlansManager(plans)
    where = "dataset.json" if isinstance(dataset_json_file_or_dict, dict) else dataset_json_file_or_dict or folders[0] / "dataset.json"
    _refuse_other_labels(dataset_json, where, folders)
    refuse_unread_ending(dataset_json["file_ending"], plans_manager.image_reader_writer_class, where)
    dataset_json = _with_class_task(dataset_json, folders)
    cases = [(str(folder), {path.stem: path for path in _npz_files(folder)}) for folder in folders]
    manifests = {folder: read_prediction_manifest(folder) for folder in folders}

    def source(file: Path) -> Source:
        return source_in(manifests[file.parent], f"{file.stem}{dataset_json['file_ending']}", file)

    _merge_cases(cases, output, plans_manager, dataset_json, num_processes, source, [[folder] for folder in folders], save_merged_probabilities)
    save_json(dataset_json, output / "dataset.json")
    save_json(plans, output / "plans.json")


def ensemble_crossvalidations(list_of_trained_model_folders: Sequence[str | os.PathLike], output_folder: str | os.PathLike,
                              folds: Sequence[int | str] = (0, 1, 2, 3, 4), num_processes: int | None = None, overwrite: bool = True) -> None:
    """Ensemble the validation predictions (--npz) of several models; their splits may differ as long as the cases agree. Tables of classes come along.

    Raises:
        FileNotFoundError: lists the folds without probabilities or tables of classes, or the cases that a model lacks.
        ValueError: lists the cases that several folds of one model predict.
        InputError: as `ensemble_folders`.
    """
    models, output = [Path(folder) for folder in list_of_trained_model_folders], Path(output_folder)
    folders = {model: [model / f"fold_{fold}" / "validation" for fold in folds] for model in models}
    refuse_overlap(output, [folder for validations in folders.values() for folder in validations])
    refuse_in_use([folder.parent for validations in folders.values() for folder in validations], "training")
    empty = [str(folder) for validations in folders.values() for folder in validations if not _npz_files(folder)]
    if empty:
        raise FileNotFoundError("No .npz files in these folders. Make them with nnUNetv2_train ... --val --npz:\n" + "\n".join(empty))
    cases: list[tuple[str, dict[str, Path]]] = []
    repeated = []
    for model, validations in folders.items():
        found: dict[str, Path] = {}
        cases.append((str(model), found))
        for path in (path for folder in validations for path in _npz_files(folder)):
            if path.stem in found:
                repeated.append(str(path))
            found[path.stem] = path
    if repeated:
        raise ValueError("These cases are predicted by more than one fold of a model:\n" + list_some(repeated))
    dataset_json = _with_class_task(load_json(models[0] / "dataset.json", DatasetJson), models)
    _refuse_other_labels(dataset_json, models[0] / "dataset.json", models)
    makers = {folder: made_by_fold(folder.parent, load_json(model / "plans.json", Plans, partial=True), load_json(model / "dataset.json", DatasetJson, partial=True))
              for model, validations in folders.items() for folder in validations}
    _merge_cases(cases, output, PlansManager(models[0] / "plans.json"), dataset_json, num_processes, lambda file: Source(file, makers[file.parent]),
                 list(folders.values()), False, overwrite)
    shutil.copyfile(models[0] / "plans.json", output / "plans.json")
    save_json(dataset_json, output / "dataset.json")


def _with_class_task(dataset_json: dict, folders: Sequence[Path]) -> dict:
    """`dataset_json` with the classification task of the first folder that declares one, where it has none: a model without a class head may come first."""
    tasks = [load_json(path, DatasetJson, partial=True).get("classification") for folder in folders if is_there(path := folder / "dataset.json")]
    task = next((task for task in (dataset_json.get("classification"), *tasks) if task is not None), None)
    return dataset_json if task is None else dataset_json | {"classification": task}


def _merge_cases(cases: Sequence[tuple[str, dict[str, Path]]], output: Path, plans_manager: PlansManager, dataset_json: dict, num_processes: int | None,
                 source: Callable[[Path], Source], class_tables: Sequence[Sequence[Path]], save_probabilities: bool, overwrite: bool = True) -> None:
    """Masks and tables of classes. `cases`: (source, {case: .npz file}); every source must have every case. source: what the manifest says of a file.
    class_tables: as `mean_class_rows` has them."""
    names = sorted(set().union(*(found for _, found in cases)))
    missing = [f"{source} lacks {name_most(sorted(set(names) - set(found)))}" for source, found in cases if set(names) - set(found)]
    if missing:
        raise FileNotFoundError("All predictions must cover the same cases:\n" + "\n".join(missing))
    if not names:
        raise FileNotFoundError(f"No .npz files in {', '.join(source for source, _ in cases)}. Predict with --save_probabilities.")
    labels, ending = plans_manager.get_label_manager(dataset_json), dataset_json["file_ending"]
    task = ClassificationTask.from_dataset_json(dataset_json, labels.foreground_labels)
    rows = mean_class_rows(class_tables, [f"{name}{ending}" for name in names], task)
    jobs = {name: ([found[name] for _, found in cases], output / name, ending, plans_manager.image_reader_writer_class(), labels,
                   save_probabilities)
            for name in names if overwrite or not (output / f"{name}{ending}").exists()}
    sources = {f"{name}{ending}": [source(found[name]) for _, found in cases] for name in names}
    with derived_manifest(output, {STEP: "ensemble"}, sources, {f"{name}{ending}" for name in jobs}):
        if jobs:
            in_threads(merge_files, jobs, num_processes, "Ensembling")
        write_class_rows(rows, output, task)


def _refuse_other_labels(dataset_json: Mapping, where: object, folders: Sequence[Path]) -> None:
    """InputError where the dataset.json of a folder gives the channels of its probabilities another meaning than `dataset_json`, from `where`."""
    problems = []
    for path in (path for folder in folders if is_there(path := folder / "dataset.json")):
        other = load_json(path, DatasetJson, partial=True)
        problems += [f"{path}: {key} is {other.get(key)}, in {where} {dataset_json.get(key)}" for key in ("labels", "regions_class_order")
                     if _in_plain_terms(other.get(key)) != _in_plain_terms(dataset_json.get(key))]
    if problems:
        raise InputError("Probabilities are averaged channel by channel, and these channels mean different things. Ensemble models of the same labels alone:\n"
                         + list_some(problems))


def _in_plain_terms(value: Any) -> Any:
    """As JSON has it, where a caller gives tuples. Regions are channels in the order of their names, labels by their number."""
    has_regions = isinstance(value, Mapping) and any(isinstance(label, (list, tuple)) for label in value.values())
    return json.loads(json.dumps(list(value.items()) if has_regions else value))


def _npz_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))


def _json(file_or_dict: str | os.PathLike | dict | None, default: Path, shape: type[FileShape]) -> dict:
    return file_or_dict if isinstance(file_or_dict, dict) else load_json(file_or_dict or default, shape, partial=shape is Plans)
