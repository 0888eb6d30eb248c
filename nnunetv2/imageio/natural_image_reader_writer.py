"""2D pictures: one file holds one channel, or three or four colours as channels."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from skimage import io

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.checked_file import require_regular_file
from nnunetv2.imageio.label_values import snap_labels
from nnunetv2.imageio.simpleitk_reader_writer import FLAT_SPACING_FACTOR
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import atomic_write

# a picture has no size in mm: pixels of 1 x 1, the slice as thick as of all 2D images
PROPERTIES = {"sitk_stuff": {"spacing": (1.0, 1.0), "origin": (0.0, 0.0), "direction": (1.0, 0.0, 0.0, 1.0)}, "spacing": (FLAT_SPACING_FACTOR, 1, 1)}


class NaturalImage2DIO(BaseReaderWriter):
    """PNG, BMP and 2D TIFF."""

    supported_file_endings = (".png", ".bmp", ".tif")

    def read_images(self, image_fnames: Sequence[str | os.PathLike]) -> tuple[np.ndarray, dict[str, Any]]:
        """(C, 1, Y, X) float32; RGB has three channels, RGBA four. InputError for damaged files, other shapes and files of different sizes."""
        pictures = [_read(path) for path in image_fnames]
        sizes = {str(path): picture.shape[2:] for path, picture in zip(image_fnames, pictures)}
        if len(set(sizes.values())) > 1:
            raise InputError(f"The channels of one case must have the same size (y, x): {sizes}.")
        joined = np.concatenate(pictures, dtype=np.float32, casting="unsafe")
        if not np.isfinite(joined).all():
            raise InputError(f"{', '.join(map(str, image_fnames))}: NaN or infinite pixels. Export it again.")
        return joined, dict(PROPERTIES)

    def read_seg(self, seg_fname: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        """(1, 1, Y, X) float32 of whole numbers."""
        seg, properties = self.read_images([seg_fname])
        if len(seg) != 1:
            raise InputError(f"{seg_fname} has {len(seg)} colours; a segmentation has one number a pixel. Save it as a picture in grey.")
        return snap_labels(seg, seg_fname), properties

    def write_seg(self, seg: np.ndarray, output_fname: str | os.PathLike, properties: dict[str, Any]) -> None:
        """Write a (1, Y, X) label map: uint8, or uint16 with labels of 255 and more."""
        picture = seg[0].astype(np.uint8 if seg.max(initial=0) < 255 else np.uint16, copy=False)
        with atomic_write(output_fname) as temporary:
            io.imsave(str(temporary), picture, check_contrast=False)


def _read(path: str | os.PathLike) -> np.ndarray:
    """(C, 1, Y, X)."""
    require_regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that nothing here reads
            picture = np.asarray(io.imread(str(path)))
    except Exception as error:  # each format's library has its own
        raise InputError(f"{path} cannot be read as a picture: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}.") from error
    if picture.dtype.kind not in "biuf" or picture.size == 0 or not (picture.ndim == 2 or picture.ndim == 3 and picture.shape[-1] in (3, 4)):
        raise InputError(f"{path} has shape {picture.shape} of {picture.dtype}; a picture is (y, x), or (y, x, 3 or 4 colours). "
                         "Volumes of .tif are read with overwrite_image_reader_writer Tiff3DIO in dataset.json.")
    return picture[None, None] if picture.ndim == 2 else np.moveaxis(picture, -1, 0)[:, None]
