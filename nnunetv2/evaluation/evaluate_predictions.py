"""Overlap of predicted and reference segmentations, written as summary.json.

A summary holds "metric_per_case" (one entry a case: its files and the metrics of each label or region), "mean" (each label's
mean over the cases) and "foreground_mean" (the mean of "mean" over the foreground). Keys of labels are "1", those of
regions "(1, 2)".
"""

import json
import os
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from nnunetv2.imageio.geometry import difference_as_read
from nnunetv2.imageio.label_values import undeclared_labels
from nnunetv2.imageio.reader_writer_registry import (
    KNOWN_ENDINGS,
    determine_reader_writer_from_dataset_json,
    determine_reader_writer_from_file_ending,
    reader_writer_name,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.errors import InputError, name_most
from nnunetv2.utilities.file_shapes import DatasetJson, Plans, Summary
from nnunetv2.utilities.files import atomic_write, load_json
from nnunetv2.utilities.folder_lock import is_in_use
from nnunetv2.utilities.image_listing import list_images
from nnunetv2.utilities.parallel import in_threads
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

LabelOrRegion = int | tuple[int, ...]

METRICS = ("Dice", "IoU", "FP", "TP", "FN", "TN", "n_pred", "n_ref")
SLAB_VOXELS = 2**22  # voxels counted at a time, to hold a few MB rather than several copies of the volume


def overlap_metrics(seg_ref: np.ndarray, seg_pred: np.ndarray, labels_or_regions: Sequence[LabelOrRegion],
                    ignore_label: int | None = None) -> dict[LabelOrRegion, dict[str, float]]:
    """METRICS of each label or region for a pair of label maps of equal shape (any axes).

    Dice = 2 TP / (2 TP + FP + FN) and IoU = TP / (TP + FP + FN) are NaN where neither side has a voxel. Voxels whose
    reference is `ignore_label` count nowhere.
    """
    used = sorted({label for entry in labels_or_regions for label in _labels(entry)} | ({ignore_label} - {None}))
    counts = _joint_counts(seg_ref, seg_pred, used)
    if ignore_label is not None:
        counts[used.index(ignore_label) + 1] = 0
    metrics = {}
    for entry in labels_or_regions:
        rows = [used.index(label) + 1 for label in _labels(entry)]
        n_ref, n_pred = int(counts[rows].sum()), int(counts[:, rows].sum())
        tp = int(counts[np.ix_(rows, rows)].sum())
        fp, fn = n_pred - tp, n_ref - tp
        union = tp + fp + fn
        metrics[entry] = {
            "Dice": 2 * tp / (2 * tp + fp + fn) if union else float("nan"),
            "IoU": tp / union if union else float("nan"),
            "FP": fp, "TP": tp, "FN": fn, "TN": int(counts.sum()) - union,
            "n_pred": n_pred, "n_ref": n_ref,
        }
    return metrics


def _labels(entry: LabelOrRegion) -> tuple[int, ...]:
    return tuple(entry) if isinstance(entry, (tuple, list)) else (entry,)


def _joint_counts(seg_ref: np.ndarray, seg_pred: np.ndarray, used: Sequence[int]) -> np.ndarray:
    """(n + 1, n + 1) voxel counts, reference by prediction. Row and column i + 1 are label used[i], 0 is any other."""
    size = len(used) + 1
    counts = np.zeros(size * size, np.int64)
    ref, pred = seg_ref.reshape(-1), seg_pred.reshape(-1)
    for start in range(0, ref.size, SLAB_VOXELS):
        code = np.zeros(min(SLAB_VOXELS, ref.size - start), np.intp)
        for i, label in enumerate(used, start=1):
            code[ref[start:start + SLAB_VOXELS] == label] += i * size
            code[pred[start:start + SLAB_VOXELS] == label] += i
        counts += np.bincount(code, minlength=size * size)
    return counts.reshape(size, size)


def read_pair(reference_file: str | os.PathLike, prediction_file: str | os.PathLike, reader: SimpleITKIO,
              known_labels: Collection[int] | None = None) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Reference and prediction (Z, Y, X) on one voxel grid, and the prediction's properties.

    InputError lists what is wrong with both: damage, fractions, labels that are none of `known_labels` (None: all are taken),
    another grid. A mask that is shifted or whose header is flipped would score as if it lay on its reference.
    """
    read, problems = [], []
    for file in (reference_file, prediction_file):
        try:
            seg, properties = reader.read_seg(file)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        read.append((seg[0], properties))
        if known_labels is not None and (problem := undeclared_labels(seg, sorted(known_labels), file)):
            problems.append(problem)
    if len(read) == 2:
        (reference, on_grid), (prediction, properties) = read
        difference = difference_as_read(on_grid, properties, reference.shape, prediction.shape)
        problems += [f"{prediction_file} {difference} (its reference {reference_file})"] if difference else []
    if problems:
        raise InputError("\n".join(problems))
    return reference, prediction, properties


def compute_metrics(reference_file: str, prediction_file: str, image_reader_writer: SimpleITKIO, labels_or_regions: Sequence[LabelOrRegion],
                    ignore_label: int | None = None, known_labels: Collection[int] | None = None) -> dict[str, Any]:
    """One entry of "metric_per_case". InputError: see `read_pair`."""
    reference, prediction, _ = read_pair(reference_file, prediction_file, image_reader_writer, known_labels)
    return {"metrics": overlap_metrics(reference, prediction, labels_or_regions, ignore_label),
            "prediction_file": prediction_file, "reference_file": reference_file}


def summarize(per_case: list[dict[str, Any]], labels_or_regions: Sequence[LabelOrRegion]) -> dict[str, Any]:
    """The whole summary. A label's mean leaves out its NaN cases and is NaN if all are; the foreground mean is NaN if any label's is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")  # a label that no case has: NaN, as documented
        mean = {entry: {m: float(np.nanmean([case["metrics"][entry][m] for case in per_case])) for m in METRICS} for entry in labels_or_regions}
    foreground = [values for entry, values in mean.items() if entry != 0]
    return {"metric_per_case": per_case, "mean": mean,
            "foreground_mean": {m: float(np.mean([values[m] for values in foreground])) for m in METRICS}}


def compute_metrics_on_folder(folder_ref: str | os.PathLike, folder_pred: str | os.PathLike, output_file: str | os.PathLike | None,
                              image_reader_writer: SimpleITKIO, file_ending: str, regions_or_labels: Sequence[LabelOrRegion],
                              ignore_label: int | None = None, num_processes: int | None = None, chill: bool = True,
                              known_labels: Collection[int] | None = None) -> dict[str, Any]:
    """Compare every prediction of a folder with the reference of the same name and write the summary to `output_file`.

    Args:
        output_file: ends in .json; None writes nothing.
        chill: references without a prediction are left out; else they are an error.
        known_labels: all labels of the data set; a mask that holds another is refused. None: labels that are not scored are passed over.
    Returns:
        The summary, with labels and regions as integers and tuples.
    Raises:
        FileNotFoundError: lists all predictions, or all references, that are missing.
        CasesFailed: lists all cases that are damaged, lie on another grid or hold what is no label; nothing is written then.
    """
    if output_file is not None and not str(output_file).endswith(".json"):
        raise ValueError(f"The summary is a JSON file; {output_file} does not end in .json. Give a name that does.")
    references, predictions = list_files(folder_ref, file_ending), list_files(folder_pred, file_ending)
    if not predictions:
        raise FileNotFoundError(f"{folder_pred} holds no file ending in {file_ending}. Name the folder of the masks.")
    if is_in_use(folder_pred):
        warnings.warn(f"A run is writing masks into {folder_pred}; scores may mix its masks with those of an earlier one. Evaluate again when it "
                      "has ended.", stacklevel=2)
    _refuse_missing(folder_ref, "references", sorted(set(predictions) - set(references)), "Remove these predictions or add their references.")
    if not chill:
        _refuse_missing(folder_pred, "predictions", sorted(set(references) - set(predictions)), "Predict them, or leave them out with --chill.")
    jobs = {name: (os.path.join(folder_ref, name), os.path.join(folder_pred, name), image_reader_writer, regions_or_labels, ignore_label, known_labels)
            for name in predictions}
    summary = summarize(list(in_threads(compute_metrics, jobs, num_processes, "Evaluating", anywhere=True).values()), regions_or_labels)
    if output_file is not None:
        save_summary_json(summary, output_file)
    return summary


def compute_metrics_on_folder2(folder_ref: str | os.PathLike, folder_pred: str | os.PathLike, dataset_json_file: str | os.PathLike,
                               plans_file: str | os.PathLike, output_file: str | os.PathLike | None = None,
                               num_processes: int | None = None, chill: bool = False) -> dict[str, Any]:
    """As `compute_metrics_on_folder`, with labels and file ending from dataset.json. Default output: summary.json in `folder_pred`."""
    dataset_json = load_json(dataset_json_file, DatasetJson)
    labels = PlansManager(load_json(plans_file, Plans)).get_label_manager(dataset_json)
    reader_writer_name(dataset_json)  # an ending without a reader is the fault of dataset.json, not of the files
    example = next((os.path.join(folder_ref, name) for name in list_files(folder_ref, dataset_json["file_ending"])), None)
    return compute_metrics_on_folder(folder_ref, folder_pred, output_file or os.path.join(folder_pred, "summary.json"),
                                     determine_reader_writer_from_dataset_json(dataset_json, example)(), dataset_json["file_ending"],
                                     labels.foreground_regions if labels.has_regions else labels.foreground_labels,
                                     labels.ignore_label, num_processes, chill, labels.labels_of_masks)


def compute_metrics_on_folder_simple(folder_ref: str | os.PathLike, folder_pred: str | os.PathLike, labels: Sequence[int],
                                     output_file: str | os.PathLike | None = None, num_processes: int | None = None,
                                     ignore_label: int | None = None, chill: bool = False) -> dict[str, Any]:
    """As `compute_metrics_on_folder`, with the labels given and the file ending that of the references."""
    names = os.listdir(folder_ref)
    found = {ending: name for ending in KNOWN_ENDINGS[::-1] for name in names if name.endswith(ending) and not name.startswith(".")}
    if not found:
        raise FileNotFoundError(f"{folder_ref} holds no file ending in {', '.join(KNOWN_ENDINGS)}. Name the folder of the masks.")
    ending, example = list(found.items())[-1]
    return compute_metrics_on_folder(folder_ref, folder_pred, output_file or os.path.join(folder_pred, "summary.json"),
                                     determine_reader_writer_from_file_ending(ending, os.path.join(folder_ref, example))(),
                                     ending, labels, ignore_label, num_processes, chill)


def list_files(folder: str | os.PathLike, file_ending: str) -> list[str]:
    """Names of the files in `folder` with this ending, sorted; [] if there is none. InputError names what only looks like one (see image_listing)."""
    return [path.name for path in list_images(folder, file_ending, below="ignore", empty=True)]


def _refuse_missing(folder: str | os.PathLike, what: str, names: list[str], remedy: str) -> None:
    if names:
        raise FileNotFoundError(f"{folder} lacks {len(names)} {what}: {name_most(names)}. {remedy}")


def label_or_region_to_key(label_or_region: LabelOrRegion) -> str:
    return str(label_or_region)


def key_to_label_or_region(key: str) -> LabelOrRegion:
    numbers = [int(part) for part in key.strip("()").split(",") if part.strip()]
    return tuple(numbers) if key.startswith("(") else numbers[0]


def _map_keys(summary: dict[str, Any], convert) -> dict[str, Any]:
    def by_label(metrics: dict) -> dict:
        return {convert(key): value for key, value in metrics.items()}

    return summary | {"mean": by_label(summary["mean"]),
                      "metric_per_case": [case | {"metrics": by_label(case["metrics"])} for case in summary["metric_per_case"]]}


def save_summary_json(results: dict[str, Any], output_file: str | os.PathLike) -> None:
    """Write a summary, foreground mean first. NaN stands as NaN, which Python's json reads back."""
    with atomic_write(output_file) as temporary:
        temporary.write_text(json.dumps(_map_keys(results, label_or_region_to_key), indent=4, sort_keys=True), encoding="utf-8")


def load_summary_json(filename: str | os.PathLike) -> dict[str, Any]:
    """Read a summary; labels and regions become integers and tuples again."""
    return _map_keys(load_json(filename, Summary), key_to_label_or_region)
