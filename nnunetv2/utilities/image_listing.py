"""Which image files a folder holds. Nothing vanishes: whatever looks like an image and cannot be taken for one is named.

A glob drops a link whose target is gone, a folder that is called like an image and a file of another ending, and the case is
missing from every table afterwards without a word.
"""

import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2.utilities.errors import InputError, name_most
from nnunetv2.utilities.prediction_manifest import read_prediction_manifest

IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".gipl.gz", ".img", ".hdr")
HALF_WRITTEN = re.compile(r"\..*[0-9a-f]{32}\..*")  # temporary names of our own atomic writes
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
          (stat.S_ISBLK, "a device"))


@dataclass
class Listing:
    """files: sorted. problems: one line each, with the remedy. hidden: names that begin with a dot and look like images."""

    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)


def scan_images(folder: str | os.PathLike, ending: str, below: str = "refuse", predictions: bool = True) -> Listing:
    """The files of `folder` whose names end in `ending`, and what else there is that looks like an image.

    below: images in sub-folders are refused ("refuse"), listed too ("list"), or of no concern ("ignore"). predictions: False leaves out
    masks that predictions wrote there, by their manifest, but for what could be a first channel.
    """
    found = Listing()
    _scan(Path(folder), ending, below, found, predictions)
    found.files.sort()
    return found


def list_images(folder: str | os.PathLike, ending: str, below: str = "refuse", empty: bool = False, predictions: bool = True) -> list[Path]:
    """As `scan_images`, the files alone. One InputError names all problems, also when there is no image and `empty` is not allowed.

    Names that begin with a dot are left out with a note on stderr; half-written files of a killed run silently.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not a folder. Check the path.")
    found = scan_images(folder, ending, below, predictions)
    if found.hidden:
        print(f"Note: {folder}: left out, because their names begin with a dot: {name_most([path.name for path in found.hidden])}.", file=sys.stderr)
    if not found.files and not found.problems and not empty:
        found.problems.append(f"holds no file that ends in {ending}; give the folder that holds the images")
    if found.problems:
        listed = "\n".join(f"  {problem}" for problem in found.problems)
        raise InputError(f"{folder}: {len(found.problems)} problem(s) with its images:\n{listed}")
    return found.files


def has_image_ending(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


def _predicted_masks(folder: Path, ending: str) -> set[str]:
    try:
        cases = read_prediction_manifest(folder)["cases"]
    except InputError:  # a file of this name that no prediction wrote
        return set()
    return {name for name in cases if not name.endswith(f"_0000{ending}")}


def _scan(folder: Path, ending: str, below: str, found: Listing, predictions: bool) -> None:
    left_out = set() if predictions else _predicted_masks(folder, ending)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in left_out:
                continue
            looks_so = entry.name.lower().endswith(ending.lower()) or has_image_ending(entry.name)
            if entry.name.startswith("."):
                if looks_so and not HALF_WRITTEN.fullmatch(entry.name):
                    found.hidden.append(Path(entry.path))
                continue
            if looks_so:
                _take(Path(entry.path), ending, found)
            elif below != "ignore" and os.path.isdir(entry.path):  # entry.is_dir() fails on links that lead in a circle
                _look_below(Path(entry.path), ending, below, found, predictions)


def _look_below(folder: Path, ending: str, below: str, found: Listing, predictions: bool) -> None:
    if below == "list":
        if not folder.is_symlink():  # a link to a folder above would never end
            _scan(folder, ending, below, found, predictions)
        return
    left_out = set() if predictions else _predicted_masks(folder, ending)
    with os.scandir(folder) as entries:
        images = sum(not entry.name.startswith(".") and entry.name not in left_out and (entry.name.endswith(ending) or has_image_ending(entry.name)) for entry in entries)
    if images:
        found.problems.append(f"{folder.name}/ holds {images} image(s), one level down; move them up, or give that folder")


def _take(path: Path, ending: str, found: Listing) -> None:
    name = path.name
    shown = repr(name) if not name.isprintable() else name
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        found.problems.append(f"{shown} is a link to {os.readlink(path)!r}, which does not exist; mend or remove the link")
        return
    except OSError as error:
        found.problems.append(f"{shown} cannot be reached ({error.strerror}: its links may lead in a circle); mend or remove it")
        return
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
        found.problems.append(f"{shown} is {kind} and no file, although it is called like an image; rename or remove it")
    elif not name.isprintable():
        found.problems.append(f"{shown} holds a control character or is not UTF-8; rename it")
    elif not name.endswith(ending):
        found.problems.append(f"{shown} does not end in {ending}; convert it, or rename it where only the case of letters differs")
    else:
        found.files.append(path)
