"""NIfTI-1 files as bytes: their header, checked before ITK repairs what is wrong in it, and where their voxels stand.

ITK takes spacings of zero or NaN for 1 mm, keeps one of impossible size, and looks for minutes into an infinite affine.
Offsets and codes are those of the standard's header (nifti1.h).
"""

import os
import struct
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

from nnunetv2.imageio.inflate import DamagedStream, Inflated
from nnunetv2.imageio.voxel_block import AGAIN, VoxelBlock, skip, starts_with_gzip
from nnunetv2.utilities.errors import InputError

HEADER_BYTES = 348  # also the header's first field, which tells the byte order
FIRST_VOXEL = 352  # where a single file's voxels begin at the earliest
DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SCALE, UNITS, FORM_CODES, QFORM, SFORM, MAGIC = 40, 70, 72, 76, 108, 112, 123, 252, 256, 280, 344
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
NO_SCALARS = {1: "binary", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA"}
UNITS_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # not given; metres; mm; micrometres

MIN_SPACING, MAX_SPACING = 1e-6, 1e6  # mm: a nanometre, a kilometre; people count in other units, too, without saying so
MAX_OFFSET = 1e6  # mm
MAX_SCALE = 1e12  # of scl_slope and scl_inter
SINGULAR = 1e-4  # smallest over largest singular value of an affine's directions


@dataclass(frozen=True)
class NiftiHeader:
    """What reading and writing need of a header.

    sizes: x, y, z and further axes, without trailing axes of one voxel beyond the third. spacing: x, y, z mm. forms: both
    orientations, see `forms_of`. unit_mm: what the header counts lengths in; all of these are in mm.
    """

    block: VoxelBlock
    sizes: tuple[int, ...]
    spacing: tuple[float, ...]
    forms: dict[str, tuple]
    unit_mm: float = 1.0


def is_nifti(path: str | os.PathLike) -> bool:
    return str(path).lower().endswith((".nii", ".nii.gz"))


def read_header(path: str | os.PathLike) -> NiftiHeader:
    """The checked header; InputError names every field that is wrong, with its value."""
    gzipped = starts_with_gzip(path)
    header = first_bytes(path, HEADER_BYTES, gzipped)
    order = byte_order(header)
    if order is None:
        raise InputError(f"{path} is no NIfTI-1 file: {_why_not(header)}. {AGAIN}")
    magic = header[MAGIC:MAGIC + 4]
    if magic != b"n+1\0":
        reason = "its voxels lie in a second file" if magic == b"ni1\0" else "a single NIfTI-1 file has b'n+1\\x00'"
        raise InputError(f"{path}: magic is {magic!r}; {reason}. Save it again as one .nii.gz.")
    problems = [*_size_problems(header, order), *_scale_problems(header, order), *_orientation_problems(header, order)]
    if problems:
        listed = "; ".join(problems)
        raise InputError(f"{path} has an impossible header: {listed}. Mend the header or export the image again.")
    n_dims, *sizes = struct.unpack_from(f"{order}8h", header, DIM)
    while n_dims > 3 and sizes[n_dims - 1] == 1:
        n_dims -= 1
    sizes = tuple(sizes[:n_dims])
    slope, intercept = struct.unpack_from(f"{order}2f", header, SCALE)
    block = VoxelBlock(0, "gzip" if gzipped else "raw", np.dtype(order + TYPES[struct.unpack_from(f"{order}h", header, DATATYPE)[0]]), sizes[::-1],
                       int(struct.unpack_from(f"{order}f", header, VOX_OFFSET)[0]), slope if slope != 0 else 1.0, intercept)
    unit = _unit_mm(header)
    spacing = tuple(unit * value for value in struct.unpack_from(f"{order}3f", header, PIXDIM + 4)[:min(n_dims, 3)])
    return NiftiHeader(block, sizes, spacing, forms_of(header, order), unit)


def _unit_mm(header: bytes) -> float:
    return UNITS_MM.get(header[UNITS] & 7, 1.0)


def forms_of(header: bytes, order: str) -> dict[str, tuple]:
    """`codes` (qform, sform; 0 = not given), `qform` (qfac, quaternion b c d, offset x y z), `sform` (three rows of the affine, RAS); mm."""
    unit = _unit_mm(header)
    codes = struct.unpack_from(f"{order}2h", header, FORM_CODES)
    qform = (struct.unpack_from(f"{order}f", header, PIXDIM)[0], *struct.unpack_from(f"{order}3f", header, QFORM),
             *(unit * value for value in struct.unpack_from(f"{order}3f", header, QFORM + 12)))
    sform = tuple(unit * value for value in struct.unpack_from(f"{order}12f", header, SFORM))
    return {"codes": codes, "qform": qform if codes[0] else (0.0,) * 7, "sform": sform if codes[1] else (0.0,) * 12}


def new_file(array: np.ndarray, spacing: tuple[float, ...], forms: dict[str, tuple]) -> bytes:
    """A whole NIfTI-1 file, not compressed: `array` (Z, Y, X) or (Y, X) of a type in TYPES, mm, orientations as `forms_of` gives them."""
    header = bytearray(FIRST_VOXEL)
    n_dims = array.ndim
    struct.pack_into("<i", header, 0, HEADER_BYTES)
    struct.pack_into("<8h", header, DIM, n_dims, *array.shape[::-1], *[1] * (7 - n_dims))
    datatype = next(code for code, kind in TYPES.items() if kind == array.dtype.str[1:])
    struct.pack_into("<2h", header, DATATYPE, datatype, 8 * array.dtype.itemsize)
    struct.pack_into("<8f", header, PIXDIM, forms["qform"][0] or 1.0, *spacing, *[1.0] * (7 - n_dims))
    struct.pack_into("<3f", header, VOX_OFFSET, FIRST_VOXEL, 1.0, 0.0)
    header[UNITS] = 2
    struct.pack_into("<2h6f12f", header, FORM_CODES, *forms["codes"], *forms["qform"][1:], *forms["sform"])
    header[MAGIC:MAGIC + 4] = b"n+1\0"
    return bytes(header) + array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes()


def first_bytes(path: str | os.PathLike, n: int, gzipped: bool) -> bytes:
    """The first `n` bytes of the content, fewer of a short file."""
    with open(path, "rb") as file:
        try:
            return Inflated(file).read(n) if gzipped else file.read(n)
        except DamagedStream as error:
            raise InputError(f"{path} {error}. {AGAIN}") from error


def byte_order(header: bytes) -> str | None:
    """struct's `<` or `>`, None when this is no NIfTI-1 header."""
    if len(header) < HEADER_BYTES:
        return None
    return next((order for order in "<>" if struct.unpack_from(f"{order}i", header)[0] == HEADER_BYTES), None)


def promised_bytes(header: bytes, order: str) -> int | None:
    """Where the last voxel ends, in bytes of the uncompressed content, by the header; None where vox_offset is no number."""
    n_dims, *shape = struct.unpack_from(f"{order}8h", header, DIM)
    bits = struct.unpack_from(f"{order}h", header, BITPIX)[0]
    offset = struct.unpack_from(f"{order}f", header, VOX_OFFSET)[0]
    return int(offset) + prod(shape[:max(n_dims, 0)]) * bits // 8 if isfinite(offset) else None


def truncation(path: str | os.PathLike) -> str | None:
    """Says so when the file ends before its last voxel. Cheap: the header and the length in the gzip trailer decide.

    Reading finds more: see `voxel_block`. None for what is no NIfTI-1 header.
    """
    gzipped = starts_with_gzip(path)
    try:
        header = first_bytes(path, HEADER_BYTES, gzipped)
        if (order := byte_order(header)) is None:
            return None
        with open(path, "rb") as file:
            found = os.path.getsize(path)
            if gzipped:
                file.seek(-4, os.SEEK_END)
                found = struct.unpack("<I", file.read())[0]
    except InputError as error:
        return str(error)
    if (expected := promised_bytes(header, order)) is None:
        return f"{path}: vox_offset is {struct.unpack_from(f'{order}f', header, VOX_OFFSET)[0]:g}. {AGAIN}"
    if found == (expected % 2**32 if gzipped else expected) or (not gzipped and found > expected):
        return None
    if not gzipped:
        return f"{path} is truncated: {found} of {expected} bytes. {AGAIN}"
    return _recount(path, expected)


def _recount(path: str | os.PathLike, expected: int) -> str | None:
    """The length by inflating: several gzip members, or bytes after the voxels, make the trailer's another."""
    try:
        with open(path, "rb") as file:
            stream = Inflated(file)
            found = skip(stream, expected)
            stream.read(1)  # to the end, where the checksum stands; a trailer cut short lacks no voxel
    except DamagedStream as error:
        return f"{path} {error}. {AGAIN}"
    return None if found >= expected else f"{path} is truncated: {found} of {expected} bytes. {AGAIN}"


def _why_not(header: bytes) -> str:
    if not header:
        return "it is empty"
    if len(header) < HEADER_BYTES:
        return f"it ends after {len(header)} of the header's {HEADER_BYTES} bytes"
    if 540 in struct.unpack_from("<i", header) + struct.unpack_from(">i", header):
        return "it is NIfTI-2, which is not supported; save it as NIfTI-1"
    return f"sizeof_hdr is {struct.unpack_from('<i', header)[0]} and not {HEADER_BYTES}"


def _size_problems(header: bytes, order: str) -> list[str]:
    n_dims, *sizes = struct.unpack_from(f"{order}8h", header, DIM)
    kind, bits = struct.unpack_from(f"{order}2h", header, DATATYPE)
    offset = struct.unpack_from(f"{order}f", header, VOX_OFFSET)[0]
    problems = []
    if not 2 <= n_dims <= 7:
        problems.append(f"dim[0], the number of dimensions, is {n_dims}")
    elif wrong := [f"dim[{axis}] is {size}" for axis, size in enumerate(sizes[:n_dims], 1) if size < 1]:
        problems += wrong
    elif sum(size > 1 for size in sizes[3:n_dims]) > 1:
        problems.append(f"it has {n_dims} dimensions {tuple(sizes[:n_dims])}, images have two or three, four with several channels")
    if kind in NO_SCALARS:
        problems.append(f"datatype {kind} means {NO_SCALARS[kind]} voxels, an image has one number a voxel")
    elif kind not in TYPES:
        problems.append(f"datatype {kind} is unknown")
    elif bits != 8 * int(TYPES[kind][1]):
        problems.append(f"bitpix is {bits}, datatype {kind} has {8 * int(TYPES[kind][1])}")
    if not isfinite(offset) or offset != int(offset) or not HEADER_BYTES <= offset < 2**31:
        problems.append(f"vox_offset is {offset:g}, it must be a whole number from {FIRST_VOXEL}")
    unit = header[UNITS] & 7
    if unit not in UNITS_MM:
        problems.append(f"xyzt_units says {unit}, which is no length; it must be metres (1), mm (2) or micrometres (3)")
    return problems


def _scale_problems(header: bytes, order: str) -> list[str]:
    slope, intercept = struct.unpack_from(f"{order}2f", header, SCALE)
    problems = [f"{name} is {value:g}" for name, value in (("scl_slope", slope), ("scl_inter", intercept))
                if not abs(value) <= MAX_SCALE]
    if 0 < abs(slope) < 1 / MAX_SCALE:
        problems.append(f"scl_slope is {slope:g}")
    return problems


def _orientation_problems(header: bytes, order: str) -> list[str]:
    n_dims = struct.unpack_from(f"{order}h", header, DIM)[0]
    qfac, *spacing = struct.unpack_from(f"{order}4f", header, PIXDIM)
    unit = _unit_mm(header)
    spacing = [unit * value for value in spacing]
    problems = [f"pixdim[{axis}], the voxel's size, is {value:g} mm; it must lie in {MIN_SPACING:g} to {MAX_SPACING:g}"
                for axis, value in enumerate(spacing[:max(0, min(n_dims, 3))], 1) if not MIN_SPACING <= value <= MAX_SPACING]
    codes = struct.unpack_from(f"{order}2h", header, FORM_CODES)
    problems += [f"{name} is {code}, it must be 0 to 5" for name, code in zip(("qform_code", "sform_code"), codes) if not 0 <= code <= 5]
    if codes[0] > 0:
        quaternion, offsets = struct.unpack_from(f"{order}3f", header, QFORM), [unit * value for value in struct.unpack_from(f"{order}3f", header, QFORM + 12)]
        if not sum(value**2 for value in quaternion) <= 1.001:
            problems.append(f"quatern_b, c, d are {_listed(quaternion)}, no rotation")
        if not isfinite(qfac):
            problems.append(f"pixdim[0], the sign of the qform, is {qfac:g}")
        if not all(abs(value) <= MAX_OFFSET for value in offsets):
            problems.append(f"qoffset is {_listed(offsets)} mm")
    if codes[1] > 0:
        problems += _affine_problems(unit * np.reshape(struct.unpack_from(f"{order}12f", header, SFORM), (3, 4)))
    return problems


def _affine_problems(affine: np.ndarray) -> list[str]:
    """Of the sform (3, 4). Singular values are taken of finite numbers alone: of others they may take for ever."""
    if not (np.abs(affine) <= MAX_OFFSET).all():
        return [f"srow_{name}, of the sform, is {_listed(row)}" for name, row in zip("xyz", affine) if not (np.abs(row) <= MAX_OFFSET).all()]
    values = np.linalg.svd(affine[:, :3].astype(float), compute_uv=False)
    if values[-1] <= SINGULAR * values[0] or values[-1] < MIN_SPACING * SINGULAR:
        return [f"the sform (srow_x, srow_y, srow_z = {_listed(affine.ravel())}) is singular: it puts different voxels at one place"]
    return []


def _listed(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)
