"""Images and label maps through SimpleITK: arrays in (Z, Y, X), geometry carried along untouched."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.geometry import corner_shift, describe, same_grid
from nnunetv2.imageio.nifti_file import is_nifti, truncation
from nnunetv2.imageio.sheared_nifti import read_sheared, write_sform
from nnunetv2.imageio.whole_file import write_image_whole
from nnunetv2.utilities.files import atomic_write

FLAT_SPACING_FACTOR = 999  # through-plane spacing given to 2D images, times the largest in-plane spacing


class SimpleITKIO:
    """Reader and writer of every format SimpleITK knows.

    Properties of an image: `spacing`, mm in array order (z, y, x), and `sitk_stuff` with SimpleITK's own `spacing`,
    `origin`, `direction` (x first) and, for a sheared NIfTI, `sform`. They are all that write_seg needs.
    """

    supported_file_endings = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")

    def read_images(self, image_fnames: Sequence[str | os.PathLike]) -> tuple[np.ndarray, dict[str, Any]]:
        """Stack the files' channels: (C, Z, Y, X) float32 and the first file's properties.

        A 2D file counts as one slice. 4D and multi-component files hold several channels. Channels whose grids differ
        visibly, in shape or by more than a tenth of a voxel anywhere, are refused with ValueError.
        """
        channels, geometries = zip(*(_read(path) for path in image_fnames))
        first = geometries[0]
        shape = channels[0].shape[1:]
        problems = []
        for path, array, geometry in zip(image_fnames, channels, geometries):
            if array.shape[1:] != shape:
                problems.append(f"{path}: shape {array.shape[1:]}, expected {shape}")
            elif not same_grid(first, geometry, shape):
                problems.append(f"{path}: {describe(geometry)}; up to {corner_shift(first, geometry, shape):.3g} mm off")
        if problems:
            listed = "\n".join(f"  {problem}" for problem in problems)
            raise ValueError(f"The channels of one case must share a voxel grid. {image_fnames[0]} has shape {shape}, "
                             f"{describe(first)}, but\n{listed}\nResample them onto the first.")
        spacing = [abs(value) for value in first["spacing"][::-1]]
        if len(spacing) == 2:
            spacing.insert(0, max(spacing) * FLAT_SPACING_FACTOR)
        return np.concatenate(channels, dtype=np.float32, casting="unsafe"), {"sitk_stuff": first, "spacing": spacing}

    def read_seg(self, seg_fname: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        """(1, Z, Y, X) float32, so that labels stored as floats reach the integrity check as they are."""
        return self.read_images([seg_fname])

    def write_seg(self, seg: np.ndarray, output_fname: str | os.PathLike, properties: dict[str, Any]) -> None:
        """Write a (Z, Y, X) label map on the grid of `properties`: uint8, or uint16 with labels of 255 and more.

        Whole or not there: OSError, with the path and the system's reason, where the disk does not take it all.
        """
        if seg.ndim != 3:
            raise ValueError(f"{output_fname}: a label map has axes (Z, Y, X), 2D as (1, Y, X); got shape {seg.shape}.")
        geometry = properties["sitk_stuff"]
        if len(geometry["spacing"]) == 2:
            seg = seg[0]
        image = sitk.GetImageFromArray(seg.astype(np.uint8 if seg.max(initial=0) < 255 else np.uint16, copy=False))
        image.SetSpacing(geometry["spacing"])
        image.SetOrigin(geometry["origin"])
        image.SetDirection(geometry["direction"])
        with atomic_write(output_fname) as temporary:
            write_image_whole(image, temporary)
            if "sform" in geometry and is_nifti(output_fname):
                write_sform(temporary, geometry["sform"])


def _read(path: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
    """(C, Z, Y, X) in the file's own type, and the geometry of one channel."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} does not exist.")
    if is_nifti(path) and (damage := truncation(path)) is not None:
        raise ValueError(f"{damage}.")
    sform = None
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        if "orthonormal" not in str(error) or not is_nifti(path):
            raise ValueError(f"{path} cannot be read: {str(error).strip().splitlines()[-1]}") from error
        image, sform = read_sheared(path)
    array = sitk.GetArrayFromImage(image)
    dims = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)  # components come last
    elif dims < 4:
        array = array[None]
    if dims == 2:
        array = array[:, None]
    if array.ndim != 4:
        raise ValueError(f"{path} has {dims} dimensions; images have two or three, four with several channels.")
    space = min(dims, 3)  # the fourth dimension of a file is its channels
    geometry = {
        "spacing": image.GetSpacing()[:space],
        "origin": image.GetOrigin()[:space],
        "direction": tuple(np.reshape(image.GetDirection(), (dims, dims))[:space, :space].ravel().tolist()),
    }
    return array, geometry if sform is None else geometry | {"sform": sform}

