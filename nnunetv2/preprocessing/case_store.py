"""Preprocessed cases on disk, three files each: CASE.b2nd, CASE_seg.b2nd (blosc2 arrays) and CASE.pkl (properties)."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from nnunetv2.preprocessing.safe_pickle import load_properties, save_pickle
from nnunetv2.utilities.dataset_files import preprocessed_names
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import atomic_write, raise_systems_reason
from nnunetv2.utilities.memory import refuse_beyond_memory
from nnunetv2.utilities.safe_names import plain_name

CHUNK_BYTES = 4 * 2**20  # unit of reading; a few chunks make a patch
BLOCK_BYTES = 128 * 2**10  # unit of decompression; fits the L2 cache of a core

# Compressed once and read many thousand times: LZ4HC packs slowly and unpacks at memory speed.
_COMPRESSION = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1}


def _split(shape: Sequence[int], limit_bytes: int, itemsize: int) -> tuple[int, ...]:
    """Halve the longest spatial axis of `shape` (C, Z, Y, X) until a single channel of it fits `limit_bytes`."""
    part = [1, *shape[1:]]
    while np.prod(part) * itemsize > limit_bytes and max(part) > 1:
        longest = int(np.argmax(part))
        part[longest] = (part[longest] + 1) // 2
    return tuple(int(n) for n in part)


def _write_array(array: np.ndarray, path: Path, patch_size: Sequence[int] | None) -> None:
    if patch_size is None:
        patch_size = array.shape[1:]
    patch = (1,) * (3 - len(patch_size)) + tuple(patch_size)  # 2D patches are read slice by slice
    chunk = _split((1, *np.minimum(patch, array.shape[1:])), CHUNK_BYTES, array.itemsize)
    block = _split(chunk, BLOCK_BYTES, array.itemsize)
    _store(array, path, chunks=chunk, blocks=block, cparams=_COMPRESSION | {"filters": [blosc2.Filter.SHUFFLE]})


def _store(array: np.ndarray, path: Path, **options: Any) -> None:
    """Write a blosc2 array. blosc2 says no more than that it failed, so the system is asked why: OSError of a full disk and the like."""
    with atomic_write(path) as temporary:
        try:
            blosc2.asarray(np.ascontiguousarray(array), urlpath=str(temporary), mode="w", **options)
        except RuntimeError:
            raise_systems_reason(temporary, array.nbytes)
            raise


def _paths(folder: str | os.PathLike, case: str) -> tuple[Path, Path, Path]:
    data, seg, properties = preprocessed_names(plain_name(case, "case", folder))
    return Path(folder) / data, Path(folder) / seg, Path(folder) / properties


def save_case(data: np.ndarray, seg: np.ndarray, properties: dict, folder: str | os.PathLike, case: str,
              patch_size: Sequence[int] | None = None) -> None:
    """Store a case so that `is_complete` holds only when all three files are whole.

    Args:
        data: (C, Z, Y, X), stored as float32.
        seg: (1, Z, Y, X), stored as int16.
        properties: plain containers, numbers and numpy arrays.
        patch_size: of training, (Z, Y, X) or (Y, X); files are cut so that reading such a patch touches little else.
    """
    data_path, seg_path, properties_path = _paths(folder, case)
    properties_path.unlink(missing_ok=True)  # it is written last: an interrupted rewrite must not look complete
    _write_array(data.astype(np.float32, copy=False), data_path, patch_size)
    _write_array(seg.astype(np.int16, copy=False), seg_path, patch_size)
    save_pickle(properties, properties_path)


def save_seg(seg: np.ndarray, folder: str | os.PathLike, case: str) -> None:
    """Store what one stage of a cascade found, (Z, Y, X) on the next stage's grid, as CASE.b2nd."""
    _store(seg, Path(folder) / f"{case}.b2nd", cparams=_COMPRESSION)


def load_seg(folder: str | os.PathLike, case: str) -> blosc2.NDArray:
    """What `save_seg` stored, opened. FileNotFoundError says which stage has to be run."""
    path = Path(folder) / f"{case}.b2nd"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Train and validate the previous stage of the cascade, all folds, first.")
    return _open(path)


def _open(path: Path) -> blosc2.NDArray:
    mapping = {} if os.name == "nt" else {"mmap_mode": "r"}  # blosc2's memory maps fail on Windows
    try:
        array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, **mapping)
    except RuntimeError as error:
        raise InputError(f"{path} is damaged ({error}). Delete the case's files and preprocess it again.") from error
    refuse_beyond_memory(math.prod(array.chunks) * array.dtype.itemsize, f"one chunk of {array.chunks} voxels", path)
    return array


def load_case(folder: str | os.PathLike, case: str) -> tuple[blosc2.NDArray, blosc2.NDArray, dict]:
    """(data, seg, properties) of a case; the arrays are opened, not read: slicing one reads the chunks it needs.

    Raises:
        FileNotFoundError: the case is not in `folder`, or not with all its files.
        InputError: a file is damaged, or image and segmentation differ in shape.
    """
    data_path, seg_path, properties_path = _paths(folder, case)
    missing = [path.name for path in (data_path, seg_path, properties_path) if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)} of case {case}. Run nnUNetv2_preprocess again; it completes the folder.")
    data, seg = _open(data_path), _open(seg_path)
    if data.shape[1:] != seg.shape[1:]:
        raise InputError(f"{data_path} has (z, y, x) = {data.shape[1:]} voxels and {seg_path} {seg.shape[1:]}. Delete the case's files and preprocess it again.")
    return data, seg, load_properties(properties_path)


def read_image(folder: str | os.PathLike, case: str) -> tuple[np.ndarray, dict]:
    """The whole image of a case, (C, Z, Y, X) float32, and its properties; InputError for a damaged file."""
    data, _, properties = load_case(folder, case)
    refuse_beyond_memory(data.size * data.dtype.itemsize, f"{data.shape} voxels", _paths(folder, case)[0])
    try:
        return data[:], properties
    except RuntimeError as error:
        raise InputError(f"{_paths(folder, case)[0]} is damaged ({error}). Delete the case's files and preprocess it again.") from error


def list_cases(folder: str | os.PathLike) -> list[str]:
    """Names of the cases in `folder`, sorted: data with a segmentation. Half-written files (hidden) are no cases."""
    names = {path.name for path in Path(folder).glob("*.b2nd") if not path.name.startswith(".")}
    return sorted(case for name in names if preprocessed_names(case := name.removesuffix(".b2nd"))[1] in names)


def is_complete(folder: str | os.PathLike, case: str, newer_than: float = 0.0) -> bool:
    """Whether all files of a case are there, whole, consistent, and not older than `newer_than` (seconds since the epoch)."""
    data_path, seg_path, properties_path = _paths(folder, case)
    try:
        if properties_path.stat().st_mtime < newer_than:
            return False
        data, seg, properties = load_case(folder, case)
    except (OSError, RuntimeError, ValueError):  # absent, or cut short (by a full disk or a copy that broke off)
        return False
    return data.shape[1:] == seg.shape[1:] and "spacing" in properties
