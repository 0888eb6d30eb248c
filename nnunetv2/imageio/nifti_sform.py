"""The affine of a NIfTI-1 header, for images whose axes are not at right angles.

SimpleITK represents orthonormal directions only. It reads a sheared image (gantry tilt, a registration's output) once
ITK_NIFTI_SFORM_PERMISSIVE is set, with the nearest orthonormal direction, and would write that. Reading the sform here
and writing it back keeps the mask exactly on its image. Offsets: NIfTI-1 standard, nifti1.h.
"""

import gzip
import os
import struct
from pathlib import Path

HEADER_BYTES = 348
QFORM_CODE, SFORM_CODE = 252, 254  # int16
SFORM = 280  # 12 float32: rows x, y, z of the voxel-to-world affine (RAS)


def is_nifti(path: str | os.PathLike) -> bool:
    return str(path).endswith((".nii", ".nii.gz"))


def read_sform(path: str | os.PathLike) -> tuple[float, ...]:
    """The 12 numbers of the sform, row by row."""
    with _open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    byte_order = "<" if struct.unpack_from("<i", header)[0] == HEADER_BYTES else ">"
    return struct.unpack_from(f"{byte_order}12f", header, SFORM)


def write_sform(path: str | os.PathLike, sform: tuple[float, ...]) -> None:
    """Make `sform` the only geometry of a file that SimpleITK wrote: the orthonormal qform is switched off."""
    with _open(path, "rb") as file:
        content = bytearray(file.read())
    struct.pack_into("<hh", content, QFORM_CODE, 0, 1)
    struct.pack_into("<12f", content, SFORM, *sform)
    with _open(path, "wb") as file:
        file.write(content)


def _open(path: str | os.PathLike, mode: str):
    return gzip.open(path, mode) if Path(path).name.endswith(".gz") else open(path, mode)
