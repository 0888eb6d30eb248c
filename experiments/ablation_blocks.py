"""What each block of evidence is worth: heads fitted to one block, and to all but one, from what trained networks make of the cases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.class_study import Described, Fold, by_group, describe, mean_weights, score
from nnunetv2.class_evidence.blocks import NETWORK
from nnunetv2.class_evidence.fit import FOREST
from nnunetv2.inference.model_loading import find_model
from nnunetv2.utilities.parallel import in_processes


def block_rows(model_folder: Path, splits: Mapping[int, Mapping[str, Sequence[str]]], folder: Path, label_of: Mapping[str, int], n_classes: int,
               work: Path, device: str, seed: int) -> dict[str, Any]:
    """Out-of-fold figures of the networks of one model: {"weights": of all blocks, mean over folds, "rows": {row: of class_study.score}}.

    Rows: `all`; `alone:BLOCK` and `without:BLOCK` of every measured block; `alone:network`, the network's own head; `without:network`;
    `without:forest`. splits: fold -> train and val cases, preprocessed in `folder`. What is segmented is kept below `work`.
    """
    cases = sorted({case for split in splits.values() for part in ("train", "val") for case in split[part]})
    described: dict[int, Described] = {fold: describe(find_model(model_folder, (fold,)), folder, cases, work, torch.device(device)) for fold in splits}
    blocks = list(next(found["evidence"] for found in described[min(splits)].values() if found["evidence"] is not None))
    kinds = {"all": "evidence", f"without:{FOREST}": "no_forest", f"alone:{NETWORK}": "network", f"without:{NETWORK}": "blocks",
             **{f"{kind}:{block}": f"{kind}:{block}" for block in blocks for kind in ("alone", "without")}}
    parts = in_processes(_fold_rows, {str(fold): (model_folder, fold, described[fold], split, label_of, n_classes, tuple(kinds.values())) for fold, split in splits.items()},
                         None, "fitting heads")
    rows = {row: np.concatenate([part[0][kind] for part in parts.values()]) for row, kind in kinds.items()}
    order = [case for split in splits.values() for case in split["val"]]
    true = np.array([label_of[case] for case in order])
    scored = score(rows | {"evidence": rows["all"]}, true, by_group(order, seed), n_classes, seed)
    del scored["evidence"]
    return {"weights": mean_weights([part[1] for part in parts.values()], "weight"), "rows": scored}


def _fold_rows(model_folder: Path, fold: int, described: Described, split: Mapping[str, list[str]], label_of: Mapping[str, int], n_classes: int,
               rows: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return Fold(find_model(model_folder, (fold,)), described, {}, split["train"]).predict(label_of, n_classes, split["val"], rows)
