"""Which cases a prediction has, and where each result goes. What would be lost or mixed up is refused before anything is computed."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunetv2.inference.pipeline import Case
from nnunetv2.utilities.dataset_files import create_lists_from_splitted_dataset_folder
from nnunetv2.utilities.errors import InputError

PathLike = str | os.PathLike


def list_cases(source: PathLike | Sequence[Sequence[PathLike]], output: PathLike | Sequence[PathLike] | None, file_ending: str,
               previous_stage: PathLike | None = None) -> list[Case]:
    """The cases of a folder, or of lists of one file per channel, with where their results go: a folder, a path each, or None.

    InputError that lists all: no case, outputs that are one file (also where only upper and lower case or a link tells them apart) or
    that are an input, cases that would share a mask of the previous stage.
    """
    files = _files_of_cases(source, file_ending)
    names = [case_name(images[0], file_ending) for images in files]
    if output is None:
        outputs = [None] * len(names)
    elif isinstance(output, (str, os.PathLike)):
        outputs = [Path(output, name) for name in names]
    else:
        outputs = [output_path(path) for path in output]
    if len(outputs) != len(names):
        raise InputError(f"{len(names)} cases but {len(outputs)} output files; give one path without file ending for each case.")
    times, times_first = Counter(names), Counter(images[0] for images in files)

    def distinct_name(position: int) -> str:
        first = files[position][0]
        return "" if times[names[position]] == 1 else first if times_first[first] == 1 else f"{first} (case {position + 1})"

    cases = [Case(name, images, target, Path(previous_stage, f"{name}{file_ending}") if previous_stage else None, position, distinct_name(position))
             for position, (name, images, target) in enumerate(zip(names, files, outputs))]
    refuse_collisions(cases, file_ending)
    return cases


def output_path(output: PathLike) -> Path:
    """A path without file ending, to which a result goes; InputError where it ends in no name."""
    path = Path(output)
    if path.name in ("", ".."):
        raise InputError(f"The output {os.fspath(output)!r} names no file; give a path without file ending, as masks/case_1.")
    return path


def case_name(image: PathLike, file_ending: str) -> str:
    """`CASE` of a path `CASE_0000.nii.gz`; a file without channel number gives its name.

    >>> case_name("scans/liver_1_0000.nii.gz", ".nii.gz"), case_name("liver_1.nii.gz", ".nii.gz")
    ('liver_1', 'liver_1')
    """
    name = os.path.basename(image).removesuffix(file_ending)
    return re.sub(r"(?<=.)_\d{4}\Z", "", name)


def missing_outputs(cases: Iterable[Case], endings: Sequence[str]) -> set[int]:
    """Positions of the cases of which a file is not there; one listing a folder, however many cases."""
    there: dict[Path, set[str]] = {}
    absent = set()
    for case in cases:
        folder = case.output.parent
        if folder not in there:
            there[folder] = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        if not all(f"{case.output.name}{ending}" in there[folder] for ending in endings):
            absent.add(case.position)
    return absent


def _files_of_cases(source: PathLike | Sequence[Sequence[PathLike]], file_ending: str) -> list[tuple[str, ...]]:
    if isinstance(source, (str, os.PathLike)):
        files = [tuple(map(str, images)) for images in create_lists_from_splitted_dataset_folder(source, file_ending)]
        if not files:
            raise InputError(f"{source} holds no image *_0000{file_ending}. Name the folder of the images, or rename them: CASE_0000{file_ending} by channel.")
        return files
    source = list(source)
    if not source:
        raise InputError("The list of cases is empty; give one list of image files, by channel, for each case.")
    wrong = [f"case {i + 1}: {images!r}" for i, images in enumerate(source)
             if isinstance(images, (str, os.PathLike)) or not images or not all(isinstance(path, (str, os.PathLike)) for path in images)]
    if wrong:
        raise InputError("Each case is a list of image files, one a channel, not\n" + "\n".join(f"  {entry}" for entry in wrong))
    return [tuple(os.fspath(path) for path in images) for images in source]


def refuse_collisions(cases: Sequence[Case], file_ending: str, written: dict[str, Case] | None = None) -> None:
    """InputError that lists each two of `cases` whose results would be one file, or be made from one file of the previous stage.

    written: cases of earlier calls by what they write, to which those of this one are added.
    """
    problems = []
    real_folders: dict[str, str] = {}  # resolved once a folder, not once a case
    inputs = {_identity(path, real_folders): f"the image {path}" for case in cases if case.output is not None for path in case.images}
    inputs |= {_identity(str(case.previous_stage), real_folders): f"the previous stage's mask {case.previous_stage}"
               for case in cases if case.output is not None and case.previous_stage is not None}
    written = {} if written is None else written
    masks: dict[Path, Case] = {}
    for case in cases:
        if case.output is not None:
            mask = f"{case.output}{file_ending}"
            identity = _identity(mask, real_folders)
            other = written.setdefault(identity, case)
            if other is not case:
                problems.append(f"{', '.join(other.images)} and {', '.join(case.images)} would both be written to {mask}")
            if identity in inputs:
                problems.append(f"{', '.join(case.images)} would be written over {inputs[identity]}")
        if case.previous_stage is not None and (other := masks.setdefault(case.previous_stage, case)) is not case:
            problems.append(f"{', '.join(other.images)} and {', '.join(case.images)} would both be refined from {case.previous_stage}")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(f"{len(problems)} result(s) would be mixed up; give each case a name or an output path of its own:\n{listed}")


def _identity(path: str, real_folders: dict[str, str]) -> str:
    """The same for paths that are one file on some system: links resolved, upper and lower case and composed letters alike."""
    folder, name = os.path.split(path)
    if folder not in real_folders:
        real_folders[folder] = os.path.realpath(folder)
    whole = os.path.join(real_folders[folder], name)
    return unicodedata.normalize("NFC", os.path.realpath(whole) if os.path.islink(whole) else whole).casefold()
