"""The voxels of a file, read as its header describes them: all that it promises and hardly more, checked on the way."""

import os
from dataclasses import dataclass
from math import prod

import numpy as np

from nnunetv2.imageio.inflate import GZIP, GZIP_MAGIC, MAX_RATIO, ZLIB, DamagedStream, Inflated
from nnunetv2.utilities.errors import InputError

AGAIN = "Copy or download it again."
MAX_EXTRA_BYTES = 4096  # after the last voxel: tools pad to a block. More means that the header describes another image
MAX_VALUE = 1e12  # beyond, sums of squares overflow in float32; no scanner's unit comes near
_SLAB_VOXELS = 2**18  # looked at together, while they are in the cache


@dataclass(frozen=True)
class VoxelBlock:
    """Where the voxels stand in a file.

    encoding: "raw", "gzip", "zlib" or "text", from `start` on. skip: bytes of the decoded content before the first voxel.
    shape: array order, slowest axis first. slope, intercept: value = stored * slope + intercept.
    """

    start: int
    encoding: str
    dtype: np.dtype
    shape: tuple[int, ...]
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def n_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def read_block(path: str | os.PathLike, block: VoxelBlock) -> np.ndarray:
    """The voxels in the machine's byte order; float32 where the file holds floats or scales its integers.

    Raises:
        InputError: the file is too short or too long for its header, its checksum fails, or a value is NaN, infinite or absurd.
    """
    try:
        stored = _text(path, block) if block.encoding == "text" else _binary(path, block)
    except DamagedStream as error:
        raise InputError(f"{path} {error}. {AGAIN}") from error
    if block.slope == 1 and block.intercept == 0 and stored.dtype.kind in "iu":
        return stored if stored.dtype.isnative else stored.astype(stored.dtype.newbyteorder("="))
    return _checked_floats(path, stored, block)


def _binary(path: str | os.PathLike, block: VoxelBlock) -> np.ndarray:
    available = os.path.getsize(path) - block.start
    needed = block.skip + block.n_bytes
    if needed > available * (1 if block.encoding == "raw" else MAX_RATIO):  # before any memory is taken
        raise InputError(f"{path} is truncated, or its header wrong: {block.shape} voxels of {block.dtype.itemsize} byte(s) need {needed} bytes, "
                         f"and {available} {'' if block.encoding == 'raw' else 'compressed '}bytes follow its header. {AGAIN}")
    voxels = np.empty(block.shape, block.dtype)
    with open(path, "rb", buffering=0 if block.encoding == "raw" else -1) as file:
        file.seek(block.start)
        stream = file if block.encoding == "raw" else Inflated(file, {"gzip": GZIP, "zlib": ZLIB}[block.encoding])
        found = _skip(stream, block.skip)
        if found == block.skip:
            found += _fill(stream, voxels)
        if found < needed:
            raise InputError(f"{path} is truncated: it holds {found} of {needed} bytes. {AGAIN}")
        extra = len(stream.read(MAX_EXTRA_BYTES + 1))  # of a compressed stream: to its end, where the checksum stands
    if extra > MAX_EXTRA_BYTES:
        raise InputError(f"{path} goes on for more than {MAX_EXTRA_BYTES} bytes after the {block.shape} voxels that its header describes: "
                         f"the header is not this image's. {AGAIN}")
    return voxels


def _skip(stream, n: int) -> int:
    """Read past `n` bytes; the number there were."""
    done = 0
    while done < n and (piece := stream.read(min(n - done, 2**20))):
        done += len(piece)
    return done


def _fill(stream, voxels: np.ndarray) -> int:
    view = memoryview(voxels.reshape(-1)).cast("B") if voxels.size else memoryview(b"")
    done = 0
    while done < len(view) and (n := stream.readinto(view[done:])):
        done += n
    return done


def _text(path: str | os.PathLike, block: VoxelBlock) -> np.ndarray:
    with open(path, "rb") as file:
        file.seek(block.start)
        words = file.read().split()
    if len(words) != prod(block.shape):
        raise InputError(f"{path} holds {len(words)} numbers, its header describes {block.shape} = {prod(block.shape)}. {AGAIN}")
    try:
        values = np.array(words, dtype="S").astype(np.float64)
    except ValueError as error:
        raise InputError(f"{path}: a voxel is no number ({error}). {AGAIN}") from error
    return values.astype(np.float32).reshape(block.shape)


def _checked_floats(path: str | os.PathLike, stored: np.ndarray, block: VoxelBlock) -> np.ndarray:
    """Scaled in double precision and rounded once, as ITK does."""
    scaled = block.slope != 1 or block.intercept != 0
    in_place = not scaled and stored.dtype == np.float32
    values = stored if in_place else np.empty(stored.shape, np.float32)
    source, target = stored.reshape(-1), values.reshape(-1)
    n_nan = n_infinite = 0
    largest = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, source.size, _SLAB_VOXELS):
            slab = target[first:first + _SLAB_VOXELS]
            if not in_place:
                part = source[first:first + _SLAB_VOXELS]
                slab[:] = part.astype(np.float64) * block.slope + block.intercept if scaled else part
            low, high = slab.min(), slab.max()  # NaN if there is one
            if not (np.isfinite(low) and np.isfinite(high)):
                n_nan += int(np.isnan(slab).sum())
                n_infinite += int(np.isinf(slab).sum())
            else:
                largest = max(largest, -float(low), float(high))
    if n_nan or n_infinite:
        scale = f" with scl_slope {block.slope:g} and scl_inter {block.intercept:g}" if scaled else ""
        raise InputError(f"{path} has {n_nan + n_infinite} NaN or infinite voxel(s) ({n_nan} NaN, {n_infinite} infinite){scale}. "
                         "Export it again, or replace them with the value of air.")
    if largest > MAX_VALUE:
        raise InputError(f"{path} has voxels up to {largest:.3g}, beyond {MAX_VALUE:g}: no intensity. Check how it was scaled and export it again.")
    return values


def starts_with_gzip(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == GZIP_MAGIC
