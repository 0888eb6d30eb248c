"""NIfTI images whose axes are not at right angles (gantry tilt, output of a registration).

SimpleITK represents orthonormal directions only and refuses to read such a file. Here it is read with the nearest
orthonormal direction, and the header's affine is kept aside, so that a mask written later lies exactly on its image.
"""

import gzip
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.nifti_file import byte_order, open_nifti

FORM_CODES = 252  # int16 qform_code, sform_code; 0 = not given
SFORM = 280  # 12 float32: rows x, y, z of the voxel-to-world affine, RAS
RAS_TO_LPS = np.array([[-1.0], [-1.0], [1.0]])  # SimpleITK's world has x and y the other way round


def read_sheared(path: str | os.PathLike) -> tuple[sitk.Image, tuple[float, ...]]:
    """The image with the orthonormal direction nearest to its own (polar decomposition), and the sform, row by row."""
    content, order = _load(path)
    sform = struct.unpack_from(f"{order}12f", content, SFORM)
    struct.pack_into(f"{order}hh", content, FORM_CODES, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        unoriented = Path(folder) / "unoriented.nii"
        unoriented.write_bytes(content)
        image = sitk.ReadImage(str(unoriented))
    affine = np.reshape(sform, (3, 4)) * RAS_TO_LPS
    u, _, vt = np.linalg.svd(affine[:, :3] / image.GetSpacing()[:3])
    direction = np.eye(image.GetDimension())
    direction[:3, :3] = u @ vt
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin([*affine[:, 3].tolist(), *image.GetOrigin()[3:]])
    return image, sform


def write_sform(path: str | os.PathLike, sform: tuple[float, ...]) -> None:
    """Make `sform` the only orientation of an existing NIfTI file."""
    content, order = _load(path)
    struct.pack_into(f"{order}hh", content, FORM_CODES, 0, 1)
    struct.pack_into(f"{order}12f", content, SFORM, *sform)
    Path(path).write_bytes(gzip.compress(content) if str(path).endswith(".gz") else content)


def _load(path: str | os.PathLike) -> tuple[bytearray, str]:
    with open_nifti(path) as file:
        content = bytearray(file.read())
    return content, byte_order(content)
