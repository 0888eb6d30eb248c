"""Keep only the largest connected component, of the whole foreground or of single labels, where that helps.

Isensee et al., nnU-Net, Nature Methods 2021, "empirical configuration": the decision is made on the training cases'
out-of-fold predictions and then applied to new ones. It is stored as a list of steps; a step is a label, a region (tuple
of labels) or a list of those, and keeps the largest component of their union.
"""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from nnunetv2.evaluation.evaluate_predictions import (
    label_or_region_to_key,
    LabelOrRegion,
    list_files,
    overlap_metrics,
    read_pair,
    save_summary_json,
    summarize,
)
from nnunetv2.imageio.label_values import undeclared_labels
from nnunetv2.imageio.reader_writer_registry import refuse_unread_ending
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.mean_class_table import mean_class_rows, write_class_rows
from nnunetv2.preprocessing.cropping import bounding_box
from nnunetv2.utilities.parallel import in_threads
from nnunetv2.preprocessing.safe_pickle import load_pickle
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.derived_manifest import STEP, Source, derived_manifest, source_in
from nnunetv2.utilities.errors import InputError, name_most
from nnunetv2.utilities.file_shapes import DatasetJson, Postprocessing
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.folder_lock import folder_lock, refuse_in_use
from nnunetv2.utilities.own_output import own_files_of_postprocessed, refuse_overlap
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.prediction_manifest import read_prediction_manifest

POSTPROCESSED = "postprocessing"  # what the manifest calls this step
Step = int | tuple[int, ...] | list[LabelOrRegion]

_FUNCTION = "remove_all_but_largest_component_from_segmentation"  # what upstream calls the one thing a step can do


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest component (26 neighbours) of a bool mask (Z, Y, X); all of them when several are equally large."""
    inside = tuple(slice(*pair) for pair in bounding_box(mask))
    components, count = ndimage.label(mask[inside], structure=np.ones((3, 3, 3)))
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0  # background
    largest = np.zeros_like(mask)
    largest[inside] = (sizes == sizes.max())[components]
    return largest


def remove_all_but_largest_component_from_segmentation(segmentation: np.ndarray, labels_or_regions: Step, background_label: int = 0) -> np.ndarray:
    """A copy of `segmentation` (Z, Y, X) in which what the step removes is background."""
    entries = labels_or_regions if isinstance(labels_or_regions, list) else [labels_or_regions]
    labels = sorted({label for entry in entries for label in (entry if isinstance(entry, (tuple, list)) else (entry,))})
    mask = np.isin(segmentation, labels)
    result = segmentation.copy()
    result[mask & ~largest_component(mask)] = background_label
    return result


def apply_postprocessing(segmentation: np.ndarray, pp_fns: Sequence[Callable[..., np.ndarray]], pp_fn_kwargs: Sequence[dict]) -> np.ndarray:
    """Each function on the result of the one before, (Z, Y, X), with its keywords."""
    for function, kwargs in zip(pp_fns, pp_fn_kwargs, strict=True):
        segmentation = function(segmentation, **kwargs)
    return segmentation


def apply_steps(segmentation: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """Apply the steps one after the other to (Z, Y, X)."""
    for step in steps:
        segmentation = remove_all_but_largest_component_from_segmentation(segmentation, step)
    return segmentation


def determine_postprocessing(folder_predictions: str | os.PathLike, folder_ref: str | os.PathLike,
                             plans_file_or_dict: str | os.PathLike | dict | None = None,
                             dataset_json_file_or_dict: str | os.PathLike | dict | None = None,
                             num_processes: int | None = None, keep_postprocessed_files: bool = True) -> tuple[list[Callable[..., np.ndarray]], list[dict]]:
    """Decide on the steps and write them as postprocessing.json into `folder_predictions`. Returns them as functions and their keywords.

    The whole foreground first: adopted if the mean foreground Dice rises and no label's falls. Then, with two labels or
    more, each label alone: adopted if its own Dice rises. The post-processed predictions, their
    tables of classes and summary.json go to `folder_predictions`/postprocessed. plans.json and dataset.json are looked for in `folder_predictions` unless given.
    """
    folder_predictions, folder_ref = Path(folder_predictions), Path(folder_ref)
    plans_manager, dataset_json = _plans_and_dataset(folder_predictions, plans_file_or_dict, dataset_json_file_or_dict)
    labels, rw = plans_manager.get_label_manager(dataset_json), plans_manager.image_reader_writer_class()
    targets = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    known_labels = labels.labels_of_masks
    names = _predictions(folder_predictions, dataset_json)
    output_folder = folder_predictions / "postprocessed"
    refuse_overlap(output_folder, [folder_ref])
    task = ClassificationTask.from_dataset_json(dataset_json, labels.foreground_labels)
    own = [*names, *(() if task is None else (task.results_file, task.probabilities_file))]
    refuse_in_use([folder_predictions])
    own_files_of_postprocessed(output_folder, own)  # refused now, deleted in the end
    rows = mean_class_rows([[folder_predictions]], names, task)
    unpredicted = sorted(set(list_files(folder_ref, dataset_json["file_ending"])) - set(names))
    if unpredicted:
        print(f"{len(unpredicted)} references have no prediction, so the decision stands on {len(names)} cases alone. Missing: {name_most(unpredicted)}")

    def score(steps: list[Step], output_folder: Path | None = None, of: Sequence[LabelOrRegion] = targets) -> dict[str, Any]:
        jobs = {name: (folder_ref / name, folder_predictions / name, rw, of, labels.ignore_label, steps, output_folder, known_labels) for name in names}
        return summarize(list(in_threads(_score_case, jobs, num_processes, "Post-processing").values()), of)

    before = current = score([])
    if not (folder_predictions / "summary.json").exists():
        save_summary_json(before, folder_predictions / "summary.json")
    steps: list[Step] = []
    candidate = score([labels.foreground_labels])
    if _dice(candidate) > _dice(before) and not any(_dice(candidate, t) < _dice(before, t) for t in targets):
        steps, current = [labels.foreground_labels], candidate
    print(f"Largest component of the foreground: mean Dice {_dice(before):.5f} -> {_dice(candidate):.5f}, {'adopted' if steps else 'not adopted'}.")
    for target in targets if len(targets) > 1 else ():
        candidate = score([*steps, target], of=[target])  # of all labels only what is adopted: there may be a hundred
        better = _dice(candidate, target) > _dice(current, target)
        print(f"Largest component of {target}: Dice {_dice(current, target):.5f} -> {_dice(candidate, target):.5f}, {'adopted' if better else 'not adopted'}.")
        if better:
            steps = [*steps, target]
            current = score(steps)

    save_json({
        "input_folder": _means(before),
        "postprocessed": _means(current),
        "postprocessing_fns": [_FUNCTION] * len(steps),
        "postprocessing_kwargs": [{"labels_or_regions": step} for step in steps],
    }, folder_predictions / "postprocessing.json")
    old = own_files_of_postprocessed(output_folder, own)
    if keep_postprocessed_files:
        with derived_manifest(output_folder, {STEP: POSTPROCESSED, "steps": _plain(steps)}, _sources(folder_predictions, names), old=old):
            save_summary_json(score(steps, output_folder), output_folder / "summary.json")
            write_class_rows(rows, output_folder, task)
    elif output_folder.is_dir():
        with folder_lock(output_folder, "prediction", "its masks are deleted"):
            for path in old:
                path.unlink()
        if not output_folder.is_symlink():
            output_folder.rmdir()
    return _as_functions(steps)


def _as_functions(steps: Sequence[Step]) -> tuple[list[Callable[..., np.ndarray]], list[dict]]:
    return [remove_all_but_largest_component_from_segmentation] * len(steps), [{"labels_or_regions": step} for step in steps]


def _plain(steps: Any) -> Any:
    """Steps as JSON has them: a caller may give numpy's labels."""
    return [_plain(step) for step in steps] if isinstance(steps, (list, tuple)) else int(steps)


def _sources(folder: Path, names: Sequence[str]) -> dict[str, list[Source]]:
    manifest = read_prediction_manifest(folder)
    return {name: [source_in(manifest, name, folder / name)] for name in names}


def _score_case(reference: Path, prediction: Path, rw: SimpleITKIO, targets: Sequence[LabelOrRegion], ignore_label: int | None,
                steps: Sequence[Step], output_folder: Path | None, known_labels: Collection[int] | None = None) -> dict[str, Any]:
    """One entry of a summary for the post-processed prediction, which is written to `output_folder` if there is one."""
    ref, seg, properties = read_pair(reference, prediction, rw, known_labels)
    seg = apply_steps(seg, steps)
    written = prediction
    if output_folder is not None:
        written = output_folder / prediction.name
        rw.write_seg(seg, written, properties)
    return {"metrics": overlap_metrics(ref, seg, targets, ignore_label), "prediction_file": str(written), "reference_file": str(reference)}


def apply_postprocessing_to_folder(input_folder: str | os.PathLike, output_folder: str | os.PathLike,
                                   pp_fns: str | os.PathLike | Sequence[Callable[..., np.ndarray]], pp_fn_kwargs: Sequence[dict] | None = None,
                                   plans_file_or_dict: str | os.PathLike | dict | None = None,
                                   dataset_json_file_or_dict: str | os.PathLike | dict | None = None, num_processes: int | None = None) -> None:
    """Apply a decision to all predictions of a folder. Tables of classes come along as they are.

    pp_fns, pp_fn_kwargs: functions of a mask (Z, Y, X), and the keywords of each, as `determine_postprocessing` returns them; or the file that holds
    the decision (postprocessing.json, or upstream's postprocessing.pkl), and None.
    InputError where the output is the input: a run that was killed, or a second one, would take components from masks that had lost some.
    """
    input_folder, output_folder = Path(input_folder), Path(output_folder)
    refuse_overlap(output_folder, [input_folder])
    refuse_in_use([input_folder])
    if isinstance(pp_fns, (str, os.PathLike)) != (pp_fn_kwargs is None):
        raise ValueError("A file says all about the post-processing, and functions need their keywords: give the file alone, or pp_fns and pp_fn_kwargs.")
    functions, keywords = _as_functions(load_postprocessing(pp_fns)) if pp_fn_kwargs is None else (pp_fns, pp_fn_kwargs)
    plans_manager, dataset_json = _plans_and_dataset(input_folder, plans_file_or_dict, dataset_json_file_or_dict)
    rw = plans_manager.image_reader_writer_class()
    label_manager = plans_manager.get_label_manager(dataset_json)
    names, declared = _predictions(input_folder, dataset_json), label_manager.labels_of_masks
    task = ClassificationTask.from_dataset_json(dataset_json, label_manager.foreground_labels)
    rows = mean_class_rows([[input_folder]], names, task)
    jobs = {name: (input_folder / name, output_folder / name, rw, functions, keywords, declared) for name in names}
    steps = [_plain(given["labels_or_regions"]) if function is remove_all_but_largest_component_from_segmentation else f"{function.__name__} {given}"
             for function, given in zip(functions, keywords)]
    with derived_manifest(output_folder, {STEP: POSTPROCESSED, "steps": steps}, _sources(input_folder, names)):
        in_threads(_apply_to_file, jobs, num_processes, "Post-processing")
        write_class_rows(rows, output_folder, task)


def _apply_to_file(source: Path, target: Path, rw: SimpleITKIO, functions: Sequence[Callable[..., np.ndarray]], keywords: Sequence[dict],
                   declared: Sequence[int]) -> None:
    seg, properties = rw.read_seg(source)
    if problem := undeclared_labels(seg, declared, source):
        raise InputError(problem)
    rw.write_seg(apply_postprocessing(seg[0], functions, keywords), target, properties)


def load_postprocessing(path: str | os.PathLike) -> list[Step]:
    """The steps in a postprocessing.json, or in a postprocessing.pkl as upstream writes it. Scripts may name the .pkl where only the .json is."""
    path = Path(path)
    if not path.is_file() and path.with_suffix(".json").is_file():
        path = path.with_suffix(".json")
    if str(path).endswith(".json"):
        stored = load_json(path, Postprocessing)
        functions, arguments = stored["postprocessing_fns"], stored["postprocessing_kwargs"]
    else:
        # Upstream pickles the function itself, by name; the name is all that is needed.
        stored = load_pickle(path, {("nnunetv2.postprocessing.remove_connected_components", _FUNCTION): _FUNCTION})
        if not (isinstance(stored, (list, tuple)) and len(stored) == 2 and all(isinstance(part, (list, tuple)) for part in stored)
                and len(stored[0]) == len(stored[1]) and all(isinstance(step, dict) and "labels_or_regions" in step for step in stored[1])):
            raise InputError(f"{path} holds {type(stored).__name__} and not two lists, functions and their arguments. Make it again with nnUNetv2_determine_postprocessing.")
        functions, arguments = stored
    unknown = sorted({str(name) for name in functions if name != _FUNCTION})
    if unknown:
        raise ValueError(f"{path} asks for unknown postprocessing {', '.join(unknown)}. Known: {_FUNCTION}.")
    return [kwargs["labels_or_regions"] for kwargs in arguments]


def _dice(summary: dict[str, Any], target: LabelOrRegion | None = None) -> float:
    return (summary["foreground_mean"] if target is None else summary["mean"][target])["Dice"]


def _means(summary: dict[str, Any]) -> dict[str, Any]:
    return {"foreground_mean": summary["foreground_mean"], "mean": {label_or_region_to_key(k): v for k, v in summary["mean"].items()}}


def _predictions(folder: Path, dataset_json: dict) -> list[str]:
    names = list_files(folder, dataset_json["file_ending"])
    if not names:
        raise FileNotFoundError(f"{folder} holds no file ending in {dataset_json['file_ending']}.")
    return names


def _plans_and_dataset(folder: Path, plans: str | os.PathLike | dict | None, dataset_json: str | os.PathLike | dict | None) -> tuple[PlansManager, dict]:
    for given, name, flag in ((plans, "plans.json", "-plans_json"), (dataset_json, "dataset.json", "-dataset_json")):
        if given is None and not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist. Name the file with {flag}.")
    dataset_json = folder / "dataset.json" if dataset_json is None else dataset_json
    plans_manager = PlansManager(folder / "plans.json" if plans is None else plans)
    content = dataset_json if isinstance(dataset_json, dict) else load_json(dataset_json, DatasetJson)
    where = "dataset.json" if isinstance(dataset_json, dict) else dataset_json
    refuse_unread_ending(content["file_ending"], plans_manager.image_reader_writer_class, where)
    return plans_manager, content
