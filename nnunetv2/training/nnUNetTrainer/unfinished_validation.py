"""Which cases a validation that was ended has done already.

While it runs, `validation/` holds `.validating.json`, a record of what its masks are made with: weights, split, preprocessed files, mode, code.
A validation that finds the same record keeps the cases that are there; any other starts with an empty folder. The record goes when the
summary is written, so that validating again after that predicts all cases anew.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.files import is_there, load_json, save_json
from nnunetv2.utilities.manifest import code_version, value_hash

RECORD = ".validating.json"


def made_with(predictor: nnUNetPredictor, weights: Mapping[str, Any], dataset: nnUNetBaseDataset, save_probabilities: bool) -> dict[str, str]:
    """Hashes of all that a mask depends on. `weights` is the network's state dict."""
    engine = predictor.engines[0]
    settings = [asdict(predictor.mode), engine.name, engine.precision, predictor.allowed_mirroring_axes, save_probabilities]
    evidence = [None if head is None else head.to_checkpoint() for head in predictor.evidence]
    folders = [dataset.source_folder, dataset.folder_with_segs_from_previous_stage]
    return {"weights": _content_hash([weights, evidence]), "settings": value_hash(settings), "code": code_version()["source"],
            "plans": value_hash([predictor.plans_manager.plans, predictor.dataset_json]),
            "cases": value_hash([dataset.identifiers, *(_stamps(folder) for folder in folders if folder is not None)])}


def begin(folder: Path, record: dict[str, str]) -> bool:
    """Make `folder` ready: as it is, and True, if it holds an unfinished validation with this `record`; else empty."""
    path = folder / RECORD
    if is_there(path) and load_json(path) == record:
        return True
    shutil.rmtree(folder, ignore_errors=True)  # masks of another split or checkpoint must not enter the summary
    save_json(record, path)
    return False


def finish(folder: Path) -> None:
    (folder / RECORD).unlink()


def missing(files_of: Mapping[str, Sequence[Path]]) -> list[str]:
    """Cases of whose files one is not there."""
    return [case for case, files in files_of.items() if not all(path.is_file() for path in files)]


def _stamps(folder: str | os.PathLike) -> list[tuple[str, int, int]]:
    """Name, size and time of every file."""
    return sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(folder) if entry.is_file())


def _content_hash(value: Any) -> str:
    """Of nested dicts and lists of tensors, arrays, numbers and text."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Mapping):
            for key in sorted(part):
                digest.update(f"{key}:".encode())
                add(part[key])
        elif isinstance(part, (list, tuple)):
            for one in part:
                add(one)
        elif isinstance(part, (torch.Tensor, np.ndarray)):
            tensor = torch.as_tensor(part).detach().cpu().contiguous()
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        else:
            digest.update(f"{part!r};".encode())

    add(value)
    return digest.hexdigest()
