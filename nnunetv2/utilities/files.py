"""Small file helpers: writes that are either whole or not there, and JSON through them."""

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` when the block ends without an error.

    The temporary file keeps every suffix of `path` (`.nii.gz`, `.b2nd`), because writers choose the format by it. It is on the disk
    before it gets its name: what a full disk or a lost share holds back is an error here, not a short file later. An OSError of the
    temporary file names `path`. A process killed inside the block leaves the old file, if any, as it was, and the temporary one: see
    `remove_leftovers`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes)
    stem = path.name.removesuffix(suffix)
    temporary = path.with_name(f".{stem}.{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
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


def remove_leftovers(*paths: str | os.PathLike) -> None:
    """Delete what killed processes left of `atomic_write` of these files. Only for files that no other process may be writing."""
    wanted = {Path(path) for path in paths}
    for folder in {path.parent for path in wanted}:
        for leftover in folder.glob(".*"):
            parts = re.fullmatch(r"\.(.*)\.[0-9a-f]{32}(\..*)?", leftover.name)
            if parts and folder / f"{parts[1]}{parts[2] or ''}" in wanted:
                leftover.unlink(missing_ok=True)


def load_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; a broken one raises ValueError that names it."""
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Restore it or delete it and run its stage again.") from error


def save_json(obj: Any, path: str | os.PathLike, sort_keys: bool = False) -> None:
    """Write `obj` as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(obj, indent=4, sort_keys=sort_keys) + "\n")
