"""Which files are images or masks, and of which case: the formats that SimpleITK reads, one of them per folder."""

import glob
import os
from pathlib import Path

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.errors import InputError, name_some

ENDINGS = SimpleITKIO.supported_file_endings
USUAL = ".nii.gz"


def case_of(name: str) -> str:
    """`quiz_168` of `quiz_168.nii.gz`; a name without an ending of ENDINGS as it is."""
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def ending_in(folder: Path) -> str:
    """The ending of all images below `folder`; USUAL where they have different ones or there is none, so that a listing by it names the others."""
    found = {ending for _, _, names in os.walk(folder) for name in names for ending in ENDINGS if name.endswith(ending) and not name.startswith(".")}
    return found.pop() if len(found) == 1 else USUAL


def first_channels(folder: Path, case: str | None = None) -> list[Path]:
    """`case_0000.nii.gz`, or with another of ENDINGS, in `folder` and below, sorted; of all cases where none is named."""
    named = "*" if case is None else glob.escape(case)
    return sorted(path for path in folder.rglob(f"{named}_0000.*") if path.name.removeprefix(case_of(path.name)) in ENDINGS)


def find_image(folder: Path, case: str) -> Path:
    """The first channel of a case in `folder` or below; InputError where it is not, or where there are different ones."""
    found = first_channels(folder, case)
    if not found:
        others = [path.name for path in first_channels(folder)]
        there = f", which holds {name_some(others)}" if others else ""
        raise InputError(f"{case}_0000{USUAL} is not in {folder}{there}: give the folder of the images with --images")
    if len({path.resolve() for path in found}) > 1:
        raise InputError(f"{found[0].name} is in {folder} {len(found)} times: {name_some(found)}; give the folder of one of them with --images")
    return found[0]
