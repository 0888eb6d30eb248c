"""NIfTI-1 files as bytes, for what ITK hides: it reads a truncated file without a word, filled up with zeros, and turns NaN
and infinity into 0. Offsets are those of the standard's header (nifti1.h)."""

import gzip
import os
import struct
import zlib
from math import prod

import numpy as np

HEADER_BYTES = 348  # also the header's first field, which tells the byte order
DIM, DATATYPE, BITPIX, VOX_OFFSET = 40, 70, 72, 108  # 8 int16: number of dimensions, then sizes; int16; int16; float32
FLOAT_TYPES = {16: "f4", 64: "f8"}  # DATATYPE
GZIP_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)


def is_nifti(path: str | os.PathLike) -> bool:
    return str(path).endswith((".nii", ".nii.gz"))


def open_nifti(path: str | os.PathLike):
    """The uncompressed bytes to read; like ITK, by the content and not the name."""
    return gzip.open(path) if _is_gzipped(path) else open(path, "rb")


def byte_order(header: bytes) -> str | None:
    """struct's `<` or `>`, None when this is no NIfTI-1 header."""
    if len(header) < HEADER_BYTES:
        return None
    return next((order for order in "<>" if struct.unpack_from(f"{order}i", header)[0] == HEADER_BYTES), None)


def truncation(path: str | os.PathLike) -> str | None:
    """Says so when the file ends before its last voxel. Cheap: header and gzip trailer decide unless they disagree."""
    try:
        with open_nifti(path) as file:
            header = file.read(HEADER_BYTES)
            if (order := byte_order(header)) is None:
                return None  # for ITK to judge
            expected = _end(header, order)
            if _length_in_trailer(path) == expected % 2**32:
                return None
            file.seek(0)
            found = len(file.read())  # several gzip members, or bytes after the voxels: rare and legal
    except GZIP_DAMAGE as error:
        return f"{path} is damaged ({error}); copy or download it again"
    return None if found >= expected else f"{path} is truncated: {found} of {expected} bytes; copy or download it again"


def file_damage(path: str | os.PathLike) -> str | None:
    """As truncation, and also says when the gzip checksum fails or when voxels are NaN or infinite. Reads the whole file."""
    if (damage := truncation(path)) is not None:
        return damage
    try:
        with open_nifti(path) as file:
            content = file.read()
    except GZIP_DAMAGE as error:
        return f"{path} is damaged ({error}); copy or download it again"
    order = byte_order(content)
    kind = FLOAT_TYPES.get(struct.unpack_from(f"{order}h", content, DATATYPE)[0]) if order else None
    if kind is None:
        return None
    voxels = np.frombuffer(content[_start(content, order):_end(content, order)], f"{order}{kind}")
    n_bad = int(np.count_nonzero(~np.isfinite(voxels)))
    return f"{path} has {n_bad} NaN or infinite voxel(s)" if n_bad else None


def _start(header: bytes, order: str) -> int:
    """Offset of the first voxel."""
    return int(struct.unpack_from(f"{order}f", header, VOX_OFFSET)[0])


def _end(header: bytes, order: str) -> int:
    """Offset after the last voxel."""
    n_dims, *shape = struct.unpack_from(f"{order}8h", header, DIM)
    bits = struct.unpack_from(f"{order}h", header, BITPIX)[0]
    return _start(header, order) + prod(shape[:n_dims]) * bits // 8


def _length_in_trailer(path: str | os.PathLike) -> int:
    """Uncompressed length, modulo 2**32, that the last gzip member claims; of an uncompressed file its length."""
    if not _is_gzipped(path):
        return os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return struct.unpack("<I", file.read())[0]


def _is_gzipped(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"
