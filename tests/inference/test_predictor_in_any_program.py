"""The predictor in programs of any kind: arrays of any form, outputs of any name, whatever else the program sets."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.pipeline import CasesFailed
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.errors import InputError
from tests.inference.tiny_model import smooth_ct

SPACING = {"spacing": [2.5, 0.9, 0.9]}


@pytest.fixture(scope="module")
def images(image_folder):
    return [SimpleITKIO().read_images([image_folder / f"case_{i}_0000.nii.gz"]) for i in range(2)]


@pytest.fixture(scope="module")
def masks(predictor, images):
    return [predictor.predict_single_npy_array(*image) for image in images]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*intensities span 1")
def test_an_array_of_truth_values_is_an_image_of_zeros_and_ones(predictor):
    image = (smooth_ct() > 70)[None]
    expected = predictor.predict_single_npy_array(image.astype(np.uint8), SPACING)
    assert np.array_equal(predictor.predict_single_npy_array(image[:, ::-1], SPACING), predictor.predict_single_npy_array(image[:, ::-1].astype(np.uint8), SPACING))
    assert np.array_equal(predictor.predict_single_npy_array(image, SPACING), expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", [
    lambda data: data.numpy()[:, ::-1, :, ::-1].copy()[:, ::-1, :, ::-1], lambda data: data.numpy().astype(">f4"), lambda data: data.clone().requires_grad_(),
    lambda data: data.transpose(1, 3).contiguous().transpose(1, 3)])
def test_preprocessed_data_may_lie_in_memory_in_any_way(predictor, images, masks, form):
    data, properties = predictor._preprocess(*images[0], None)
    assert torch.equal(predictor.predict_logits_from_preprocessed_data(form(data)), predictor.predict_logits_from_preprocessed_data(data))
    assert np.array_equal(predictor.predict_from_data_iterator([{"data": form(data), "data_properties": properties, "ofile": None}])[0], masks[0])


def test_an_iterators_file_may_be_a_path_of_any_byte_order(predictor, images, masks, tmp_path):
    data, properties = predictor._preprocess(*images[0], None)
    np.save(tmp_path / "data.npy", data.numpy().astype(">f4"))
    found, = predictor.predict_from_data_iterator([{"data": tmp_path / "data.npy", "data_properties": properties, "ofile": None}])
    assert np.array_equal(found, masks[0]) and not (tmp_path / "data.npy").exists()


@pytest.mark.parametrize(("data", "named"), [
    (np.zeros((8, 16, 16), np.float32), r"shape \(8, 16, 16\)"), (torch.zeros(2, 8, 16, 16), r"shape \(2, 8, 16, 16\).*takes \(1, D, H, W\)"),
    (np.zeros((1, 0, 16, 16)), "no axis empty"), (np.zeros((1, 8, 16, 16), complex), "real numbers"), (torch.zeros(1, 8, 16, 16, dtype=torch.cfloat), "real numbers"),
    (None, "is a NoneType"), ([[1.0]], "is a list")])
def test_preprocessed_data_of_another_form_is_refused(predictor, data, named):
    for call in (predictor.predict_logits_from_preprocessed_data, predictor.predict_case_logits):
        with pytest.raises(InputError, match=named):
            call(data)
    with pytest.raises(CasesFailed, match=named):
        predictor.predict_from_data_iterator([{"data": data, "data_properties": {}, "ofile": None}])


@pytest.mark.parametrize(("item", "named"), [({"data": None, "ofile": None}, "lacks data_properties;"), ({}, "lacks data, data_properties, ofile;"),
                                             (None, "Item 1 of the data iterator lacks data,")])
def test_an_iterators_item_that_lacks_something_is_named(predictor, item, named):
    with pytest.raises(InputError, match=named):
        predictor.predict_from_data_iterator([item])


def test_fewer_than_no_threads_are_refused_by_every_call(predictor, images):
    arrays = [image for image, _ in images[:2]], None, [properties for _, properties in images[:2]], None
    for call in (lambda: predictor.predict_from_list_of_npy_arrays(*arrays, num_processes=-1),
                 lambda: predictor.predict_from_list_of_npy_arrays(*arrays, num_processes_segmentation_export=-1),
                 lambda: predictor.predict_from_data_iterator([], num_processes_segmentation_export=-1),
                 lambda: next(predictor.get_data_iterator_from_raw_npy_data(*arrays, num_processes=-1))):
        with pytest.raises(InputError, match="the least is 0"):
            call()


@pytest.mark.parametrize("name", ["c.nii.gz", "c.nii", "c.img", "c.hdr", "c.NII.GZ"])
def test_an_array_may_be_written_under_a_name_that_holds_an_ending(predictor, images, masks, tmp_path, name):
    predictor.predict_single_npy_array(images[0][0], {"spacing": images[0][1]["spacing"]}, None, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{name}.nii.gz", "subtype_probabilities.csv", "subtype_results.csv"])
    (tmp_path / f"{name}.nii.gz").rename(tmp_path / "plain.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "plain.nii.gz"))), masks[0])


@pytest.mark.parametrize("output", ["", ".", "..", "masks/.."])
def test_an_output_without_a_name_is_refused(predictor, images, image_folder, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    array, properties = images[0]
    for call in (lambda: predictor.predict_single_npy_array(array, properties, None, output),
                 lambda: predictor.predict_from_list_of_npy_arrays([array], None, [properties], [output]),
                 lambda: predictor.predict_from_files([[image_folder / "case_0_0000.nii.gz"]], [output])):
        with pytest.raises(InputError, match="names no file"):
            call()


@pytest.mark.slow
def test_the_network_of_a_model_named_from_here_is_built_elsewhere(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(model_folder.parent)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(model_folder.name, (0, 1))
    monkeypatch.chdir(tmp_path)
    assert len(predictor.list_of_parameters) == 2 and isinstance(predictor.network, torch.nn.Module)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:winograd is not used")
@pytest.mark.parametrize("options", [{"engine": "torch"}, {"engine": "torch", "mode": "fast"}, {"engine": "auto"}])
def test_torchs_default_device_is_of_no_concern(model_folder, images, image_folder, options):
    def loaded():
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, tta=1, **options)
        predictor.initialize_from_trained_model_folder(model_folder, (0, 1))
        return predictor

    before = loaded()
    expected = before.predict_single_npy_array(*images[0])
    data = before._preprocess(*images[0], None)[0]
    torch.set_default_device("meta")  # where every tensor is useless that lands there by mistake
    try:
        for predictor in (before, loaded()):
            assert np.array_equal(predictor.predict_single_npy_array(*images[0]), expected)
            assert np.array_equal(predictor.predict_from_files([[image_folder / "case_0_0000.nii.gz"]], None, False, True, 0, 0)[0], expected)
            assert predictor.predict_logits_from_preprocessed_data(data).isfinite().all()
            assert predictor.predict_sliding_window_return_logits(data).isfinite().all()
        handed_over = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, tta=1)
        handed_over.manual_initialization(before.network, before.plans_manager, before.configuration_manager, before.list_of_parameters, before.dataset_json, "", (0,))
        assert handed_over.predict_logits_from_preprocessed_data(data).isfinite().all()
    finally:
        torch.set_default_device(None)
