"""The quiz's folder layout, read into a list of cases, with everything about names and folders that is wrong.

    DATA/{train,validation}/subtype{0,1,2}/quiz_S_NNN_0000.nii.gz and quiz_S_NNN.nii.gz;   DATA/test/quiz_NNN_0000.nii.gz

This module alone may read a subtype out of a file name.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.image_listing import scan_images

LABELLED_SPLITS = ("train", "validation")
SUBTYPES = ("0", "1", "2")
SYNTHETIC_MARKER = "SYNTHETIC.txt"  # stands in every folder of made-up data, so that no result of it passes for a patient's
LABELLED_FILE = re.compile(r"(?P<name>quiz_(?P<subtype>\d+)_\d+)(?P<image>_0000)?\.nii\.gz")
TEST_FILE = re.compile(r"(?P<name>quiz_\d+)_0000\.nii\.gz")


@dataclass(frozen=True)
class Case:
    name: str
    split: str  # train, validation or test
    image: Path
    mask: Path | None = None  # None in the test set
    subtype: str | None = None  # None in the test set


def scan_quiz(data: Path) -> tuple[list[Case], list[str]]:
    """All complete cases of `data`, sorted by split and name, and one line for each thing that is wrong with the rest.

    Hidden files and files that are no images are passed over. The test set may be absent, the labelled splits may not.
    """
    cases, problems = [], []
    for split in LABELLED_SPLITS:
        if not (data / split).is_dir():
            problems.append(f"{data / split}: no such folder; expected {split}/subtype0, subtype1, subtype2")
        problems += [f"{file}: lies outside the subtype folders" for file in _niftis(data / split, problems)]
        for folder in sorted(path for path in (data / split).glob("*") if path.is_dir()):
            found, wrong = _scan_subtype_folder(split, folder)
            cases += found
            problems += wrong
    if (data / "test").is_dir():
        problems += _lost_below(data / "test")
        if not any((data / "test").iterdir()):
            problems.append(f"{data / 'test'}: is empty; put the test images there, or remove it")
    for file in _niftis(data / "test", problems):
        match = TEST_FILE.fullmatch(file.name)
        if match:
            cases.append(Case(match["name"], "test", file))
        else:
            problems.append(f"{file}: not named quiz_NNN_0000.nii.gz")
    by_name = defaultdict(list)
    for case in cases:
        by_name[case.name].append(case)
    for name, same in by_name.items():
        if len(same) > 1:
            problems.append(f"{name}: this id is there {len(same)} times: {', '.join(str(case.image) for case in same)}")
    for split in LABELLED_SPLITS:
        if (data / split).is_dir() and not any(case.split == split for case in cases):
            problems.append(f"{data / split}: holds no complete case")
    return cases, problems


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


def _scan_subtype_folder(split: str, folder: Path) -> tuple[list[Case], list[str]]:
    problems: list[str] = []
    if folder.name not in {f"subtype{s}" for s in SUBTYPES}:
        stray = _niftis(folder, [])
        return [], [f"{folder}: unknown folder with {len(stray)} NIfTI files; expected subtype0, subtype1, subtype2"] if stray else []
    subtype = folder.name.removeprefix("subtype")
    problems += _lost_below(folder)
    images, masks = {}, {}
    for file in _niftis(folder, problems):
        match = LABELLED_FILE.fullmatch(file.name)
        if match is None:
            problems.append(f"{file}: not named quiz_{subtype}_NNN_0000.nii.gz (image) or quiz_{subtype}_NNN.nii.gz (mask)")
            continue
        if match["subtype"] != subtype:
            problems.append(f"{file}: subtype {match['subtype']} in the name, {subtype} in the folder")
        (images if match["image"] else masks)[match["name"]] = file
    problems += [f"{images[name]}: no mask {name}.nii.gz beside it" for name in sorted(images.keys() - masks.keys())]
    problems += [f"{masks[name]}: no image {name}_0000.nii.gz beside it" for name in sorted(masks.keys() - images.keys())]
    both = sorted(images.keys() & masks.keys())
    return [Case(name, split, images[name], masks[name], subtype) for name in both], problems
