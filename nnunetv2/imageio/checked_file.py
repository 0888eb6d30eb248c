"""The one door to voxels: a file is read whole, finite and on a possible grid, or refused by name. ITK alone hides all three.

Headers are checked before ITK sees them, voxels are inflated here with their checksum, once; ITK gives the geometry.
"""

import errno
import math
import os
import stat
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.nifti_file import MAX_OFFSET, MAX_SPACING, MIN_SPACING, NiftiHeader, is_nifti, read_header
from nnunetv2.imageio.other_formats import block_reader
from nnunetv2.imageio.sheared_nifti import sheared_geometry
from nnunetv2.imageio.voxel_block import VoxelBlock, read_block
from nnunetv2.utilities.errors import InputError


def read_image(path: str | os.PathLike, as_float: bool = False) -> tuple[np.ndarray, dict[str, Any]]:
    """(C, Z, Y, X) in the file's own type (float32 if it holds floats, or for `as_float`), and the geometry of one channel; 2D is one slice.

    Geometry: SimpleITK's `spacing`, `origin`, `direction` (x first); of NIfTI also `forms`, both orientations of the header,
    and `affine` where its axes are not at right angles.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is no regular file, damaged, not finite, or its geometry is impossible.
    """
    require_regular_file(path)
    if is_nifti(path):
        header = read_header(path)
        voxels = read_block(path, header.block, as_float)
        return _channels_first(voxels, len(header.sizes)), _nifti_geometry(path, header)
    read_header_of = block_reader(path)
    block = None if read_header_of is None else read_header_of(path)
    voxels = None if block is None else read_block(path, block, as_float)
    reader = _itk_header(path)
    geometry = _geometry(path, reader)
    n_dims, n_components = reader.GetDimension(), reader.GetNumberOfComponents()
    if voxels is None or n_components > 1:  # ITK knows each format's order of components
        voxels = _itk_voxels(path, reader)
    _same_size(path, reader, block)
    if voxels.dtype.kind not in "iuf":
        raise InputError(f"{path} has {voxels.dtype} voxels, an image has one number a voxel. Save its parts as channels.")
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise InputError(f"{path} has {np.count_nonzero(~np.isfinite(voxels))} NaN or infinite voxel(s). Export it again.")
    if n_components > 1:
        if n_dims > 3:
            raise InputError(f"{path} has {n_dims} dimensions and {n_components} components. Save its channels as files of their own.")
        voxels = np.moveaxis(voxels, -1, 0)
        return (voxels if n_dims == 3 else voxels[:, None]), geometry
    return _channels_first(voxels, n_dims), geometry


def stored_type(path: str | os.PathLike) -> np.dtype:
    """The type of the numbers as they are stored, before any scaling, by the header alone."""
    require_regular_file(path)
    if is_nifti(path):
        return read_header(path).block.dtype.newbyteorder("=")
    read_header_of = block_reader(path)
    if read_header_of is None:
        raise InputError(f"{path} is of a format whose header is not known here; save it as .nii.gz.")
    return read_header_of(path).dtype.newbyteorder("=")


def stored_voxels(path: str | os.PathLike) -> int:
    """How many numbers a file holds, all channels, by its checked header alone."""
    require_regular_file(path)
    if is_nifti(path):
        return math.prod(read_header(path).sizes)
    if (read_header_of := block_reader(path)) is not None:
        read_header_of(path)
    reader = _itk_header(path)
    return math.prod(reader.GetSize()) * reader.GetNumberOfComponents()


def require_regular_file(path: str | os.PathLike) -> None:
    """Told by the file system, without opening it: a pipe would be waited for, a device read for ever."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise InputError(f"{path} is a link to {os.readlink(path)!r}, which does not exist. Mend or remove the link.") from None
        raise FileNotFoundError(f"{path} does not exist. Check the path.") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{path} is a link that leads in a circle. Mend or remove it.") from error
    if (kind := irregular(mode)) is not None:
        raise InputError(f"{path} is {kind} and no file. Give an image file.")


def irregular(mode: int) -> str | None:
    """What `st_mode` says something is, if it is no regular file."""
    if stat.S_ISREG(mode):
        return None
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
             (stat.S_ISBLK, "a device"))
    return next((kind for is_kind, kind in kinds if is_kind(mode)), "something else")


def _channels_first(voxels: np.ndarray, n_dims: int) -> np.ndarray:
    """(Y, X), (Z, Y, X) or (..., C, ..., Z, Y, X) -> (C, Z, Y, X)."""
    return voxels[None, None] if n_dims == 2 else voxels.reshape(-1, *voxels.shape[-3:])


def _nifti_geometry(path: str | os.PathLike, header: NiftiHeader) -> dict[str, Any]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if "orthonormal" not in str(error) or not header.forms["codes"][1] or len(header.spacing) != 3:
            raise _unreadable(path, error) from error
        return sheared_geometry(header) | {"forms": header.forms}
    _same_size(path, reader, header.block)
    return _geometry(path, reader) | {"forms": header.forms}


def _itk_header(path: str | os.PathLike) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return reader


def _itk_voxels(path: str | os.PathLike, reader: sitk.ImageFileReader) -> np.ndarray:
    try:
        return sitk.GetArrayFromImage(reader.Execute())
    except (RuntimeError, MemoryError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike, error: BaseException) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if "orthonormal" in reason:
        reason = "its axes are not at right angles, which only NIfTI's are supported for; resample it or save it as NIfTI"
    return InputError(f"{path} cannot be read: {reason}")


def _same_size(path: str | os.PathLike, reader: sitk.ImageFileReader, block: VoxelBlock | None) -> None:
    """ITK and our reading of the header must agree on the number of voxels."""
    size = reader.GetSize()
    if block is not None and int(np.prod(size, dtype=object)) * reader.GetNumberOfComponents() != block.n_bytes // block.dtype.itemsize:
        raise InputError(f"{path}: its header can be read in two ways, as {size} or as {block.shape[::-1]} voxels (x first). Save it again.")


def _geometry(path: str | os.PathLike, reader: sitk.ImageFileReader) -> dict[str, Any]:
    dims = reader.GetDimension()
    if not 2 <= dims <= 5:
        raise InputError(f"{path} has {dims} dimensions; images have two or three, four with several channels. Save its volumes as files of their own.")
    space = min(dims, 3)  # further dimensions of a file are its channels
    geometry = {
        "spacing": reader.GetSpacing()[:space],
        "origin": reader.GetOrigin()[:space],
        "direction": tuple(np.reshape(reader.GetDirection(), (dims, dims))[:space, :space].ravel().tolist()),
    }
    problems = [f"{key} is {geometry[key]}" for key, possible in (
        ("spacing", lambda value: MIN_SPACING <= value <= MAX_SPACING), ("origin", lambda value: abs(value) <= MAX_OFFSET),
        ("direction", lambda value: abs(value) <= 1.001)) if not all(map(possible, geometry[key]))]
    if problems:
        raise InputError(f"{path} has an impossible geometry: {'; '.join(problems)}. Mend its header.")
    return geometry
