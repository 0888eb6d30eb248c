"""Whether mirrored views and folds are better averaged as class logits or as class probabilities."""

from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from evaluation.comparison import Subtypes, compare_subtypes
from experiments.out_of_fold import PROBABILITIES, read_table
from nnunetv2 import paths
from nnunetv2.inference.model_loading import find_model
from nnunetv2.training.class_head_refit import describe_cases

MARGIN = 0.05  # a difference worth knowing about
FIGURES = ("macro_f1", "auroc", "brier")
TINY = 1e-6  # probabilities are written with six digits; a 0 has no logarithm


def view_logits(model_folder: Path, fold: int, checkpoint: str, cases: list[str], device: torch.device, views: int = 8) -> np.ndarray:
    """(V, n, K) class logits, temperature applied, of preprocessed `cases` in V mirrored views, as prediction sees them."""
    model = find_model(model_folder, (fold,), checkpoint)
    network = model.build_network(model.checkpoints[0]).to(device)
    folder = paths.nnUNet_preprocessed / model.plans_manager.dataset_name / model.configuration_manager.data_identifier
    features = describe_cases(model, network, cases, folder, device, views).features  # (n, V, F)
    head = network.class_head.cpu().eval()
    with torch.no_grad():
        return head.classify(features.flatten(0, 1)).unflatten(0, features.shape[:2]).transpose(0, 1).double().numpy()


def table_logits(tables: list[Path], names: list[str]) -> np.ndarray:
    """(folds, n, K): logarithms of the probabilities in the folders `tables`, which are logits up to a constant a case."""
    rows = [read_table(folder / PROBABILITIES)[1] for folder in tables]
    return np.log(np.maximum([[table[f"{name}.nii.gz"] for name in names] for table in rows], TINY))


def logits_against_probabilities(logits: np.ndarray, true: np.ndarray, resamples: int, seed: int) -> dict[str, dict]:
    """Rows of evaluation/comparison.py by figure: `a` averages (M, n, K) logits over M, `b` their probabilities; true (n,)."""
    averages = softmax(logits.mean(0), axis=-1), softmax(logits, axis=-1).mean(0)
    a, b = (Subtypes(average.argmax(1), average) for average in averages)
    return compare_subtypes(true, a, b, logits.shape[2], MARGIN, resamples, seed)


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def averaging_markdown(comparisons: list[dict]) -> list[str]:
    """Lines of a table, a row a comparison: `what` and its figures."""
    lines = ["", "Averages of class logits -> of class probabilities; brackets: the change.", "", "| averaged over | n | macro-F1 | AUROC | Brier |",
             "|---|---|---|---|---|"]
    for comparison in comparisons:
        cells = []
        for name in FIGURES:
            figure = comparison["figures"][name]
            cells.append(f"{figure['a']:.4f} -> {figure['b']:.4f} [{figure['ci_low']:+.4f}, {figure['ci_high']:+.4f}; {p_text(figure['p'])}]")
        lines.append(f"| {comparison['what']} | {comparison['figures']['brier']['n']} | {' | '.join(cells)} |")
    return lines
