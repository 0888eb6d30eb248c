"""One DICOM file by its header: the planes that it holds, why it holds none, or what is wrong with it.

pydicom reads the header, and only the fields named here; voxels are read later (dicom_pixels.py). Sizes, spacings and positions are
checked before anything is allocated by them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2.imageio.nifti_file import MAX_OFFSET, MAX_SCALE, MAX_SPACING, MIN_SPACING
from nnunetv2.utilities.errors import InputError

MAX_SIDE = 8192  # rows, columns; a file of a few bytes may claim more, and a decoder would allocate it
MAX_FRAMES = 100_000
MAX_FILE_BYTES = 2**32  # an element of DICOM has no more
UNIT = 1e-3  # how far directions may be from unit length and right angles: some programs write three decimals
PREAMBLE = 128  # bytes before the letters DICM
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
GDCM_DECODES = tuple(f"1.2.840.10008.1.2.{tail}" for tail in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5"))
NEEDS_RESCALE = ("CT", "PT")  # whose stored numbers are no units by themselves
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_NOT_SCANS = tuple(f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("66.4", "66.5", "66.7", "481.2", "30"))  # masks, doses, maps
_TAGS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "SeriesDescription", "SeriesNumber",
         "AcquisitionNumber", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored",
         "HighBit", "PixelRepresentation", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept",
         "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True)
class Plane:
    """A slice: a file, or a frame (from 0) of a file with several. Millimetres, DICOM's patient axes (LPS), row direction first.

    size: rows, columns. spacing: between rows, between columns. value = stored * slope + intercept.
    """

    path: Path
    frame: int
    n_frames: int
    instance_uid: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    size: tuple[int, int]
    slope: float
    intercept: float
    syntax: str
    bits: int  # allocated for a voxel
    acquisition: str


@dataclass(frozen=True)
class Header:
    """planes: in the file's order, none where there are `problems`."""

    series_uid: str
    study_uid: str
    modality: str
    description: str
    number: str
    planes: tuple[Plane, ...]
    problems: tuple[str, ...]


class NoScan(Exception):
    """The file is whole, and not what is looked for: its kind, for counting."""


class _Bad(Exception):
    """A field that cannot be used, with its value."""


def load_pydicom() -> Any:
    """The module; InputError that says how to install it."""
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise InputError(f'DICOM is read with the package pydicom, which is not installed ({error}): pip install -c constraints.txt -e ".[dicom]" in the repository') from error
    return pydicom


def is_dicom(path: Path) -> bool:
    """By its first bytes: the letters DICM, or, in files of old programs, the first element of a data set at once."""
    with open(path, "rb") as file:
        head = file.read(PREAMBLE + 4)
    if head[PREAMBLE:] == b"DICM":
        return True
    explicit = head[4:6] in (b"UL", b"UI", b"CS", b"DA", b"TM", b"LO")
    implicit = int.from_bytes(head[4:8], "little") <= 64
    return len(head) == PREAMBLE + 4 and head[:2] == b"\x08\0" and head[3:4] == b"\0" and (explicit or implicit)


def read_header(path: Path, modality: str | None = None) -> Header:
    """Header of a DICOM file. modality: all others are no scans; None takes each that has positions.

    Raises:
        NoScan: masks, reports, plans, pictures in colour or without a position, scouts, other modalities.
        InputError: it is damaged before its header ends, or has no transfer syntax that can be read.
    """
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise InputError(f"has {size} bytes; a DICOM image has at most {MAX_FILE_BYTES}")
    dataset, syntax = _parsed(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of values that are checked here
        try:
            _refuse_other_kinds(dataset, modality)
            problems: list[str] = []
            planes = _planes(dataset, path, syntax, problems)
            return Header(*(_text(dataset, key) for key in ("SeriesInstanceUID", "StudyInstanceUID", "Modality", "SeriesDescription", "SeriesNumber")),
                          () if problems else tuple(planes), tuple(problems))
        except (NoScan, InputError, MemoryError):
            raise
        except _Bad as error:
            raise InputError(str(error)) from error
        except Exception as error:  # damaged bytes: any exception may come from within pydicom
            raise InputError(f"its header is damaged ({type(error).__name__}: {_short(error)})") from error


def uid_name(uid: str) -> str:
    """`JPEG 2000 Image Compression`, `CT Image Storage`, or the UID itself where nobody knows it."""
    return load_pydicom().uid.UID(uid).name


def _parsed(path: Path) -> tuple[Any, str]:
    """The fields in `_TAGS`, and the transfer syntax."""
    pydicom = load_pydicom()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open(path, "rb") as file:
                file.seek(PREAMBLE)
                has_meta = file.read(4) == b"DICM"
            syntax = str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", "")) if has_meta else NATIVE[0]
            if syntax not in (*NATIVE, *GDCM_DECODES):  # before all else: a deflated file would be inflated without bound
                raise _Bad(f"its transfer syntax is {uid_name(syntax) if syntax else 'not given'}, which is not read; convert it (dcmconv, dcmdjpeg or gdcmconv --raw)")
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=not has_meta, specific_tags=list(_TAGS))
            if not has_meta:
                is_implicit, is_little = dataset.original_encoding
                syntax = NATIVE[0] if is_implicit else NATIVE[1] if is_little else NATIVE[2]
            return dataset, syntax
        except _Bad as error:
            raise InputError(str(error)) from error
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise InputError(f"its header is damaged or cut short ({type(error).__name__}: {_short(error)})") from error


def _refuse_other_kinds(dataset: Any, modality: str | None) -> None:
    sop_class, its_modality = _text(dataset, "SOPClassUID"), _text(dataset, "Modality")
    if not sop_class and not its_modality:
        raise _Bad("SOPClassUID and Modality are missing: it is cut short, or no image")
    if uid_name(sop_class).endswith("Image Storage") and (missing := [key for key in ("Modality", "Rows") if not _text(dataset, key)]):
        raise _Bad(f"it is of the class {uid_name(sop_class)}, and {' and '.join(missing)} missing: it is cut short")
    if "Rows" not in dataset or sop_class in _NOT_SCANS:
        raise NoScan(uid_name(sop_class) if sop_class else f"{its_modality or 'DICOM'} without an image")
    if modality is not None and its_modality != modality:
        raise NoScan(f"image of modality {its_modality or 'unknown'}")
    if (_value(dataset, "SamplesPerPixel") or 1) != 1 or _text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":  # numbers of colours are no HU
        raise NoScan("picture in colour")
    if "LOCALIZER" in map(str, _several(_value(dataset, "ImageType"))):
        raise NoScan("scout (LOCALIZER)")
    if sop_class.startswith(_SECONDARY_CAPTURE) and "ImagePositionPatient" not in dataset and "PerFrameFunctionalGroupsSequence" not in dataset:
        raise NoScan("picture without a position (secondary capture)")


def _planes(dataset: Any, path: Path, syntax: str, problems: list[str]) -> list[Plane]:
    rows, columns = (_whole(dataset, key, 1, MAX_SIDE, problems) for key in ("Rows", "Columns"))
    n_frames = _whole(dataset, "NumberOfFrames", 1, MAX_FRAMES, problems, default=1)
    bits = _whole(dataset, "BitsAllocated", 8, 32, problems)
    stored = _whole(dataset, "BitsStored", 1, 32, problems)
    high = _whole(dataset, "HighBit", 0, 31, problems)
    _whole(dataset, "PixelRepresentation", 0, 1, problems)
    if bits not in (8, 16, 32) or stored > bits or high != stored - 1:
        problems.append(f"BitsAllocated, BitsStored and HighBit are {bits}, {stored} and {high}")
    if "ModalityLUTSequence" in dataset:
        problems.append("its values come from a ModalityLUTSequence, not from RescaleSlope and RescaleIntercept")
    if not _text(dataset, "SeriesInstanceUID"):
        problems.append("SeriesInstanceUID is missing")
    if problems:
        return []
    needs_rescale = _text(dataset, "Modality") in NEEDS_RESCALE
    planes = []
    for frame, fields in enumerate(_fields_by_frame(dataset, n_frames)):
        try:
            position, orientation, spacing = _geometry(*fields[:3])
            slope, intercept = _rescale(fields[3], needs_rescale)
        except _Bad as error:
            problems.append(f"frame {frame + 1}: {error}" if n_frames > 1 else str(error))
            break
        planes.append(Plane(path, frame, n_frames, _text(dataset, "SOPInstanceUID"), position, orientation, spacing, (rows, columns), slope, intercept,
                            syntax, bits, _text(dataset, "AcquisitionNumber")))
    return planes


def _fields_by_frame(dataset: Any, n_frames: int) -> list[tuple[Any, Any, Any, Any]]:
    """Of each frame the data sets that hold its position, orientation, spacing and rescaling: the file's own, or an enhanced image's groups."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if n_frames > 1:
            raise _Bad(f"NumberOfFrames is {n_frames}, and no PerFrameFunctionalGroupsSequence gives their positions")
        return [(dataset,) * 4]
    frames, shared = dataset.PerFrameFunctionalGroupsSequence, _first(dataset.get("SharedFunctionalGroupsSequence"))
    if len(frames) != n_frames:
        raise _Bad(f"NumberOfFrames is {n_frames}, PerFrameFunctionalGroupsSequence has {len(frames)} items")

    def group(frame: Any, name: str) -> Any:
        found = _first(frame.get(name))
        return found if found is not None else {} if shared is None else _first(shared.get(name)) or {}

    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")
    return [tuple(group(frame, name) for name in names) for frame in frames]


def _geometry(position_in: Any, orientation_in: Any, spacing_in: Any) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, float]]:
    position = _numbers(position_in, "ImagePositionPatient", 3)
    orientation = _numbers(orientation_in, "ImageOrientationPatient", 6)
    spacing = _numbers(spacing_in, "PixelSpacing", 2)
    missing = [key for key, value in (("ImagePositionPatient", position), ("ImageOrientationPatient", orientation), ("PixelSpacing", spacing)) if value is None]
    if missing:
        raise _Bad(f"{', '.join(missing)} missing")
    if max(map(abs, position)) > MAX_OFFSET:
        raise _Bad(f"ImagePositionPatient is {position}")
    if not all(MIN_SPACING <= value <= MAX_SPACING for value in spacing):
        raise _Bad(f"PixelSpacing is {spacing} mm")
    row, column = np.reshape(orientation, (2, 3))
    if max(abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column)) > UNIT:
        raise _Bad(f"ImageOrientationPatient is {orientation}: no two directions at right angles")
    return position, orientation, spacing


def _rescale(fields: Any, needed: bool) -> tuple[float, float]:
    slope, intercept = _numbers(fields, "RescaleSlope", 1), _numbers(fields, "RescaleIntercept", 1)
    missing = [key for key, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)) if value is None]
    if missing and (needed or len(missing) == 1):
        raise _Bad(f"{' and '.join(missing)} missing: what the stored numbers mean is not known")
    if missing:
        return 1.0, 0.0
    if slope[0] == 0 or max(abs(slope[0]), abs(intercept[0])) > MAX_SCALE:
        raise _Bad(f"RescaleSlope is {slope[0]:g}, RescaleIntercept {intercept[0]:g}")
    return slope[0], intercept[0]


def _value(fields: Any, key: str) -> Any:
    try:
        return fields.get(key)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # what pydicom cannot convert
        raise _Bad(f"{key} cannot be read ({_short(error)})") from error


def _numbers(fields: Any, key: str, n: int) -> tuple[float, ...] | None:
    """`n` finite numbers, None where the field is missing or empty."""
    values = _several(_value(fields, key))
    if not values:
        return None
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != n or not np.isfinite(numbers).all():
        raise _Bad(f"{key} is {_short(values)}")
    return numbers


def _whole(fields: Any, key: str, low: int, high: int, problems: list[str], default: int | None = None) -> int:
    value = _value(fields, key)
    if value is None and default is not None:
        return default
    if isinstance(value, int) and low <= value <= high:
        return int(value)
    problems.append(f"{key} is missing" if value is None else f"{key} is {_short(value)}, it must be {low} to {high}")
    return low


def _several(value: Any) -> Sequence[Any]:
    """A field's value as a list; an empty one has none."""
    if value is None or (isinstance(value, str) and not value):
        return []
    return [value] if isinstance(value, (str, int, float)) or not hasattr(value, "__len__") else list(value)


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _text(fields: Any, key: str) -> str:
    """One line of printable characters; empty where the field is missing."""
    value = _value(fields, key)
    text = "" if value is None else str(value)
    return " ".join("".join(character if character.isprintable() else " " for character in text[:256]).split())


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
