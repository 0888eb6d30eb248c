"""Small file helpers: writes that are either whole or not there, and JSON that is of the right shape or refused."""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.leftovers import new_token, sweep_once

if TYPE_CHECKING:
    from nnunetv2.utilities.file_shapes import FileShape

MAX_TEXT_BYTES = 512 * 2**20  # of a JSON or CSV file; what reads it takes several times as much memory
MAX_DEPTH = 50  # lists and objects inside one another; no file of ours has ten
GENERATED = "Restore it, or delete it and run its stage again."  # remedy for files that stages write
_PROBE_BYTES = 2**24  # written to learn why a file could not be
_SHOWN = 20  # problems of one file


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` when the block ends without an error.

    The temporary file ends as `path` does (`.nii.gz`, `.b2nd`), because writers choose the format by it, and not by two such endings in a row,
    of which ITK drops one. It is on the disk
    before it gets its name: what a full disk or a lost share holds back is an error here, not a short file later. An OSError of the
    temporary file names `path`. A process killed inside the block leaves the old file, if any, as it was, and the temporary one,
    which is swept when the folder is next written to (utilities/leftovers.py).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_once(path.parent)
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])
    stem = path.name.removesuffix(suffix)
    temporary = path.with_name(f".{stem}.{new_token()}{suffix}")
    try:
        yield temporary
        if not temporary.is_symlink():  # what a link leads to is somebody else's
            flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary), temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(path: str | os.PathLike) -> None:
    """Wait until the content of a file is on its disk. OSError, with `path`, where the system could not keep what it had accepted."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def raise_systems_reason(path: str | os.PathLike, n_bytes: int) -> None:
    """For after a library that failed to write a file and did not say why: OSError of a full disk, a quota or a limit, if it is one.

    Appends what the file was to hold, 16 MiB of it at most; returns where the system takes that.
    """
    with open(path, "ab") as file:
        file.write(bytes(min(n_bytes, _PROBE_BYTES)))
        file.flush()
        os.fsync(file.fileno())


def read_text(path: str | os.PathLike, remedy: str) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        OSError: it is not there or cannot be read.
        InputError: it is no regular file (a pipe would hang), too large, or not UTF-8; the message ends with `remedy`.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no regular file. {remedy}")
        if status.st_size > MAX_TEXT_BYTES:
            raise InputError(f"{path} has {status.st_size / 2**20:.0f} MiB; files of its kind have at most {MAX_TEXT_BYTES / 2**20:.0f} MiB. {remedy}")
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: byte {content[error.start]:#04x} at position {error.start}. Save it as UTF-8. {remedy}") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe that nobody writes would wait for ever


def refuse_irregular(path: str | os.PathLike, remedy: str) -> None:
    """InputError for a pipe, a device or a folder, whose reading would wait or never end; OSError where nothing is there."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{path} is no regular file. {remedy}")


def is_there(path: str | os.PathLike) -> bool:
    """Whether something has this name, be it a broken link or a pipe: reading it then says what is wrong, where `is_file` would hide it."""
    return os.path.lexists(path)


def load_json(path: str | os.PathLike, shape: "type[FileShape] | None" = None, partial: bool = False) -> Any:
    """Read a JSON file.

    Args:
        shape: what the file must hold, a class of nnunetv2.utilities.file_shapes or of its kind; the plain content is returned all the same.
        partial: what the file lacks is not missed, for readers that need a part of it.

    Raises:
        OSError: it is not there or cannot be read.
        InputError: it is damaged (no JSON, not UTF-8, nested too deeply, a key given twice), or of another shape. The message
            names the file, and every wrong place in it with its value and what belongs there.
    """
    remedy = GENERATED if shape is None else shape.REMEDY
    text = read_text(path, remedy)
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
        too_deep = _is_deeper_than(MAX_DEPTH, content)
    except RecursionError:
        too_deep = True
    except ValueError as error:
        what = f"it is empty, {len(text)} characters of white space" if not text.strip() else str(error)
        raise InputError(f"{path} is not valid JSON ({what}). {remedy}") from error
    if too_deep:
        raise InputError(f"{path} is no usable JSON: lists or objects are nested more than {MAX_DEPTH} deep. {remedy}")
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path} holds half of a character, {error.object[error.start]!r}, which no file name or table can. {remedy}") from error
    if shape is not None:
        content = shape.in_present_terms(content)
        check_shape(content, shape, path, remedy, partial)
        if missing := [key for key in shape.NEEDED if partial and key not in content]:
            raise InputError(f"{path}: lacks {', '.join(missing)}. {remedy}")
    return content


def check_shape(content: Any, shape: "type[FileShape]", where: object, remedy: str = "", partial: bool = False) -> None:
    """InputError that lists every place where `content`, from `where`, is not of `shape`. partial: what is absent is not missed."""
    problems = [problem for problem in shape.problems(content) if not (partial and problem.absent)]
    if problems:
        listed = list_some(list(map(str, problems)), _SHOWN)
        raise InputError(f"{where}: {len(problems)} value(s) are not as they must be. {remedy}\n{listed}".replace(". \n", ".\n"))


def _is_deeper_than(depth: int, content: Any) -> bool:
    level = [content]
    for _ in range(depth):
        level = [inner for outer in level if isinstance(outer, (dict, list)) for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return bool(level)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = sorted({key for key, n in Counter(key for key, _ in pairs).items() if n > 1})
        raise ValueError(f"key given twice in one object: {', '.join(map(repr, twice))}")
    return content


def save_json(obj: Any, path: str | os.PathLike, sort_keys: bool = False) -> None:
    """Write `obj` as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(obj, indent=4, sort_keys=sort_keys) + "\n", encoding="utf-8")
