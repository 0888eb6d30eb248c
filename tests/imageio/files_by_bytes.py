"""Image files put together byte by byte, so that each field can be damaged on its own."""

import gzip
import struct
from pathlib import Path

import numpy as np

SHAPE = (3, 4, 5)  # z, y, x
VOXELS = np.arange(-20, 40, dtype=np.int16).reshape(SHAPE)
SPACING = (0.75, 0.875, 2.5)  # x, y, z
SFORM = (-0.75, 0, 0, 10, 0, -0.875, 0, 20, 0, 0, 2.5, 30)
TILTED = (-0.75, 0, 0, 10, 0, -0.8451851, 0.6470476, 20, 0, 0.2264667, 2.4148145, 30)  # the sform turned by 15 degrees about x
SHEARED = (-0.75, 0.05, 0, 10, 0, -0.875, 0.3, 20, 0, 0, 2.5, 30)
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "c8": 32}


def nifti(voxels: np.ndarray = VOXELS, order: str = "<", **fields) -> bytes:
    """A sound .nii; `fields` replace parts of it: name -> value or values, by the names below."""
    kind = voxels.dtype.str[1:]
    content = {"sizeof_hdr": 348, "dim": (voxels.ndim, *voxels.shape[::-1], *[1] * (7 - voxels.ndim)), "datatype": CODES[kind],
               "bitpix": 8 * voxels.dtype.itemsize, "pixdim": (1, *SPACING, 1, 1, 1, 1), "vox_offset": 352, "scl": (1, 0), "xyzt_units": 2,
               "codes": (0, 1), "qform": (0,) * 6, "sform": SFORM, "magic": b"n+1\0"} | fields
    header = bytearray(352)
    for name, (form, at) in FIELDS.items():
        value = content[name]
        struct.pack_into(form if form.endswith("s") or form == "B" else order + form, header, at, *(value if isinstance(value, tuple) else (value,)))
    return bytes(header) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()


FIELDS = {"sizeof_hdr": ("i", 0), "dim": ("8h", 40), "datatype": ("h", 70), "bitpix": ("h", 72), "pixdim": ("8f", 76), "vox_offset": ("f", 108),
          "scl": ("2f", 112), "xyzt_units": ("B", 123), "codes": ("2h", 252), "qform": ("6f", 256), "sform": ("12f", 280), "magic": ("4s", 344)}


def nrrd(voxels: np.ndarray = VOXELS, encoding: str = "raw", **fields: str | None) -> bytes:
    """A sound .nrrd; `fields` (blanks as _) replace or, if None, remove lines."""
    lines = {"type": {"i2": "short", "f4": "float", "u1": "uchar"}[voxels.dtype.str[1:]], "dimension": str(voxels.ndim),
             "sizes": " ".join(map(str, voxels.shape[::-1])), "space": "left-posterior-superior",
             "space directions": "(0.75,0,0) (0,0.875,0) (0,0,2.5)", "space origin": "(1,2,3)", "endian": "little",
             "encoding": encoding} | {key.replace("_", " "): value for key, value in fields.items()}
    data = {"raw": voxels.tobytes, "gzip": lambda: gzip.compress(voxels.tobytes()), "ascii": lambda: " ".join(map(str, voxels.ravel())).encode()}
    text = "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)
    return b"NRRD0004\n" + text.encode() + b"\n" + data[encoding]()


def mha(voxels: np.ndarray = VOXELS, data: bytes | None = None, **fields: str) -> bytes:
    """A sound .mha; `fields` replace lines."""
    lines = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "False",
             "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "1 2 3", "ElementSpacing": "0.75 0.875 2.5",
             "DimSize": " ".join(map(str, voxels.shape[::-1])), "ElementType": {"i2": "MET_SHORT", "f4": "MET_FLOAT"}[voxels.dtype.str[1:]],
             "ElementDataFile": "LOCAL"}
    last = fields.pop("ElementDataFile", "LOCAL")
    lines |= fields | {"ElementDataFile": last}
    lines["ElementDataFile"] = lines.pop("ElementDataFile")  # ends the header
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode() + (voxels.tobytes() if data is None else data)


def gipl(voxels: np.ndarray = VOXELS, **fields) -> bytes:
    """A sound .gipl; `fields`: sizes, kind, spacing, origin, magic."""
    content = {"sizes": (*voxels.shape[::-1], 1), "kind": 15, "spacing": (*SPACING, 1), "origin": (1, 2, 3, 0), "magic": 719555000} | fields
    header = bytearray(256)
    for name, form, at in (("sizes", ">4H", 0), ("kind", ">H", 8), ("spacing", ">4f", 10), ("origin", ">4d", 204), ("magic", ">I", 252)):
        value = content[name]
        struct.pack_into(form, header, at, *(value if isinstance(value, tuple) else (value,)))
    return bytes(header) + voxels.astype(">i2").tobytes()


def save(content: bytes, path: Path) -> Path:
    """Write; compressed where the name says so."""
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path
