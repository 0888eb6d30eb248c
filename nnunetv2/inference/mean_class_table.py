"""Class tables of several folders of the same cases -> one, whose probabilities are their mean."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunetv2.inference.class_tables import ClassTables
from nnunetv2.utilities.classification import LESION_FOUND, ClassificationTask, lesion_found_in
from nnunetv2.utilities.csv_files import given_twice, read_csv, refuse


def ensemble_class_tables(folders: Sequence[Path], output: Path, task: ClassificationTask) -> None:
    """Average TASK_probabilities.csv of all folders; nothing to do when none has it.

    Raises:
        FileNotFoundError: some folders have the table and others do not, or they list different cases.
    """
    files = [folder / f"{task.name}_probabilities.csv" for folder in folders]
    absent = [str(file) for file in files if not file.is_file()]
    if len(absent) == len(files):
        return
    if absent:
        raise FileNotFoundError("These class tables are missing; predict again to make them:\n" + "\n".join(absent))
    tables = [_read_class_table(file, task) for file in files]
    names = sorted(set().union(*tables))
    missing = [f"{file} lacks {', '.join(sorted(set(names) - set(table)))}" for file, table in zip(files, tables) if set(names) - set(table)]
    if missing:
        raise FileNotFoundError("All class tables must cover the same cases:\n" + "\n".join(missing))
    looked = {name: [table[name][1] for table in tables if table[name][1] is not None] for name in names}
    ClassTables(task, output).add_all({name: np.mean([table[name][0] for table in tables], axis=0) for name in names},
                                      {name: any(found) if found else None for name, found in looked.items()})


def _read_class_table(file: Path, task: ClassificationTask) -> dict[str, tuple[np.ndarray, bool | None]]:
    """{mask name: (n_classes,) probabilities, and whether a lesion was found}; None where the table does not say."""
    columns = [f"p_{name}" for name in task.classes]
    table = read_csv(file, ["Names", *columns], only_these=True, optional=[LESION_FOUND])
    problems, probabilities = given_twice([row["Names"] for row in table.rows], table.lines), {}
    for row, line in zip(table.rows, table.lines):
        try:
            values = np.array([float(row[column]) for column in columns])
        except ValueError:
            values = np.array([np.nan])
        if not np.all((values >= 0) & (values <= 1)):
            problems.append(f"line {line}: {[row[column] for column in columns]} are no probabilities")
        found, problem = lesion_found_in(row)
        problems += [f"line {line}: {problem}"] if problem else []
        probabilities[row["Names"]] = values, found
    refuse(file, problems)
    return probabilities
