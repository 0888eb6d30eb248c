"""Copies of images and masks turned to one orientation, for data whose files come in several."""

from pathlib import Path

import SimpleITK as sitk

from nnunetv2.imageio.image_arrays import to_sitk
from nnunetv2.imageio.simpleitk_reader_writer import read_volume
from nnunetv2.utilities.files import atomic_write

ORIENTATION = "LPS"  # x to the patient's left, y to the back, z up


def write_oriented(source: Path, target: Path) -> None:
    """Write `source` to `target` with its axes in the order and direction of ORIENTATION; the world content stays. InputError for a damaged file."""
    values, properties = read_volume(source)
    image = sitk.DICOMOrient(to_sitk(values, properties), ORIENTATION)
    with atomic_write(target) as temporary:
        sitk.WriteImage(image, str(temporary), True)
