"""Results on disk: JSON and CSV that are written whole or not at all. `nnunetv2.utilities` reads them."""

import csv
import json
import math
import os
from typing import Any

from nnunetv2.utilities.csv_cells import guarded
from nnunetv2.utilities.files import atomic_write


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write `text` as UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(obj: Any, path: str | os.PathLike) -> None:
    """Write `obj` as strict JSON: what is undefined (NaN, infinity) becomes null, numpy scalars become numbers."""
    write_text(json.dumps(_plain(obj), indent=2, allow_nan=False) + "\n", path)


def write_csv(rows: list[dict], path: str | os.PathLike) -> None:
    """Write rows of equal keys as CSV; undefined values become empty fields, and a text that a spreadsheet would run is guarded by an apostrophe."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writerow({name: guarded(name) for name in rows[0]})
        writer.writerows({key: guarded(value) for key, value in row.items()} for row in _plain(rows))


def _plain(obj: Any) -> Any:
    if isinstance(obj, dict):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    if hasattr(obj, "tolist"):
        return _plain(obj.tolist())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj
