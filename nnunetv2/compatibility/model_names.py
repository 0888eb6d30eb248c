"""Names of models, ensembles and folds, taken apart and put together as nnU-Net's scripts do it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_files import get_output_folder
from nnunetv2.utilities.errors import InputError


def convert_trainer_plans_config_to_identifier(trainer_name: str, plans_identifier: str, configuration: str) -> str:
    """nnUNetTrainer, nnUNetPlans, 3d_fullres -> nnUNetTrainer__nnUNetPlans__3d_fullres."""
    return "__".join((trainer_name, plans_identifier, configuration))


def convert_identifier_to_trainer_plans_config(identifier: str) -> list[str]:
    """The reverse; `identifier` may be a path."""
    return os.path.basename(identifier).split("__")


def parse_dataset_trainer_plans_configuration_from_path(path: str | os.PathLike) -> tuple[str, ...]:
    """.../Dataset777_X/Trainer__Plans__configuration[/fold_0] -> (dataset, trainer, plans, configuration). InputError for another path."""
    parts = Path(path).parts
    for dataset, model in zip(parts, parts[1:]):
        if dataset.startswith("Dataset") and len(names := model.split("__")) == 3:
            return dataset, *names
    raise InputError(f"{path} does not lead to a model folder; expected DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION in it.")


def get_ensemble_name(model1_folder: str | os.PathLike, model2_folder: str | os.PathLike, folds: Sequence[int | str]) -> str:
    """Folder name of the ensemble of two models."""
    return "___".join(("ensemble", os.path.basename(model1_folder), os.path.basename(model2_folder), folds_tuple_to_string(folds)))


def get_ensemble_name_from_d_tr_c(dataset: int | str, tr1: str, p1: str, c1: str, tr2: str, p2: str, c2: str, folds: Sequence[int | str]) -> str:
    """As `get_ensemble_name`, of two models of one dataset."""
    return get_ensemble_name(get_output_folder(dataset, tr1, p1, c1), get_output_folder(dataset, tr2, p2, c2), folds)


def convert_ensemble_folder_to_model_identifiers_and_folds(ensemble_folder: str | os.PathLike) -> tuple[list[str], str]:
    """ensemble___A___B___0_1_2 -> ([A, B], "0_1_2")."""
    _, *models, folds = os.path.basename(ensemble_folder).split("___")
    return models, folds


def folds_tuple_to_string(folds: Sequence[int | str]) -> str:
    """(0, 1, "all") -> "0_1_all"."""
    return "_".join(map(str, folds))


def folds_string_to_tuple(folds_string: str) -> list[int | str]:
    """The reverse, as a list."""
    return [int(fold) if fold.isdecimal() else fold for fold in folds_string.split("_")]


def check_workers_alive_and_busy(export_pool: Any, worker_list: Sequence[Any], results_list: Sequence[Any], allowed_num_queued: int = 0) -> bool:
    """True while a multiprocessing pool has as many unfinished results as it has workers, plus `allowed_num_queued`. RuntimeError if a worker died."""
    if not all(worker.is_alive() for worker in worker_list):
        raise RuntimeError("A background worker is no longer alive.")
    return sum(not result.ready() for result in results_list) >= len(export_pool._pool) + allowed_num_queued
