"""The classification task that dataset.json may declare, and its label table.

    "classification": {"name": "subtype", "classes": ["0", "1", "2"], "labels": "subtypes.csv", "lesion_labels": [2]}

The table has a header `case,subtype`: the case's name without file ending, then one of the classes. Its second column
is named after the task.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.csv_files import read_csv, refuse
from nnunetv2.utilities.safe_names import name_problem

LESION_FOUND = "lesion_found"  # last column of a table of probabilities: whether a lesion was found; else they are the training's shares
FOUND = {"1": True, "0": False, "unknown": None}  # what stands there; unknown: the class does not rest on the lesion


def lesion_found_in(row: Mapping[str, str]) -> tuple[bool | None, str | None]:
    """What a row of such a table says, and what is wrong with it (None: nothing). A table without the column says nothing."""
    text = row.get(LESION_FOUND, "unknown")
    return FOUND.get(text), None if text in FOUND else f"{LESION_FOUND} is {text!r}; it must be one of {', '.join(FOUND)}"


def lesion_mark(found: bool | None) -> str:
    """What is written."""
    return next(text for text, meaning in FOUND.items() if meaning is found)


@dataclass(frozen=True)
class ClassificationTask:
    """What is to be classified, one class a case."""

    name: str  # column of the label table; prefix of the files that prediction writes
    classes: tuple[str, ...]  # class i of the network is classes[i] in tables
    labels_file: str  # csv beside dataset.json
    lesion_labels: tuple[int, ...]  # segmentation labels that decide the class

    @classmethod
    def from_dataset_json(cls, dataset_json: dict, foreground_labels: Sequence[int]) -> "ClassificationTask | None":
        """The declared task, or None without one. `lesion_labels` defaults to the highest foreground label."""
        declared = dataset_json.get("classification")
        if declared is None:
            return None
        problems = [f"key {key!r} is missing" for key in ("name", "classes", "labels") if key not in declared]
        classes = [str(name) for name in declared.get("classes", [])]
        if "classes" in declared and (len(classes) < 2 or len(set(classes)) < len(classes)):
            problems.append(f"classes {classes} must be two or more different names")
        lesion_labels = declared.get("lesion_labels", list(foreground_labels)[-1:])
        if not lesion_labels or not set(lesion_labels) <= set(foreground_labels):
            problems.append(f"lesion_labels {lesion_labels} must be among the foreground labels {list(foreground_labels)}")
        for what, value in (("name", declared.get("name", "a")), ("labels", declared.get("labels", "a")), *(("class", name) for name in classes)):
            if (reason := name_problem(value)) is not None:  # each becomes part of a file's name or of a table
                problems.append(f"{what} {value!r} {reason}")
        if problems:
            raise ValueError(f"dataset.json, key 'classification': {'; '.join(problems)}.")
        return cls(declared["name"], tuple(classes), declared["labels"], tuple(int(label) for label in lesion_labels))

    def read_labels(self, folder: str | os.PathLike, cases: Iterable[str]) -> dict[str, int]:
        """Class index of each of `cases` that the table in `folder` lists; a case without a row is left out.

        Rows of other cases are never looked at, so labels that must stay unseen cannot leak and may be anything.
        Raises InputError for a damaged table (see `read_csv`), and one listing every asked case with an unknown class or with two different ones.
        """
        path = Path(folder) / self.labels_file
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; dataset.json names it as the labels of {self.name!r}. Restore it.")
        asked = set(cases)
        rows = [(row["case"], row[self.name]) for row in read_csv(path, ("case", self.name), pad=True).rows if row["case"] in asked]
        index = {name: i for i, name in enumerate(self.classes)}
        problems = [f"{case}: {value!r} is not among {list(self.classes)}" for case, value in rows if value not in index]
        labels: dict[str, int] = {}
        for case, value in rows:
            if value in index and labels.setdefault(case, index[value]) != index[value]:
                problems.append(f"{case}: two rows, {self.classes[labels[case]]!r} and {value!r}")
        refuse(path, problems)
        return labels
