"""The classification task that dataset.json may declare, and its label table.

    "classification": {"name": "subtype", "classes": ["0", "1", "2"], "labels": "subtypes.csv", "lesion_labels": [2]}

The table has a header `case,subtype`: the case's name without file ending, then one of the classes. Its second column
is named after the task.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.csv_files import read_csv, refuse
from nnunetv2.utilities.safe_names import file_key, name_problem

LESION_FOUND = "lesion_found"  # last column of a table of probabilities: whether a lesion was found; else they are the training's shares
FOUND = {"1": True, "0": False, "unknown": None}  # what stands there; unknown: the class does not rest on the lesion


def lesion_found_in(row: Mapping[str, str]) -> tuple[bool | None, str | None]:
    """What a row of such a table says, and what is wrong with it (None: nothing). A table without the column says nothing."""
    text = row.get(LESION_FOUND, "unknown")
    return FOUND.get(text), None if text in FOUND else f"{LESION_FOUND} is {text!r}; it must be one of {', '.join(FOUND)}"


def lesion_mark(found: bool | None) -> str:
    """What is written."""
    return next(text for text, meaning in FOUND.items() if meaning is found)


def composed(text: str) -> str:
    """One spelling of accents, which file systems and spreadsheets write in two ways."""
    return unicodedata.normalize("NFC", text)


@dataclass(frozen=True)
class ClassificationTask:
    """What is to be classified, one class a case."""

    name: str  # column of the label table; prefix of the files that prediction writes
    classes: tuple[str, ...]  # class i of the network is classes[i] in tables
    labels_file: str  # csv beside dataset.json
    lesion_labels: tuple[int, ...]  # segmentation labels that decide the class
    file_ending: str = ".nii.gz"  # of the dataset's images

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
        return cls(declared["name"], tuple(classes), declared["labels"], tuple(int(label) for label in lesion_labels),
                   dataset_json.get("file_ending", ".nii.gz"))

    @property
    def results_file(self) -> str:
        return f"{self.name}_results.csv"

    @property
    def probabilities_file(self) -> str:
        return f"{self.name}_probabilities.csv"

    def read_labels(self, folder: str | os.PathLike, cases: Iterable[str]) -> dict[str, int]:
        """Class index of each of `cases` that the table in `folder` lists; a case without a row is left out.

        Of rows of other cases the name alone is looked at, so labels that must stay unseen cannot leak and may be anything.
        Raises InputError for a damaged table (see `read_csv`), and one listing every asked case with an unknown class, with two different ones, or
        whose name the table spells otherwise.
        """
        path = Path(folder) / self.labels_file
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; dataset.json names it as the labels of {self.name!r}. Restore it.")
        asked = {composed(case): case for case in cases}
        table = [(composed(row["case"]), composed(row[self.name])) for row in read_csv(path, ("case", self.name), pad=True).rows]
        rows = [(asked[case], value) for case, value in table if case in asked]
        index = {composed(name): i for i, name in enumerate(self.classes)}
        problems = self._names_written_otherwise({case for case, _ in table}, asked)
        problems += [f"{case}: {value!r} is not among {list(self.classes)}" for case, value in rows if value not in index]
        labels: dict[str, int] = {}
        for case, value in rows:
            if value in index and labels.setdefault(case, index[value]) != index[value]:
                problems.append(f"{case}: two rows, {self.classes[labels[case]]!r} and {value!r}")
        refuse(path, problems)
        return labels

    def _names_written_otherwise(self, in_table: Set[str], asked: Mapping[str, str]) -> list[str]:
        """A line for each asked case without a row that has one under another spelling, which would be left out without a word."""
        without_row = {self._spelling(name): case for name, case in asked.items() if name not in in_table}
        return [f"{name}: the case is called {case}; write its name so" for name in sorted(in_table - asked.keys())
                if (case := without_row.get(self._spelling(name))) is not None]

    def _spelling(self, name: str) -> str:
        """Equal for names that mean one case: a file's name, other case of letters, and a number whose leading zeros a spreadsheet dropped."""
        if name.endswith(self.file_ending):
            name = re.sub(r"_\d{4}$", "", name.removesuffix(self.file_ending))
        return str(int(name)) if name.isdecimal() else file_key(name)


def classes_of_regions(task: ClassificationTask | None, has_regions: bool) -> str | None:
    """What to say of a class per case of data with regions; None of others."""
    if task is None or not has_regions:
        return None
    return "dataset.json: 'classification' needs labels that exclude each other, and 'labels' defines regions; leave one of the two out"
