"""Masks carry both orientations of their image's header, and sheared grids are compared by their affine."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.imageio.geometry import corner_shift, same_grid
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from tests.imageio.files_by_bytes import SFORM, SHAPE, SHEARED, SPACING, TILTED, VOXELS, nifti, save

IO = SimpleITKIO()
QFORM = (0, 0, 1, 10, 20, 30)  # turned by 180 degrees about z: the same as SFORM
CASES = {"both alike": {"codes": (1, 1), "qform": QFORM}, "tilt in the sform alone": {"codes": (1, 2), "qform": QFORM, "sform": TILTED},
         "qform alone": {"codes": (1, 0), "qform": QFORM}, "none": {"codes": (0, 0)}, "sheared": {"sform": SHEARED},
         "sheared with a sound qform": {"codes": (1, 1), "qform": QFORM, "sform": SHEARED}}


def orientation(path):
    content = path.read_bytes()
    content = gzip.decompress(content) if path.name.endswith(".gz") else content
    return {"codes": struct.unpack_from("<2h", content, 252), "qform": struct.unpack_from("<6f", content, 256), "sform": struct.unpack_from("<12f", content, 280),
            "pixdim": struct.unpack_from("<4f", content, 76)}


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_mask_has_both_orientations_and_codes_of_its_image(tmp_path, fields, ending):
    image = save(nifti(**fields), tmp_path / f"image{ending}")
    _, properties = IO.read_images([image])
    IO.write_seg(np.ones(SHAPE, np.uint8), tmp_path / f"mask{ending}", properties)
    ours, theirs = orientation(tmp_path / f"mask{ending}"), orientation(image)
    assert ours["codes"] == theirs["codes"] and ours["pixdim"] == theirs["pixdim"]
    assert not theirs["codes"][0] or ours["qform"] == theirs["qform"]
    assert not theirs["codes"][1] or ours["sform"] == theirs["sform"]
    read, same = IO.read_seg(tmp_path / f"mask{ending}")
    assert (read == 1).all() and same == properties


@pytest.mark.parametrize("fields", [fields for name, fields in CASES.items() if name != "sheared"])
def test_geometry_is_itks(tmp_path, fields):
    image = save(nifti(**fields), tmp_path / "image.nii.gz")
    theirs, ours = sitk.ReadImage(str(image)), IO.read_images([image])[1]["sitk_stuff"]
    assert (ours["spacing"], ours["origin"], ours["direction"]) == (theirs.GetSpacing(), theirs.GetOrigin(), theirs.GetDirection())


@pytest.mark.parametrize("scl", [(1, 0), (0, 0), (0, 5), (0.1, 3), (-2, 0.5)])
@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.int32, np.float32, np.float64])
def test_voxels_are_itks(tmp_path, kind, scl):
    image = save(nifti(VOXELS.astype(kind), scl=scl), tmp_path / "image.nii")
    assert np.array_equal(IO.read_images([image])[0][0], sitk.GetArrayFromImage(sitk.ReadImage(str(image))).astype(np.float32))


def test_sheared_grids_that_differ_in_shear_alone_are_told_apart(tmp_path):
    other = (*SHEARED[:6], SHEARED[6] + 0.2, *SHEARED[7:])
    a, b = (IO.read_images([save(nifti(sform=sform), tmp_path / f"{i}.nii")])[1]["sitk_stuff"] for i, sform in enumerate((SHEARED, other)))
    assert corner_shift(a, b, SHAPE) == pytest.approx(0.4) and not same_grid(a, b, SHAPE) and same_grid(a, a, SHAPE)


def test_mask_in_another_format_keeps_what_that_format_can_hold(tmp_path):
    _, properties = IO.read_images([save(nifti(sform=SFORM), tmp_path / "image.nii.gz")])
    IO.write_seg(np.ones(SHAPE, np.uint8), tmp_path / "mask.mha", properties)
    assert IO.read_seg(tmp_path / "mask.mha")[1]["spacing"] == list(SPACING[::-1])
