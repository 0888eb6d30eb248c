"""One array out of a .npz file of unknown origin: no pickles, and no more memory than the file has bytes for."""

import math
import os
import zipfile
import zlib

import numpy as np
from numpy.lib import format as npy_format

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import refuse_irregular
from nnunetv2.utilities.memory import refuse_beyond_memory


def read_npz(path: str | os.PathLike, key: str) -> np.ndarray:
    """The array `key` of a .npz file.

    Raises:
        OSError: the file is not there or cannot be read.
        InputError: it is damaged, lacks `key`, holds objects, or claims an array that its bytes cannot fill or this machine cannot hold.
    """
    remedy = "Make it again with its stage."
    refuse_irregular(path, remedy)
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                raise InputError(f"{path} lacks {key!r}; it holds {', '.join(name.removesuffix('.npy') for name in archive.namelist()) or 'nothing'}. {remedy}")
            size = archive.getinfo(f"{key}.npy").file_size
            with archive.open(f"{key}.npy") as member:
                read_header = npy_format.read_array_header_1_0 if npy_format.read_magic(member) == (1, 0) else npy_format.read_array_header_2_0
                shape, _, kind = read_header(member)
            if kind.hasobject:
                raise InputError(f"{path}: {key!r} holds Python objects and not numbers. {remedy}")
            if math.prod(shape) * kind.itemsize > size:
                raise InputError(f"{path}: {key!r} claims {shape} values of {kind}, its {size} bytes cannot hold them. {remedy}")
            refuse_beyond_memory(math.prod(shape) * kind.itemsize, f"{key!r}, {shape} values of {kind},", path)
            with archive.open(f"{key}.npy") as member:
                return npy_format.read_array(member, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:  # the last two: unknown compression, encrypted
        raise InputError(f"{path} is damaged ({error}). {remedy}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: {key!r} is damaged ({error}). {remedy}") from error
