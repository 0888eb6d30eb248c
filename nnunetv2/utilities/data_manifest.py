"""What a preprocessed dataset was made from, and what has changed in the raw one since.

`nnUNet_preprocessed/DATASET/manifest.json` holds: `files`, hashes of raw files with size and times, so that they are read
again only when touched; `planned`, the raw dataset.json, split and class labels at planning; `fingerprint` and
`preprocessed` (a key for each configuration's folder), the hash of every case then; `default_split`, when the split was made
here and not brought along. Folders of upstream have none: they work, and nothing can be compared.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2 import paths
from nnunetv2.utilities.dataset_files import get_filenames_of_train_images_and_targets
from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.file_shapes import DatasetJson, Manifest, Splits
from nnunetv2.utilities.files import is_there, load_json, save_json
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.manifest import MANIFEST_FILE, KNOWN_HASHES, changes, file_hash, known_hash, origin, value_hash
from nnunetv2.utilities.parallel import in_threads
from nnunetv2.utilities.sidecars import sidecars

SPLITS_FILE = "splits_final.json"
REMEDY = "Run nnUNetv2_plan_and_preprocess -d {dataset} --clean with the settings of before, and train anew; or put the raw data back as they were."


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """The folder's manifest, {} without one."""
    path = Path(folder) / MANIFEST_FILE
    return load_json(path, Manifest) if is_there(path) else {}


def record(folder: Path, **sections: Any) -> None:
    """Set sections of the manifest of a preprocessed dataset. A dict is merged into the one there, so that runs of several configurations may write."""
    with folder_lock(folder, "manifest", "its manifest is written", wait=True):
        old = read_manifest(folder)
        merged = {key: old.get(key, {}) | value if key in ("files", "preprocessed") else value for key, value in sections.items()}
        save_json(old | merged | origin(), folder / MANIFEST_FILE)


def hash_cases(preprocessed: Path, cases: Mapping[str, Mapping], num_threads: int | None = None) -> dict[str, str]:
    """case -> hash of its images and label, and of the spacing beside them (`cases` as dataset_files lists them). Files that were not touched are not read."""
    known: KNOWN_HASHES = dict(read_manifest(preprocessed).get("files", {}))
    before = dict(known)
    jobs = {case: (files, known) for case, files in cases.items()}
    hashes = in_threads(_hash_case, jobs, num_threads, "hashing changed files" if known else "hashing files")
    read_again = {path: entry for path, entry in known.items() if before.get(path) != entry}
    if read_again and os.access(preprocessed, os.W_OK):
        record(preprocessed, files=read_again)
    return hashes


def _hash_case(files: Mapping, known: KNOWN_HASHES) -> str:
    raw = (*files["images"], files["label"])
    return value_hash([known_hash(os.path.abspath(path), known) for path in (*raw, *sidecars(raw))])


def raw_description(raw: Path) -> dict[str, Any]:
    """What planning takes from a raw dataset beside its images: dataset.json, the names of the cases, split, hash of the class labels."""
    dataset_json = load_json(raw / "dataset.json", DatasetJson)
    table = raw / str(dataset_json.get("classification", {}).get("labels", ""))
    splits = raw / SPLITS_FILE
    return {"dataset_json": dataset_json, "cases": sorted(get_filenames_of_train_images_and_targets(raw, dataset_json)),
            "split": load_json(splits, Splits) if is_there(splits) else None, "class_labels": file_hash(table) if table.is_file() else None}


def planning_changes(planned: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
    """What of two `raw_description`s differs, a line each: moved, new and lost cases, keys of dataset.json."""
    lines = moved_cases(planned["split"] or [], raw["split"] or [])
    old, new = planned["dataset_json"], raw["dataset_json"]
    held = [set(description.get("holdout", [])) for description in (old, new)]
    lines += [f"{case} is held out now" for case in sorted(held[1] - held[0])] + [f"{case} is not held out any more" for case in sorted(held[0] - held[1])]
    lines += [f"{case} is new" for case in sorted(set(raw["cases"]) - set(planned["cases"]))]
    lines += [f"{case} is gone" for case in sorted(set(planned["cases"]) - set(raw["cases"]))]
    unlike = [{key: value for key, value in description.items() if key not in ("holdout", "numTraining")} for description in (old, new)]
    return lines + [f"dataset.json: {line}" for line in changes(*unlike)]


def moved_cases(old: Sequence[Mapping], new: Sequence[Mapping]) -> list[str]:
    """Lines such as `a moved from train to validation (fold 0)`, of two lists of folds."""
    lines = [] if len(old) == len(new) or not old or not new else [f"splits_final.json had {len(old)} folds, has {len(new)}"]
    for number, (before, after) in enumerate(zip(old, new)):
        lines += [f"{line} (fold {number})" for line in moved_in_fold(before["train"], before["val"], after["train"], after["val"])]
    return lines


def moved_in_fold(old_train: Sequence[str], old_val: Sequence[str], new_train: Sequence[str], new_val: Sequence[str]) -> list[str]:
    """`a moved from train to validation`, of one fold."""
    before, after = ({case: " and ".join(name for name, cases in (("train", train), ("validation", val)) if case in cases) for case in train | val}
                     for train, val in ((set(old_train), set(old_val)), (set(new_train), set(new_val))))
    return [f"{case} moved from {before.get(case, 'neither list')} to {after.get(case, 'neither list')}"
            for case in sorted({*before, *after}) if before.get(case) != after.get(case)]


def bring_split(raw: Path, preprocessed: Path, split: list[dict] | None, training: set[str], manifest: Mapping[str, Any]) -> None:
    """Copy the raw dataset's split where none is or where the one there is its former state. One that people edited is kept.

    split: of the raw dataset, None where it brings none; training: names of all cases that may be trained on; manifest: of `preprocessed`.
    """
    existing = preprocessed / SPLITS_FILE
    if not is_there(existing):
        if split is not None:
            save_json(split, existing)
        return
    now = load_json(existing, Splits)
    if split is None:
        forget_default_split(preprocessed, training)
        return
    before = manifest.get("planned", {}).get("split")
    if split == now:
        return
    if before is None or split == before:
        warnings.warn(f"{existing} differs from {raw / SPLITS_FILE} and is kept; delete it to use the raw dataset's.", stacklevel=4)
    elif now == before:
        print(f"{existing} follows the raw dataset's:\n{list_some(moved_cases(before, split))}")
        save_json(split, existing)
    else:
        raise InputError(f"{raw / SPLITS_FILE} changed since it was planned, and {existing} was edited:\n"
                         f"{list_some(moved_cases(before, split))}\nBring the second in line, or delete it to use the first.")


def forget_default_split(preprocessed: Path, training: set[str]) -> None:
    """Remove a split that was made by default for other cases than `training`, the names of all that may be trained on. One that people wrote stays."""
    existing = preprocessed / SPLITS_FILE
    if not is_there(existing):
        return
    now = load_json(existing, Splits)
    if value_hash(now) == read_manifest(preprocessed).get("default_split") and {case for fold in now for part in ("train", "val") for case in fold[part]} != training:
        print(f"{existing}: made by default for other cases; it is made anew when a training starts.")
        existing.unlink()


def refuse_changed_plans(dataset: str) -> None:
    """InputError when split, held-out cases, labels or the set of cases changed in the raw dataset since it was planned."""
    preprocessed = paths.nnUNet_preprocessed / dataset
    planned, raw = read_manifest(preprocessed).get("planned"), _raw_folder(dataset)
    if planned is None or raw is None:
        return
    found = planning_changes(planned, raw_description(raw))
    if found:
        raise InputError(_changed(dataset, raw, found))


def refuse_changed_data(dataset: str, data_identifier: str, train_cases: Sequence[str] = ()) -> None:
    """InputError that lists what changed in the raw dataset since it was planned and preprocessed, before anything is trained on it.

    train_cases: whose rows in the table of class labels count. Says so in a line where there is nothing to compare with.
    """
    preprocessed, raw = paths.nnUNet_preprocessed / dataset, _raw_folder(dataset)
    found = None if raw is None else data_changes(preprocessed, raw, data_identifier, train_cases)
    if found is None:
        why = "the raw dataset is not here" if raw is None else f"{preprocessed} has no record of what it was made from"
        print(f"note: whether the data changed since preprocessing cannot be checked: {why}.")
    elif found:
        raise InputError(_changed(dataset, raw, found))


def data_changes(preprocessed: Path, raw: Path, data_identifier: str, train_cases: Sequence[str] = ()) -> list[str] | None:
    """What changed in `raw` since `preprocessed`/`data_identifier` was made from it, a line each; None without a record of that."""
    manifest = read_manifest(preprocessed)
    made_from = manifest.get("preprocessed", {}).get(data_identifier)
    if "planned" not in manifest or made_from is None:
        return None
    found = planning_changes(manifest["planned"], raw_description(raw))
    cases = get_filenames_of_train_images_and_targets(raw, load_json(raw / "dataset.json", DatasetJson))
    present = {case: files for case, files in cases.items() if all(map(os.path.isfile, (*files["images"], files["label"])))}
    found += [f"{case}: a file of it is missing in {raw}" for case in sorted(cases.keys() - present.keys())]
    hashes = hash_cases(preprocessed, {case: files for case, files in present.items() if case in made_from})
    found += [f"{case}: image or label changed" for case, value in hashes.items() if made_from[case] != value]
    return found + _changed_classes(manifest["planned"], raw, preprocessed, train_cases)


def _changed_classes(planned: Mapping, raw: Path, preprocessed: Path, train_cases: Sequence[str]) -> list[str]:
    from nnunetv2.utilities.classification import ClassificationTask

    description = planned["dataset_json"]
    if planned["class_labels"] == raw_description(raw)["class_labels"] or "classification" not in description:
        return []
    task = ClassificationTask.from_dataset_json(description, [value for value in description["labels"].values() if isinstance(value, int) and value])
    old, new = (task.read_labels(folder, train_cases) for folder in (preprocessed, raw))
    return [f"{task.name} of {line}" for line in changes({case: task.classes[k] for case, k in old.items()}, {case: task.classes[k] for case, k in new.items()})]


def _raw_folder(dataset: str) -> Path | None:
    """The raw dataset; None where it is not here, or its images were deleted after preprocessing."""
    root = paths.path_if_set("nnUNet_raw")
    if root is None or not (root / dataset / "dataset.json").is_file():
        return None
    images = root / dataset / "imagesTr"
    has_images = images.is_dir() and any(images.iterdir())
    return root / dataset if has_images or "dataset" in load_json(root / dataset / "dataset.json", DatasetJson, partial=True) else None


def _changed(dataset: str, raw: Path, found: Sequence[str]) -> str:
    return (f"{raw} changed since it was planned and preprocessed, {len(found)} difference(s):\n{list_some(found)}\n"
            + REMEDY.format(dataset=dataset))
