"""nnU-Net's other readers: NIfTI as nibabel sees it, volumes turned to RAS, pictures, TIFF volumes."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage.io import imread, imsave

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.image_arrays import single_slice
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient, nifti_affine
from nnunetv2.imageio.reader_writer_registry import reader_writer_name, refuse_unread_ending
from nnunetv2.imageio.reorientation import Reorientation
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.utilities.errors import InputError
from tests.imageio.files_by_bytes import SHEARED, VOXELS, nifti, save

ORIENTATIONS = ["LPS", "RAS", "PIR", "ASL", "SAR", "ILP"]


def oriented_image(letters: str, path, shape=(3, 4, 5)) -> np.ndarray:
    """A file of consecutive numbers in that orientation; returns its voxels in RAS."""
    image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    image.SetSpacing((1.5, 2.0, 2.5))
    image.SetOrigin((10.0, -20.0, 30.0))
    image = sitk.DICOMOrient(image, letters)
    sitk.WriteImage(image, str(path))
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS"))


@pytest.mark.slow
@pytest.mark.parametrize("letters", ORIENTATIONS)
@pytest.mark.parametrize("reader", [SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_a_volume_is_read_in_ras_and_its_mask_lies_on_it(tmp_path, letters, reader):
    path, mask = tmp_path / "a_0000.nii.gz", tmp_path / "a.nii.gz"
    expected = oriented_image(letters, path)
    data, properties = reader().read_images([path])
    assert np.array_equal(data[0], expected)
    assert properties["spacing"] == pytest.approx(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS").GetSpacing()[::-1])
    reader().write_seg(data[0].astype(np.uint8), mask, properties)
    image, written = sitk.ReadImage(str(path)), sitk.ReadImage(str(mask))
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(image))
    assert written.GetDirection() == image.GetDirection() and written.GetOrigin() == image.GetOrigin()
    seg, again = reader().read_seg(mask)
    assert np.array_equal(seg, data) and again["sitk_stuff"] == properties["sitk_stuff"]


@pytest.mark.slow
@pytest.mark.parametrize("letters", ORIENTATIONS)
def test_other_formats_are_turned_as_well(tmp_path, letters):
    path, mask = tmp_path / "a.nrrd", tmp_path / "b.nrrd"
    expected = oriented_image(letters, path)
    data, properties = SimpleITKIOWithReorient().read_images([path])
    assert np.array_equal(data[0], expected) and properties["sitk_stuff"]["original_orientation"] == letters
    SimpleITKIOWithReorient().write_seg(data[0], mask, properties)
    image, written = sitk.ReadImage(str(path)), sitk.ReadImage(str(mask))
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(image)) and np.allclose(written.GetOrigin(), image.GetOrigin())


@pytest.mark.slow
@given(affine=st.lists(st.floats(-2, 2), min_size=9, max_size=9), shape=st.tuples(*[st.integers(1, 4)] * 3))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
def test_turning_is_undone_and_keeps_every_voxel_at_its_place(affine, shape):
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(affine, (3, 3)) + 3 * np.eye(3)
    if abs(np.linalg.det(matrix)) < 0.1:
        return
    turn, array = Reorientation.of_affine(matrix), np.arange(np.prod(shape)).reshape(shape)
    turned, after = turn.apply(array), turn.affine_of_turned(matrix, shape)
    assert np.array_equal(turn.undo(turned), array)
    assert np.allclose(turn.affine_of_undone(after, turned.shape), matrix)
    for value in (0, array.size - 1):
        before_index, index = (np.argwhere(volume == value)[0][::-1] for volume in (array, turned))
        assert np.allclose(matrix[:3, :3] @ before_index + matrix[:3, 3], after[:3, :3] @ index + after[:3, 3])
    assert Reorientation.of_letters(turn.letters) == turn


def test_nibabels_reader_has_the_affine_and_simpleitks_voxels(tmp_path):
    path = tmp_path / "a_0000.nii.gz"
    oriented_image("PIR", path)
    data, properties = NibabelIO().read_images([path])
    same, of_itk = SimpleITKIO().read_images([path])
    assert np.array_equal(data, same) and properties["spacing"] == of_itk["spacing"] and properties["sitk_stuff"] == of_itk["sitk_stuff"]
    affine = properties["nibabel_stuff"]["original_affine"]
    corner = np.array([1, 2, 3])
    lps = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint(corner.tolist())
    assert np.allclose(affine[:3, :3] @ corner + affine[:3, 3], np.array(lps) * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("fields", [{"codes": (1, 0), "qform": (0.1, 0.2, 0.3, 10, 20, 30)}, {"codes": (0, 1)}])
def test_affines_of_both_forms_are_itks(tmp_path, fields):
    path = save(nifti(**fields), tmp_path / "a.nii")
    image, affine = sitk.ReadImage(str(path)), nifti_affine(path)
    for index in ((0, 0, 0), (1, 1, 1)):
        assert np.allclose(affine[:3, :3] @ index + affine[:3, 3], np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("reader", [NibabelIO, NibabelIOWithReorient])
def test_masks_are_written_by_upstreams_properties_alone_and_sheared_volumes_keep_their_affine(tmp_path, reader):
    path, mask = save(nifti(sform=SHEARED), tmp_path / "a_0000.nii"), tmp_path / "a.nii"
    data, properties = reader().read_images([path])
    for given_properties in (properties, {"nibabel_stuff": properties["nibabel_stuff"], "spacing": properties["spacing"]}):
        reader().write_seg((data[0] > 0).astype(np.uint8), mask, given_properties)
        assert np.allclose(nifti_affine(mask), nifti_affine(path), atol=1e-4)
        assert np.array_equal(reader().read_seg(mask)[0], data > 0)


def test_nibabels_readers_refuse_other_formats_and_several_channels_in_a_file(tmp_path):
    oriented_image("LPS", tmp_path / "a.nrrd")
    several = save(nifti(np.stack([VOXELS, VOXELS])), tmp_path / "b.nii")
    with pytest.raises(InputError, match=r"a\.nrrd, .*b\.nii with 4 dimensions"):
        NibabelIO().read_images([tmp_path / "a.nrrd", several])


@pytest.mark.parametrize(("shape", "channels"), [((6, 5), 1), ((6, 5, 3), 3), ((6, 5, 4), 4)])
def test_colours_of_a_picture_are_channels(tmp_path, shape, channels):
    picture = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    imsave(tmp_path / "a.png", picture, check_contrast=False)
    data, properties = NaturalImage2DIO().read_images([tmp_path / "a.png"])
    assert data.shape == (channels, 1, 6, 5) and data.dtype == np.float32 and tuple(properties["spacing"]) == (999, 1, 1)
    assert np.array_equal(data[:, 0], picture[None] if channels == 1 else np.moveaxis(picture, -1, 0))


@pytest.mark.parametrize("highest", [1, 300])
def test_masks_of_pictures_come_back(tmp_path, highest):
    seg = np.array([[[0, 1], [highest, 0]]])
    NaturalImage2DIO().write_seg(seg, tmp_path / "a.png", {})
    assert imread(tmp_path / "a.png").max() == highest and np.array_equal(NaturalImage2DIO().read_seg(tmp_path / "a.png")[0][0], seg)


@pytest.mark.parametrize("reader", [NaturalImage2DIO, Tiff3DIO])
def test_damaged_files_are_refused_by_name(tmp_path, reader):
    (tmp_path / "a_0000.tif").write_bytes(b"II*\0 no picture")
    with pytest.raises(InputError, match=r"a_0000\.tif (cannot be read|has shape \(0,\))"):
        reader().read_images([tmp_path / "a_0000.tif"])
    with pytest.raises(FileNotFoundError, match="b_0000.tif"):
        reader().read_images([tmp_path / "b_0000.tif"])


def test_a_tiff_volume_has_the_spacing_of_the_file_beside_it(tmp_path):
    volume = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    Tiff3DIO().write_seg(volume, tmp_path / "a_0000.tif", {"spacing": [3, 2, 1]})
    (tmp_path / "a_0000.json").rename(tmp_path / "a.json")
    data, properties = Tiff3DIO().read_images([tmp_path / "a_0000.tif"])
    assert np.array_equal(data[0], volume) and properties["spacing"] == [3, 2, 1] and properties["sitk_stuff"]["spacing"] == (1, 2, 3)
    Tiff3DIO().write_seg(volume, tmp_path / "a.tif", properties)
    assert json.loads((tmp_path / "a.json").read_text()) == {"spacing": [3, 2, 1]} and np.array_equal(Tiff3DIO().read_seg(tmp_path / "a.tif")[0][0], volume)
    (tmp_path / "a.json").write_text('{"spacing": [1, 0, 2]}')
    with pytest.raises(InputError, match=r"a\.json: spacing is \[1, 0, 2\]"):
        Tiff3DIO().read_seg(tmp_path / "a.tif")
    (tmp_path / "a.json").unlink()
    with pytest.warns(UserWarning, match="1 x 1 x 1 mm"):
        assert Tiff3DIO().read_images([tmp_path / "a_0000.tif"])[1]["spacing"] == [1, 1, 1]


def test_an_example_tells_tiff_pictures_and_volumes_apart(tmp_path):
    Tiff3DIO().write_seg(np.zeros((5, 6, 7), np.uint8), tmp_path / "volume.tif", {"spacing": [1, 1, 1]})
    imsave(tmp_path / "picture.tif", np.zeros((6, 7), np.uint8), check_contrast=False)
    assert [reader_writer_name({"file_ending": ".tif"}, tmp_path / name) for name in ("volume.tif", "picture.tif")] == ["Tiff3DIO", "NaturalImage2DIO"]


def test_an_ending_that_the_reader_does_not_read_is_refused_by_its_file():
    refuse_unread_ending(".NRRD", SimpleITKIO, "dataset.json")
    refuse_unread_ending(".xyz", type("OwnReader", (), {}), "dataset.json")  # names no endings: it may read all
    with pytest.raises(InputError, match=r"dataset.json: file_ending '.png' is none that SimpleITKIO reads \(.nii.gz"):
        refuse_unread_ending(".png", SimpleITKIO, "dataset.json")


def test_one_slice_is_told_where_the_network_sees_volumes():
    image = np.zeros((1, 1, 40, 50), np.float32)
    assert single_slice(image, (40, 50)) is None  # a network of slices
    assert single_slice(image, (1, 40, 50)) is None  # a volume's network may see one slice
    assert single_slice(image[:, :, :2, :2].repeat(2, 1), (32, 64, 64)) is None
    assert single_slice(image, (32, 64, 64)).startswith("one slice, 1 x 40 x 50 voxels")


def test_readers_of_ones_own_compare_their_channels():
    class Own(BaseReaderWriter):
        read_images = read_seg = write_seg = None

    reader = Own()
    assert reader._check_all_same([(1, 4, 5)]) and reader._check_all_same([(1, 4, 5), (1, 4, 5)]) and reader._check_all_same([1.0, 1.0 + 1e-9])
    assert not reader._check_all_same([(1, 4, 5), (1, 4, 6)]) and not reader._check_all_same([(1, 4, 5), (4, 5)])
    assert reader._check_all_same_array([np.eye(4), np.eye(4)]) and not reader._check_all_same_array([np.eye(4), np.zeros((4, 4))])


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient, NaturalImage2DIO, Tiff3DIO])
def test_every_reader_is_one_for_programs_that_ask_and_for_subclasses(reader):
    assert issubclass(reader, BaseReaderWriter) and reader()._check_all_same([[1.0, 2.0], [1.0, 2.0]])
