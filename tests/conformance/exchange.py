"""How the two environments hand values to each other: JSON for structure, NPZ for arrays. Needs numpy alone.

Both sides import this file (the reference environment as a plain module), so it must not import either nnU-Net.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np


def write(value: Any, path: Path) -> None:
    """Store nested dicts, lists, numbers, strings, None and arrays as `path`.json + `path`.npz."""
    arrays: dict[str, np.ndarray] = {}

    def encode(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            arrays[f"a{len(arrays)}"] = item
            return {"__array__": f"a{len(arrays) - 1}"}
        if isinstance(item, dict):
            return {str(k): encode(v) for k, v in item.items()}
        if isinstance(item, (list, tuple)):
            return [encode(v) for v in item]
        if isinstance(item, np.generic):
            return item.item()
        if isinstance(item, Path):
            return str(item)
        return item

    text = json.dumps(encode(value))
    np.savez(path.with_suffix(".npz"), **arrays)
    path.with_suffix(".json").write_text(text)


def read(path: Path) -> Any:
    """Read back what `write` stored."""
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = {name: stored[name] for name in stored.files}

    def decode(item: Any) -> Any:
        if isinstance(item, dict):
            return arrays[item["__array__"]] if "__array__" in item else {k: decode(v) for k, v in item.items()}
        return [decode(v) for v in item] if isinstance(item, list) else item

    return decode(json.loads(path.with_suffix(".json").read_text()))
