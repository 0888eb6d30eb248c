"""The predictor as a library: arrays and SimpleITK images in, results out, for as long as a program runs."""

import gc
import threading

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.pipeline import CasesFailed
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.watch import STAGES, PredictionCancelled
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.inference.tiny_model import smooth_ct, tiny_dataset_json, tiny_network, tiny_plans

CPU = torch.device("cpu")
SPACING = {"spacing": [2.5, 0.9, 0.9]}


@pytest.fixture(scope="module")
def images(image_folder):
    return [SimpleITKIO().read_images([image_folder / f"case_{i}_0000.nii.gz"]) for i in range(3)]


@pytest.fixture(scope="module")
def masks(predictor, images):
    return [predictor.predict_single_npy_array(*image) for image in images]


@pytest.mark.slow
def test_result_has_mask_class_and_volumes(predictor, images, masks):
    result = predictor.predict_single_npy_array(*images[0], return_classification=True)
    assert np.array_equal(result.mask, masks[0]) and result.probabilities is None and result.roi is None
    assert list(result.class_probabilities) == ["0", "1", "2"] and sum(result.class_probabilities.values()) == pytest.approx(1)
    assert result.class_name == max(result.class_probabilities, key=result.class_probabilities.get)
    voxel_ml = 2.5 * 0.9 * 0.9 / 1000
    assert result.volumes_ml == pytest.approx({"pancreas": (masks[0] == 1).sum() * voxel_ml, "lesion": (masks[0] == 2).sum() * voxel_ml})


@pytest.mark.slow
def test_class_is_the_one_that_the_table_has(predictor, images, image_folder, tmp_path):
    predictor.predict_from_files([[image_folder / "case_1_0000.nii.gz"]], tmp_path)
    result = predictor.predict_single_npy_array(*images[1], return_classification=True)
    assert (tmp_path / "subtype_results.csv").read_text() == f"Names,Subtype\ncase_1.nii.gz,{result.class_name}\n"


@pytest.mark.slow
def test_an_array_that_is_written_has_its_row_in_the_class_table(predictor, images, tmp_path):
    for i in (1, 0):
        assert predictor.predict_single_npy_array(*images[i], output_file_truncated=tmp_path / f"case_{i}") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case_0.nii.gz", "case_1.nii.gz", "subtype_probabilities.csv", "subtype_results.csv"]
    assert len((tmp_path / "subtype_results.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_sitk_images_in_and_out(predictor, image_folder, masks):
    image = sitk.ReadImage(str(image_folder / "case_2_0000.nii.gz"))
    mask = predictor.predict_sitk_images(image).mask_image()
    assert np.array_equal(sitk.GetArrayFromImage(mask), masks[2])
    assert (mask.GetSize(), mask.GetSpacing(), mask.GetOrigin(), mask.GetDirection()) == (
        image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def test_mask_of_an_array_without_geometry_has_its_spacing(predictor, images):
    result = predictor.predict_single_npy_array(images[0][0], SPACING, return_classification=True)
    assert result.mask_image().GetSpacing() == (0.9, 0.9, 2.5)


def test_without_class_head_there_is_no_class(images):
    plans = PlansManager(tiny_plans(class_head=False))
    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False, tta=1)
    predictor.manual_initialization(tiny_network(class_head=False), plans, plans.get_configuration("3d_fullres"), None, tiny_dataset_json(), "nnUNetTrainer", None)
    result = predictor.predict_single_npy_array(*images[0], return_classification=True)
    assert result.class_name is None and result.class_probabilities == {} and set(result.volumes_ml) == {"pancreas", "lesion"}


@pytest.mark.parametrize("spacing", [[0, 1, 1], [-1, 1, 1], [np.nan, 1, 1], [np.inf, 1, 1], [1, 1], [1, 1, 1, 1], 1.0, None, ["a", 1, 1], ["1", "1", "1"], [[1], [1, 2], 1]])
def test_a_spacing_that_is_none_is_refused(predictor, images, spacing):
    with pytest.raises(InputError, match="the image cannot be used: its spacing is"):
        predictor.predict_single_npy_array(images[0][0], {"spacing": spacing})


@pytest.mark.parametrize(("shape", "problem"), [
    ((8, 16, 16), "3 axes"), ((16, 16), "2 axes"), ((1, 1, 8, 16, 16), "5 axes"), ((1, 0, 16, 16), "no voxel"), ((0,), "1 axes"),
    ((2, 8, 16, 16), "2 channel.*takes 1"), ((0, 8, 16, 16), "no voxel")])
def test_an_array_of_another_shape_is_refused(predictor, shape, problem):
    with pytest.raises(InputError, match=problem):
        predictor.predict_single_npy_array(np.zeros(shape, np.float32), SPACING)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted_and_refused(predictor, images, value):
    image = images[0][0].copy()
    image[0, 2, 3, 4:6] = value
    with pytest.raises(InputError, match="2 of its voxels are NaN or infinite"):
        predictor.predict_single_npy_array(image, SPACING)


@pytest.mark.parametrize("image", [None, [[1.0]], np.zeros((1, 8, 16, 16), complex), np.full((1, 8, 16, 16), "a"), np.zeros((1, 8, 16, 16), object)])
def test_what_is_no_array_of_numbers_is_refused(predictor, image):
    with pytest.raises(InputError, match="give a numpy array of real numbers"):
        predictor.predict_single_npy_array(image, SPACING)


def test_all_that_is_wrong_is_said_at_once(predictor):
    with pytest.raises(InputError, match="3 axes.*no 'spacing'"):
        predictor.predict_single_npy_array(np.zeros((8, 16, 16)), {})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64, np.float16])
def test_any_type_of_number_serves(predictor, dtype):
    assert predictor.predict_single_npy_array(smooth_ct().astype(dtype)[None], SPACING).shape == (10, 26, 24)


def test_a_mask_of_a_previous_stage_is_refused_where_there_is_none(predictor, images):
    with pytest.raises(InputError, match="leave out its mask"):
        predictor.predict_single_npy_array(*images[0], np.zeros((1, 10, 26, 24)))


def test_progress_tells_every_stage_in_turn(predictor, image_folder, tmp_path):
    seen = []
    predictor.predict_from_files([[image_folder / "case_0_0000.nii.gz"]], tmp_path, progress=seen.append)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == list(STAGES)
    windows = [progress for progress in seen if progress.stage == "network"]
    assert [progress.done for progress in windows] == list(range(windows[-1].of + 1)) and windows[-1].of > 1
    assert {(progress.case, progress.position, progress.n_cases) for progress in seen} == {("case_0", 0, 1)}


def test_cancelling_ends_between_two_windows(predictor, images):
    seen, cancelled = [], threading.Event()

    def progress(step):
        seen.append(step)
        if step.stage == "network" and step.done == 1:
            cancelled.set()

    with pytest.raises(PredictionCancelled, match="network"):
        predictor.predict_single_npy_array(*images[0], progress=progress, cancelled=cancelled)
    assert seen[-1].done == 1


def test_cancelling_by_a_function_keeps_what_is_done(predictor, image_folder, tmp_path):
    def cancelled():
        return (tmp_path / "case_0.nii.gz").is_file()

    with pytest.raises(PredictionCancelled):
        predictor.predict_from_files(image_folder, tmp_path, False, True, 0, 0, cancelled=cancelled)
    assert [path.name for path in tmp_path.glob("*.nii.gz")] == ["case_0.nii.gz"]
    assert len((tmp_path / "subtype_results.csv").read_text().splitlines()) == 2 and (tmp_path / "prediction_times.json").is_file()


@pytest.mark.slow
def test_files_one_after_the_other_give_the_same(predictor, image_folder, masks):
    assert all(np.array_equal(a, b) for a, b in zip(predictor.predict_from_files_sequential(image_folder, None), masks, strict=True))


@pytest.mark.slow
def test_list_of_arrays_gives_each_its_mask(predictor, images, masks):
    found = predictor.predict_from_list_of_npy_arrays([image for image, _ in images], None, [properties for _, properties in images], None)
    assert all(np.array_equal(a, b) for a, b in zip(found, masks, strict=True))


def test_one_array_is_a_list_of_one(predictor, images, masks):
    result, = predictor.predict_from_list_of_npy_arrays(*images[0][:1], None, images[0][1], None, return_classification=True)
    assert np.array_equal(result.mask, masks[0])


@pytest.mark.slow
def test_arrays_are_written_where_they_are_told(predictor, images, masks, tmp_path):
    assert predictor.predict_from_list_of_npy_arrays([images[0][0], images[1][0]], None, [images[0][1], images[1][1]], [tmp_path / "a", None])[1].shape == (10, 26, 24)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))), masks[0])


def test_arrays_that_would_be_one_file_are_refused(predictor, images, tmp_path):
    with pytest.raises(InputError, match="image 1 and image 2 would both be written"):
        predictor.predict_from_list_of_npy_arrays([images[0][0], images[1][0]], None, [SPACING, SPACING], [tmp_path / "a", tmp_path / "A"])


def test_lists_of_different_lengths_are_refused(predictor, images):
    with pytest.raises(InputError, match="2 images, 1 properties"):
        predictor.predict_from_list_of_npy_arrays([images[0][0], images[1][0]], None, [SPACING], None)


def test_a_bad_array_costs_itself_alone(predictor, images, masks):
    with pytest.raises(CasesFailed, match="1 of 2 case.*\n  image 1: image 1 cannot be used") as caught:
        predictor.predict_from_list_of_npy_arrays([np.full_like(images[0][0], np.nan), images[1][0]], None, [SPACING, images[1][1]], None)
    assert caught.value.results[0] is None and np.array_equal(caught.value.results[1], masks[1])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_iterators_give_preprocessed_cases_in_order(predictor, images, image_folder, masks, workers):
    files = [[image_folder / f"case_{i}_0000.nii.gz"] for i in range(3)]
    from_files = predictor.get_data_iterator_from_lists_of_filenames(files, None, None, workers)
    from_arrays = predictor.get_data_iterator_from_raw_npy_data([image for image, _ in images], None, [properties for _, properties in images], None, workers)
    for iterator in (from_files, from_arrays):
        found = predictor.predict_from_data_iterator(iterator)
        assert all(np.array_equal(a, b) for a, b in zip(found, masks, strict=True))


def test_an_iterators_data_may_lie_in_a_file_that_is_used_up(predictor, images, masks, tmp_path):
    data, properties = predictor._preprocess(*images[0], None)
    np.save(tmp_path / "data.npy", data.numpy())
    found, = predictor.predict_from_data_iterator([{"data": str(tmp_path / "data.npy"), "data_properties": properties, "ofile": None}])
    assert np.array_equal(found, masks[0]) and not (tmp_path / "data.npy").exists()


def test_an_iterators_cases_that_would_be_one_file_are_not_both_written(predictor, images, tmp_path):
    items = [dict(zip(("data", "data_properties"), predictor._preprocess(*image, None)), ofile=str(tmp_path / "x")) for image in images[:2]]
    with pytest.raises(CasesFailed, match="1 of 2 case.*(?s:.*)would both be written"):
        predictor.predict_from_data_iterator(items)
    assert len((tmp_path / "subtype_results.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_logits_of_the_network_as_it_stands(model_folder, images):
    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(model_folder, (0, 1))
    data, _ = predictor._preprocess(*images[0], None)
    of_the_first_fold = predictor.predict_sliding_window_return_logits(data)
    by_fold = []
    for parameters in predictor.list_of_parameters:
        predictor.network.load_state_dict(parameters)
        by_fold.append(predictor.predict_sliding_window_return_logits(data))
    torch.testing.assert_close(by_fold[0], of_the_first_fold)
    assert not torch.equal(by_fold[0], by_fold[1])
    torch.testing.assert_close(sum(by_fold) / 2, predictor.predict_logits_from_preprocessed_data(data))


@pytest.mark.slow
def test_a_network_that_is_set_predicts(predictor, model_folder, images):
    own = nnUNetPredictor(device=CPU, allow_tqdm=False, engine="torch", tta=1)
    own.initialize_from_trained_model_folder(model_folder, (0,))
    assert own.network is not None
    own.list_of_parameters = [tiny_network(seed=1).state_dict()]
    data, _ = own._preprocess(*images[0], None)
    torch.testing.assert_close(own.predict_logits_from_preprocessed_data(data), own.predict_sliding_window_return_logits(data))
    assert not torch.equal(own.predict_logits_from_preprocessed_data(data), predictor.predict_logits_from_preprocessed_data(data))


@pytest.mark.slow
def test_what_upstream_looks_up_in_every_prediction_may_be_set_between_two(model_folder):
    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False, engine="torch")
    predictor.initialize_from_trained_model_folder(model_folder, (0,))
    assert len(predictor.case_predictor.views) == 8 and predictor.case_predictor.mode.tile_step_size == 0.5
    predictor.allowed_mirroring_axes = (0,)
    predictor.tile_step_size = 1.0
    assert len(predictor.case_predictor.views) == 2 and predictor.case_predictor.mode.tile_step_size == 1.0
    predictor.use_mirroring, predictor.use_gaussian = False, False
    assert len(predictor.case_predictor.views) == 1 and not predictor.case_predictor.gaussian


@pytest.mark.slow
@pytest.mark.parametrize("method", ["predict_sliding_window_return_logits", "predict_logits_from_preprocessed_data"])
def test_what_a_subclass_overrides_is_called(model_folder, images, masks, method):
    calls = []

    def overridden(self, data):
        calls.append(tuple(data.shape))
        return -getattr(super(Own, self), method)(data)

    Own = type("Own", (nnUNetPredictor,), {method: overridden})
    predictor = Own(device=CPU, allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(model_folder, (0, 1))
    result = predictor.predict_single_npy_array(*images[0], return_classification=True)
    assert len(calls) == (2 if "window" in method else 1) and not np.array_equal(result.mask, masks[0])
    assert sum(result.class_probabilities.values()) == pytest.approx(1)


def test_before_a_model_is_loaded_its_attributes_are_there():
    predictor = nnUNetPredictor(device=CPU)
    assert (predictor.network, predictor.list_of_parameters, predictor.plans_manager, predictor.dataset_json, predictor.allowed_mirroring_axes) == (None,) * 5


@pytest.mark.slow
def test_threads_may_share_a_predictor(predictor, images, masks):
    found = [None] * 6
    threads = [threading.Thread(target=lambda i=i: found.__setitem__(i, predictor.predict_single_npy_array(*images[i % 3]))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(mask, masks[i % 3]) for i, mask in enumerate(found))


@pytest.mark.slow
def test_a_predictor_that_is_used_again_and_again_does_not_grow(predictor):
    image = smooth_ct((4, 16, 16))[None]

    def objects_after(calls):
        for _ in range(calls):
            predictor.predict_single_npy_array(image, SPACING, return_classification=True)
        gc.collect()
        return len(gc.get_objects())

    assert objects_after(60) - objects_after(5) < 30  # one object kept a call would be 60


@pytest.mark.slow
def test_progress_counts_the_cases_that_this_call_predicts(predictor, image_folder, tmp_path):
    told = []
    predictor.predict_from_files(image_folder, tmp_path, num_parts=3, part_id=2, progress=told.append)
    assert {(call.position, call.n_cases) for call in told} == {(0, 1)}


def test_what_cannot_cancel_is_refused(predictor, images):
    with pytest.raises(InputError, match="cancelled is True; give a function, or a threading.Event"):
        predictor.predict_single_npy_array(*images[0], cancelled=True)


@pytest.mark.parametrize("shape, spacing", [((2, 24, 24), [0.4, 0.9, 0.9]), ((10, 24, 24), [0.001, 0.9, 0.9])])
def test_an_image_thinner_than_half_a_voxel_is_refused_with_its_size(predictor, shape, spacing):
    with pytest.raises(InputError, match="thinner than half a voxel"):
        predictor.predict_single_npy_array(smooth_ct(shape)[None].astype(np.float32), {"spacing": spacing})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float16", "int16", ">f4"])
def test_preprocessed_data_of_any_type_serve(predictor, images, dtype):
    item = next(iter(predictor.get_data_iterator_from_raw_npy_data(*[[part] if part is not None else None for part in (images[0][0], None, images[0][1])], None, 0)))
    rounded = np.round(np.asarray(item["data"]))
    expected, found = (predictor.predict_from_data_iterator([item | {"data": data}])[0] for data in (torch.from_numpy(rounded), rounded.astype(dtype)))
    assert np.array_equal(expected, found)
