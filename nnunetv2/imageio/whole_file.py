"""Whether a written image is whole. ITK writes to a full disk what fits and says nothing, so each file is looked at afterwards."""

import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.checked_file import read_image
from nnunetv2.imageio.nifti_file import DIM, HEADER_BYTES, byte_order, first_bytes, is_nifti, promised_bytes, truncation
from nnunetv2.imageio.voxel_block import starts_with_gzip
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import raise_systems_reason


def write_image_whole(image: sitk.Image, path: str | os.PathLike) -> None:
    """Write `image`, compressed, and check that all of it is in the file. OSError with the system's reason if not."""
    Path(path).touch()  # an unwritable folder is refused by the system, in its words and not in ITK's
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
    else:
        reason = damage_of_written(path, image)
    if reason is not None:
        raise_systems_reason(path, image.GetNumberOfPixels())
        raise OSError(errno.EIO, f"the image was not written whole ({reason})", str(path))


def damage_of_written(path: str | os.PathLike, image: sitk.Image | None = None) -> str | None:
    """Why the image file at `path` is not whole, or None. Cheap for NIfTI, by its header and gzip trailer; other formats are read.

    image: what was written; formats other than NIfTI are compared with it.
    """
    if is_nifti(path):
        if _ends_where_its_header_says(path):
            return None
        try:
            header = first_bytes(path, HEADER_BYTES, starts_with_gzip(path))
        except InputError as error:
            return str(error)
        return truncation(path) if byte_order(header) is not None else f"{path} has no whole NIfTI header"
    try:
        found = read_image(path)[0]
    except InputError as error:
        return str(error)
    if image is not None and not np.array_equal(found.reshape(-1), sitk.GetArrayViewFromImage(image).reshape(-1)):
        return f"{path} does not hold what was written"
    return None


def _ends_where_its_header_says(path: str | os.PathLike) -> bool:
    """Whether a NIfTI-1 file, or the length that its gzip trailer claims, is as long as its header promises. Reads its two ends alone."""
    with open(path, "rb") as file:
        header, length = file.read(4096), file.seek(0, os.SEEK_END)
        if header.startswith(b"\x1f\x8b") and length >= 18:
            file.seek(-4, os.SEEK_END)
            length = struct.unpack("<I", file.read())[0]
            try:
                header = zlib.decompressobj(31).decompress(header, HEADER_BYTES)
            except zlib.error:
                return False
    order = byte_order(header)
    return order is not None and 1 <= struct.unpack_from(f"{order}h", header, DIM)[0] <= 7 and promised_bytes(header, order) == length
