"""Calibration of refitted class heads on new SYNTHETIC cases: of another seed, seen by no fold and by no choice of a setting.

The out-of-fold cases of an ablation are too few to tell a small calibration error from chance; here every fold's model
predicts every new case. Real data have no new cases with a known subtype, so this is for synthetic ones alone.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from evaluation.bootstrap import interval, resample_counts
from experiments.ablation_table import calibration_scores, weighted_calibration, with_temperature
from experiments.options import SEEDS
from experiments.out_of_fold import PROBABILITIES, read_table

SEED = SEEDS["ablation_new_cases"]
RESAMPLES = 2000


def calibration_on_new_cases(model: Path, tables: dict[int, Path], images: Path, classes: dict[str, int], temperatures: dict[int, float],
                             command: Callable[[list[str]], None], device: str) -> dict:
    """Scores of all folds' predictions together, with and without the head's own temperature.

    tables: fold -> folder for its predictions, resumed where it holds some. command runs a command line. The change's 95 %
    interval is a bootstrap over cases, a case's predictions by all folds together.
    """
    names, before, after = sorted(classes), [], []
    for fold, folder in tables.items():
        if not (folder / PROBABILITIES).is_file() or len(read_table(folder / PROBABILITIES)[1]) < len(names):
            command(["nnUNetv2_predict_from_modelfolder", "-i", str(images), "-o", str(folder), "-m", str(model), "-f", str(fold),
                     "-device", device, "--continue_prediction"])
        rows = read_table(folder / PROBABILITIES)[1]
        reported = np.array([rows[f"{name}.nii.gz"] for name in names])
        after.append(reported)
        before.append(with_temperature(reported, np.full(len(names), 1 / temperatures[fold])))
    true = np.tile([classes[name] for name in names], len(tables))
    old, new = np.concatenate(before), np.concatenate(after)  # (folds x cases, classes), one fold after the other
    counts = np.tile(resample_counts(len(names), RESAMPLES, seed=0), len(tables))
    resampled = [weighted_calibration(probabilities, true, counts) for probabilities in (old, new)]
    intervals = {f"{key}_change_ci": list(interval(resampled[1][key] - resampled[0][key])) for key in resampled[0]}
    return {"cases": len(names), "seed": SEED, "folds": len(tables), "temperatures": {str(fold): t for fold, t in temperatures.items()},
            "before_calibration": calibration_scores(old, true), "after_calibration": calibration_scores(new, true), **intervals}
