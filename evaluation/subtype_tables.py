"""Reading tables of classes: truth (`case,subtype`), predictions (`Names,Subtype`), probabilities (`Names,p_0,p_1,...`).

Columns are named after the class task, which is `subtype` where nothing else is said.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.image_files import ENDINGS, USUAL, case_of
from nnunetv2.utilities.classification import LESION_FOUND, lesion_found_in
from nnunetv2.utilities.csv_files import given_twice, read_csv, refuse

SUM_TOLERANCE = 1e-3  # probabilities are written with few digits


def read_truth(path: Path, task: str = "subtype") -> dict[str, str]:
    """{case: class} of a `case,TASK` table."""
    rows, errors = _read(path, ["case", task])
    table = {row["case"]: row[task] for row in rows}
    refuse(path, errors)
    return table


def read_predictions(path: Path, classes: list[str], task: str = "subtype") -> dict[str, str]:
    """{case: class} of the `Names,Task` table that goes into a submission; names are mask file names."""
    column = task.capitalize()
    rows, errors = _read(path, ["Names", column])
    errors += [f"{row['Names']}: {column} {row[column]!r} is none of {classes}" for row in rows if row[column] not in classes]
    errors += _bad_names(rows)
    refuse(path, errors)
    return {case_of(row["Names"]): row[column] for row in rows}


def read_probabilities(path: Path, classes: list[str]) -> dict[str, np.ndarray]:
    """{case: (K,) float} of a probability table, in the order of `classes` whatever the order of its columns."""
    columns = [f"p_{name}" for name in classes]
    rows, errors = _read(path, ["Names", *columns], optional=[LESION_FOUND])
    errors += _bad_names(rows)
    table = {}
    for row in rows:
        if problem := lesion_found_in(row)[1]:
            errors.append(f"{row['Names']}: {problem}")
        try:
            values = np.array([float(row[column]) for column in columns])
        except ValueError:
            values = np.full(len(columns), np.nan)
        if not (np.all(values >= 0) and abs(values.sum() - 1) <= SUM_TOLERANCE):
            errors.append(f"{row['Names']}: {[row[column] for column in columns]} are not probabilities that sum to 1")
        table[case_of(row["Names"])] = values / values.sum()
    refuse(path, errors)
    return table


def _read(path: Path, columns: list[str], optional: Sequence[str] = ()) -> tuple[list[dict[str, str]], list[str]]:
    """Rows, and what is wrong with them: names given twice, empty fields."""
    table = read_csv(path, columns, only_these=True, optional=optional)
    errors = given_twice([row[columns[0]] for row in table.rows], table.lines)
    return table.rows, errors + [f"line {line} has an empty field: {row}" for row, line in zip(table.rows, table.lines) if "" in row.values()]


def _bad_names(rows: list[dict[str, str]]) -> list[str]:
    return [f"{row['Names']!r} in Names is not a mask file name ending in {USUAL} or another of {', '.join(ENDINGS)}" for row in rows
            if case_of(row["Names"]) == row["Names"]]
