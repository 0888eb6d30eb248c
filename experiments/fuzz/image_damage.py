"""Damaged NIfTI files: the compressed stream, single header fields, voxels. Offsets are those of the NIfTI-1 standard."""

import dataclasses
import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from experiments.fuzz.damage import CONTENT, FILE_SYSTEM, Damage, constant, replace, rewriting

VOXELS_AT = 352
NAN, INF = float("nan"), float("inf")
DATATYPES = {
    "complex64": (32, 64),
    "complex128": (1792, 128),
    "RGB24": (128, 24),
    "RGBA32": (2304, 32),
    "float128": (1536, 128),
    "unknown type 9999": (9999, 16),
    "no type 0": (0, 0),
}


def header(name: str, *fields: tuple[str, int, float], must_fail: bool = True) -> Damage:
    """Fields given as (format, offset, value), in a stream that is otherwise whole."""

    def change(content: bytes, _: np.random.Generator) -> bytes:
        raw = bytearray(gzip.decompress(content))
        for kind, offset, value in fields:
            struct.pack_into(f"<{kind}", raw, offset, value)
        return gzip.compress(bytes(raw), 1)

    return rewriting(name, change, must_fail)


def _flipped(content: bytes) -> bytes:
    """The first axis of the sform turned round, its offset kept."""
    raw = bytearray(gzip.decompress(content))
    for offset in (280, 296, 312):
        struct.pack_into("<f", raw, offset, -struct.unpack_from("<f", raw, offset)[0])
    struct.pack_into("<h", raw, 254, 1)
    return gzip.compress(bytes(raw), 1)


def voxels(name: str, change: Callable[[np.ndarray, np.random.Generator], np.ndarray], must_fail: bool = True) -> Damage:
    """Voxels (Z, Y, X) rewritten, geometry as it was where the dimensions allow."""

    def apply(path: Path, generator: np.random.Generator, _: Path) -> None:
        image = sitk.ReadImage(str(path))
        array = change(sitk.GetArrayFromImage(image), generator)
        other = sitk.GetImageFromArray(array, isVector=array.ndim == 4 and array.shape[-1] <= 3)
        if other.GetDimension() == image.GetDimension():
            other.SetSpacing(image.GetSpacing())
            other.SetOrigin(image.GetOrigin())
            other.SetDirection(image.GetDirection())
        path.unlink()
        sitk.WriteImage(other, str(path))

    return Damage(name, apply, must_fail)


def raw_floats(name: str, change: Callable[[np.ndarray], None]) -> Damage:
    """As float32 with values that SimpleITK would not write."""

    def apply(path: Path, _: np.random.Generator, __: Path) -> None:
        image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
        path.unlink()
        sitk.WriteImage(image, str(path))
        raw = bytearray(gzip.decompress(path.read_bytes()))
        values = np.frombuffer(raw, "<f4", offset=VOXELS_AT)
        change(values)
        replace(path, gzip.compress(bytes(raw), 1))

    return Damage(name, apply)


def _put(value: float, where: slice) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[where] = value

    return change


def _zeroed_block(content: bytes, _: np.random.Generator) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(200) + content[middle + 200 :]


def _flip_bits(content: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in generator.integers(20, len(content) - 8, 5):
        changed[place] ^= 0x55
    return bytes(changed)


STREAM = [
    rewriting("8 bytes missing at its end", lambda content, _: content[:-8]),
    rewriting("1000 bytes missing at its end", lambda content, _: content[: max(len(content) - 1000, 40)]),
    rewriting("wrong checksum", lambda content, _: content[:-8] + bytes(4) + content[-4:]),
    rewriting("wrong length in the trailer", lambda content, _: content[:-4] + b"\1\2\3\4"),
    rewriting("a zeroed block", _zeroed_block),
    rewriting("flipped bits", _flip_bits),
    rewriting("header alone", lambda content, _: gzip.compress(gzip.decompress(content)[:VOXELS_AT], 1)),
    rewriting("half a header", lambda content, _: gzip.compress(gzip.decompress(content)[:170], 1)),
    rewriting("whole stream, half the voxels", lambda content, _: gzip.compress(gzip.decompress(content)[: VOXELS_AT + 3000], 1)),
    rewriting("garbage behind the stream", lambda content, _: content + b"garbage" * 100, must_fail=False),
    rewriting("not compressed", lambda content, _: gzip.decompress(content), must_fail=False),
    constant("compressed text", gzip.compress(b"no image\n" * 400)),
]
HEADER = [
    header("wrong magic", ("i", 344, 0x41414141)),
    header("wrong sizeof_hdr", ("i", 0, 7)),
    header("no dimensions", ("h", 40, 0)),
    header("200 dimensions", ("h", 40, 200)),
    header("an axis of 0", ("h", 42, 0)),
    header("an axis of -5", ("h", 44, -5)),
    header("axes of 32767", ("h", 42, 32767), ("h", 44, 32767), ("h", 46, 32767)),
    header("20 TB by 5 axes", ("h", 40, 5), ("h", 48, 32767), ("h", 50, 32767)),
    header("an axis longer than the file", ("h", 46, 900)),
    *(header(name, ("h", 70, code), ("h", 72, bits)) for name, (code, bits) in DATATYPES.items()),
    header("vox_offset inf", ("f", 108, INF)),
    header("vox_offset NaN", ("f", 108, NAN)),
    header("vox_offset -1e9", ("f", 108, -1e9)),
    header("vox_offset behind the end", ("f", 108, 1e8)),
    header("pixdim 0", ("f", 80, 0.0)),
    header("pixdim NaN", ("f", 84, NAN)),
    header("pixdim inf", ("f", 88, INF)),
    header("pixdim 1e30", ("f", 88, 1e30)),
    header("pixdim 1e-30", ("f", 80, 1e-30)),
    header("pixdim negative", ("f", 84, -1.25), must_fail=False),
    header("slope NaN", ("f", 112, NAN)),
    header("slope inf", ("f", 112, INF)),
    header("slope 3e38", ("f", 112, 3e38)),
    header("intercept NaN", ("f", 112, 1.0), ("f", 116, NAN)),
    header("intercept inf", ("f", 112, 1.0), ("f", 116, INF)),
    header("qoffset NaN", ("h", 252, 1), ("f", 268, NAN)),
    header("qoffset inf", ("h", 252, 1), ("f", 272, INF)),
    header("quaternion NaN", ("h", 252, 1), ("h", 254, 0), ("f", 256, NAN)),
    header("quaternion of 7", ("h", 252, 1), ("h", 254, 0), ("f", 256, 7.0)),
    header("sform inf", ("h", 254, 1), ("f", 280, INF)),
    header("sform NaN", ("h", 254, 1), ("f", 300, NAN)),
    header("sform singular", ("h", 254, 1), *(("f", 280 + 4 * n, 0.0) for n in range(12))),
    header("sform of rank 2", ("h", 254, 1), *(("f", 312 + 4 * n, 0.0) for n in range(3))),
    header("units of metres", ("b", 123, 1), must_fail=False),
    header("units of micrometres", ("b", 123, 3), must_fail=False),
]
VALUES = [
    raw_floats("a NaN", _put(NAN, slice(100, 101))),
    raw_floats("an inf", _put(INF, slice(100, 101))),
    raw_floats("a minus inf", _put(-INF, slice(7, 9))),
    raw_floats("all NaN", _put(NAN, slice(None))),
    voxels("two volumes in one file", lambda array, _: np.stack([array, array, array, array])),
    voxels("one slice alone", lambda array, _: array[3]),
    voxels("three components", lambda array, _: np.stack([array] * 3, -1)),
]
IMAGE_VALUES = [
    voxels("constant", lambda array, _: np.full_like(array, 7), must_fail=False),  # a channel that was not measured may be so
    raw_floats("3e38 everywhere", _put(3e38, slice(None))),
    voxels(
        "scaled to 0..1",
        lambda array, _: ((array - array.min()) / (int(array.max()) - array.min() + 1e-6)).astype(np.float32),
        must_fail=False,
    ),
]
MASK_VALUES = [
    voxels("label 7", lambda array, _: np.where(array == 1, 7, array)),
    voxels("label 1.5", lambda array, _: np.where(array == 1, 1.5, array)),
    voxels("label -1", lambda array, _: np.where(array == 1, -1, array.astype(np.int16))),
    voxels("labels as 1.0000153", lambda array, _: np.where(array == 1, np.float32(1.0000153), array.astype(np.float32)), must_fail=False),
    voxels("another shape", lambda array, _: array[:, 2:]),
    header("shifted", ("f", 268, 77.0), ("f", 292, 77.0)),
    rewriting("flipped axis in the header", lambda content, _: _flipped(content)),
    voxels("one-hot in 4 dimensions", lambda array, _: np.stack([array == k for k in range(3)]).astype(np.uint8)),
    voxels("nothing but background", lambda array, _: np.zeros_like(array), must_fail=False),
]
ODD_IMAGE = {"one slice alone"}  # predicted with a warning
IMAGE = [dataclasses.replace(damage, must_fail=damage.must_fail and damage.name not in ODD_IMAGE)
         for damage in CONTENT + FILE_SYSTEM + STREAM + HEADER + VALUES + IMAGE_VALUES]
OTHER_GRID = {"another shape", "shifted", "flipped axis in the header", "one slice alone"}
MASK = CONTENT + FILE_SYSTEM + STREAM + HEADER + VALUES + MASK_VALUES


# Nothing lies beside these masks that says what their grid must be
MASK_OF_CHOSEN_LABELS = [dataclasses.replace(damage, must_fail=damage.must_fail and damage.name != "label 7") for damage in MASK]  # others are not scored
MASK_ALONE = [dataclasses.replace(damage, must_fail=damage.must_fail and damage.name not in OTHER_GRID) for damage in MASK]


def _other_header(name: str, old: bytes, new: bytes) -> Damage:
    """A line of a text header exchanged; the formats here begin with text."""

    def change(content: bytes, _: np.random.Generator) -> bytes:
        lines = content.split(b"\n")
        for number, line in enumerate(lines[:30]):
            if line.startswith(old):
                lines[number] = new
                return b"\n".join(lines)
        raise AssertionError(f"the header has no line {old!r}")

    return rewriting(name, change)


CUT = [
    rewriting("last 500 bytes missing", lambda content, _: content[:-500]),
    rewriting("header and 100 bytes", lambda content, _: content[:600]),
]
NRRD = [
    *CONTENT,
    *FILE_SYSTEM,
    *CUT,
    _other_header("sizes of a petabyte", b"sizes:", b"sizes: 99999 99999 99999"),
    _other_header("sizes of text", b"sizes:", b"sizes: a b c"),
    _other_header("directions NaN", b"space directions:", b"space directions: (nan,0,0) (0,1,0) (0,0,1)"),
    _other_header("origin inf", b"space origin:", b"space origin: (inf,0,0)"),
    _other_header("unknown type", b"type:", b"type: quaternion"),
    _other_header("unknown encoding", b"encoding:", b"encoding: rot13"),
    _other_header("voxels in another file", b"encoding:", b"data file: /etc/passwd\nencoding: raw"),
]
MHA = [
    *CONTENT,
    *FILE_SYSTEM,
    *CUT,
    _other_header("sizes of a petabyte", b"DimSize", b"DimSize = 99999 99999 99999"),
    _other_header("spacing 0", b"ElementSpacing", b"ElementSpacing = 0 1 1"),
    _other_header("spacing NaN", b"ElementSpacing", b"ElementSpacing = nan 1 1"),
    _other_header("offset inf", b"Offset", b"Offset = inf 0 0"),
    _other_header("singular matrix", b"TransformMatrix", b"TransformMatrix = 0 0 0 0 0 0 0 0 0"),
    _other_header("unknown type", b"ElementType", b"ElementType = MET_NONSENSE"),
    _other_header("voxels in another file", b"ElementDataFile", b"ElementDataFile = /etc/passwd"),
]


def _plain_nifti(damage: Damage) -> Damage:
    """The same damage to a file that is not compressed."""

    def apply(path: Path, generator: np.random.Generator, canary: Path) -> None:
        packed = path.with_name("packed.nii.gz")
        packed.write_bytes(gzip.compress(path.read_bytes(), 1))
        damage.apply(packed, generator, canary)
        replace(path, gzip.decompress(packed.read_bytes()))
        packed.unlink()

    return Damage(damage.name, apply, damage.must_fail)


NIFTI = [*CONTENT, *FILE_SYSTEM, *CUT, *map(_plain_nifti, HEADER), *map(_plain_nifti, VALUES)]
