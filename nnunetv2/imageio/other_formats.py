"""Headers of NRRD, MetaImage and GIPL files: where the voxels stand, and geometry that ITK would repair without a word.

Voxels must lie in the file itself: a header that names another file would have it read, whatever it is.
"""

import os
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path

import numpy as np

from nnunetv2.imageio.inflate import GZIP_MAGIC
from nnunetv2.imageio.nifti_file import MAX_OFFSET, MAX_SPACING, MIN_SPACING, SINGULAR
from nnunetv2.imageio.voxel_block import AGAIN, VoxelBlock
from nnunetv2.utilities.errors import InputError

MAX_HEADER_BYTES = 2**20
MAX_DIMENSIONS = 5

_NRRD_TYPES = {name: kind for kind, names in {
    "i1": "signed char,int8,int8_t", "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t", "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t", "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t", "f4": "float", "f8": "double"}.items()
    for name in names.split(",")}
_NRRD_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "ascii": "text", "text": "text", "txt": "text"}
_NRRD_ALIASES = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"}
_NRRD_COLOURS_AND_LISTS = ("list", "vector", "rgb", "hsv", "xyz", "complex", "point", "normal", "quaternion", "covariant", "scalar", "stub", "none",
                           "???", "2", "3", "4")  # how kinds of axes begin that are none of space and may lack a spacing
_MILLIMETRES = ("", "?", "???", "none", "mm", "millimeter", "millimeters", "millimetre", "millimetres")  # or not given, which counts as mm
_META_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
               "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
_GIPL_TYPES = {7: "i1", 8: "u1", 15: "i2", 16: "u2", 31: "u4", 32: "i4", 64: "f4", 65: "f8"}
_GIPL_MAGIC, _GIPL_HEADER_BYTES = (4026526128, 719555000), 256


def block_reader(path: str | os.PathLike) -> Callable[[str | os.PathLike], VoxelBlock] | None:
    """The function that reads this format's header, by the file's ending; None for formats that ITK alone judges."""
    return {".nrrd": nrrd_block, ".nhdr": nrrd_block, ".mha": meta_block, ".mhd": meta_block, ".gipl": gipl_block}.get(
        Path(path).suffix.lower())


def nrrd_block(path: str | os.PathLike) -> VoxelBlock:
    """Voxels of a NRRD file; InputError names the fields that are wrong."""
    head = _head(path)
    end, gap = min(((head.find(blank), len(blank)) for blank in (b"\n\n", b"\r\n\r\n") if blank in head), default=(-1, 0))
    if not head.startswith(b"NRRD000") or end < 0:
        raise InputError(f"{path} is no NRRD file: it does not begin with NRRD000x and a header that ends in an empty line. {AGAIN}")
    fields = {}
    for line in head[:end].decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):  # "key:=value" is a note of the user's
            fields[key.strip().lower()] = value.strip()
    fields = {_NRRD_ALIASES.get(key, key): value for key, value in fields.items()}
    problems = []
    if "data file" in fields:
        problems.append(f"data file is {fields['data file']!r}: its voxels lie in another file; save it as one .nrrd")
    kind = _NRRD_TYPES.get(fields.get("type", "").lower())
    if kind is None:
        problems.append(f"type is {fields.get('type')!r}")
    encoding = _NRRD_ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        problems.append(f"encoding is {fields.get('encoding')!r}; raw, gzip and text can be read")
    sizes = _sizes(fields, "sizes", "dimension", problems)
    problems += [f"{key} is {fields[key]}" for key in ("byte skip", "line skip") if fields.get(key, "0") != "0"]
    endian = fields.get("endian", "").lower()
    if kind and kind[1] != "1" and encoding != "text" and endian not in ("little", "big"):
        problems.append(f"endian is {fields.get('endian')!r}")
    problems += _nrrd_geometry(fields)
    _refuse(path, problems)
    return VoxelBlock(end + gap, encoding, np.dtype({"big": ">"}.get(endian, "<") + kind), sizes[::-1])


def _nrrd_geometry(fields: Mapping[str, str]) -> list[str]:
    problems = []
    spatial = [not kind.lower().startswith(_NRRD_COLOURS_AND_LISTS) for kind in fields.get("kinds", "").split()]
    for axis, value in enumerate(fields.get("spacings", "").split()):
        if not MIN_SPACING <= _number(value) <= MAX_SPACING and (axis >= len(spatial) or spatial[axis]):
            problems.append(f"spacings is {fields['spacings']}: {value}")
    for key in ("space units", "units"):
        words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^\s"]+)', fields.get(key, ""))]
        for axis, word in enumerate(words):
            if axis < 3 if key == "space units" else axis >= len(spatial) or spatial[axis]:
                _tell_of_unit("NRRD", key, word)
    if "space directions" in fields:
        text = fields["space directions"]
        vectors = [[_number(part) for part in vector.strip("() ").split(",")] for vector in _vectors(text)]
        problems += _direction_problems("space directions", text, vectors, lengths=True)
    if "space origin" in fields:
        problems += _origin_problems("space origin", fields["space origin"], [_number(v) for v in fields["space origin"].strip("() ").split(",")])
    return problems


def _tell_of_unit(file_format: str, key: str, unit: str) -> None:
    """Once, not for each file: ITK, and nnU-Net with it, passes over the unit, and plans and models rest on the numbers."""
    if unit.strip().lower() not in _MILLIMETRES:
        warnings.warn(f"Files of {file_format} count in {unit} ({key}); the numbers are taken for mm, as nnU-Net takes them.", stacklevel=4)


def _vectors(text: str) -> list[str]:
    return [part + ")" for part in text.replace("none", "").split(")") if "(" in part]


def meta_block(path: str | os.PathLike) -> VoxelBlock:
    """Voxels of a MetaImage file; InputError names the fields that are wrong."""
    head = _head(path)
    place = head.find(b"ElementDataFile")
    end = head.find(b"\n", place)
    if place < 0 or end < 0:
        raise InputError(f"{path} is no MetaImage file: its header has no line 'ElementDataFile = LOCAL'. {AGAIN}")
    fields = {}
    for line in head[:end].decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            fields[key.strip()] = value.strip()
    problems = []
    if fields.get("ElementDataFile", "").upper() != "LOCAL":
        problems.append(f"ElementDataFile is {fields.get('ElementDataFile')!r}: its voxels lie in another file; save it as one .mha")
    name = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    if name not in _META_TYPES:
        problems.append(f"ElementType is {fields.get('ElementType')!r}")
    sizes = _sizes(fields, "DimSize", "NDims", problems)
    channels = fields.get("ElementNumberOfChannels", "1")
    if not channels.isascii() or not channels.isdigit() or not 1 <= int(channels[:6]) < 2**15:
        problems.append(f"ElementNumberOfChannels is {channels!r}")
    if fields.get("HeaderSize", "0") != "0":
        problems.append(f"HeaderSize is {fields['HeaderSize']!r}")
    msb = _true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    text, compressed = not _true(fields.get("BinaryData", "True")), _true(fields.get("CompressedData", "False"))
    if text and compressed:
        problems.append("BinaryData is False and CompressedData True")
    size = fields.get("CompressedDataSize", "0")
    available = os.path.getsize(path) - (end + 1)
    if compressed and (not size.isascii() or not size.isdigit() or int(size[:18]) not in (0, available)):
        problems.append(f"CompressedDataSize is {size}, and {available} bytes follow the header")
    _tell_of_unit("MetaImage", "DistanceUnits", fields.get("DistanceUnits", ""))
    for key, neutral in (("ElementToIntensityFunctionSlope", 1), ("ElementToIntensityFunctionOffset", 0)):  # ITK passes over both
        if key in fields and _number(fields[key]) != neutral:
            problems.append(f"{key} is {fields[key]}: voxels must be stored as the values that they mean")
    for key in ("ElementSpacing", "ElementSize"):
        values = fields.get(key, "").split()
        problems += [f"{key} is {fields[key]}: {value}" for value in values[:3] if not MIN_SPACING <= _number(value) <= MAX_SPACING]
    for key in ("Offset", "Position", "Origin"):
        if key in fields:
            problems += _origin_problems(key, fields[key], [_number(value) for value in fields[key].split()])
    for key in ("TransformMatrix", "Rotation", "Orientation"):
        if key in fields:
            values, n = [_number(value) for value in fields[key].split()], int(len(fields[key].split()) ** 0.5)
            vectors = [values[i * n:(i + 1) * n] for i in range(n)] if n * n == len(values) else [[float("nan")]]
            problems += _direction_problems(key, fields[key], vectors, lengths=False)
    _refuse(path, problems)
    start = end + 1
    encoding = "text" if text else "raw" if not compressed else "gzip" if head[start:start + 2] == GZIP_MAGIC else "zlib"
    shape = sizes[::-1] + ((int(channels),) if int(channels) > 1 else ())
    return VoxelBlock(start, encoding, np.dtype((">" if msb else "<") + _META_TYPES[name]), shape)


def gipl_block(path: str | os.PathLike) -> VoxelBlock:
    """Voxels of a GIPL file (big-endian throughout); InputError names the fields that are wrong."""
    with open(path, "rb") as file:
        head = file.read(_GIPL_HEADER_BYTES)
    if len(head) < _GIPL_HEADER_BYTES or struct.unpack_from(">I", head, 252)[0] not in _GIPL_MAGIC:
        raise InputError(f"{path} is no GIPL file: it is too short or its magic number is wrong. {AGAIN}")
    sizes, kind, spacing, origin = (struct.unpack_from(form, head, at) for form, at in ((">4H", 0), (">H", 8), (">4f", 10), (">4d", 204)))
    problems = [f"dim[{axis}] is {size}" for axis, size in enumerate(sizes[:3]) if size < 1]
    if sizes[3] > 1:
        problems.append(f"dim[3] is {sizes[3]}: it has four dimensions")
    if kind[0] not in _GIPL_TYPES:
        problems.append(f"image type is {kind[0]}")
    problems += [f"pixdim[{axis}] is {value:g}" for axis, value in enumerate(spacing[:3]) if not MIN_SPACING <= value <= MAX_SPACING]
    problems += _origin_problems("origin", ", ".join(f"{value:g}" for value in origin[:3]), list(origin[:3]))
    _refuse(path, problems)
    return VoxelBlock(_GIPL_HEADER_BYTES, "raw", np.dtype(">" + _GIPL_TYPES[kind[0]]), tuple(sizes[2::-1]))


def _head(path: str | os.PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_HEADER_BYTES)


def _sizes(fields: Mapping[str, str], key: str, count_key: str, problems: list[str]) -> tuple[int, ...]:
    words = fields.get(key, "").split()
    sizes = tuple(int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0 for word in words)
    if not 2 <= len(sizes) <= MAX_DIMENSIONS or min(sizes) < 1:
        problems.append(f"{key} is {fields.get(key)!r}, it must be 2 to {MAX_DIMENSIONS} positive whole numbers")
    if fields.get(count_key) != str(len(sizes)):
        problems.append(f"{count_key} is {fields.get(count_key)!r}, {key} has {len(sizes)} numbers")
    return sizes


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")


def _origin_problems(key: str, text: str, values: list[float]) -> list[str]:
    return [] if all(abs(value) <= MAX_OFFSET for value in values) else [f"{key} is {text}"]


def _direction_problems(key: str, text: str, vectors: list[list[float]], lengths: bool) -> list[str]:
    if len({len(vector) for vector in vectors}) != 1 or not all(isfinite(value) and abs(value) <= MAX_OFFSET for vector in vectors for value in vector):
        return [f"{key} is {text}"]
    matrix = np.array(vectors)
    norms = np.linalg.norm(matrix, axis=1)
    if lengths and not ((norms >= MIN_SPACING) & (norms <= MAX_SPACING)).all():
        return [f"{key} is {text}: voxels of {', '.join(f'{norm:g}' for norm in norms)} mm"]
    values = np.linalg.svd(matrix / np.maximum(norms[:, None], 1e-30), compute_uv=False)
    return [f"{key} is {text}: it is singular"] if values[-1] <= SINGULAR else []


def _refuse(path: str | os.PathLike, problems: list[str]) -> None:
    if problems:
        raise InputError(f"{path} has an impossible header: {'; '.join(problems)}. Mend the header or export the image again.")
