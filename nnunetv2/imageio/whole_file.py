"""Whether a written image is whole. ITK writes to a full disk what fits and says nothing, so each file is looked at afterwards."""

import errno
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.nifti_file import GZIP_DAMAGE, HEADER_BYTES, byte_order, is_nifti, open_nifti, truncation

PROBE_BYTES = 2**24  # written to learn the system's reason for a short file


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
        _raise_systems_reason(path, image.GetNumberOfPixels())
        raise OSError(errno.EIO, f"the image was not written whole ({reason})", str(path))


def damage_of_written(path: str | os.PathLike, image: sitk.Image | None = None) -> str | None:
    """Why the image file at `path` is not whole, or None. Cheap for NIfTI, by its header and gzip trailer; other formats are read.

    image: what was written; formats other than NIfTI are compared with it.
    """
    if is_nifti(path):
        try:
            with open_nifti(path) as file:
                header = file.read(HEADER_BYTES)
        except GZIP_DAMAGE as error:
            return f"{path} is damaged ({error})"
        return truncation(path) if byte_order(header) is not None else f"{path} has no whole NIfTI header"
    try:
        found = sitk.ReadImage(str(path))
    except RuntimeError as error:
        return f"{path} cannot be read ({str(error).strip().splitlines()[-1]})"
    if image is not None and not np.array_equal(sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(image)):
        return f"{path} does not hold what was written"
    return None


def _raise_systems_reason(path: str | os.PathLike, n_bytes: int) -> None:
    """Write as much as the image has in the same place: a full disk, a quota or a limit on file sizes raises its own OSError."""
    with open(path, "wb") as file:
        file.write(bytes(min(n_bytes, PROBE_BYTES)))
        file.flush()
        os.fsync(file.fileno())
