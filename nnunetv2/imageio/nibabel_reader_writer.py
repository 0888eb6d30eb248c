"""nnU-Net's readers of NIfTI by nibabel, without nibabel: voxels and affines are the same, and files are checked as all others are.

Their properties have upstream's `nibabel_stuff` (affines, RAS) beside `sitk_stuff`, by which grids are compared; the first is enough to write.
`spacing` and `nibabel_stuff` count as the header does, as nibabel's do, so that plans and models of nnU-Net's fit; `sitk_stuff` is in mm.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunetv2.imageio.nifti_file import is_nifti, read_header
from nnunetv2.imageio.reorientation import Reorientation, geometry_of_affine
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, turned_back
from nnunetv2.utilities.errors import InputError


class NibabelIO(SimpleITKIO):
    """NIfTI as it lies in the file; axes (C, Z, Y, X) as SimpleITKIO has them."""

    supported_file_endings = (".nii", ".nii.gz")

    def read_images(self, image_fnames: Sequence[str | os.PathLike]) -> tuple[np.ndarray, dict[str, Any]]:
        """As SimpleITKIO; only 3D NIfTI files of one channel."""
        _refuse_others(type(self).__name__, image_fnames)
        data, properties = super().read_images(image_fnames)
        return data, properties | _as_in_header(image_fnames[0], properties)

    def read_seg(self, seg_fname: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        _refuse_others(type(self).__name__, [seg_fname])
        seg, properties = super().read_seg(seg_fname)
        return seg, properties | _as_in_header(seg_fname, properties)

    def write_seg(self, seg: np.ndarray, output_fname: str | os.PathLike, properties: dict[str, Any]) -> None:
        if "sitk_stuff" not in properties and "nibabel_stuff" in properties:  # upstream's own
            properties = {"sitk_stuff": geometry_of_affine(np.asarray(properties["nibabel_stuff"]["original_affine"], float))}
        super().write_seg(seg, output_fname, properties)


class NibabelIOWithReorient(NibabelIO):
    """NIfTI turned to RAS (reorientation.py), and masks turned back."""

    turns_to_ras = True

    def read_images(self, image_fnames: Sequence[str | os.PathLike]) -> tuple[np.ndarray, dict[str, Any]]:
        """As NibabelIO. Channels share a grid as they lie in their files."""
        return _turned(*super().read_images(image_fnames), image_fnames[0])

    def read_seg(self, seg_fname: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        return _turned(*super().read_seg(seg_fname), seg_fname)

    def write_seg(self, seg: np.ndarray, output_fname: str | os.PathLike, properties: dict[str, Any]) -> None:
        """`seg` (Z, Y, X) in RAS; the file has the orientation of the image."""
        if "sitk_stuff" in properties or "nibabel_stuff" not in properties:
            seg, properties = turned_back(seg, properties)
        else:  # upstream's own
            seg = np.ascontiguousarray(Reorientation.of_affine(properties["nibabel_stuff"]["original_affine"]).undo(seg))
        super().write_seg(seg, output_fname, properties)


def nifti_affine(path: str | os.PathLike) -> np.ndarray:
    """(4, 4) RAS, mm: the sform where it is given, else the qform, else the spacing alone, x to the left, around the middle of the volume."""
    header = read_header(path)
    forms, affine = header.forms, np.eye(4)
    if forms["codes"][1]:
        affine[:3] = np.reshape(forms["sform"], (3, 4))
    elif forms["codes"][0]:
        qfac, b, c, d, *offset = forms["qform"]
        affine[:3, :3] = _rotation(b, c, d) * np.array([1, 1, -1 if qfac < 0 else 1]) * np.asarray(header.spacing)
        affine[:3, 3] = offset
    else:
        columns = np.asarray(header.spacing) * (-1, 1, 1)
        affine[:3, :3], affine[:3, 3] = np.diag(columns), -columns * (np.asarray(header.sizes) - 1) / 2
    return affine


def _as_in_header(path: str | os.PathLike, properties: dict[str, Any]) -> dict[str, Any]:
    """`spacing` and `nibabel_stuff` in the header's unit."""
    unit = read_header(path).unit_mm
    if unit != 1:
        warnings.warn(f"Files of NIfTI count in {'metres' if unit > 1 else 'micrometres'}; nibabel's readers take the numbers for mm, as nnU-Net's do.",
                      stacklevel=3)
    return {"spacing": [value / unit for value in properties["spacing"]], "nibabel_stuff": {"original_affine": _counted(nifti_affine(path), unit)}}


def _counted(affine: np.ndarray, unit_mm: float) -> np.ndarray:
    """(4, 4) in mm -> in another unit."""
    return np.diag([1 / unit_mm] * 3 + [1]) @ affine


def _turned(data: np.ndarray, properties: dict[str, Any], path: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
    affine, forms = nifti_affine(path), properties["sitk_stuff"]["forms"]
    turn = Reorientation.of_affine(affine)
    turned = turn.affine_of_turned(affine, data.shape)
    geometry = {key: value for key, value in geometry_of_affine(turned).items() if key != "forms"}
    spacing = [properties["spacing"][2 - axis] for axis in turn.axes[::-1]]
    return np.ascontiguousarray(turn.apply(data)), {"sitk_stuff": geometry | {"original_orientation": turn.letters, "original_forms": forms}, "spacing": spacing,
                                                    "nibabel_stuff": properties["nibabel_stuff"] | {"reoriented_affine": _counted(turned, read_header(path).unit_mm)}}


def _rotation(b: float, c: float, d: float) -> np.ndarray:
    """(3, 3) of the unit quaternion whose other three parts are given, as NIfTI stores it."""
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    return np.array([[a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                     [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                     [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c]])


def _refuse_others(reader: str, files: Sequence[str | os.PathLike]) -> None:
    others = [str(path) for path in files if not is_nifti(path)]
    others += [f"{path} with {len(read_header(path).sizes)} dimensions" for path in files if is_nifti(path) and os.path.isfile(path)
               and len(read_header(path).sizes) != 3]
    if others:
        raise InputError(f"{reader} reads 3D NIfTI files with one channel each, not {', '.join(others)}. "
                         "Convert them, or choose SimpleITKIO in dataset.json (overwrite_image_reader_writer).")
