"""Voxels of a DICOM series, rescaled to what they mean (HU for CT).

Uncompressed ones are read by pydicom, which counts their bytes. Compressed ones are decoded by SimpleITK's GDCM from a file that holds
nothing but the compressed frame and its size: no other field of a stranger's file reaches that parser, and it cannot rescale by rules
of its own.
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.dicom_files import shown
from nnunetv2.imageio.dicom_header import GDCM_DECODES, NATIVE, Plane, load_pydicom, uid_name
from nnunetv2.imageio.dicom_series import Stack
from nnunetv2.imageio.voxel_block import MAX_VALUE
from nnunetv2.utilities.errors import InputError, list_some

MAX_EXTRA_BYTES = 2**26  # of a file beyond twice its voxels: header, icons, overlays
_PIXEL_TAGS = ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit",
               "PixelRepresentation", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")


def read_stack(stack: Stack) -> np.ndarray:
    """(Z, Y, X), the planes in the order of `stack`: int16 where all values are whole and fit, else int32, else float32.

    InputError lists every file that is cut short or cannot be decoded.
    """
    load_pydicom()
    whole = all(float(value).is_integer() for plane in stack.planes for value in (plane.slope, plane.intercept))
    volume = np.empty(stack.shape, np.int32 if whole else np.float32)
    problems = []
    with ExitStack() as keep:
        scratch = Path(keep.enter_context(tempfile.TemporaryDirectory())) / "frame.dcm"
        by_file = sorted(enumerate(stack.planes), key=lambda entry: (entry[1].path, entry[1].frame))
        for path, group in groupby(by_file, key=lambda entry: entry[1].path):
            places, planes = zip(*group)
            try:
                for place, plane, stored in zip(places, planes, _stored(path, planes, scratch)):
                    _rescale_into(volume[place], stored, plane)
            except InputError as error:
                problems.append(f"{shown(path)}: {error}")
    if problems:
        raise InputError(f"{len(problems)} file(s) cannot be read; copy or export them again:\n{list_some(problems)}")
    if whole and volume.min() >= -(2**15) and volume.max() < 2**15:
        return volume.astype(np.int16)
    return volume


def _rescale_into(target: np.ndarray, stored: np.ndarray, plane: Plane) -> None:
    values = stored.astype(np.float64) * plane.slope + plane.intercept
    limit = 2.0**31 - 1 if target.dtype.kind == "i" else MAX_VALUE
    if np.abs(values).max() > limit:
        raise InputError(f"has values up to {np.abs(values).max():.3g} after rescaling by {plane.slope:g} and {plane.intercept:g}: no intensity")
    target[:] = values


def _stored(path: Path, planes: Sequence[Plane], scratch: Path) -> Iterator[np.ndarray]:
    """The stored numbers (rows, columns) of each of `planes`, all of the file `path`, sorted by frame."""
    first = planes[0]
    n_bytes = first.n_frames * first.size[0] * first.size[1] * first.bits // 8
    if path.stat().st_size > 2 * n_bytes + MAX_EXTRA_BYTES:
        raise InputError(f"has {path.stat().st_size} bytes, and its {n_bytes} bytes of voxels do not explain them")
    if first.syntax not in (*NATIVE, *GDCM_DECODES):
        raise InputError(f"is compressed as {uid_name(first.syntax)}, which is not read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = load_pydicom().dcmread(path, force=True, specific_tags=list(_PIXEL_TAGS))
            if "PixelData" not in dataset:
                raise InputError("has no PixelData: it is cut short, or a header alone")
            dataset.file_meta.TransferSyntaxUID = load_pydicom().uid.UID(first.syntax)
            frames = _native(dataset, planes) if first.syntax in NATIVE else _encapsulated(dataset, planes, scratch)
            for stored in frames:
                if stored.shape != first.size:
                    raise InputError(f"holds {stored.shape} voxels, its header says {first.size}")
                yield stored
        except (OSError, InputError, MemoryError, GeneratorExit):
            raise
        except Exception as error:  # damaged bytes: any exception may come from within pydicom
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"is cut short or damaged ({type(error).__name__}: {reason})") from error


def _native(dataset: Any, planes: Sequence[Plane]) -> Iterator[np.ndarray]:
    volume = dataset.pixel_array.reshape(planes[0].n_frames, *planes[0].size)
    for plane in planes:
        yield volume[plane.frame]


def _encapsulated(dataset: Any, planes: Sequence[Plane], scratch: Path) -> Iterator[np.ndarray]:
    from pydicom.encaps import generate_frames

    wanted = {plane.frame for plane in planes}
    offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in dataset else None
    found = 0
    for number, frame in enumerate(generate_frames(dataset.PixelData, number_of_frames=planes[0].n_frames, extended_offsets=offsets)):
        if number in wanted:
            found += 1
            yield _decoded(dataset, frame, planes[0].syntax, scratch)
    if found < len(wanted):
        raise InputError(f"has {found} of {len(wanted)} frames: it is cut short")


def _decoded(dataset: Any, frame: bytes, syntax: str, scratch: Path) -> np.ndarray:
    """The stored numbers of one compressed frame."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = uid.UID(syntax)
    bare.SOPClassUID, bare.SOPInstanceUID, bare.Modality = uid.SecondaryCaptureImageStorage, uid.generate_uid(), "OT"
    bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
    for key in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(bare, key, dataset[key].value)
    bare.PixelData = encapsulate([frame])
    bare["PixelData"].VR = "OB"
    bare.save_as(scratch, enforce_file_format=True)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(scratch))
    try:
        stored = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(f"cannot be decoded ({uid_name(syntax)}: {str(error).strip().splitlines()[-1][:120]})") from error
    if stored.dtype.kind not in "iu" or stored.ndim not in (2, 3):
        raise InputError(f"decodes to {stored.ndim} axes of {stored.dtype}, not to one plane of whole numbers")
    return stored.reshape(stored.shape[-2:]) if stored.size == stored.shape[-1] * stored.shape[-2] else stored
