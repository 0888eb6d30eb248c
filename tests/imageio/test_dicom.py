"""DICOM series as volumes: slices sorted by position, values rescaled, and all that is no regular grid refused by name."""

import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.imageio.dicom_conversion import convert_folder
from nnunetv2.imageio.dicom_files import holds_dicom, scan_folder
from nnunetv2.imageio.dicom_pixels import read_stack
from nnunetv2.imageio.dicom_series import stack_of
from nnunetv2.imageio.dicom_tilt import upright
from nnunetv2.utilities.errors import InputError
from tests.imageio.made_dicom import dataset_of, hu, save, slices

pydicom = pytest.importorskip("pydicom")
REALCT = Path(__file__).resolve().parents[3] / "shared" / "realct"
OBLIQUE = tuple(np.round((1, 0, 0, 0, np.cos(0.3), -np.sin(0.3)), 6).tolist())
TURNED = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)  # sagittal


def only_stack(folder, **options):
    series = scan_folder(folder, progress=False).series
    assert len(series) == 1
    return stack_of(series[0], **options)


def refusal(folder, **options) -> str:
    with pytest.raises(InputError) as caught:
        only_stack(folder, **options)
    return str(caught.value)


def by_itk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_same_as_itk(stack, folder):
    theirs = by_itk(folder)
    assert np.array_equal(read_stack(stack), sitk.GetArrayFromImage(theirs))
    assert np.allclose(stack.spacing, theirs.GetSpacing(), rtol=1e-6)
    assert np.allclose(stack.origin, theirs.GetOrigin(), atol=1e-5)
    assert np.allclose(stack.direction, theirs.GetDirection(), atol=1e-6)


# ---- good series

@pytest.mark.slow
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0), OBLIQUE, TURNED])
def test_slices_in_any_order_of_names_are_what_simpleitk_makes_of_them(tmp_path, orientation):
    values = hu()
    save(slices(values, orientation=orientation), tmp_path, order=[3, 5, 0, 4, 1, 2])
    stack = only_stack(tmp_path)
    assert np.array_equal(read_stack(stack), values) and read_stack(stack).dtype == np.int16
    assert_same_as_itk(stack, tmp_path)


def test_the_geometry_is_that_of_the_headers(tmp_path):
    save(slices(hu(), origin=(-10, 20, 30), step=2.5), tmp_path)
    stack = only_stack(tmp_path)
    assert stack.spacing == (0.8, 0.9, 2.5) and stack.origin == (-10.0, 20.0, 30.0) and np.allclose(stack.direction, np.eye(3).ravel())


def test_instance_numbers_and_names_that_lie_change_nothing(tmp_path):
    values = hu()
    made = slices(values)
    for one, number in zip(made, [4, 4, 4, 1, 9, 2]):
        one.InstanceNumber = number
    save(made, tmp_path, order=range(5, -1, -1))
    assert np.array_equal(read_stack(only_stack(tmp_path)), values)


def test_each_slice_is_rescaled_by_its_own_header(tmp_path):
    values = hu()
    made = slices(values)
    stored = np.frombuffer(made[2].PixelData, "<u2").reshape(values.shape[1:])
    made[2].RescaleSlope, made[2].RescaleIntercept = "0.5", "-100.25"
    save(made, tmp_path)
    volume = read_stack(only_stack(tmp_path))
    assert volume.dtype == np.float32
    assert np.array_equal(volume[2], (stored * 0.5 - 100.25).astype(np.float32)) and np.array_equal(volume[1], values[1])


def test_signed_numbers_of_twelve_bits_keep_their_sign(tmp_path):
    values = np.clip(hu(), -2048, 2047)
    made = [one for one in slices(values, BitsStored=12, HighBit=11, PixelRepresentation=1, RescaleIntercept=0)]
    for one, plane in zip(made, values):
        one.PixelData = (plane.astype("<i2").view("<u2") & 0x0FFF).tobytes()  # what other programs put into the upper four bits is no value
    save(made, tmp_path)
    assert np.array_equal(read_stack(only_stack(tmp_path)), values)


def test_implicit_and_big_endian_files_hold_the_same_values(tmp_path):
    values = hu()
    for name, syntax in (("implicit", pydicom.uid.ImplicitVRLittleEndian), ("big", pydicom.uid.ExplicitVRBigEndian)):
        made = slices(values)
        for one, plane in zip(made, values):
            one.file_meta.TransferSyntaxUID = syntax
            one.PixelData = (plane + 1024).astype(">u2" if name == "big" else "<u2").tobytes()
            one["PixelData"].VR = "OW"
        save(made, tmp_path / name)
        assert np.array_equal(read_stack(only_stack(tmp_path / name)), values), name


def test_files_without_preamble_are_read(tmp_path):
    values = hu()
    for path in save(slices(values), tmp_path):
        content = path.read_bytes()
        meta_length = struct.unpack("<I", content[140:144])[0]
        path.write_bytes(content[144 + meta_length:])
    assert np.array_equal(read_stack(only_stack(tmp_path)), values)


def as_rle(made):
    for one in made:
        one.compress(pydicom.uid.RLELossless, generate_instance_uid=False)


def as_jpeg_ls(made):
    pytest.importorskip("jpeg_ls")
    for one in made:
        one.compress(pydicom.uid.JPEGLSLossless, generate_instance_uid=False)


def as_itk_writes(compressor, made):
    """The frame that ITK's own writer makes of the stored numbers, in place of the plain one."""
    for one in made:
        stored = np.frombuffer(one.PixelData, "<u2").reshape(one.Rows, one.Columns)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        with tempfile.TemporaryDirectory() as folder:
            writer.SetFileName(f"{folder}/frame.dcm")
            writer.Execute(sitk.GetImageFromArray(stored))
            theirs = pydicom.dcmread(f"{folder}/frame.dcm")
        one.PixelData, one["PixelData"].VR = theirs.PixelData, "OB"
        one.file_meta.TransferSyntaxUID = theirs.file_meta.TransferSyntaxUID


def as_jpeg_lossless(made):
    as_itk_writes("JPEG", made)
    assert made[0].file_meta.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1


def as_jpeg_2000(made):
    as_itk_writes("JPEG2000", made)
    assert made[0].file_meta.TransferSyntaxUID == pydicom.uid.JPEG2000Lossless


@pytest.mark.slow
@pytest.mark.parametrize("compress", [as_rle, as_jpeg_ls, as_jpeg_lossless, as_jpeg_2000])
def test_compressed_slices_hold_the_same_values(tmp_path, compress):
    values = hu((6, 16, 18))
    made = slices(values)
    compress(made)
    save(made, tmp_path)
    stack = only_stack(tmp_path)
    assert np.array_equal(read_stack(stack), values)
    assert_same_as_itk(stack, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("JPEG2000", "MR_small_jp2klossless.dcm"), ("RLE", "MR_small_RLE.dcm"), ("JPEG-LS", "MR_small_jpeg_ls_lossless.dcm")])
def test_pydicoms_own_compressed_slices_decode_to_the_uncompressed_one(tmp_path, name, kind):
    """One slice of pydicom's test data, given positions to make a series of it."""
    from pydicom.data import get_testdata_file

    expected = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False)).pixel_array
    one = pydicom.dcmread(get_testdata_file(kind, download=False))
    for z in range(5):
        one.ImagePositionPatient, one.SOPInstanceUID = [0, 0, 3 * z], f"1.2.{z}"
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.save_as(tmp_path / f"{z}.dcm")
    series = scan_folder(tmp_path, "MR", progress=False).series
    assert np.array_equal(read_stack(stack_of(series[0])), [expected] * 5), name


def enhanced(values, positions):
    """All slices as frames of one enhanced CT image."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    one = dataset_of(values[0], (0, 0, 0), ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None, RescaleSlope=None, RescaleIntercept=None)
    one.SOPClassUID, one.NumberOfFrames = pydicom.uid.EnhancedCTImageStorage, len(values)
    one.PixelData = (values + 1024).astype("<u2").tobytes()

    def item(**fields):
        made = Dataset()
        for key, value in fields.items():
            setattr(made, key, value)
        return made

    one.SharedFunctionalGroupsSequence = Sequence([item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.9, 0.8], SliceThickness=2.5)]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]))])
    one.PerFrameFunctionalGroupsSequence = Sequence([item(PlanePositionSequence=Sequence([item(ImagePositionPatient=list(position))])) for position in positions])
    return one


@pytest.mark.parametrize("compressed", [False, True])
def test_frames_of_an_enhanced_ct_are_sorted_like_files(tmp_path, compressed):
    values = hu((6, 16, 18))
    order = [2, 0, 1, 5, 4, 3]
    one = enhanced(values[order], [(-10.0, 20.0, 30.0 + 2.5 * z) for z in order])
    if compressed:
        as_rle([one])
    save([one], tmp_path)
    stack = only_stack(tmp_path)
    assert np.array_equal(read_stack(stack), values) and stack.spacing == (0.8, 0.9, 2.5) and stack.origin == (-10.0, 20.0, 30.0)


@pytest.mark.slow
def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even_enough(tmp_path):
    made = slices(hu(), step=0.75)
    for one in made:
        one.ImagePositionPatient = [round(float(value), 1) for value in one.ImagePositionPatient]
    assert {round(float(one.ImagePositionPatient[2]), 1) for one in made} == {30.0, 30.8, 31.5, 32.2, 33.0, 33.8}
    save(made, tmp_path)
    assert only_stack(tmp_path).spacing[2] == pytest.approx(0.76)
    made[3].ImagePositionPatient = [-10, 20, 32.0]
    save(made, tmp_path)
    assert "unevenly spaced" in refusal(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (REALCT / "example_ct_dicom_converted.nii.gz").is_file(), reason="../shared/realct is not here")
def test_a_real_ct_comes_back_voxel_for_voxel_and_as_simpleitk_reads_it(tmp_path):
    image = sitk.ReadImage(str(REALCT / "example_ct_dicom_converted.nii.gz"))
    values, direction = sitk.GetArrayFromImage(image), np.reshape(image.GetDirection(), (3, 3))
    orientation = tuple(np.round(direction[:, :2].T.ravel(), 9).tolist())
    spacing = image.GetSpacing()
    made = [dataset_of(plane.astype(int), image.TransformIndexToPhysicalPoint((0, 0, z)), orientation, (spacing[1], spacing[0]), z + 1)
            for z, plane in enumerate(values)]
    save(made, tmp_path, order=np.random.default_rng(0).permutation(len(made)))
    stack = only_stack(tmp_path)
    along = np.cross(direction[:, 0], direction[:, 1]) @ direction[:, 2]  # -1 where the file's third axis runs against the slices' normal
    assert np.array_equal(read_stack(stack), values[::int(np.sign(along))])
    assert_same_as_itk(stack, tmp_path)


# ---- what is refused

def test_a_gap_is_named_with_both_sides_and_the_number_of_slices(tmp_path):
    made = slices(hu((8, 7, 8)))
    save(made[:3] + made[5:], tmp_path)
    message = refusal(tmp_path)
    assert "2 slice(s) are missing, others are 2.5 mm apart: 7.5 mm between IM0002 at (-10, 20, 35) and IM0003 at (-10, 20, 42.5)" in message


def test_a_copy_of_a_slice_is_named(tmp_path):
    made = slices(hu())
    save([*made, made[2]], tmp_path)
    message = refusal(tmp_path)
    assert "1 of 6 places hold several slices: IM0002, IM0006 at (-10, 20, 35)" in message and "copies of one image" in message


def test_two_phases_in_one_series_are_told_apart(tmp_path):
    save(slices(hu()) + slices(hu(seed=1), AcquisitionNumber=2), tmp_path)
    message = refusal(tmp_path)
    assert "6 of 6 places hold several slices" in message and "AcquisitionNumber (1, 2)" in message


def test_uneven_distances_are_named(tmp_path):
    made = slices(hu())
    made[3].ImagePositionPatient = [-10, 20, 38.1]
    save(made, tmp_path)
    assert "unevenly spaced, 1.9 to 3.1 mm apart; IM0003 at (-10, 20, 38.1) is 0.6 mm off" in refusal(tmp_path)


def test_slices_of_two_sizes_or_directions_are_told_apart(tmp_path):
    save(slices(hu()), tmp_path)
    save(slices(hu((2, 7, 9)), origin=(-10, 20, 100)) + slices(hu((2, 7, 8)), orientation=TURNED), tmp_path / "more")
    message = refusal(tmp_path)
    assert "its slices are of 3 kinds: 6 of 8 x 7 voxels" in message and "2 of 9 x 7 voxels" in message and "(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)" in message


def test_a_tilted_gantry_is_named_by_its_angle(tmp_path):
    save(slices(hu(), shear=(0, np.tan(np.radians(20)))), tmp_path)
    assert "the gantry was tilted by 20.00 degrees (4.55 mm to the side from first to last)" in refusal(tmp_path)


def test_slices_shifted_unevenly_are_no_tilt(tmp_path):
    made = slices(hu())
    made[3].ImagePositionPatient = [-7, 20, 37.5]
    save(made, tmp_path)
    assert "shifted to the side by up to 3 mm, and not evenly" in refusal(tmp_path, sheared=True)


@pytest.mark.slow
@pytest.mark.parametrize(("changed", "named"), [
    ({"RescaleSlope": None, "RescaleIntercept": None}, "RescaleSlope and RescaleIntercept missing"),
    ({"RescaleSlope": 0}, "RescaleSlope is 0"), ({"ImagePositionPatient": None}, "ImagePositionPatient missing"),
    ({"PixelSpacing": [0.9, 0]}, "PixelSpacing is (0.9, 0.0) mm"), ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no two directions at right angles"),
    ({"Rows": 60000}, "Rows is 60000"), ({"BitsAllocated": 12}, "BitsAllocated, BitsStored and HighBit are 12, 16 and 15"),
    ({"NumberOfFrames": 3}, "NumberOfFrames is 3, and no PerFrameFunctionalGroupsSequence")])
def test_headers_that_say_too_little_or_the_impossible_are_named_with_their_files(tmp_path, changed, named):
    made = slices(hu())
    for key, value in changed.items():
        for one in made[:2]:
            delattr(one, key) if value is None else setattr(one, key, value)
    save(made, tmp_path)
    scan = scan_folder(tmp_path, progress=False)
    text = "\n".join(scan.damaged.values()) + "".join(refusal(tmp_path) for _ in scan.series)
    assert named in text and "IM0000" in text and "IM0001" in text and "IM0002" not in text


def test_all_problems_of_a_series_come_at_once(tmp_path):
    made = slices(hu((9, 7, 8)))
    save([*made[:3], *made[5:], made[0]], tmp_path)
    message = refusal(tmp_path)
    assert "2 problem(s)" in message and "missing" in message and "hold several slices" in message


@pytest.mark.slow
@pytest.mark.parametrize("keep", [200, 500, 700, 900, -60])
def test_a_file_that_is_cut_short_is_named(tmp_path, keep):
    path = save(slices(hu()), tmp_path)[2]
    path.write_bytes(path.read_bytes()[:keep])
    conversion = convert_folder(tmp_path, tmp_path.parent / "out")
    assert conversion.converted == [] and any("IM0002" in problem for problem in conversion.problems)
    assert not list((tmp_path.parent / "out").glob("*.nii.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("compress", [as_rle, as_jpeg_ls, as_jpeg_lossless, as_jpeg_2000])
@pytest.mark.parametrize("keep", [-12, -80])
def test_a_compressed_file_that_is_cut_short_is_named(tmp_path, compress, keep):
    made = slices(hu((6, 16, 16)))
    compress(made)
    path = save(made, tmp_path)[2]
    path.write_bytes(path.read_bytes()[:keep])
    conversion = convert_folder(tmp_path, tmp_path.parent / "out")
    assert conversion.converted == [] and any("IM0002" in problem for problem in conversion.problems)


def test_a_file_much_larger_than_its_image_is_not_read(tmp_path):
    path = save(slices(hu()), tmp_path)[0]
    os.truncate(path, 2**27)
    with pytest.raises(InputError, match="134217728 bytes, and its 112 bytes of voxels do not explain them"):
        read_stack(only_stack(tmp_path))


@pytest.mark.parametrize(("file", "named"), [("image_dfl.dcm", "Deflated Explicit VR Little Endian"), ("rtplan_truncated.dcm", "no DICOM file")])
def test_files_of_pydicom_that_are_not_read_are_named(tmp_path, file, named):
    from pydicom.data import get_testdata_file

    (tmp_path / file).write_bytes(Path(get_testdata_file(file, download=False)).read_bytes())
    scan = scan_folder(tmp_path, None, progress=False)
    assert named in "\n".join([*scan.damaged.values(), *scan.skipped]) or scan.skipped.get("RT Plan Storage")


def test_an_unknown_compression_is_called_by_its_name(tmp_path):
    made = slices(hu())
    as_rle(made)
    for one in made:
        one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
    save(made, tmp_path)
    assert "High-Throughput JPEG 2000" in "\n".join(scan_folder(tmp_path, progress=False).damaged.values())


# ---- what is no scan

@pytest.mark.slow
def test_what_is_no_scan_is_counted_by_its_kind(tmp_path):
    from pydicom.data import get_testdata_file

    save(slices(hu()), tmp_path / "ct")
    save(slices(hu(), series="1.2.7", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "scout")
    save(slices(hu((3, 7, 8)), series="1.2.8"), tmp_path / "short")
    save(slices(hu(), series="1.2.9", Modality="MR"), tmp_path / "mr")
    for name in ("rtplan.dcm", "liver_1frame.dcm", "SC_rgb_rle.dcm", "test-SR.dcm"):
        (tmp_path / name).write_bytes(Path(get_testdata_file(name, download=False)).read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    scan = scan_folder(tmp_path, progress=False)
    assert [series.uid for series in scan.series] == ["1.2.3.4"] and scan.damaged == {}
    assert {kind: len(files) for kind, files in scan.skipped.items()} == {
        "scout (LOCALIZER)": 6, "file of a series of fewer than 5 slices": 3, "image of modality MR": 6, "RT Plan Storage": 1, "Segmentation Storage": 1,
        "image of modality OT": 1, "no DICOM file": 1, "Comprehensive SR Storage": 1}
    assert "3 x file of a series of fewer than 5 slices: IM0000, IM0001, IM0002" in scan.summary()


def test_links_and_pipes_are_refused_and_nothing_outside_is_read(tmp_path):
    outside = tmp_path / "outside"
    save(slices(hu()), outside)
    folder = tmp_path / "folder"
    save(slices(hu()), folder)
    (folder / "away").symlink_to(outside)
    (folder / "link").symlink_to(outside / "IM0000")
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError) as caught:
        scan_folder(folder, progress=False)
    assert all(name in str(caught.value) for name in ("3 entries", "away is a link", "link is a link", "pipe is a named pipe"))


def test_a_folder_of_dicom_is_known_without_reading_it_all(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 200)
    assert not holds_dicom(tmp_path)
    save(slices(hu()), tmp_path / "deep" / "er")
    assert holds_dicom(tmp_path)


# ---- tilt

@pytest.mark.slow
@pytest.mark.parametrize("shear", [(0.0, 0.4), (0.0, -0.4), (0.3, 0.2)])
def test_a_tilted_stack_is_put_upright_where_it_lies_in_the_patient(tmp_path, shear):
    """A linear field in the world: linear interpolation reproduces it, so every covered voxel must hold the field at its own place."""
    def field(point):
        return 3 * point[..., 0] - 5 * point[..., 1] + 7 * point[..., 2]

    blank = slices(np.zeros((6, 20, 22), np.int16), shear=shear, RescaleSlope=0.01, RescaleIntercept=-300)
    y, x = np.mgrid[:20, :22]
    for one in blank:
        world = np.array(one.ImagePositionPatient, float) + np.stack([x * 0.8, y * 0.9, 0 * x], -1)
        one.PixelData = np.rint((field(world) + 300) / 0.01).astype("<u2").tobytes()
    save(blank, tmp_path)
    stack = only_stack(tmp_path, sheared=True)
    volume, geometry = upright(read_stack(stack), stack)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(geometry["spacing"]), image.SetOrigin(geometry["origin"]), image.SetDirection(geometry["direction"])
    at = np.array([[[image.TransformIndexToPhysicalPoint((i, j, k)) for i in range(volume.shape[2])] for j in range(volume.shape[1])] for k in range(volume.shape[0])])
    covered = volume > volume.min() + 1
    inner = covered & np.roll(covered, 1, 1) & np.roll(covered, -1, 1) & np.roll(covered, 1, 2) & np.roll(covered, -1, 2)
    assert inner.sum() > 0.7 * 6 * 20 * 22
    assert np.abs(volume - field(at))[inner].max() < 0.02


def test_colours_of_a_palette_are_no_hu(tmp_path):
    save(slices(hu(), PhotometricInterpretation="PALETTE COLOR"), tmp_path)
    scan = scan_folder(tmp_path, progress=False)
    assert not scan.series and len(scan.skipped["picture in colour"]) == 6


def test_what_macos_leaves_beside_slices_is_no_damaged_slice(tmp_path):
    for path in save(slices(hu()), tmp_path):
        path.rename(path.with_suffix(".dcm")).with_name(f"._{path.name}.dcm").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100))
    scan = scan_folder(tmp_path, progress=False)
    assert not scan.damaged and not scan.series[0].problems and len(scan.skipped["no DICOM file"]) == 6
    (tmp_path / "._IM0000.dcm").write_bytes(bytes(100))
    assert tmp_path / "._IM0000.dcm" in scan_folder(tmp_path, progress=False).damaged


def test_copies_of_one_name_are_named_with_their_folders(tmp_path):
    for folder in ("a", "b"):
        save(slices(hu(), SOPInstanceUID="1.2.3.4.5.6"), tmp_path / folder)
    with pytest.raises(InputError, match=f"{tmp_path}/a/IM0000, {tmp_path}/b/IM0000 at"):
        stack_of(scan_folder(tmp_path, progress=False).series[0])
