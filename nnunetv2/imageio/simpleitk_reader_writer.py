"""Images and label maps through SimpleITK: arrays in (Z, Y, X), geometry carried along untouched."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.checked_file import read_image
from nnunetv2.imageio.geometry import corner_shift, describe, same_grid
from nnunetv2.imageio.inflate import compress
from nnunetv2.imageio.label_values import snap_labels
from nnunetv2.imageio.nifti_file import is_nifti, new_file
from nnunetv2.imageio.reorientation import Reorientation, affine_of_geometry, geometry_of_affine
from nnunetv2.imageio.whole_file import write_image_whole
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import atomic_write

FLAT_SPACING_FACTOR = 999  # through-plane spacing given to 2D images, times the largest in-plane spacing


class SimpleITKIO(BaseReaderWriter):
    """Reader and writer of every format SimpleITK knows.

    Properties of an image: `spacing`, mm in array order (z, y, x), and `sitk_stuff` with SimpleITK's own `spacing`,
    `origin`, `direction` (x first) and, for NIfTI, `forms`, both orientations of its header, so that a mask lies on its image
    in every program; a sheared one also has its `affine`. They are all that write_seg needs; of `spacing` alone it makes a mask at origin 0.
    """

    supported_file_endings = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")
    turns_to_ras = False  # whether arrays have other axes than their files

    def read_images(self, image_fnames: Sequence[str | os.PathLike]) -> tuple[np.ndarray, dict[str, Any]]:
        """Stack the files' channels: (C, Z, Y, X) float32 and the first file's properties.

        A 2D file counts as one slice. 4D and multi-component files hold several channels. Channels whose grids differ
        visibly, in shape or by more than a tenth of a voxel anywhere, are refused with InputError, and so are damaged files,
        voxels that are not finite and impossible geometry (see checked_file); all bad files of the case are named.
        """
        channels, geometries = zip(*_read_all(image_fnames))
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
            raise InputError(f"The channels of one case must share a voxel grid. {image_fnames[0]} has shape {shape}, "
                             f"{describe(first)}, but\n{listed}\nResample them onto the first.")
        joined = channels[0] if len(channels) == 1 else np.concatenate(channels)
        return np.ascontiguousarray(joined, dtype=np.float32), _properties(first)

    def read_seg(self, seg_fname: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        """(1, Z, Y, X) float32 of whole numbers, and the properties.

        Labels stored as floats are rounded where they are within 1e-3 of a whole number, and refused by value otherwise.
        Several layers, components or a fourth dimension are refused: a label map says one thing about a voxel.
        """
        seg, geometry = read_image(seg_fname)
        if len(seg) != 1:
            raise InputError(f"{seg_fname} has {len(seg)} layers; a segmentation has one number a voxel. Merge them into one label map.")
        return snap_labels(seg, seg_fname).astype(np.float32, copy=False), _properties(geometry)

    def write_seg(self, seg: np.ndarray, output_fname: str | os.PathLike, properties: dict[str, Any]) -> None:
        """Write a (Z, Y, X) label map on the grid of `properties`: uint8, or uint16 with labels of 255 and more.

        Whole or not there: OSError, with the path and the system's reason, where the disk does not take it all.
        """
        if seg.ndim != 3:
            raise ValueError(f"{output_fname}: a label map has axes (Z, Y, X), 2D as (1, Y, X); got shape {seg.shape}.")
        geometry = properties["sitk_stuff"] if "sitk_stuff" in properties else plain_geometry(properties["spacing"])
        if len(geometry["spacing"]) == 2:
            seg = seg[0]
        seg = seg.astype(np.uint8 if seg.max(initial=0) < 255 else np.uint16, copy=False)
        if "forms" in geometry and is_nifti(output_fname):
            content = new_file(seg, geometry["spacing"], geometry["forms"])
            with atomic_write(output_fname) as temporary:
                temporary.write_bytes(compress(content) if str(output_fname).lower().endswith(".gz") else content)
            return
        image = sitk.GetImageFromArray(seg)
        image.SetSpacing(geometry["spacing"])
        image.SetOrigin(geometry["origin"])
        image.SetDirection(geometry["direction"])
        with atomic_write(output_fname) as temporary:
            write_image_whole(image, temporary)


class SimpleITKIOWithReorient(SimpleITKIO):
    """All of SimpleITKIO's formats, 3D alone. `sitk_stuff` describes the turned grid, and `original_orientation` the file's, as "LPS"."""

    turns_to_ras = True

    def read_images(self, image_fnames: Sequence[str | os.PathLike]) -> tuple[np.ndarray, dict[str, Any]]:
        """As SimpleITKIO. Channels share a grid as they lie in their files."""
        return turned_to_ras(*super().read_images(image_fnames), image_fnames[0])

    def read_seg(self, seg_fname: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        return turned_to_ras(*super().read_seg(seg_fname), seg_fname)

    def write_seg(self, seg: np.ndarray, output_fname: str | os.PathLike, properties: dict[str, Any]) -> None:
        """`seg` (Z, Y, X) in RAS; the file has the orientation of the image."""
        undone, as_in_file = turned_back(seg, properties)
        super().write_seg(undone, output_fname, as_in_file)


def read_volume(path: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
    """One 3D volume (Z, Y, X) float32 and its properties; InputError for several channels, other dimensions and all that read_images refuses."""
    array, properties = SimpleITKIO().read_images([path])
    if len(array) != 1 or len(properties["sitk_stuff"]["spacing"]) != 3:
        raise InputError(f"{path} is not a single 3D volume: {len(array)} channel(s), size {array.shape[1:]}. Give one file with one channel.")
    return array[0], properties


def plain_geometry(spacing: Sequence[float]) -> dict[str, Any]:
    """`sitk_stuff` of an image of which nothing but its spacing (z, y, x), mm, is known: origin 0, axes as SimpleITK has them."""
    return {"spacing": tuple(float(value) for value in spacing[::-1]), "origin": (0.0,) * 3, "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}


def _properties(geometry: dict[str, Any]) -> dict[str, Any]:
    spacing = list(geometry["spacing"][::-1])
    if len(spacing) == 2:
        spacing.insert(0, max(spacing) * FLAT_SPACING_FACTOR)
    return {"sitk_stuff": geometry, "spacing": spacing}


def _read_all(paths: Sequence[str | os.PathLike]) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Each file's channels and geometry. Where several cannot be read, one error names all of them."""
    read, problems = [], []
    for path in paths:
        try:
            read.append(read_image(path, as_float=True))
        except (OSError, InputError) as error:
            if len(paths) == 1:
                raise
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return read


def turned_to_ras(data: np.ndarray, properties: dict[str, Any], path: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
    """(..., Z, Y, X) and properties, as SimpleITKIO gives them -> as SimpleITKIOWithReorient does. path: what messages call the image."""
    stuff = properties["sitk_stuff"]
    if len(stuff["spacing"]) != 3:
        raise InputError(f"{path} is 2D; SimpleITKIOWithReorient turns volumes. Choose SimpleITKIO in dataset.json (overwrite_image_reader_writer).")
    affine = affine_of_geometry(stuff)
    turn = Reorientation.of_affine(affine)
    geometry = {key: value for key, value in geometry_of_affine(turn.affine_of_turned(affine, data.shape)).items() if key != "forms"}
    geometry["spacing"] = tuple(stuff["spacing"][axis] for axis in turn.axes)  # as in the header, to the last bit
    geometry["original_orientation"] = turn.letters
    if "forms" in stuff:
        geometry["original_forms"] = stuff["forms"]
    return np.ascontiguousarray(turn.apply(data)), {"sitk_stuff": geometry, "spacing": list(geometry["spacing"][::-1])}


def turned_back(array: np.ndarray, properties: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The reverse of `turned_to_ras`, of a mask (Z, Y, X) or what lies on its grid, (..., Z, Y, X). As they are where nothing was turned."""
    stuff = properties.get("sitk_stuff", {})
    if "original_orientation" not in stuff:
        return array, dict(properties)
    back = Reorientation.of_letters(stuff["original_orientation"])
    undone = np.ascontiguousarray(back.undo(array))
    geometry = geometry_of_affine(back.affine_of_undone(affine_of_geometry(stuff), array.shape))
    if "original_forms" in stuff:
        geometry["forms"] = stuff["original_forms"]
    return undone, {"sitk_stuff": geometry, "spacing": list(geometry["spacing"][::-1])}
