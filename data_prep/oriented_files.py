"""Copies of images and masks turned to one orientation, for data whose files come in several."""

from pathlib import Path

import SimpleITK as sitk

from nnunetv2.imageio.image_arrays import to_sitk
from nnunetv2.imageio.simpleitk_reader_writer import read_volume
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import atomic_write

ORIENTATION = "LPS"  # x to the patient's left, y to the back, z up


def write_oriented(source: Path, target: Path) -> None:
    """Write `source` to `target` with its axes in the order and direction of ORIENTATION; the world content stays. InputError for a damaged file."""
    values, properties = read_volume(source)
    image = sitk.DICOMOrient(to_sitk(values, properties), ORIENTATION)
    with atomic_write(target) as temporary:
        sitk.WriteImage(image, str(temporary), True)


def refuse_other_data(out: Path) -> None:
    """InputError where `out` holds images already: of another split or task they would pass for cases of this one."""
    found = [file for split in ("train", "validation", "test") for file in sorted((out / split).glob("*.nii.gz"))[:1]]
    if found:
        raise InputError(f"{out} holds data already ({found[0]}). Choose another folder with --out, or delete it.")
