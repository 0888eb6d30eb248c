"""What a data set is about: its labels, regions, class task and their names, and where it comes from.

A folder in the quiz's layout may hold `dataset_description.json`; without it the folder is the quiz's own (QUIZ below):

    {"name": "LungNodules", "title": "lung nodules", "labels": {"background": 0, "nodule": 1}, "lesion": "nodule",
     "classification": {"name": "malignancy", "classes": ["benign", "unsure", "malignant"], "labels": "classes.csv"},
     "patients": "patients.csv", "window": [-1350, 150], "source": "LIDC-IDRI, ...", "licence": "CC BY 3.0", "real": true}

Conversion copies it into dataset.json, scoring into metrics.json, each under `data_description`; a metrics.json without it is the quiz's. A
dataset.json without it is described by its own labels and class task, and is the quiz's where its labels are (`description_of_dataset`).
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import FileShape, Finite, Text, checked
from nnunetv2.utilities.files import check_shape, load_json
from nnunetv2.utilities.safe_names import name_problem

FILE, KEY = "dataset_description.json", "data_description"
MAX_LABEL = 15  # the gallery's pictures hold label codes of 4 bits
# keys of metrics.json and of its rows that a structure must not take
RESERVED = {"synthetic", "command", "seed", "bootstrap", "provenance", "n_cases", "missing_predictions", "definitions", "subtype", "cases", "run", KEY}

Name = Annotated[str, checked(lambda v: re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,60}", v), "letters A to Z and digits, a letter first")]
Words = Annotated[str, checked(lambda v: re.fullmatch(r"[A-Za-z][A-Za-z0-9 -]{0,60}", v), "letters A to Z, digits, blanks and hyphens, a letter first")]
Plain = Annotated[str, checked(lambda v: name_problem(v) is None, "plain in a file name: letters, digits, '_', '-' and '.'")]
Range = Annotated[list[Finite], checked(lambda v: len(v) == 2 and v[0] < v[1], "two numbers, the lower one first")]


class _Task(FileShape):
    name: Annotated[str, checked(lambda v: re.fullmatch(r"[a-z][a-z0-9_]{0,60}", v), "small letters, digits and '_', a letter first")]
    classes: list[Plain] = Field(min_length=2)
    labels: Plain | None = None  # csv with columns case, NAME; None: sub-folders NAMECLASS, as in the quiz


class DescriptionShape(FileShape):
    """dataset_description.json."""

    REMEDY = "Correct it (docs/your-data.md)."
    name: Name
    title: Words | None = None
    organ: Words | None = None
    channel_names: dict[str, Text] = Field(default={"0": "CT"}, min_length=1, max_length=1)
    labels: dict[Words, Annotated[int, Field(ge=0, le=MAX_LABEL)]] = Field(min_length=2)
    titles: dict[Words, Words] = {}
    lesion: Text | None = None
    classification: _Task | None = None
    patients: Plain | None = None
    window: Range | None = None
    tissue: Range | None = None
    source: Text | None = None
    licence: Text | None = None
    real: bool = True

    @model_validator(mode="after")
    def _parts_agree(self) -> "DescriptionShape":
        values, problems = sorted(self.labels.values()), []
        if self.labels.get("background") != 0 or values != list(range(len(values))):
            problems.append(f"labels {self.labels} must be background 0 and then 1, 2, ... without gaps")
        unknown = [name for name in (self.lesion, *self.titles) if name is not None and (name not in self.labels or name == "background")]
        problems += [f"{name!r} is no foreground label of {list(self.labels)}" for name in unknown]
        if self.classification and len(set(self.classification.classes)) < len(self.classification.classes):
            problems.append(f"classes {self.classification.classes} must be different names")
        if not problems:
            structures = _structures(self.model_dump())
            keys = [structure.key for structure in structures]
            problems += [f"two structures are called {key!r}; give one another title" for key in sorted({key for key in keys if keys.count(key) > 1})]
            problems += [f"a structure must not be called {key!r}; give it another title" for key in keys if key in RESERVED]
        if problems:
            raise ValueError("; ".join(problems))
        return self


@dataclass(frozen=True)
class Structure:
    """A region that is scored: all voxels with one of `labels`. key: in JSON; title: in tables; word: in running text."""

    key: str
    title: str
    word: str
    labels: tuple[int, ...]


@dataclass(frozen=True)
class DataDescription:
    """A checked description. `content`: the file's, as JSON."""

    content: dict[str, Any]

    @cached_property
    def structures(self) -> dict[str, Structure]:
        """{key: structure}: the whole foreground, then the lesion if there is one, then the other labels."""
        return {structure.key: structure for structure in _structures(self.content)}

    @property
    def whole(self) -> Structure:
        return next(iter(self.structures.values()))

    @cached_property
    def lesion(self) -> Structure | None:
        """The region that is to be found, and that decides the class; None where the data have none."""
        if self.content.get("lesion") is None:
            return None
        return next(s for s in self.structures.values() if s.labels == (self.content["labels"][self.content["lesion"]],))

    @property
    def drawn(self) -> list[Structure]:
        """What is outlined in pictures, outer outlines first: the whole and the lesion, or each label."""
        if self.lesion is not None:
            return list({s.key: s for s in (self.whole, self.lesion)}.values())
        return [s for s in self.structures.values() if len(s.labels) == 1]

    @property
    def judged(self) -> list[Structure]:
        """Whose DSC stands beside each case: the whole, which decides whether a case failed, and what is drawn."""
        return list({s.key: s for s in (self.whole, *self.drawn)}.values())

    @property
    def label_names(self) -> list[str]:
        """Of the foreground labels 1, 2, ..., as people read them."""
        titles = self.content.get("titles") or {}
        return [titles.get(name, name.replace("_", " ")) for name, _ in sorted(self.content["labels"].items(), key=lambda item: item[1])[1:]]

    @property
    def label_values(self) -> tuple[int, ...]:
        return tuple(sorted(self.content["labels"].values()))

    @property
    def task(self) -> str | None:
        """Name of the class task, which is also the column of its tables; None without one."""
        return self.content["classification"]["name"] if self.content.get("classification") else None

    @property
    def task_words(self) -> str:
        return (self.task or "class").replace("_", " ")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.content["classification"]["classes"]) if self.content.get("classification") else ()

    @property
    def title(self) -> str:
        return self.content.get("title") or self.content["name"]

    @property
    def dataset(self) -> str:
        """Folder of the raw dataset."""
        return f"Dataset777_{self.content['name']}"

    @property
    def is_quiz(self) -> bool:
        return self.content is QUIZ or self.content == QUIZ

    @property
    def is_ct(self) -> bool:
        return self.content.get("channel_names", {"0": "CT"})["0"].upper() == "CT"

    @property
    def made_up(self) -> bool:
        """Whether the description says that the data are not real. Data without one say so by a file, SYNTHETIC.txt."""
        return self.content.get("real") is False

    def banner(self, synthetic: bool) -> str:
        """What must stand above every figure of these data; empty for the quiz's own."""
        if synthetic or self.made_up:
            return "SYNTHETIC DATA: these figures say nothing about patients"
        source = self.content.get("source")
        return f"REAL DATA: {source}" + (f" ({self.content['licence']})" if self.content.get("licence") else "") if source else ""


QUIZ: dict[str, Any] = {
    "name": "PancreasCT", "title": "pancreas", "organ": "pancreas", "channel_names": {"0": "CT"},
    "labels": {"background": 0, "pancreas": 1, "lesion": 2}, "titles": {"pancreas": "Normal pancreas"}, "lesion": "lesion",
    "classification": {"name": "subtype", "classes": ["0", "1", "2"]},
    "window": [-160.0, 240.0],  # width 400, level 40: the usual window for the abdomen
    "tissue": [-200.0, 300.0],  # HU without gas and bone
}
THE_QUIZ = DataDescription(QUIZ)


def read_description(data: Path) -> DataDescription:
    """Of a folder in the quiz's layout; InputError lists what is wrong with its file."""
    return DataDescription(load_json(data / FILE, DescriptionShape)) if (data / FILE).exists() else THE_QUIZ


def description_of(content: dict, where: object = "data_description") -> DataDescription:
    """Of the content of a metrics.json or run.json; InputError if what it holds is no description."""
    if KEY not in content:
        return THE_QUIZ
    check_shape(content[KEY], DescriptionShape, where)
    return DataDescription(content[KEY])


def description_of_dataset(content: dict, where: Path, values_alone: bool = False) -> DataDescription:
    """Of the content of the dataset.json `where`: the description in it, or one made of its own labels and class task.

    The quiz's labels (pancreas 1, lesion 2) make it the quiz's. Among others none is the lesion for its name: `classification.lesion_labels`
    must name one. values_alone: for readers that need little more than the values that masks may hold; regions are then taken
    apart, the label to ignore is one like others, and there may be any number.

    Raises:
        InputError: the labels are regions, are to be ignored or cannot be described, which `values_alone` excuses.
    """
    if KEY in content:
        return description_of(content, where)
    task = content.get("classification")
    described: dict[str, Any] = {} if task is None else {"classification": {"name": task["name"], "classes": list(map(str, task["classes"]))}}
    plain = {name: int(value) for name, value in content["labels"].items() if not isinstance(value, list)}
    if len(plain) == len(content["labels"]) and {name.lower(): value for name, value in plain.items()} == QUIZ["labels"]:
        return DataDescription(QUIZ | described)
    odd = {name: value for name, value in content["labels"].items() if isinstance(value, list) or name == "ignore"}
    if odd and not values_alone:
        raise InputError(f"{where}: labels {odd} are regions, or voxels to ignore, which this program does not know. Score with nnUNetv2_evaluate_simple, "
                         f"or add {KEY} with a plain label for each value (docs/your-data.md).")
    names = _names_of(content["labels"])
    described |= {"name": _plain_name(content.get("name"), where), "labels": {"background": 0} | names,
                  "channel_names": {"0": next(iter(content["channel_names"].values())) or "unknown"}, "real": not content.get("synthetic", False)}
    lesion = [name for name, value in names.items() if task is not None and [value] == [int(label) for label in task.get("lesion_labels", [])]]
    described |= {"lesion": lesion[0]} if lesion else {}
    if not values_alone:
        check_shape(described, DescriptionShape, f"{where} has no {KEY}, and its own labels and class task cannot serve as one",
                    f"Correct it, or add {KEY} (docs/your-data.md).")
    return DataDescription(described)


def carried(description: DataDescription) -> dict[str, dict]:
    """The entry of a JSON file that carries the description on; none for the quiz's own."""
    return {} if description.is_quiz else {KEY: description.content}


def _names_of(labels: dict[str, Any]) -> dict[str, int]:
    """{name: value} of each foreground value of dataset.json's `labels`; a name that cannot be a structure's, and a value that has none, is `label VALUE`."""
    values = {int(value) for entry in labels.values() for value in (entry if isinstance(entry, list) else [entry])} - {0}
    given = {int(entry): " ".join(re.findall(r"[A-Za-z0-9-]+", name)) for name, entry in labels.items() if not isinstance(entry, list)}
    keys = [_structure(name, name, ()).key for name in given.values()]

    def usable(name: str | None) -> bool:
        key = "" if name is None else _structure(name, name, ()).key
        return name is not None and re.fullmatch(r"(?!label \d+$)[A-Za-z][A-Za-z0-9 -]{0,60}", name) is not None and keys.count(key) == 1 \
            and key not in {*RESERVED, "whole_foreground"}

    return {given[value] if usable(given.get(value)) else f"label {value}": value for value in sorted(values)}


def _plain_name(name: Any, where: Path) -> str:
    """dataset.json's own name or its folder's, of letters and digits, without `Dataset777_`."""
    for text in (name, where.absolute().parent.name):
        plain = re.sub(r"[^A-Za-z0-9]", "", re.sub(r"^Dataset\d{3}_", "", str(text or "")))
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,60}", plain):
            return plain
    return "Data"


def _structures(content: dict) -> list[Structure]:
    labels = {name: value for name, value in content["labels"].items() if value}
    titles = content.get("titles") or {}
    named = {name: titles.get(name) or name[0].upper() + name[1:] for name in sorted(labels, key=labels.get)}
    single = [_structure(title, name, (labels[name],)) for name, title in named.items()]
    if len(labels) == 1:
        return single
    organ = content.get("organ") or "foreground"
    lesion = [s for s in single if s.labels == (labels.get(content.get("lesion")),)]
    return [_structure(f"Whole {organ}", organ, tuple(sorted(labels.values()))), *lesion, *(s for s in single if s not in lesion)]


def _structure(title: str, word: str, labels: tuple[int, ...]) -> Structure:
    return Structure(re.sub(r"[^a-z0-9]+", "_", title.lower()), title, word, labels)


