"""Folders that a program fills anew: what its former run wrote goes, and nothing else is ever deleted.

    with rewritten({out / "images": sources}, [raw]):
        ...                                     # write the files of `sources` into out / "images"

A hidden file, NOTE, tells by name and hash what a run wrote. A file that is not in it, or was changed since, is somebody's.
"""

import filecmp
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.file_shapes import FileShapeOf
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.manifest import file_hash
from nnunetv2.utilities.own_output import relation

NOTE = ".written.json"
LINK = "link"


class Written(FileShapeOf):
    """NOTE: {name: hash of the file's content, LINK, or null while it is being written}."""

    root: dict[str, str | None]


@contextmanager
def rewritten(folders: Mapping[Path, Mapping[str, Path | None]], inputs: Sequence[Path]) -> Iterator[None]:
    """Empty `folders` of what a former run wrote, for the block to fill them.

    Args:
        folders: {folder: {name of a file to be written: the file that it is linked to or copied from, None if it is neither}}.
        inputs: folders that are read.
    Raises:
        InputError: a folder holds other files, which it lists, or is, holds or lies in another one or one of `inputs`; nothing is deleted then.
    """
    problems = overlaps(folders, inputs)
    problems += [f"{path}: no run of this program wrote it, or it was changed since; move it away"
                 for folder, sources in folders.items() for path in _foreign(folder, sources)]
    if problems:
        raise InputError(f"Nothing was written: output folders that are filled anew must hold nothing else. Name others, or:\n{list_some(problems)}")
    for folder, sources in folders.items():
        for path in _shown(folder):
            path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        save_json(dict.fromkeys(sources), folder / NOTE)  # before the files: those of a killed run are known by their names
    yield
    for folder, sources in folders.items():
        save_json({name: _state(folder / name) for name in sources}, folder / NOTE)


def overlaps(outputs: Iterable[Path], inputs: Sequence[Path]) -> list[str]:
    """A line for each output that is, holds or lies in an input or another output."""
    outputs = list(outputs)
    pairs = [(output, other) for place, output in enumerate(outputs) for other in (*inputs, *outputs[:place])]
    return [f"{output}: is, holds or lies in {other}; name another folder" for output, other in pairs if relation(output, other) is not None]


def _shown(folder: Path) -> list[Path]:
    """All in `folder` but hidden files, which no program here takes for a case."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else [folder] * os.path.lexists(folder)


def _foreign(folder: Path, sources: Mapping[str, Path | None]) -> list[Path]:
    """What must not be deleted: neither noted and unchanged, nor what would be written now, by which runs are known that left no note."""
    noted = load_json(folder / NOTE, Written) if (folder / NOTE).is_file() else {}

    def own(path: Path) -> bool:
        if path.name in noted and path.parent == folder and (path.is_symlink() or path.is_file()):
            return noted[path.name] in (None, _state(path))
        source = sources.get(path.name)
        return source is not None and (path.resolve() == source.resolve() if path.is_symlink() else path.is_file() and filecmp.cmp(path, source, shallow=False))

    return [path for path in _shown(folder) if not own(path)]


def _state(path: Path) -> str:
    return LINK if path.is_symlink() else file_hash(path)
