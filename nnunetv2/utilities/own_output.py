"""Output folders that a user names: they must not hold what is read, nor what somebody else put there and a command would delete."""

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from nnunetv2.utilities.errors import InputError, list_some, name_some
from nnunetv2.utilities.folder_lock import LOCK
from nnunetv2.utilities.leftovers import LEFTOVER
from nnunetv2.utilities.prediction_manifest import read_prediction_manifest
from nnunetv2.utilities.sidecars import sidecars_of_masks


def relation(output: str | os.PathLike, other: str | os.PathLike) -> str | None:
    """How the folder `output` "is", "contains" or "lies in" `other`, links followed; None where they are apart."""
    target, source = Path(output).resolve(), Path(other).resolve()
    return "is" if target == source else "contains" if target in source.parents else "lies in" if source in target.parents else None


def refuse_overlap(output: str | os.PathLike, inputs: Iterable[str | os.PathLike], nested: bool = False) -> None:
    """InputError where `output` is one of the folders that are read; nested: also where it contains one or lies in one. Links are followed."""
    problems = [f"the output {output} {how} {folder}, which is read" for folder in dict.fromkeys(map(Path, inputs))
                if (how := relation(output, folder)) is not None and (nested or how == "is")]
    if problems:
        raise InputError(f"Nothing was written. Name an output folder apart from the inputs:\n{list_some(problems)}")


def own_files(folder: Path, is_own: Callable[[Path], bool]) -> list[Path]:
    """All files of `folder` but sub-folders and locks, which may be deleted; leftovers of killed processes count as own, the manifests come last.

    InputError with what is not own. Where there is no folder there are no files.
    """
    there = [path for path in folder.iterdir() if LOCK.fullmatch(path.name) is None] if folder.is_dir() else []
    paths = sorted(there, key=lambda path: (path.name.startswith("manifest"), path.name))
    foreign = [path.name for path in paths if not is_own(path) and LEFTOVER.fullmatch(path.name) is None]
    if foreign:
        raise InputError(f"{folder} is to be made anew, and holds what this command did not make: {name_some(foreign)}. Nothing was deleted. "
                         "Name another folder, or move these away.")
    return [path for path in paths if path.is_symlink() or not path.is_dir()]


def own_files_of_postprocessed(folder: Path, masks: Collection[str]) -> list[Path]:
    """`own_files` of the sub-folder that a decision on postprocessing leaves, which ends with a summary; masks: names in the folder above."""
    known = set(masks) | set(read_prediction_manifest(folder)["cases"])
    known |= sidecars_of_masks(known)
    is_one = any((folder / name).is_file() for name in ("summary.json", "manifest.json"))
    return own_files(folder, lambda path: is_one and not path.is_dir() and path.name in known | {"summary.json", "manifest.json"})
