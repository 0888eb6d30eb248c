"""Cases prepared ahead: the items of nnU-Net, in order, and errors that name their case. Images of 4 voxels an axis."""

import queue
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.data_iterators import (
    PreprocessAdapter,
    PreprocessAdapterFromNpy,
    preprocess_fromfiles_save_to_queue,
    preprocess_fromnpy_save_to_queue,
    preprocessing_iterator_fromfiles,
    preprocessing_iterator_fromnpy,
)
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.errors import CasesFailed
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DATASET = {"channel_names": {"0": "other"}, "labels": {"background": 0, "organ": 1, "lesion": 2}, "file_ending": ".nii.gz"}
GEOMETRY = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}}
RESAMPLING = {f"resampling_fn_{what}{part}": value for what in ("data", "seg") for part, value in (("", "no_resampling_hack"), ("_kwargs", {}))}
PLANS = {"dataset_name": "Dataset902_Tiny", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
         "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
         "foreground_intensity_properties_per_channel": {"0": dict.fromkeys(("mean", "std", "percentile_00_5", "percentile_99_5"), 1.0)},
         "configurations": {"3d_fullres": RESAMPLING | {
             "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [4, 4, 4], "spacing": [1.0, 1.0, 1.0],
             "normalization_schemes": ["NoNormalization"], "use_mask_for_norm": [False],
             "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []}}}}
NUMBERS = range(1, 6)  # image n holds n everywhere, so that its item is known


@pytest.fixture
def cases(tmp_path):
    """Five images and masks of label 2 in the first slice, in memory and on disk."""
    images = [np.full((1, 4, 4, 4), n, np.float32) for n in NUMBERS]
    mask = np.zeros((1, 4, 4, 4), np.uint8)
    mask[:, 0] = 2
    files, masks = [], []
    for n, image in zip(NUMBERS, images):
        files.append([str(tmp_path / f"c{n}_0000.nii.gz")])
        masks.append(str(tmp_path / f"c{n}.nii.gz"))
        SimpleITKIO().write_seg(image[0].astype(np.uint8), files[-1][0], GEOMETRY)
        SimpleITKIO().write_seg(mask[0], masks[-1], GEOMETRY)
    plans = PlansManager(PLANS)
    return SimpleNamespace(files=files, masks=masks, images=images, mask=mask, properties=[{"spacing": [1.0, 1.0, 1.0]} for _ in images],
                           outputs=[f"out{n}" for n in NUMBERS], settings=(plans, DATASET, plans.get_configuration("3d_fullres")))


def first_voxels(items):
    return [int(item["data"][0, 0, 0, 0]) for item in items]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 9])
def test_items_of_files_come_in_order(cases, workers):
    items = list(preprocessing_iterator_fromfiles(cases.files, None, cases.outputs, *cases.settings, workers))
    assert first_voxels(items) == list(NUMBERS) and [item["ofile"] for item in items] == cases.outputs
    assert all(item["data"].dtype == torch.float32 and item["data"].shape == (1, 4, 4, 4) for item in items)
    assert items[0]["data_properties"]["bbox_used_for_cropping"] == [[0, 4], [0, 4], [0, 4]]


def test_items_of_arrays_come_in_order_without_outputs(cases):
    items = list(preprocessing_iterator_fromnpy(cases.images, None, cases.properties, None, *cases.settings, 2))
    assert first_voxels(items) == list(NUMBERS) and {item["ofile"] for item in items} == {None}


@pytest.mark.parametrize("of_files", [True, False])
def test_labels_of_the_previous_stage_are_channels(cases, of_files):
    if of_files:
        items = preprocessing_iterator_fromfiles(cases.files[:1], cases.masks[:1], None, *cases.settings, 1)
    else:
        items = preprocessing_iterator_fromnpy(cases.images[:1], [cases.mask], cases.properties[:1], None, *cases.settings, 1)
    data = next(items)["data"]
    assert data.shape == (3, 4, 4, 4) and data[:, 0, 0, 0].tolist() == [1, 0, 1] and data[:, 1, 0, 0].tolist() == [1, 0, 0]


def test_a_case_that_fails_is_named_after_those_before_it(cases, tmp_path):
    items = preprocessing_iterator_fromfiles([cases.files[0], [str(tmp_path / "gone.nii.gz")]], None, None, *cases.settings, 2)
    assert first_voxels([next(items)]) == [1]
    with pytest.raises(CasesFailed, match=r"gone\.nii\.gz"):
        next(items)


def test_an_array_that_fails_is_named_by_its_output(cases):
    items = preprocessing_iterator_fromnpy([cases.images[0][0]], None, cases.properties[:1], ["out7"], *cases.settings, 1)
    with pytest.raises(CasesFailed, match="out7"):
        next(items)


def test_no_worker_and_lists_of_different_lengths_are_refused(cases):
    with pytest.raises(ValueError, match="num_processes"):
        preprocessing_iterator_fromfiles(cases.files, None, None, *cases.settings, 0)
    with pytest.raises(ValueError, match="zip"):
        preprocessing_iterator_fromfiles(cases.files, None, ["one"], *cases.settings, 1)


@pytest.mark.parametrize("of_files", [True, False])
def test_a_queue_gets_all_items_and_then_the_end(cases, of_files):
    target, done, abort = queue.Queue(), threading.Event(), threading.Event()
    if of_files:
        preprocess_fromfiles_save_to_queue(cases.files, None, cases.outputs, *cases.settings, target, done, abort)
    else:
        preprocess_fromnpy_save_to_queue(cases.images, None, cases.properties, None, *cases.settings, target, done, abort)
    assert first_voxels([target.get() for _ in NUMBERS]) == list(NUMBERS) and done.is_set() and not abort.is_set()


def test_nothing_is_put_into_a_queue_after_the_abort(cases):
    target, done, abort = queue.Queue(1), threading.Event(), threading.Event()
    abort.set()
    preprocess_fromfiles_save_to_queue(cases.files, None, None, *cases.settings, target, done, abort)
    assert target.empty() and not done.is_set()


def test_an_error_sets_the_abort(cases):
    target, done, abort = queue.Queue(), threading.Event(), threading.Event()
    with pytest.raises(OSError, match="gone"):
        preprocess_fromfiles_save_to_queue([["gone.nii.gz"]], None, None, *cases.settings, target, done, abort)
    assert abort.is_set() and not done.is_set()


def test_adapters_are_loaders_of_batchgenerators(cases):
    plans, dataset, configuration = cases.settings
    of_files = PreprocessAdapter(cases.files, None, DefaultPreprocessor(), cases.outputs, plans, dataset, configuration)
    of_arrays = PreprocessAdapterFromNpy(cases.images, None, cases.properties, None, plans, dataset, configuration)
    assert first_voxels(of_files) == first_voxels(of_arrays) == list(NUMBERS)
