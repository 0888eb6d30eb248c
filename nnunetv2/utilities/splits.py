"""Which cases train and which validate: `splits_final.json`, or nnU-Net's default 5 folds (Isensee et al. 2021)."""

import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunetv2.utilities.data_manifest import SPLITS_FILE, read_manifest, record
from nnunetv2.utilities.errors import InputError, list_some, name_most
from nnunetv2.utilities.file_shapes import DatasetJson, Splits
from nnunetv2.utilities.files import is_there, load_json, save_json
from nnunetv2.utilities.manifest import value_hash
from nnunetv2.utilities.safe_names import plain_names

OWN_SPLIT = "own_split"  # key of a training's identity: its trainer has a do_split of its own, so the split file says nothing about it


def default_splits(cases: list[str], n_splits: int = 5, seed: int = 12345) -> list[dict[str, list[str]]]:
    """nnU-Net's shuffled k-fold of the sorted cases, the same for everyone."""
    cases = sorted(cases)
    if len(cases) < n_splits:
        raise ValueError(f"{len(cases)} cases cannot be split into {n_splits} folds. Train fold 'all', or write a {SPLITS_FILE}.")
    from sklearn.model_selection import KFold  # takes a second to import, and most datasets bring their splits

    folds = KFold(n_splits, shuffle=True, random_state=seed).split(cases)
    return [{"train": [cases[i] for i in train], "val": [cases[i] for i in val]} for train, val in folds]


def random_split(cases: list[str], fold: int, seed: int = 12345) -> dict[str, list[str]]:
    """nnU-Net's 80:20 split of the sorted cases for a fold that the split file lacks, the same for everyone."""
    cases = sorted(cases)
    chosen = np.random.RandomState(seed + fold).choice(len(cases), int(0.8 * len(cases)), replace=False)
    train = {cases[i] for i in chosen}
    return {"train": sorted(train), "val": [case for case in cases if case not in train]}


def trainable_cases(preprocessed_dataset_folder: Path) -> list[str]:
    """Sorted ids of all preprocessed training cases, without those that dataset.json holds out (`"holdout"`).

    InputError where planned cases have no reference yet: their preprocessing is running or was ended, and a split made now would leave them out for good.
    """
    dataset_json = load_json(preprocessed_dataset_folder / "dataset.json", DatasetJson, partial=True)
    ending = dataset_json["file_ending"]
    folder = preprocessed_dataset_folder / "gt_segmentations"
    references, holdout = _references(folder, ending), set(dataset_json.get("holdout", []))
    cases = references - holdout
    if not cases:
        raise FileNotFoundError(f"{folder} holds no '*{ending}' to train on. Run nnUNetv2_plan_and_preprocess first.")
    planned = read_manifest(preprocessed_dataset_folder).get("planned", {}).get("cases", [])
    if absent := sorted(set(planned) - holdout - references):
        raise InputError(f"{folder} lacks {len(absent)} of {len(planned)} cases that were planned: {name_most(absent)}. Wait until their preprocessing has ended, "
                         "or run nnUNetv2_preprocess again.")
    return sorted(cases)


def load_split(preprocessed_dataset_folder: str | Path, fold: int | str) -> tuple[list[str], list[str]]:
    """(training ids, validation ids) of `fold`, both sorted. An id that trains several times as often is listed as often.

    Fold "all" trains on every case that is not held out and monitors the same. Otherwise the existing `splits_final.json`
    counts; without one the default 5 folds are written there first. As in nnU-Net a fold beyond the file's is a random split, and
    one whose cases train and validate is warned of. InputError lists all that is wrong with the fold.
    """
    folder = Path(preprocessed_dataset_folder)
    if fold == "all":
        return trainable_cases(folder), trainable_cases(folder)
    path = folder / SPLITS_FILE
    if not is_there(path):
        splits = default_splits(trainable_cases(folder))
        save_json(splits, path)
        record(folder, default_split=value_hash(splits))
    splits = load_json(path, Splits)
    if not isinstance(fold, int) or fold < 0:
        raise InputError(f"Fold {fold!r} is not in {path}, which has folds 0 to {len(splits) - 1}. Choose one of them, or 'all'.")
    if fold >= len(splits):
        warnings.warn(f"{path} has folds 0 to {len(splits) - 1}; fold {fold} is a random split, 80 % of the cases to train on.", stacklevel=2)
    split = splits[fold] if fold < len(splits) else random_split(trainable_cases(folder), fold)
    train, val = (sorted(plain_names(split[part], "case", f"{path}, fold {fold}, {part}")) for part in ("train", "val"))
    problems = unusable_cases(train, val, *_known_cases(folder))
    if problems:
        raise InputError(f"{path}, fold {fold}, cannot be trained; {len(problems)} problem(s), correct the file:\n{list_some(problems)}")
    if repeated := repeated_cases(train, val):
        warnings.warn(f"{path}, fold {fold}:\n{list_some(repeated)}\nIt is trained so. What is measured on cases that train says nothing about new ones.", stacklevel=2)
    return train, sorted(set(val))


def trained_split(identity: Mapping | None, preprocessed_dataset_folder: str | Path, fold: int | str, where: object) -> tuple[list[str], list[str]]:
    """(training ids, validation ids) of a fold that was trained, each once: the split file's, or those that its training recorded where the trainer split by itself.

    identity: of the training, None without a record; where: the file that holds it, for errors.
    """
    if identity is None or not identity.get(OWN_SPLIT):
        train, val = load_split(preprocessed_dataset_folder, fold)
    else:
        train, val = (plain_names(identity["split"][part], "case", f"{where}, split, {part}") for part in ("train", "val"))
    return sorted(set(train)), sorted(set(val))


def split_problems(train: Sequence[str], val: Sequence[str], known: Collection[str] | None, holdout: Collection[str], ending: str) -> list[str]:
    """A line for each thing that is wrong with a fold of which figures are reported; see `unusable_cases` and `repeated_cases`."""
    return unusable_cases(train, val, known, holdout, ending) + repeated_cases(train, val)


def repeated_cases(train: Sequence[str], val: Sequence[str]) -> list[str]:
    """A line for each case that is listed several times, or that trains and validates."""
    problems = [f"{part}: {case} is listed {n} times" for part, cases in (("train", train), ("val", val)) for case, n in Counter(cases).items() if n > 1]
    return problems + [f"{case} is in train and in val; take it out of one" for case in sorted(set(train) & set(val))]


def unusable_cases(train: Sequence[str], val: Sequence[str], known: Collection[str] | None, holdout: Collection[str], ending: str) -> list[str]:
    """A line for each thing for which a fold cannot be trained.

    known: names of all cases, or None where nobody can tell; holdout: cases that must never train; ending: of the label files.
    """
    problems = [] if train else ["it has no training cases; add some to its list train"]
    for part, cases in (("train", train), ("val", val)):
        for case in sorted(set(cases)):
            if case.endswith(ending):
                problems.append(f"{part}: {case} is a file's name; cases are named without ending: {case.removesuffix(ending)}")
            elif known is not None and case not in known:
                problems.append(f"{part}: {case} is no preprocessed case; correct the name, or run nnUNetv2_preprocess again")
    return problems + [f"train: {case} is held out by dataset.json and must not train" for case in sorted(set(train) & set(holdout))]


def _references(folder: Path, ending: str) -> set[str]:
    """Names of the cases whose segmentation lies in `folder`. Half-written files (hidden) are no cases."""
    return {path.name.removesuffix(ending) for path in folder.glob(f"*{ending}") if not path.name.startswith(".")}


def _known_cases(folder: Path) -> tuple[set[str] | None, list[str], str]:
    """(names of all preprocessed cases or None, those held out, file ending), as far as the folder tells."""
    description = folder / "dataset.json"
    dataset_json = load_json(description, DatasetJson, partial=True) if is_there(description) else {}
    ending, references = dataset_json.get("file_ending", ".nii.gz"), folder / "gt_segmentations"
    known = _references(references, ending) if references.is_dir() else None
    if not known and references.is_dir() and any(not path.name.startswith(".") for path in references.iterdir()):
        raise InputError(f"{description}: file_ending is {ending!r}, and {references} holds no such file. Correct it, or preprocess the dataset again.")
    return known or None, dataset_json.get("holdout", []), ending
