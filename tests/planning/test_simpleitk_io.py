import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2.imageio.geometry import corner_shift
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

IO = SimpleITKIO()
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


def geometry(spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=(1.0, 0, 0, 0, 1, 0, 0, 0, 1)):
    return {"spacing": spacing, "origin": origin, "direction": direction}


def shear(path):
    """Give a NIfTI file an affine that is not orthogonal; returns the header's 12 numbers."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    affine = (-0.75, 0.05, 0.0, -10.0, 0.0, -0.875, 0.3, -20.0, 0.0, 0.0, 2.5, 30.0)
    struct.pack_into("<hh12f", content, 252, 0, 1, *[0.0] * 12)
    struct.pack_into("<12f", content, 280, *affine)
    path.write_bytes(gzip.compress(content))
    return affine


def sform(path):
    return struct.unpack_from("<12f", gzip.decompress(path.read_bytes()), 280)


def test_axes_are_z_y_x_with_the_channel_first(tmp_path, write_image):
    array = np.arange(24).reshape(2, 3, 4).astype(np.int16)
    data, properties = IO.read_images([write_image(array, tmp_path / "a.nii.gz")])
    assert data.dtype == np.float32 and (data[0] == array).all()
    assert properties["spacing"] == [2.5, 0.875, 0.75]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_written_label_map_has_the_images_geometry(tmp_path, write_image, ending):
    image = write_image(np.zeros((2, 3, 4)), tmp_path / f"a{ending}", origin=(-7.3, 11.1, 1e3), direction=OBLIQUE)
    _, properties = IO.read_images([image])
    seg = np.arange(24).reshape(2, 3, 4)
    IO.write_seg(seg, tmp_path / f"seg{ending}", properties)
    read, same = IO.read_seg(tmp_path / f"seg{ending}")
    assert (read[0] == seg).all() and corner_shift(properties["sitk_stuff"], same["sitk_stuff"], seg.shape) < 1e-4


def test_header_bytes_of_a_flipped_image_are_kept(tmp_path, write_image):
    image = write_image(np.zeros((2, 3, 4)), tmp_path / "a.nii.gz", origin=(1.5, 2.5, -3.5), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    IO.write_seg(np.zeros((2, 3, 4)), tmp_path / "seg.nii.gz", IO.read_images([image])[1])
    assert sform(tmp_path / "seg.nii.gz") == sform(image)


@pytest.mark.parametrize(("highest", "dtype"), [(254, sitk.sitkUInt8), (255, sitk.sitkUInt16)])
def test_label_maps_are_as_small_as_their_labels_allow(tmp_path, highest, dtype):
    IO.write_seg(np.full((1, 2, 2), highest), tmp_path / "seg.nii.gz", {"sitk_stuff": geometry()})
    assert sitk.ReadImage(str(tmp_path / "seg.nii.gz")).GetPixelID() == dtype


def test_flat_image_is_one_thick_slice_and_is_written_flat(tmp_path):
    image = sitk.GetImageFromArray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    image.SetSpacing((0.5, 0.7))
    sitk.WriteImage(image, str(tmp_path / "flat.nii.gz"))
    data, properties = IO.read_images([tmp_path / "flat.nii.gz"])
    assert data.shape == (1, 1, 2, 3) and properties["spacing"] == pytest.approx([0.7 * 999, 0.7, 0.5])
    IO.write_seg(data[0], tmp_path / "seg.nii.gz", properties)
    assert sitk.ReadImage(str(tmp_path / "seg.nii.gz")).GetDimension() == 2


def test_fourth_dimension_holds_channels_and_is_not_written(tmp_path):
    array = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)  # (C, Z, Y, X)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((1.0, 2.0, 3.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / "four.nii.gz"))
    data, properties = IO.read_images([tmp_path / "four.nii.gz"])
    assert (data == array).all() and properties["spacing"] == [3.0, 2.0, 1.0]
    IO.write_seg(data[0], tmp_path / "seg.nii.gz", properties)
    assert sitk.ReadImage(str(tmp_path / "seg.nii.gz")).GetSpacing() == (1.0, 2.0, 3.0)


def test_components_are_channels(tmp_path):
    array = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "vector.mha"))
    assert (IO.read_images([tmp_path / "vector.mha"])[0] == np.moveaxis(array, -1, 0)).all()


def test_channels_are_stacked_in_the_order_given(tmp_path, write_image):
    files = [write_image(np.full((2, 2, 2), i), tmp_path / f"{i}.mha") for i in (3, 1)]
    assert IO.read_images(files)[0][:, 0, 0, 0].tolist() == [3, 1]


def test_channels_with_rounded_headers_are_taken(tmp_path, write_image):
    array, turned = np.zeros((20, 50, 50)), (0.80001, -0.59999, 0, 0.59999, 0.80001, 0, 0, 0, -1.0)
    files = [write_image(array, tmp_path / "a.mha", origin=(100, 0, 0), direction=OBLIQUE),
             write_image(array, tmp_path / "b.mha", origin=(100.0004, 0, 0), direction=turned)]
    assert IO.read_images(files)[1]["sitk_stuff"]["origin"] == (100, 0, 0)


@pytest.mark.parametrize("other", [{"origin": (0, 0, 0.5)}, {"spacing": (0.76, 0.875, 2.5)}, {"direction": OBLIQUE}])
def test_channel_on_another_grid_is_refused_with_names_and_values(tmp_path, write_image, other):
    array = np.zeros((20, 50, 50))
    files = [write_image(array, tmp_path / "first.mha"), write_image(array, tmp_path / "second.mha", **other)]
    with pytest.raises(ValueError, match=r"(?s)first\.mha.*spacing \(0\.75, 0\.875, 2\.5\).*second\.mha.*mm off"):
        IO.read_images(files)


def test_channel_of_another_shape_is_refused(tmp_path, write_image):
    files = [write_image(np.zeros((2, 3, 4)), tmp_path / "a.mha"), write_image(np.zeros((2, 3, 5)), tmp_path / "b.mha")]
    with pytest.raises(ValueError, match=r"b\.mha: shape \(2, 3, 5\), expected \(2, 3, 4\)"):
        IO.read_images(files)


def test_sheared_image_is_read_and_its_mask_gets_its_exact_affine(tmp_path, write_image):
    array = np.arange(24).reshape(2, 3, 4)
    image = write_image(array, tmp_path / "sheared.nii.gz")
    affine = shear(image)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(image))
    data, properties = IO.read_images([image])
    assert (data[0] == array).all() and properties["spacing"] == [2.5, 0.875, 0.75]
    direction = np.reshape(properties["sitk_stuff"]["direction"], (3, 3))
    stretch = direction.T @ (np.reshape(affine, (3, 4))[:, :3] * [[-1], [-1], [1]] / [0.75, 0.875, 2.5])
    assert np.allclose(direction @ direction.T, np.eye(3)) and np.allclose(stretch, stretch.T)  # polar decomposition: nearest rotation
    assert properties["sitk_stuff"]["origin"] == (10, 20, 30)
    IO.write_seg(array, tmp_path / "seg.nii.gz", properties)
    assert sform(tmp_path / "seg.nii.gz") == pytest.approx(affine) and (IO.read_seg(tmp_path / "seg.nii.gz")[0][0] == array).all()


def test_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.nii\.gz"):
        IO.read_images([tmp_path / "gone.nii.gz"])


def test_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "text.mha").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.mha is no MetaImage file"):
        IO.read_images([tmp_path / "text.mha"])


@pytest.mark.parametrize(("ending", "message"), [(".nii.gz", "damaged"), (".nii", "truncated")])
def test_file_cut_short_is_refused(tmp_path, write_image, ending, message):
    path = write_image(np.random.default_rng(0).integers(0, 99, (10, 10, 10)).astype(np.int16), tmp_path / f"cut{ending}")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=f"cut{ending} is {message}"):
        IO.read_images([path])


def test_gzip_of_two_members_is_whole(tmp_path, write_image):
    path = write_image(np.arange(24).reshape(2, 3, 4).astype(np.int16), tmp_path / "members.nii.gz")
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:360]) + gzip.compress(content[360:]))
    assert IO.read_images([path])[0][0, 1, 2, 3] == 23


def test_uncompressed_content_under_a_gz_name_is_read(tmp_path, write_image):
    path = write_image(np.arange(24).reshape(2, 3, 4).astype(np.int16), tmp_path / "plain.nii.gz")
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert IO.read_images([path])[0][0, 1, 2, 3] == 23


def test_failed_checksum_is_damage(tmp_path, write_image):
    path = write_image(np.zeros((2, 3, 4), np.int16), tmp_path / "flipped.nii.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the trailer's CRC
    path.write_bytes(content)
    with pytest.raises(ValueError, match="flipped.nii.gz is damaged"):
        IO.read_images([path])


def test_label_map_needs_three_axes(tmp_path):
    with pytest.raises(ValueError, match=r"\(Z, Y, X\).*\(1, 2, 2, 2\)"):
        IO.write_seg(np.zeros((1, 2, 2, 2)), tmp_path / "seg.nii.gz", {"sitk_stuff": geometry()})


def test_corner_shift_of_a_wrong_spacing_grows_with_the_size():
    assert corner_shift(geometry(), geometry(spacing=(1.01, 1, 1)), (1, 1, 101)) == pytest.approx(1.0)


def test_corner_shift_of_a_flip_is_the_whole_extent():
    assert corner_shift(geometry(), geometry(direction=(1, 0, 0, 0, -1, 0, 0, 0, 1)), (1, 11, 1)) == pytest.approx(20.0)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.floats(-50, 50)] * 3))
def test_corner_shift_of_an_offset_is_its_length(offset):
    shift = corner_shift(geometry(direction=OBLIQUE), geometry(direction=OBLIQUE, origin=offset), (3, 4, 5))
    assert shift == pytest.approx(np.linalg.norm(offset), abs=1e-9)
