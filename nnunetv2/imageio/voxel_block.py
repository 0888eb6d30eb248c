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
_SLAB_VOXELS = 2**17  # read, scaled and looked at together, while they are in the cache


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

    @property
    def is_scaled(self) -> bool:
        return self.slope != 1 or self.intercept != 0


def read_block(path: str | os.PathLike, block: VoxelBlock, as_float: bool = False) -> np.ndarray:
    """The voxels in the machine's byte order; float32 where the file holds floats or scales its integers, or for `as_float`.

    One pass: what is inflated is scaled, checked and stored while it is in the cache.

    Raises:
        InputError: the file is too short or too long for its header, its checksum fails, or a value is NaN, infinite or absurd.
    """
    try:
        return _from_text(path, block) if block.encoding == "text" else _from_bytes(path, block, as_float)
    except DamagedStream as error:
        raise InputError(f"{path} {error}. {AGAIN}") from error


def _from_bytes(path: str | os.PathLike, block: VoxelBlock, as_float: bool) -> np.ndarray:
    available = os.path.getsize(path) - block.start
    needed = block.skip + block.n_bytes
    if needed > available * (1 if block.encoding == "raw" else MAX_RATIO):  # before any memory is taken
        raise InputError(f"{path} is truncated, or its header wrong: {block.shape} voxels of {block.dtype.itemsize} byte(s) need {needed} bytes, "
                         f"and {available} {'' if block.encoding == 'raw' else 'compressed '}bytes follow its header. {AGAIN}")
    checked = block.dtype.kind == "f" or block.is_scaled
    values = np.empty(block.shape, np.float32 if checked or as_float else block.dtype.newbyteorder("="))
    flat = values.reshape(-1)
    direct = values.dtype == block.dtype and not block.is_scaled
    slab = np.empty(0 if direct else min(flat.size, _SLAB_VOXELS), block.dtype)
    check = _ValueCheck()
    with open(path, "rb", buffering=0 if block.encoding == "raw" else -1) as file:
        file.seek(block.start)
        stream = file if block.encoding == "raw" else Inflated(file, {"gzip": GZIP, "zlib": ZLIB}[block.encoding])
        found = skip(stream, block.skip)
        for first in range(0, flat.size if found == block.skip else 0, _SLAB_VOXELS):
            target = flat[first:first + _SLAB_VOXELS]
            part = target if direct else slab[:target.size]
            n_bytes = _fill(stream, part)
            found += n_bytes
            if n_bytes < part.nbytes:
                break
            if not direct:
                _convert(part, target, block)
            if checked:
                check.see(target)
        if found < needed:
            raise InputError(f"{path} is truncated: it holds {found} of {needed} bytes. {AGAIN}")
        extra = len(stream.read(MAX_EXTRA_BYTES + 1))  # of a compressed stream: to its end, where the checksum stands
    if extra > MAX_EXTRA_BYTES:
        raise InputError(f"{path} goes on for more than {MAX_EXTRA_BYTES} bytes after the {block.shape} voxels that its header describes: "
                         f"the header is not this image's. {AGAIN}")
    check.refuse(path, block)
    return values


def skip(stream, n: int) -> int:
    """Read past `n` bytes; the number there were."""
    done = 0
    while done < n and (piece := stream.read(min(n - done, 2**20))):
        done += len(piece)
    return done


def _fill(stream, voxels: np.ndarray) -> int:
    """Bytes read into `voxels`, fewer than it takes only where the stream ends."""
    view = memoryview(voxels.view(np.uint8))
    done = 0
    while done < len(view) and (n := stream.readinto(view[done:])):
        done += n
    return done


def _convert(stored: np.ndarray, target: np.ndarray, block: VoxelBlock) -> None:
    """Scaled in double precision and rounded once, as ITK does. What float32 cannot hold becomes infinite, which the check finds."""
    with np.errstate(over="ignore", invalid="ignore"):
        target[:] = stored.astype(np.float64) * block.slope + block.intercept if block.is_scaled else stored


class _ValueCheck:
    """Counts values that are no intensities, slab by slab."""

    def __init__(self) -> None:
        self.n_nan = self.n_infinite = 0
        self.largest = 0.0

    def see(self, values: np.ndarray) -> None:
        low, high = values.min(), values.max()  # NaN if there is one
        if np.isfinite(low) and np.isfinite(high):
            self.largest = max(self.largest, -float(low), float(high))
        else:
            self.n_nan += int(np.isnan(values).sum())
            self.n_infinite += int(np.isinf(values).sum())

    def refuse(self, path: str | os.PathLike, block: VoxelBlock) -> None:
        if self.n_nan or self.n_infinite:
            scale = f" with scl_slope {block.slope:g} and scl_inter {block.intercept:g}" if block.is_scaled else ""
            raise InputError(f"{path} has {self.n_nan + self.n_infinite} NaN or infinite voxel(s) ({self.n_nan} NaN, {self.n_infinite} infinite){scale}. "
                             "Export it again, or replace them with the value of air.")
        if self.largest > MAX_VALUE:
            raise InputError(f"{path} has voxels up to {self.largest:.3g}, beyond {MAX_VALUE:g}: no intensity. Check how it was scaled and export it again.")


def _from_text(path: str | os.PathLike, block: VoxelBlock) -> np.ndarray:
    with open(path, "rb") as file:
        file.seek(block.start)
        words = file.read().split()
    if len(words) != prod(block.shape):
        raise InputError(f"{path} holds {len(words)} numbers, its header describes {block.shape} = {prod(block.shape)}. {AGAIN}")
    try:
        with np.errstate(over="ignore"):
            values = np.array(words, dtype="S").astype(np.float64).astype(np.float32)
    except ValueError as error:
        raise InputError(f"{path}: a voxel is no number ({error}). {AGAIN}") from error
    check = _ValueCheck()
    check.see(values)
    check.refuse(path, block)
    return values.reshape(block.shape)


def starts_with_gzip(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == GZIP_MAGIC
