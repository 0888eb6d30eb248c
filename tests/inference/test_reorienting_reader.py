"""Models whose reader turns images to RAS: files, SimpleITK images and results say the same, with the axes of the image."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.errors import InputError
from tests.inference.tiny_model import save_model, smooth_ct, tiny_dataset_json, tiny_network, tiny_plans


@pytest.fixture(scope="module", params=["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def predictor(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("turning")
    save_model(folder, tiny_plans() | {"image_reader_writer": request.param}, tiny_dataset_json(), [tiny_network()])
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(folder, (0,))
    return predictor


@pytest.fixture
def image():
    """Axes along the world's y, z and x, two of them backwards."""
    image = sitk.GetImageFromArray(smooth_ct((24, 20, 16)))
    image.SetSpacing((1.0, 1.5, 1.25))
    image.SetOrigin((7.0, -3.0, 11.0))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
    return image


@pytest.mark.slow
def test_an_image_gets_the_mask_that_its_file_gets(predictor, image, tmp_path):
    sitk.WriteImage(image, str(tmp_path / "x_0000.nii.gz"))
    predictor.predict_from_files([[tmp_path / "x_0000.nii.gz"]], [tmp_path / "x"])
    of_file = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "x.nii.gz")))
    result = predictor.predict_sitk_images(image, return_probabilities=True)
    assert len(np.unique(of_file)) > 1 and np.array_equal(result.mask, of_file)
    assert result.probabilities.shape[1:] == of_file.shape and np.array_equal(result.probabilities.argmax(0), of_file)
    mask = result.mask_image()
    assert (mask.GetSize(), mask.GetSpacing(), mask.GetOrigin(), mask.GetDirection()) == (image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


@pytest.mark.slow
def test_the_result_of_a_file_has_the_files_axes(predictor, image, tmp_path):
    sitk.WriteImage(image, str(tmp_path / "x_0000.nii.gz"))
    result, = predictor.predict_from_files([[tmp_path / "x_0000.nii.gz"]], None, return_classification=True)
    assert np.array_equal(result.mask, predictor.predict_sitk_images(image).mask)
    mask = result.mask_image()
    assert mask.GetSize() == image.GetSize() and mask.GetDirection() == pytest.approx(image.GetDirection()) and mask.GetOrigin() == pytest.approx(image.GetOrigin())


@pytest.mark.slow
def test_an_array_without_a_place_in_the_world_is_written(predictor, tmp_path):
    predictor.predict_single_npy_array(smooth_ct((10, 20, 24))[None].astype(np.float32), {"spacing": [2.0, 1.0, 1.5]}, output_file_truncated=tmp_path / "new" / "x")
    assert sitk.ReadImage(str(tmp_path / "new" / "x.nii.gz")).GetSpacing() == (1.5, 1.0, 2.0)


@pytest.mark.parametrize(("unfit", "problem"), [
    (sitk.Image([4, 4, 4], sitk.sitkComplexFloat32), "voxels of complex"), (sitk.Cast(sitk.Image([4, 4, 4], sitk.sitkUInt8), sitk.sitkLabelUInt8), "LabelMapToLabel"),
    (np.zeros((4, 4, 4)), "a ndarray; give a SimpleITK image")])
def test_images_that_have_no_real_voxels_are_refused(predictor, unfit, problem):
    with pytest.raises(InputError, match=problem):
        predictor.predict_sitk_images([unfit])
