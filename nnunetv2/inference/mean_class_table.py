"""Class tables of several folders of the same cases -> one, whose probabilities are their mean."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nnunetv2.inference.class_tables import ClassTables
from nnunetv2.utilities.classification import LESION_FOUND, ClassificationTask, lesion_found_in
from nnunetv2.utilities.csv_files import given_twice, read_csv, refuse
from nnunetv2.utilities.errors import name_most, name_some
from nnunetv2.utilities.file_shapes import DatasetJson, Plans
from nnunetv2.utilities.files import load_json

Rows = dict[str, tuple[np.ndarray, bool | None]]  # mask name -> (n_classes,) probabilities, and whether a lesion was found


def mean_class_rows(members: Sequence[Sequence[Path]], masks: Iterable[str], task: ClassificationTask | None) -> Rows:
    """The mean of what the tables in the folders of each member say of `masks`; {} without a task, or where no member has a table.

    members: the folders of each model, which share its cases among them. A model without a table, whose plans (beside the masks, or in the folder
    that fold_X/validation lies in) know no class head, has no say, which is noted. Its masks may have another file ending.

    Raises:
        FileNotFoundError: lists what the table of a model lacks that another model's has.
    """
    if task is None:
        return {}
    masks = set(masks)
    tables: dict[int, tuple[Sequence[Path], Rows]] = {}  # by number: a model given twice counts twice
    for number, folders in enumerate(members):
        found = [folder for folder in folders if (folder / task.probabilities_file).is_file()]
        if found or any(_may_classify(folder) for folder in folders):
            read = {f"{name.removesuffix(ending)}{task.file_ending}": row for folder in found for ending in [_ending(folder, task)]
                    for name, row in _read_class_table(folder / task.probabilities_file, task).items()}
            tables[number] = folders, {mask: row for mask, row in read.items() if mask in masks}
    names = sorted(set().union(*(rows for _, rows in tables.values())))
    missing = [f"{', '.join(str(folder / task.probabilities_file) for folder in folders)} lacks {name_most(sorted(set(names) - set(rows)))}"
               for folders, rows in tables.values() if set(names) - set(rows)]
    if missing:
        raise FileNotFoundError("All class tables must cover the same cases; predict again what these lack:\n" + "\n".join(missing))
    if names and len(tables) < len(members):
        silent = [str(folders[0]) for number, folders in enumerate(members) if number not in tables]
        print(f"Note: the models of {', '.join(silent)} have no class head; the classes are those of the others.")
    if names and (classless := sorted(masks - set(names))):
        print(f"Note: {len(classless)} mask(s) have no row in a table of classes: {name_some(classless)}.")
    mean = {}
    for mask in names:
        rows = [rows[mask] for _, rows in tables.values()]
        looked = [found for _, found in rows if found is not None]
        mean[mask] = np.mean([probabilities for probabilities, _ in rows], axis=0), any(looked) if looked else None
    return mean


def write_class_rows(rows: Rows, output: Path, task: ClassificationTask | None) -> None:
    """Write the tables of `output`, whose masks are there; those of masks that `rows` does not name stay. Nothing without rows."""
    if task is not None and rows:
        ClassTables(task, output).add_all({mask: values for mask, (values, _) in rows.items()}, {mask: found for mask, (_, found) in rows.items()})


def _model_file(folder: Path, name: str) -> Path:
    """plans.json or dataset.json of the masks in `folder`."""
    return (folder.resolve().parents[1] if folder.name == "validation" else folder) / name


def _may_classify(folder: Path) -> bool:
    """Whether the plans of the masks in `folder` know a class head; True where there are none."""
    plans = _model_file(folder, "plans.json")
    if not plans.is_file():
        return True
    configurations = load_json(plans, Plans, partial=True)["configurations"]
    return any(configuration.get("architecture", {}).get("class_head") for configuration in configurations.values())


def _ending(folder: Path, task: ClassificationTask) -> str:
    """How the names of the masks in `folder` end."""
    description = _model_file(folder, "dataset.json")
    return load_json(description, DatasetJson, partial=True).get("file_ending", task.file_ending) if description.is_file() else task.file_ending


def _read_class_table(file: Path, task: ClassificationTask) -> Rows:
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
