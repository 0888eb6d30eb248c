"""Small file helpers: writes that are either whole or not there, and JSON through them."""

import glob
import json
import os
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
    stem, suffix = _stem_and_suffix(path)
    temporary = path.with_name(f".{stem}.{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _stem_and_suffix(path: Path) -> tuple[str, str]:
    suffix = "".join(path.suffixes)
    return path.name.removesuffix(suffix), suffix


def remove_leftovers(path: str | os.PathLike) -> None:
    """Delete what killed processes left of `atomic_write(path)`. Only for a file that no other process may be writing."""
    path = Path(path)
    stem, suffix = _stem_and_suffix(path)
    for leftover in path.parent.glob(f".{glob.escape(stem)}.{'[0-9a-f]' * 32}{glob.escape(suffix)}"):
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
