"""Listing files and splitting cases with nnU-Net's signatures."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2.configuration import available_cores
from nnunetv2.training.dataloading.batch_stream import augmentation_workers
from nnunetv2.utilities.splits import default_splits
from nnunetv2.utilities import dataset_files
from nnunetv2.utilities.dataset_name_id_conversion import names_with_id
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import load_json


def get_identifiers_from_splitted_dataset_folder(folder: str | os.PathLike, file_ending: str) -> np.ndarray:
    """Sorted case names of a folder of images CASE_0000.nii.gz."""
    cases = dataset_files.create_lists_from_splitted_dataset_folder(folder, file_ending)
    return np.array([Path(files[0]).name.removesuffix(file_ending).rpartition("_")[0] for files in cases])


def create_paths_fn(folder: str | os.PathLike, files: Sequence[str], file_ending: str, f: str) -> list[str]:
    """The paths of case `f`, in the order of `files`: its names with a four-digit channel, CASE_0000.nii.gz."""
    return [os.path.join(folder, name) for name in files if re.fullmatch(re.escape(f) + r"_\d{4}" + re.escape(file_ending), name)]


def find_candidate_datasets(dataset_id: int) -> np.ndarray:
    """Sorted names of the datasets of this number in the data folders that are set."""
    return np.array(names_with_id(dataset_id), str)


def create_lists_from_splitted_dataset_folder(folder: str | os.PathLike, file_ending: str, identifiers: Sequence[str] | None = None,
                                              num_processes: int = 1) -> list[list[str]]:
    """One list of files per case; `identifiers` chooses cases and their order. One listing needs no processes: the argument has no effect."""
    cases = dataset_files.create_lists_from_splitted_dataset_folder(folder, file_ending)
    if identifiers is None:
        return cases
    by_name = {Path(files[0]).name.removesuffix(file_ending).rpartition("_")[0]: files for files in cases}
    return [by_name.get(name, []) for name in identifiers]


def get_filenames_of_train_images_and_targets(raw_dataset_folder: str | os.PathLike, dataset_json: dict | None = None) -> dict[str, dict]:
    """{case: {"images": [...], "label": file}}; dataset.json is read from the folder when it is not given."""
    if dataset_json is None:
        dataset_json = load_json(Path(raw_dataset_folder) / "dataset.json", DatasetJson)
    return dataset_files.get_filenames_of_train_images_and_targets(raw_dataset_folder, dataset_json)


def generate_crossval_split(train_identifiers: Sequence[str], seed: int = 12345, n_splits: int = 5) -> list[dict[str, list[str]]]:
    """nnU-Net's shuffled folds of the identifiers."""
    return default_splits(list(train_identifiers), n_splits, seed)


def get_allowed_n_proc_DA() -> int:  # noqa: N802 (upstream's name)
    """Workers that augment data for one GPU: nnUNet_n_proc_DA (0: none), else at most 12, and no more than there are cores."""
    return min(augmentation_workers(torch.device("cuda")), available_cores())


def __getattr__(name: str) -> int:
    if name == "default_n_proc_DA":  # asked for when it is needed, so that a wrong variable stops nobody else
        return get_allowed_n_proc_DA()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def recursive_fix_for_json_export(my_dict: dict) -> None:
    """Turn numpy's and torch's numbers, arrays and devices inside `my_dict` into Python's, in place."""
    for key in list(my_dict):
        value = _plain(my_dict.pop(key))
        my_dict[key.item() if isinstance(key, np.generic) else key] = value


def fix_types_iterable(iterable, output_type):
    """The items as plain Python values, in a container of `output_type`."""
    return output_type(_plain(item) for item in iterable)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, dict):
        recursive_fix_for_json_export(value)
        return value
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple, set)) else value
