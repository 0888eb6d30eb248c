"""Refitted class heads on new SYNTHETIC cases: of another seed, seen by no fold and by no choice of a setting.

Real data have no new cases with a known class, so this is for synthetic ones alone.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.subtype_metrics import auroc, confusion, macro_f1, macro_f1_interval
from experiments.ablation_table import calibration_scores
from experiments.options import SEEDS
from experiments.out_of_fold import PROBABILITIES, read_table

SEED = SEEDS["ablation_new_cases"]


def on_new_cases(model: Path, folds: Iterable[int], tables: Path, images: Path, classes: dict[str, int], command: Callable[[list[str]], None], device: str) -> dict[str, Any]:
    """Scores of all folds' networks together, as they predict. tables: folder for the predictions, resumed where it holds some; command runs a command line."""
    names, folds = sorted(classes), list(folds)
    if not (tables / PROBABILITIES).is_file() or len(read_table(tables / PROBABILITIES)[1]) < len(names):
        command(["nnUNetv2_predict_from_modelfolder", "-i", str(images), "-o", str(tables), "-m", str(model), "-f", *map(str, folds), "-device", device, "--continue_prediction"])
    rows = read_table(tables / PROBABILITIES)[1]
    probabilities, true = np.array([rows[f"{name}.nii.gz"] for name in names]), np.array([classes[name] for name in names])
    n_classes, each = probabilities.shape[1], np.ones((1, len(names)))
    matrix = confusion(true, probabilities.argmax(1), n_classes, each)
    return {"n": len(names), "seed": SEED, "folds": len(folds), "macro_f1": float(macro_f1(matrix)[0]), "macro_f1_ci": list(macro_f1_interval(matrix[0])),
            "auroc": float(np.mean([auroc(true == k, probabilities[:, k], each)[0] for k in range(n_classes)])), **calibration_scores(probabilities, true)}
