"""Volumes in TIFF files. They hold no spacing: it is in CASE.json beside them, {"spacing": [z, y, x]}, mm, or taken for 1."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.checked_file import require_regular_file
from nnunetv2.imageio.label_values import snap_labels
from nnunetv2.imageio.nifti_file import MAX_SPACING, MIN_SPACING
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import atomic_write, load_json, save_json


class Tiff3DIO(BaseReaderWriter):
    """(Z, Y, X) as the pages of one file; needs tifffile, which scikit-image brings along."""

    supported_file_endings = (".tif", ".tiff")

    def read_images(self, image_fnames: Sequence[str | os.PathLike]) -> tuple[np.ndarray, dict[str, Any]]:
        """(C, Z, Y, X) float32; the spacing of CASE.json, where the files are CASE_0000.tif and so on. InputError for damaged files and other shapes."""
        volumes = [_read(path) for path in image_fnames]
        sizes = {str(path): volume.shape for path, volume in zip(image_fnames, volumes)}
        if len(set(sizes.values())) > 1:
            raise InputError(f"The channels of one case must have the same shape (z, y, x): {sizes}.")
        first = Path(image_fnames[0])
        spacing_file = first.with_name(first.stem[:-5] + ".json")
        if not spacing_file.is_file():
            warnings.warn(f"{first} has no {spacing_file.name} with its spacing beside it; taken for 1 x 1 x 1 mm.", stacklevel=2)
        return np.stack(volumes).astype(np.float32, copy=False), _properties(spacing_file)

    def read_seg(self, seg_fname: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        """(1, Z, Y, X) float32 of whole numbers; the spacing of CASE.json beside CASE.tif, without which it fits every image of its shape."""
        path = Path(seg_fname)
        return snap_labels(_read(path)[None].astype(np.float32), path), _properties(path.with_suffix(".json"))

    def write_seg(self, seg: np.ndarray, output_fname: str | os.PathLike, properties: dict[str, Any]) -> None:
        """Write a (Z, Y, X) label map, uint8, or uint16 with labels of 255 and more, and its spacing beside it."""
        volume = seg.astype(np.uint8 if seg.max(initial=0) < 255 else np.uint16, copy=False)
        with atomic_write(output_fname) as temporary:
            _library().imwrite(temporary, data=volume, compression="zlib", photometric="minisblack")
        save_json({"spacing": [float(value) for value in properties["spacing"]]}, Path(output_fname).with_suffix(".json"))


def _library() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise InputError("Tiff3DIO needs the library tifffile, which is not installed: pip install tifffile.") from error
    return tifffile


def _read(path: str | os.PathLike) -> np.ndarray:
    """(Z, Y, X)."""
    require_regular_file(path)
    library = _library()
    try:
        volume = library.imread(path)
    except Exception as error:  # the library's own kinds are many
        raise InputError(f"{path} cannot be read as TIFF: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}.") from error
    if volume.ndim != 3 or volume.size == 0 or volume.dtype.kind not in "biuf":
        raise InputError(f"{path} has shape {volume.shape} of {volume.dtype}; Tiff3DIO reads volumes (z, y, x) with one channel a file.")
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        raise InputError(f"{path} has {np.count_nonzero(~np.isfinite(volume))} NaN or infinite voxel(s). Export it again.")
    return volume


def _properties(spacing_file: Path) -> dict[str, Any]:
    """Without `sitk_stuff`, by which grids are compared, where there is no such file: nothing says where the voxels lie."""
    if not spacing_file.is_file():
        return {"spacing": [1.0, 1.0, 1.0]}
    content = load_json(spacing_file)
    spacing = content.get("spacing") if isinstance(content, dict) else None
    possible = isinstance(spacing, list) and len(spacing) == 3 and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and MIN_SPACING <= value <= MAX_SPACING for value in spacing)
    if not possible:
        raise InputError(f"{spacing_file}: spacing is {spacing!r}; it must be three mm, [z, y, x], from {MIN_SPACING:g} to {MAX_SPACING:g}.")
    geometry = {"spacing": tuple(map(float, spacing[::-1])), "origin": (0.0,) * 3, "direction": tuple(np.eye(3).ravel().tolist())}
    return {"sitk_stuff": geometry, "spacing": [float(value) for value in spacing]}
