"""What must never be read as a good image, one fact a test; files built from bytes."""

import gzip
import os
import socket
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.imageio.checked_file import read_image
from nnunetv2.imageio.geometry import off_its_image
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.errors import InputError
from tests.imageio.files_by_bytes import SFORM, SHAPE, SPACING, VOXELS, gipl, mha, nifti, nrrd, save

NAN, INF = float("nan"), float("inf")
RANDOM = np.random.default_rng(0).integers(-1000, 1000, (20, 30, 40)).astype(np.int16)
COMPRESSED = zlib.compress(VOXELS.tobytes())
SOUND = {
    "a.nii": nifti(), "a.nii.gz": nifti(), "big.nii.gz": nifti(order=">"), "raw.nrrd": nrrd(), "gz.nrrd": nrrd(encoding="gzip"),
    "text.nrrd": nrrd(encoding="ascii"), "a.mha": mha(), "a.gipl": gipl(),
    "z.mha": mha(data=COMPRESSED, CompressedData="True", CompressedDataSize=str(len(COMPRESSED))),
}


def refused(content, path, message):
    with pytest.raises(InputError, match=message) as error:
        read_image(save(content, path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_are_read_with_values_and_spacing(tmp_path, name):
    voxels, geometry = read_image(save(SOUND[name], tmp_path / name))
    assert (voxels == VOXELS[None]).all() and geometry["spacing"] == pytest.approx(SPACING)


@pytest.mark.parametrize("keep", [0, 1, 100, 348, 352, -1])
@pytest.mark.parametrize("name", [name for name in SOUND if name != "text.nrrd"])
def test_file_cut_anywhere_is_refused(tmp_path, name, keep):
    path = save(SOUND[name], tmp_path / name)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(InputError, match=name) if len(whole[:keep]) < len(whole) else pytest.raises(AssertionError):
        read_image(path)
        raise AssertionError("nothing was cut off")


def test_text_voxels_cut_short_are_counted(tmp_path):
    refused(nrrd(encoding="ascii")[:-4], tmp_path / "a.nrrd", "59 numbers")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_block_zeroed_in_compressed_data_is_found(tmp_path, place):
    path = save(nifti(RANDOM), tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start:start + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(InputError, match="a.nii.gz is damaged"):
        read_image(path)


@pytest.mark.parametrize("trailer", [-8, -1], ids=["checksum", "length"])
@pytest.mark.parametrize("name", ["a.nii.gz", "gz.nrrd"])
def test_wrong_gzip_trailer_is_found(tmp_path, name, trailer):
    path = save(SOUND[name], tmp_path / name)
    content = bytearray(path.read_bytes())
    content[trailer] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        read_image(path)


def test_zeros_after_the_compressed_data_are_padding(tmp_path):
    path = save(nifti(), tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + bytes(300_000))
    assert (read_image(path)[0] == VOXELS).all()


def test_other_bytes_after_the_compressed_data_are_damage(tmp_path):
    path = save(nifti(), tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + b"rest of another file")
    with pytest.raises(InputError, match="other bytes follow"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_far_more_bytes_than_the_header_describes_are_another_image(tmp_path, name):
    refused(nifti() + bytes(5000), tmp_path / name, "goes on for more than 4096 bytes")


@pytest.mark.slow
def test_bomb_is_not_inflated(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(nifti() + bytes(64 * 2**20), 1))
    tracemalloc.start()
    with pytest.raises(InputError, match="goes on"):
        read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_terabytes_are_refused_before_memory_is_taken(tmp_path, name):
    tracemalloc.start()
    refused(nifti(dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)), tmp_path / name, "truncated, or its header wrong")
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(("fields", "message"), [
    ({"dim": (0, 5, 4, 3, 1, 1, 1, 1)}, r"dim\[0\].* is 0"), ({"dim": (300, 5, 4, 3, 1, 1, 1, 1)}, r"dim\[0\].* is 300"),
    ({"dim": (3, -5, 4, 3, 1, 1, 1, 1)}, r"dim\[1\] is -5"), ({"dim": (3, 5, 0, 3, 1, 1, 1, 1)}, r"dim\[2\] is 0"),
    ({"dim": (5, 5, 2, 1, 2, 3, 1, 1)}, "5 dimensions"), ({"datatype": 32}, "complex"), ({"datatype": 128}, "RGB"), ({"datatype": 777}, "datatype 777"),
    ({"bitpix": 32}, "bitpix is 32"), ({"vox_offset": INF}, "vox_offset is inf"), ({"vox_offset": NAN}, "vox_offset is nan"),
    ({"vox_offset": -352}, "vox_offset is -352"), ({"vox_offset": 0}, "vox_offset is 0"),
    ({"xyzt_units": 4}, "no length"), ({"scl": (NAN, 0)}, "scl_slope is nan"), ({"scl": (INF, 0)}, "scl_slope is inf"),
    ({"scl": (3e38, 0)}, r"scl_slope is 3e\+38"), ({"scl": (1, -INF)}, "scl_inter is -inf"), ({"scl": (1e-30, 0)}, "scl_slope is 1e-30"),
    *(({"pixdim": (1, *SPACING[:axis], value, *SPACING[axis + 1:], 1, 1, 1, 1)}, rf"pixdim\[{axis + 1}\].*is {text} mm")
      for axis, value, text in ((0, 0, "0"), (1, NAN, "nan"), (2, INF, "inf"), (0, -0.75, "-0.75"), (1, 1e30, r"1e\+30"), (2, 1e-9, "1e-09"))),
    ({"codes": (0, -3)}, "sform_code is -3"), ({"codes": (9999, 0)}, "qform_code is 9999"),
    ({"sform": (INF, *SFORM[1:])}, "srow_x.* is inf"), ({"sform": (*SFORM[:7], NAN, *SFORM[8:])}, "srow_y"), ({"sform": (0.0,) * 12}, "singular"),
    ({"sform": (*SFORM[:4], *SFORM[:4], *SFORM[8:])}, "singular"), ({"sform": (*SFORM[:11], 1e30)}, "srow_z"),
    ({"codes": (1, 0), "qform": (NAN, 0, 0, 0, 0, 0)}, "quatern_b"), ({"codes": (1, 0), "qform": (5, 5, 5, 0, 0, 0)}, "no rotation"),
    ({"codes": (1, 0), "qform": (0, 0, 0, INF, 0, 0)}, "qoffset is inf"), ({"magic": b"ni1\0"}, "second file"), ({"magic": b"abcd"}, "magic is b'abcd'"),
    ({"sizeof_hdr": 540}, "NIfTI-2"), ({"sizeof_hdr": 7}, "sizeof_hdr is 7"),
])
def test_impossible_field_of_a_nifti_header_is_named(tmp_path, fields, message):
    refused(nifti(**fields), tmp_path / "a.nii.gz", message)


def test_all_impossible_fields_are_named_at_once(tmp_path):
    refused(nifti(pixdim=(1, 0, 0.8, 2, 1, 1, 1, 1), scl=(NAN, 0), xyzt_units=7), tmp_path / "a.nii", r"(?s)no length.*scl_slope.*pixdim\[1\]")


@pytest.mark.parametrize(("unit", "mm"), [(3, 1e-3), (1, 1e3)])
@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1)])
def test_lengths_in_micrometres_and_metres_become_mm_and_masks_lie_on_their_image(tmp_path, unit, mm, codes):
    """As ITK has it: the same grid in mm, whichever unit the header counts in; a mask is written in mm."""
    qform = (0, 0, 1, 10, 20, 30)  # turned half way about z, as SFORM is
    path = save(nifti(xyzt_units=unit, codes=codes, qform=qform), tmp_path / "a_0000.nii.gz")
    voxels, properties = SimpleITKIO().read_images([path])
    assert (voxels[0] == VOXELS).all() and properties["spacing"] == pytest.approx([mm * value for value in SPACING[::-1]])
    assert properties["sitk_stuff"]["origin"] == pytest.approx((-10 * mm, -20 * mm, 30 * mm))
    SimpleITKIO().write_seg((voxels[0] > 0).astype(np.uint8), tmp_path / "a.nii.gz", properties)
    mask = SimpleITKIO().read_seg(tmp_path / "a.nii.gz")[1]
    assert off_its_image("a.nii.gz", properties, mask, SHAPE, SHAPE) is None


@pytest.mark.parametrize("reader", [NibabelIO, NibabelIOWithReorient])
def test_nibabels_readers_count_as_the_header_does_and_put_masks_on_their_image(tmp_path, reader):
    """As nibabel has it, and with it nnU-Net, whose plans of such data hold micrometres."""
    path = save(nifti(xyzt_units=3, qform=(0, 0, 1, 10, 20, 30)), tmp_path / "a_0000.nii")
    with pytest.warns(UserWarning, match="micrometres"):
        voxels, properties = reader().read_images([path])
    assert properties["spacing"] == pytest.approx(SPACING[::-1])
    assert np.abs(properties["nibabel_stuff"]["original_affine"]).max() == pytest.approx(30)
    reader().write_seg((voxels[0] > 0).astype(np.uint8), tmp_path / "a.nii", properties)
    image, mask = (SimpleITKIO().read_images([file])[1] for file in (path, tmp_path / "a.nii"))
    assert off_its_image("a.nii", image, mask, SHAPE, SHAPE) is None and mask["spacing"] == pytest.approx(image["spacing"])


def test_unused_forms_may_hold_anything(tmp_path):
    voxels, geometry = read_image(save(nifti(codes=(0, 0), sform=(NAN,) * 12, qform=(INF,) * 6), tmp_path / "a.nii"))
    assert (voxels == VOXELS).all() and geometry["forms"] == {"codes": (0, 0), "qform": (0.0,) * 7, "sform": (0.0,) * 12}


@pytest.mark.parametrize(("value", "message"), [(NAN, "1 NaN"), (INF, "1 infinite"), (-INF, "1 infinite"), (3e38, r"up to 3e\+38")])
@pytest.mark.parametrize(("build", "name"), [(nifti, "a.nii"), (nifti, "a.nii.gz"), (nrrd, "a.nrrd"), (mha, "a.mha")])
def test_voxel_that_is_no_intensity_is_refused_in_every_format(tmp_path, build, name, value, message):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[1, 2, 3] = value
    refused(build(voxels), tmp_path / name, message)


def test_values_beyond_float32_are_refused(tmp_path):
    refused(nifti(np.full(SHAPE, 1e300)), tmp_path / "a.nii", "60 infinite")


def test_integers_are_scaled_as_the_header_says(tmp_path):
    assert np.allclose(read_image(save(nifti(scl=(0.1, 3)), tmp_path / "a.nii"))[0][0], VOXELS * np.float64(np.float32(0.1)) + 3, rtol=1e-7)


@pytest.mark.parametrize(("fields", "message"), [
    ({"data_file": "/etc/passwd"}, "another file"), ({"type": "block"}, "type is 'block'"), ({"sizes": "5 4 0"}, "sizes is '5 4 0'"),
    ({"sizes": "5 4"}, "dimension is '3'"), ({"sizes": "99999 99999 999"}, "truncated, or its header wrong"), ({"encoding": "bzip2"}, "encoding is 'bzip2'"),
    ({"endian": None}, "endian is None"), ({"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "space directions"), ({"line_skip": "2"}, "line skip is 2"),
    ({"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}, "singular"), ({"space_directions": "(1e30,0,0) (0,1,0) (0,0,1)"}, "space directions"),
    ({"space_origin": "(inf,0,0)"}, "space origin"), ({"space_directions": None, "space": None, "space_origin": None, "spacings": "1 0 1"}, "spacings is 1 0 1: 0"),
])
def test_impossible_field_of_a_nrrd_header_is_named(tmp_path, fields, message):
    encoding = "raw"
    content = nrrd(encoding=encoding, **{key: value for key, value in fields.items() if key != "encoding"})
    refused(content.replace(b"encoding: raw", f"encoding: {fields.get('encoding', 'raw')}".encode()), tmp_path / "a.nrrd", message)


@pytest.mark.parametrize(("content", "name"), [
    (nrrd(space_units='"mm" "mm" "mm"'), "a.nrrd"), (nrrd(units='"mm" "mm" ""', space=None, space_directions=None, space_origin=None, spacings="1 1 1"), "b.nrrd"),
    (mha(DistanceUnits="mm", ElementToIntensityFunctionSlope="1.0", ElementToIntensityFunctionOffset="0"), "a.mha")])
def test_millimetres_and_values_as_stored_are_what_headers_may_say(tmp_path, content, name):
    assert np.array_equal(read_image(save(content, tmp_path / name))[0][0], VOXELS)


@pytest.mark.parametrize(("content", "name"), [
    (nrrd(space_units='"um" "um" "um"'), "a.nrrd"), (nrrd(units='"mm" "mm" "cm"', space=None, space_directions=None, space_origin=None, spacings="1 2 3"), "b.nrrd"),
    (mha(DistanceUnits="cm"), "a.mha")])
def test_numbers_of_other_units_are_taken_for_mm_as_itk_takes_them_with_a_warning(tmp_path, content, name):
    with pytest.warns(UserWarning, match="taken for mm"):
        voxels, geometry = read_image(save(content, tmp_path / name))
    assert np.array_equal(voxels[0], VOXELS)
    assert geometry["spacing"] == sitk.ReadImage(str(tmp_path / name)).GetSpacing()


@pytest.mark.parametrize(("fields", "message"), [
    ({"ElementDataFile": "/etc/passwd"}, "another file"), ({"ElementType": "MET_STRING"}, "ElementType is 'MET_STRING'"), ({"DimSize": "5 -4 3"}, "DimSize is '5 -4 3'"),
    ({"NDims": "2"}, "NDims is '2'"), ({"DimSize": "9999 9999 9999"}, "truncated, or its header wrong"), ({"ElementSpacing": "1 nan 1"}, "ElementSpacing is 1 nan 1"),
    ({"ElementSpacing": "1 0 1"}, "ElementSpacing is 1 0 1"), ({"Offset": "inf 0 0"}, "Offset is inf 0 0"), ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "singular"),
    ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "TransformMatrix is nan"), ({"CompressedData": "True", "CompressedDataSize": "7"}, "CompressedDataSize is 7"),
    ({"ElementToIntensityFunctionOffset": "-1024"}, "FunctionOffset is -1024"),
    ({"ElementToIntensityFunctionSlope": "0.5"}, "FunctionSlope is 0.5"),
])
def test_impossible_field_of_a_metaimage_header_is_named(tmp_path, fields, message):
    refused(mha(**fields), tmp_path / "a.mha", message)


@pytest.mark.parametrize(("fields", "message"), [
    ({"sizes": (5, 0, 3, 1)}, r"dim\[1\] is 0"), ({"sizes": (60000, 60000, 60000, 1)}, "truncated"), ({"kind": 192}, "image type is 192"),
    ({"spacing": (NAN, 1, 1, 1)}, r"pixdim\[0\] is nan"), ({"origin": (INF, 0, 0, 0)}, "origin is inf"), ({"magic": 1}, "magic number"),
])
def test_impossible_field_of_a_gipl_header_is_named(tmp_path, fields, message):
    refused(gipl(**fields), tmp_path / "a.gipl", message)


def test_damaged_zlib_data_of_a_metaimage_are_found(tmp_path):
    broken = bytearray(COMPRESSED)
    broken[-1] ^= 1
    refused(mha(data=bytes(broken), CompressedData="True", CompressedDataSize=str(len(broken))), tmp_path / "a.mha", "is damaged")


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: os.mkfifo(path), "named pipe"), (lambda path: path.mkdir(), "a folder"), (lambda path: path.symlink_to("gone"), "link to 'gone'"),
    (lambda path: path.symlink_to(path.name), "in a circle"), (lambda path: path.symlink_to("/dev/zero"), "a device"),
    (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "a socket"),
], ids=["pipe", "folder", "dangling", "loop", "device", "socket"])
def test_what_is_no_regular_file_is_named_without_opening_it(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.nii.gz") if message != "a socket" else socket.socket(socket.AF_UNIX).bind("a.nii.gz")
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "a.nii.gz")


def test_all_damaged_channels_of_a_case_are_named(tmp_path):
    files = [save(nifti(pixdim=(1, 0, 1, 1, 1, 1, 1, 1)), tmp_path / f"{i}.nii") for i in range(2)]
    with pytest.raises(InputError, match=r"(?s)0\.nii.*1\.nii"):
        SimpleITKIO().read_images([*files, save(nifti(), tmp_path / "2.nii")])


def test_segmentation_of_several_components_is_refused(tmp_path):
    content = nrrd(np.zeros((*SHAPE, 2), np.uint8), space_directions="none (0.75,0,0) (0,0.875,0) (0,0,2.5)", kinds="vector space space space")
    with pytest.raises(InputError, match="a.seg.nrrd has 2 layers"):
        SimpleITKIO().read_seg(save(content, tmp_path / "a.seg.nrrd"))


def test_labels_stored_as_floats_are_rounded_within_a_thousandth(tmp_path):
    labels = np.array([0, 0.9995, 1.0000152587890625, 2], np.float32)[np.arange(60).reshape(SHAPE) % 4]
    assert (SimpleITKIO().read_seg(save(nifti(labels), tmp_path / "a.nii"))[0][0] == np.rint(labels)).all()


def test_fractions_are_no_labels(tmp_path):
    labels = np.full(SHAPE, 0.5, np.float32)
    with pytest.raises(InputError, match=r"a\.nii holds values that are no labels: 0\.5 in 60 voxel"):
        SimpleITKIO().read_seg(save(nifti(labels), tmp_path / "a.nii"))


def test_extension_before_the_voxels_is_passed_over(tmp_path):
    content = nifti(vox_offset=384)
    content = content[:352] + struct.pack("<ii", 32, 6) + bytes(24) + content[352:]
    assert (read_image(save(content, tmp_path / "a.nii.gz"))[0] == VOXELS).all()
