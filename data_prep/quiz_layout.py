"""The quiz's folder layout, read into a list of cases, with everything about names and folders that is wrong.

    DATA/{train,validation}/subtype{0,1,2}/quiz_S_NNN_0000.nii.gz and quiz_S_NNN.nii.gz;   DATA/test/quiz_NNN_0000.nii.gz

Other data say in DATA/dataset_description.json what they are (nnunetv2/utilities/data_description.py). Their cases have any name,
CASE_0000.nii.gz and CASE.nii.gz, and lie directly in train/ and validation/, with a table of classes (`case,TASK`), or in sub-folders
TASKCLASS; a table of patients (`case,patient`) keeps those of one patient together.

This module alone may read a class out of a file name.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunetv2.utilities.csv_files import given_twice, read_csv
from nnunetv2.utilities.data_description import FILE, DataDescription, read_description
from nnunetv2.utilities.dataset_files import preprocessed_names
from nnunetv2.utilities.errors import InputError, in_one_message
from nnunetv2.utilities.files import is_there
from nnunetv2.utilities.image_listing import scan_images
from nnunetv2.utilities.safe_names import file_key, name_problem, refuse_shared_files

LABELLED_SPLITS = ("train", "validation")
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}  # of what comes without a split of its own
SYNTHETIC_MARKER = "SYNTHETIC.txt"  # stands in every folder of made-up data, so that no result of it passes for a patient's
LABELLED_FILE = re.compile(r"(?P<name>quiz_(?P<subtype>\d+)_\d+)(?P<image>_0000)?\.nii\.gz")
TEST_FILE = re.compile(r"(?P<name>quiz_\d+)_0000\.nii\.gz")
ANY_FILE = re.compile(r"(?P<name>.+?)(?P<image>_0000)?\.nii\.gz")


@dataclass(frozen=True)
class Case:
    name: str
    split: str  # train, validation or test
    image: Path
    mask: Path | None = None  # None in the test set
    subtype: str | None = None  # class; None in the test set, and in data without classes
    patient: str | None = None  # None where the data do not tell patients: then each case is a patient of its own


def scan_quiz(data: Path, description: DataDescription | None = None) -> tuple[list[Case], list[str]]:
    """All complete cases of `data`, sorted by split and name, and one line for each thing that is wrong with the rest.

    Hidden files and files that are no images are passed over. The test set may be absent, the labelled splits may not.
    description: of the data; default: read from there.
    """
    description = description or read_description(data)
    cases, problems = [], []
    folders = class_folders(description)
    for split in LABELLED_SPLITS:
        if not (data / split).is_dir():
            problems.append(f"{data / split}: no such folder" + (f"; expected {split}/{', '.join(folders)}" if folders else ""))
            continue
        if not folders:
            found, wrong = _scan_folder(split, data / split, None, description)
            cases, problems = cases + found, problems + wrong
            continue
        problems += [f"{file}: lies outside the {description.task} folders" for file in _niftis(data / split, problems)]
        for folder in sorted(path for path in (data / split).glob("*") if path.is_dir()):
            found, wrong = _scan_class_folder(split, folder, folders, description)
            cases, problems = cases + found, problems + wrong
    if (data / "test").is_dir():
        problems += _lost_below(data / "test")
        if not any((data / "test").iterdir()):
            problems.append(f"{data / 'test'}: is empty; put the test images there, or remove it")
    for file in _niftis(data / "test", problems):
        match = (TEST_FILE if description.is_quiz else ANY_FILE).fullmatch(file.name)
        if match and file.name.endswith("_0000.nii.gz"):
            cases.append(Case(match["name"], "test", file))
        else:
            problems.append(f"{file}: not named {'quiz_NNN' if description.is_quiz else 'CASE'}_0000.nii.gz")
    by_name = defaultdict(list)
    for case in cases:
        by_name[case.name].append(case)
    for name, same in by_name.items():
        if len(same) > 1:
            problems.append(f"{name}: this id is there {len(same)} times: {', '.join(str(case.image) for case in same)}")
    for split in LABELLED_SPLITS:
        if (data / split).is_dir() and not any(case.split == split for case in cases):
            problems.append(f"{data / split}: holds no complete case")
    if not description.is_quiz:
        cases, wrong = _with_tables(data, cases, description)
        problems += wrong
        problems += [f"{case.image}: case {case.name!r} {reason}; rename it" for case in cases if (reason := name_problem(case.name))]
        problems += _shared_files(data, cases)
    return cases, problems


def _shared_files(data: Path, cases: list[Case]) -> list[str]:
    """Cases that later stages would write to one file: preprocessed ones, or predicted masks."""
    problems = []
    for splits, names_of in ((LABELLED_SPLITS, preprocessed_names), (("test",), lambda case: (f"{case}.nii.gz",))):
        try:
            refuse_shared_files({case.name: names_of(case.name) for case in cases if case.split in splits}, data)
        except InputError as error:
            problems.append(str(error))
    return problems


def class_folders(description: DataDescription) -> dict[str, str]:
    """{folder of a split: class} where the folders tell the class; empty where a table does, and without a class task."""
    task = description.content.get("classification")
    return {} if task is None or task.get("labels") else {f"{task['name']}{name}": name for name in task["classes"]}


def _with_tables(data: Path, cases: list[Case], description: DataDescription) -> tuple[list[Case], list[str]]:
    """The cases with class and patient out of the data's tables, and what is wrong with these."""
    problems: list[str] = []
    labelled = {case.name for case in cases if case.split != "test"}
    task = description.content.get("classification") or {}
    if task.get("labels"):
        table = _read_table(data / task["labels"], task["name"], labelled, problems)
        problems += [f"{data / task['labels']}: {name}: {value!r} is none of {', '.join(task['classes'])}" for name, value in table.items()
                     if name in labelled and value not in task["classes"]]
        cases = [replace(case, subtype=table.get(case.name)) if case.name in labelled else case for case in cases]
    if description.content.get("patients"):
        everyone = {case.name for case in cases}
        table = _read_table(data / description.content["patients"], "patient", everyone, problems)
        cases = [replace(case, patient=table.get(case.name)) for case in cases]
        splits = defaultdict(set)
        for case in cases:
            if case.patient is not None:
                splits[case.patient].add(case.split)
        problems += _spelled_in_two_ways(splits, data / description.content["patients"])
        problems += [f"patient {patient} is in {' and '.join(sorted(of))}: put all cases of a patient into one split"
                     for patient, of in sorted(splits.items()) if len(of) > 1]
    return cases, problems


def _spelled_in_two_ways(patients: Iterable[str], path: Path) -> list[str]:
    """Patients whose names differ in upper and lower case alone, or are one number (`7`, `007`, `7.0`): one patient may be in two splits by them."""
    spellings = defaultdict(list)
    for patient in patients:
        number = re.fullmatch(r"0*(\d+)(\.0*)?", patient)
        spellings[number[1] if number else file_key(patient)].append(patient)
    return [f"{path}: {' and '.join(sorted(same))} may be one patient; write the name in one way, or give two patients names that differ more"
            for same in spellings.values() if len(same) > 1]


def _read_table(path: Path, column: str, needed: set[str], problems: list[str]) -> dict[str, str]:
    """{case: value} of a table `case,COLUMN`; what is wrong with it, and cases that it lacks, go into `problems`."""
    try:
        content = read_csv(path, ["case", column])
    except (ValueError, OSError) as error:
        problems.append(in_one_message(error))
        return {}
    problems += [f"{path}: {problem}" for problem in given_twice([row["case"] for row in content.rows], content.lines)]
    table = {row["case"]: row[column] for row in content.rows if row[column]}
    problems += [f"{path}: {name} is missing; add its row" for name in sorted(needed - table.keys())]
    return table


def _niftis(folder: Path, problems: list[str]) -> list[Path]:
    """Files *.nii.gz directly in `folder`, which may be absent; what looks like an image and cannot be taken is reported."""
    if not folder.is_dir():
        return []
    found = scan_images(folder, ".nii.gz", below="ignore")
    problems += [f"{folder}: {problem}" for problem in found.problems]
    return found.files


def _lost_below(folder: Path) -> list[str]:
    """Images in sub-folders, where nothing looks for them."""
    return [f"{file}: lies in a sub-folder" for sub in sorted(folder.iterdir()) if sub.is_dir() and not sub.name.startswith(".")
            and not sub.name.endswith(".nii.gz") for file in scan_images(sub, ".nii.gz", below="list").files]


def _scan_class_folder(split: str, folder: Path, folders: dict[str, str], description: DataDescription) -> tuple[list[Case], list[str]]:
    if folder.name not in folders:
        stray = _niftis(folder, [])
        return [], [f"{folder}: unknown folder with {len(stray)} NIfTI files; expected {', '.join(folders)}"] if stray else []
    return _scan_folder(split, folder, folders[folder.name], description)


def _scan_folder(split: str, folder: Path, subtype: str | None, description: DataDescription) -> tuple[list[Case], list[str]]:
    """Images with their masks directly in `folder`, and what is wrong with the rest."""
    problems = _lost_below(folder)
    images, masks = {}, {}
    for file in _niftis(folder, problems):
        match = (LABELLED_FILE if description.is_quiz else ANY_FILE).fullmatch(file.name)
        if match is None:
            problems.append(f"{file}: not named quiz_{subtype}_NNN_0000.nii.gz (image) or quiz_{subtype}_NNN.nii.gz (mask)")
            continue
        if description.is_quiz and match["subtype"] != subtype:
            problems.append(f"{file}: subtype {match['subtype']} in the name, {subtype} in the folder")
        (images if match["image"] else masks)[match["name"]] = file
    problems += [f"{images[name]}: no mask {name}.nii.gz beside it" for name in sorted(images.keys() - masks.keys())]
    problems += [f"{masks[name]}: no image {name}_0000.nii.gz beside it" for name in sorted(masks.keys() - images.keys())]
    both = sorted(images.keys() & masks.keys())
    return [Case(name, split, images[name], masks[name], subtype) for name in both], problems


def shared_out(names: Sequence[str]) -> dict[str, str]:
    """{name: train, validation or test}: the names in their order, as SHARES says."""
    edges = np.cumsum(list(SHARES.values()))
    return {name: list(SHARES)[min(int(np.searchsorted(edges, (place + 0.5) / len(names))), len(SHARES) - 1)] for place, name in enumerate(names)}


def refuse_other_data(out: Path, markers: Sequence[str] = (FILE, SYNTHETIC_MARKER)) -> None:
    """InputError where `out` holds data already: cases of another set, split or task would pass for cases of this one, and made-up ones for patients.

    markers: files that say what data are, and would say it of these.
    """
    found = [out / name for name in markers if is_there(out / name)]
    found += [file for part in (*SHARES, "test_truth") for file in sorted((out / part).rglob("*.nii.gz"))[:1]]
    if found:
        raise InputError(f"{out} holds data already ({found[0]}). Choose another folder, or delete it.")
