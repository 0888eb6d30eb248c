"""Pickle files read without running what they hold: containers, numbers, text, and numpy arrays and scalars are let in.

nnU-Net stores case properties and postprocessing decisions as pickles, and a pickle from elsewhere can run any code when
it is loaded. Here a file that asks for anything else is refused.
"""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.utilities.files import atomic_write

_ALLOWED = {("collections", "OrderedDict"), ("numpy", "ndarray"), ("numpy", "dtype")} | {
    (f"numpy.{core}.{module}", name)  # numpy 2 writes _core, numpy 1 core
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file, also_allowed: Mapping[tuple[str, str], Any]):
        super().__init__(file)
        self.also_allowed = also_allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.also_allowed:
            return self.also_allowed[module, name]
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_pickle(path: str | os.PathLike, also_allowed: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """Read a pickle of plain data.

    `also_allowed` maps further (module, name) pairs to what stands in for them.

    Raises:
        ValueError: the file is broken or holds something else; the message names the file.
    """
    try:
        with open(path, "rb") as file:
            return _RestrictedUnpickler(file, also_allowed or {}).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, ImportError, TypeError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as plain data ({error}). Make it again with its stage; do not load pickles "
                         "of unknown origin by other means.") from error


def save_pickle(obj: Any, path: str | os.PathLike) -> None:
    """Write `obj` atomically."""
    with atomic_write(path) as temporary:
        Path(temporary).write_bytes(pickle.dumps(obj))
