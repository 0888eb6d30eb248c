"""What a row of the speed table costs in accuracy: its scores against the truth, case by case beside those of `exact`."""

from pathlib import Path

import numpy as np

from evaluation.comparison import Subtypes, compare_means, compare_subtypes
from evaluation.image_files import case_of
from experiments.speed_masks import PANCREAS, STRUCTURES, masks_in, read_mask, scores_of, subtypes

RESAMPLES, SEED = 2000, 0
MARGINS = {"whole": 0.005, "lesion": 0.01, "macro_f1": 0.05}  # differences worth knowing about


def compared_with_exact(folder: Path, exact: Path, labels: Path, truth: dict[str, str] | None) -> dict[str, dict]:
    """Rows of evaluation/comparison.py by figure (`a` is exact, `b` this one) over the cases all three folders hold; {} without any.

    A case counts in neither mean of a structure that is absent from its truth and from either mask. truth: case -> class; macro-F1
    is of the cases that have one.
    """
    masks, exact_masks, true_masks = masks_in(folder), masks_in(exact), masks_in(labels)
    names = sorted(masks.keys() & exact_masks.keys() & true_masks.keys())
    if not names:
        return {}
    pairs: dict[str, list] = {structure: [] for structure in STRUCTURES}  # (exact, this row) a case
    for name in names:
        true = read_mask(true_masks[name])
        exact_scores, scores = (scores_of(read_mask(found[name]), true) for found in (exact_masks, masks))
        for structure in STRUCTURES:
            pairs[structure].append((exact_scores[structure], scores[structure]))
    compared = {structure: compare_means(*np.array(values, float).T, MARGINS[structure], RESAMPLES, SEED)  # None becomes NaN
                for structure, values in pairs.items()}
    ours, theirs = subtypes(folder), subtypes(exact)
    known = [(truth[case_of(name)], theirs[name], ours[name]) for name in names
             if truth and case_of(name) in truth and name in ours and name in theirs]
    if known:
        classes = sorted({value for each in known for value in each})
        true, a, b = (np.array([classes.index(value) for value in column]) for column in zip(*known))
        compared["macro_f1"] = compare_subtypes(true, Subtypes(a, None), Subtypes(b, None), len(classes), MARGINS["macro_f1"], RESAMPLES, SEED)["macro_f1"]
    return compared


def accuracy_markdown(rows: dict[str, dict], titles: dict[str, str] = PANCREAS) -> list[str]:
    """Lines of a table of the rows that were compared; [] if none was. titles: of structures, structure_titles()."""
    compared = {row: figures["truth_beside_exact"] for row, figures in rows.items() if figures["truth_beside_exact"]}
    if not compared:
        return []
    lines = ["", "Against the truth, and the difference to `exact` on the same cases: 95 % bootstrap interval over cases.", "",
             f"| row | n | {' | '.join(f'{title} DSC' for title in titles.values())} | class macro-F1 |", "|---" * (3 + len(titles)) + "|"]
    for row, figures in compared.items():
        cells = [_cell(figures[name], row) if name in figures else "-" for name in (*titles, "macro_f1")]
        lines.append(f"| {row} | {figures['whole']['n']} | {' | '.join(cells)} |")
    return lines


def _cell(figure: dict, row: str) -> str:
    if not figure["n"]:
        return "-"
    change = "" if row == "exact" else f" ({figure['difference']:+.4f}, {figure['ci_low']:+.4f} to {figure['ci_high']:+.4f})"
    return f"{figure['b']:.3f}{change}"
