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

    The temporary file keeps every suffix of `path` (`.nii.gz`, `.b2nd`), because writers choose the format by it. A
    process killed inside the block leaves the old file, if any, as it was, and the temporary one: see `remove_leftovers`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes)
    stem = path.name.removesuffix(suffix)
    temporary = path.with_name(f".{stem}.{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
