"""Pickle files read without running what they hold: containers, numbers, text, and numpy arrays and scalars are let in.

nnU-Net stores case properties and postprocessing decisions as pickles, and a pickle from elsewhere can run any code when
it is loaded. Here a file that asks for anything else is refused, and so is one that asks for more memory than it has bytes:
every array is checked against its data before numpy makes it.
"""

import io
import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import atomic_write, refuse_irregular
from nnunetv2.utilities.memory import refuse_beyond_memory

_NDARRAY = object()  # stands for the class, which would allocate any size if it were called
_PLAIN_DTYPE = re.compile(r"[<>|=]?(\?|b1|[biufc]\d{1,2}|[SU]\d{1,6})")
_scalar = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar


def _dtype(kind: object, align: object = False, copy: object = False) -> np.dtype:
    if not isinstance(kind, str) or not _PLAIN_DTYPE.fullmatch(kind):
        raise pickle.UnpicklingError(f"it asks for an array of {kind!r}, which is no plain number or text")
    return np.dtype(kind, align=False, copy=True)


def _reconstruct(subtype: object, shape: object, kind: object) -> np.ndarray:
    """The empty array that the next step fills."""
    if subtype is not _NDARRAY or shape != (0,):
        raise pickle.UnpicklingError(f"it asks for an array of shape {shape!r} without data")
    return np.empty(0, "b")


def _make_scalar(dtype: object, data: object) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise pickle.UnpicklingError("it holds a number of another size than its type")
    return _scalar(dtype, data)


def _frombuffer(data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it holds an array of an unknown kind")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _no_bytes() -> bytes:
    """How pickles of protocol 2 hold b""."""
    return b""


def _encode(text: object, codec: object) -> bytes:
    """How pickles of protocol 2 hold bytes."""
    if not isinstance(text, str) or codec != "latin1":
        raise pickle.UnpicklingError(f"it holds text in the encoding {codec!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {("collections", "OrderedDict"): OrderedDict, ("numpy", "ndarray"): _NDARRAY, ("numpy", "dtype"): _dtype,
                                        ("_codecs", "encode"): _encode, ("__builtin__", "bytes"): _no_bytes} | {
    (f"numpy.{core}.{module}", name): function  # numpy 2 writes _core, numpy 1 core
    for core in ("core", "_core")
    for module, name, function in (("multiarray", "_reconstruct", _reconstruct), ("multiarray", "scalar", _make_scalar), ("numeric", "_frombuffer", _frombuffer))
}


class _RestrictedUnpickler(pickle._Unpickler):  # the one in Python: that in C allocates what a length or an index says before it reads
    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, content: bytes, also_allowed: Mapping[tuple[str, str], Any]):
        super().__init__(io.BytesIO(content))
        self.also_allowed = also_allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.also_allowed:
            return self.also_allowed[module, name]
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def load_build(self) -> None:
        """Fill an array with its data, or give a type its byte order; nothing else has a state."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.ndarray):
            *_, shape, dtype, _, data = state
            if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or math.prod(shape) * dtype.itemsize != len(data):
                raise pickle.UnpicklingError(f"it holds an array of shape {shape!r} with data of another size")
            target.__setstate__(state)
        elif isinstance(target, np.dtype):
            own = target.__reduce__()[2]
            if state[1] not in ("<", ">", "|", "="):
                raise pickle.UnpicklingError(f"it holds numbers in the byte order {state[1]!r}")
            target.__setstate__((own[0], state[1], *own[2:]))
        else:
            raise pickle.UnpicklingError(f"it gives a state to {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


def load_properties(path: str | os.PathLike) -> dict[str, Any]:
    """The properties of a case, a dict, as reading and preprocessing left them. InputError for a pickle of anything else."""
    properties = load_pickle(path)
    if not isinstance(properties, dict):
        raise InputError(f"{path} holds {type(properties).__name__}, not the properties of a case. Make the case again.")
    return properties


def load_pickle(path: str | os.PathLike, also_allowed: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """Read a pickle of plain data.

    `also_allowed` maps further (module, name) pairs to what stands in for them.

    Raises:
        OSError: it is not there or cannot be read.
        InputError: it is broken or holds something else; the message names the file.
    """
    refuse_irregular(path, "Name another file, or make it again with its stage.")
    refuse_beyond_memory(os.path.getsize(path), "reading it", path)
    content = Path(path).read_bytes()
    try:
        return _RestrictedUnpickler(content, also_allowed or {}).load()
    except Exception as error:  # whatever step a damaged or hostile file leads to, it is the file that is wrong
        raise InputError(f"{path} cannot be read as plain data ({error or type(error).__name__}). Make it again with its stage; do not load pickles "
                         "of unknown origin by other means.") from error


def save_pickle(obj: Any, path: str | os.PathLike) -> None:
    """Write `obj` atomically."""
    with atomic_write(path) as temporary:
        Path(temporary).write_bytes(pickle.dumps(obj))
