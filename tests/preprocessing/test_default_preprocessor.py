import os
import shutil

import numpy as np
import pytest

from nnunetv2 import preprocessing
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.case_store import is_complete, list_cases, load_case
from nnunetv2.preprocessing.class_locations import sample_class_locations
from nnunetv2.preprocessing.preprocessors import DefaultPreprocessor, preprocessor_by_name
from nnunetv2.preprocessing.preprocessors.default_preprocessor import _copy_references, _run_and_save
from nnunetv2.preprocessing.recipe import trained_on_lock
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.folder_lock import reading_lock
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "lesion": 2}, "numTraining": 2, "file_ending": ".nii.gz"}
RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}


def make_plans(spacing=(1.0, 1.0, 1.0), transpose=(0, 1, 2), channels=1) -> dict:
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [8, 8, 8],
        "spacing": list(spacing), "normalization_schemes": ["CTNormalization"] * channels, "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": RESAMPLING,
        "resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_seg_kwargs": RESAMPLING | {"is_seg": True, "order": 1},
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    return {
        "dataset_name": "Dataset901_Tiny", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose), "transpose_backward": np.argsort(transpose).tolist(),
        "configurations": {"3d_fullres": configuration, "2d": configuration | {"spacing": list(spacing)[1:], "patch_size": [8, 8]}},
        "foreground_intensity_properties_per_channel": {
            str(i): {"mean": 0.0, "std": 1.0, "percentile_00_5": -100.0, "percentile_99_5": 100.0} for i in range(channels)},
    }


def run_npy(data, seg, spacing=(1.0, 1.0, 1.0), configuration="3d_fullres", dataset=DATASET, **plans):
    plans_manager = PlansManager(make_plans(**plans))
    return DefaultPreprocessor().run_case_npy(data, seg, {"spacing": list(spacing)}, plans_manager,
                                              plans_manager.get_configuration(configuration), dataset)


def ramp(shape):
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(1, *shape) / np.prod(shape)


def test_axes_are_transposed():
    image = ramp((2, 3, 4))
    data, _, properties = run_npy(image, None, transpose=(2, 0, 1))
    assert np.allclose(data[0], image[0].transpose(2, 0, 1), atol=1e-6)
    assert properties["shape_before_cropping"] == (4, 2, 3)


def test_spacing_is_transposed_with_the_axes():
    data, _, _ = run_npy(ramp((4, 4, 4)), None, spacing=(1.0, 2.0, 1.0), transpose=(1, 0, 2))
    assert data.shape == (1, 8, 4, 4)


def test_2d_keeps_the_slices():
    data, _, _ = run_npy(ramp((3, 4, 4)), None, spacing=(5.0, 2.0, 2.0), configuration="2d")
    assert data.shape == (1, 3, 8, 8)


def test_crop_is_recorded_and_marked_in_the_segmentation():
    image = np.zeros((1, 3, 3, 4), np.float32)
    image[0, 1, 1, 1:3] = 5
    data, seg, properties = run_npy(image, np.zeros((1, 3, 3, 4), np.float32))
    assert properties["bbox_used_for_cropping"] == [[1, 2], [1, 2], [1, 3]]
    assert properties["shape_after_cropping_and_before_resampling"] == (1, 1, 2) and data.shape == (1, 1, 1, 2)


def test_arguments_stay_as_they_are():
    image, seg, properties = ramp((3, 3, 3)), np.ones((1, 3, 3, 3), np.float32), {"spacing": [1.0, 1.0, 1.0]}
    before = image.copy()
    plans_manager = PlansManager(make_plans())
    DefaultPreprocessor().run_case_npy(image, seg, properties, plans_manager, plans_manager.get_configuration("3d_fullres"), DATASET)
    assert np.array_equal(image, before) and properties == {"spacing": [1.0, 1.0, 1.0]}


def test_without_reference_there_are_no_class_locations():
    _, seg, properties = run_npy(ramp((2, 2, 2)), None)
    assert "class_locations" not in properties and (seg == 0).all()


def test_unknown_label_is_refused_with_its_value():
    with pytest.raises(ValueError, match=r"\[7\]"):
        run_npy(ramp((2, 2, 2)), np.full((1, 2, 2, 2), 7, np.float32))


def test_fractional_label_is_refused_with_its_value():
    with pytest.raises(ValueError, match="1.25"):
        run_npy(ramp((2, 2, 2)), np.full((1, 2, 2, 2), 1.25, np.float32))


def test_shape_mismatch_is_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        run_npy(ramp((2, 2, 2)), np.zeros((1, 2, 2, 3), np.float32))


def test_channel_count_is_checked():
    with pytest.raises(ValueError, match="1 channel"):
        run_npy(ramp((2, 2, 2)), None, channels=2)


def test_class_locations_point_at_their_class():
    seg = np.random.default_rng(0).integers(0, 3, (1, 6, 6, 6))
    for label, voxels in sample_class_locations(seg, [1, 2]).items():
        assert (seg[tuple(voxels.T)] == label).all() and len(voxels) == (seg == label).sum()


def test_class_locations_of_an_absent_class_are_empty():
    assert sample_class_locations(np.zeros((1, 2, 2, 2), int), [1])[1] == []


def test_region_locations_cover_all_its_labels():
    seg = np.array([0, 1, 2, 2]).reshape(1, 1, 1, 4)
    assert set(sample_class_locations(seg, [(1, 2)])[1, 2][:, 3].tolist()) == {1, 2, 3}


def test_large_class_is_sampled_not_listed():
    assert len(sample_class_locations(np.ones((1, 30, 30, 30), np.int8), [1])[1]) == 10_000


def test_ignore_label_adds_the_annotated_voxels():
    dataset = DATASET | {"labels": {"background": 0, "organ": 1, "ignore": 2}}
    _, _, properties = run_npy(ramp((1, 1, 3)), np.array([0, 1, 2], np.float32).reshape(1, 1, 1, 3), dataset=dataset)
    assert sorted(properties["class_locations"][-1, 0, 1][:, 3].tolist()) == [0, 1]


def test_unknown_preprocessor_is_named():
    with pytest.raises(ValueError, match="MagicPreprocessor"):
        preprocessor_by_name("MagicPreprocessor")


def test_a_preprocessor_in_a_file_of_ones_own_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "my_own_preprocessor.py").write_text("from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor\n\n\n"
                                                     "class MyPreprocessor(DefaultPreprocessor):\n    pass\n")
    monkeypatch.setattr(preprocessing, "__path__", [*preprocessing.__path__, str(tmp_path)])
    assert preprocessor_by_name("MyPreprocessor").__name__ == "MyPreprocessor"
    assert issubclass(preprocessor_by_name("MyPreprocessor"), DefaultPreprocessor)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Two small raw cases with plans; returns (raw folder, preprocessed folder of the data set)."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    raw, preprocessed = tmp_path / "nnUNet_raw" / "Dataset901_Tiny", tmp_path / "nnUNet_preprocessed" / "Dataset901_Tiny"
    geometry = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}}
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case in ("a", "b"):
        SimpleITKIO().write_seg(rng.integers(1, 200, (6, 7, 8)), raw / "imagesTr" / f"{case}_0000.nii.gz", geometry)
        SimpleITKIO().write_seg(rng.integers(0, 3, (6, 7, 8)), raw / "labelsTr" / f"{case}.nii.gz", geometry)
    for path in (*raw.glob("*/*"),):
        os.utime(path, (1e9, 1e9))
    save_json(DATASET, raw / "dataset.json")
    save_json(DATASET, preprocessed / "dataset.json")
    save_json(make_plans(), preprocessed / "nnUNetPlans.json")
    return raw, preprocessed


def preprocess():
    DefaultPreprocessor().run("Dataset901_Tiny", "3d_fullres", "nnUNetPlans", 2)


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_run_skips_what_is_done_and_makes_the_rest(dataset):
    raw, preprocessed = dataset
    folder = preprocessed / "nnUNetPlans_3d_fullres"
    preprocess()
    assert list_cases(folder) == ["a", "b"] and load_case(folder, "a")[0].shape == (1, 6, 7, 8)
    assert sorted(path.name for path in (preprocessed / "gt_segmentations").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    before = times(folder)
    preprocess()
    assert times(folder) == before, "a second run rewrites nothing"

    (folder / "a_seg.b2nd").write_bytes((folder / "a_seg.b2nd").read_bytes()[:-9])
    (folder / ".b.left_over.b2nd").write_bytes(b"")
    (folder / "c.pkl").write_bytes(b"")
    preprocess()
    after = times(folder)
    assert is_complete(folder, "a") and after["a.pkl"] > before["a.pkl"] and after["b.pkl"] == before["b.pkl"]
    assert set(after) == set(before), "half-written files and those of no case are removed"


def test_what_is_sent_for_a_case_does_not_grow_with_the_dataset(dataset, monkeypatch):
    sent = {}
    monkeypatch.setattr("nnunetv2.preprocessing.preprocessors.default_preprocessor.in_processes", lambda function, jobs, *_: sent.update(jobs))
    preprocess()
    images, labels = (dataset[0] / name for name in ("imagesTr", "labelsTr"))
    assert sent == {case: (case, {"images": [str(images / f"{case}_0000.nii.gz")], "label": str(labels / f"{case}.nii.gz")}) for case in "ab"}


@pytest.mark.slow
def test_run_starts_over_when_the_plans_change(dataset):
    _, preprocessed = dataset
    preprocess()
    save_json(make_plans(spacing=(2.0, 2.0, 2.0)), preprocessed / "nnUNetPlans.json")
    preprocess()
    assert load_case(preprocessed / "nnUNetPlans_3d_fullres", "b")[0].shape == (1, 3, 4, 4)


@pytest.mark.slow
def test_cases_that_are_trained_on_are_neither_replaced_nor_deleted(dataset):
    raw, preprocessed = dataset
    folder = preprocessed / "nnUNetPlans_3d_fullres"
    preprocess()
    before = times(folder)
    with reading_lock(preprocessed, trained_on_lock(folder.name), "fold 0 is trained"):
        preprocess()  # there is nothing to do
        shutil.copyfile(raw / "labelsTr" / "a.nii.gz", raw / "labelsTr" / "b.nii.gz")
        with pytest.raises(InputError, match=r"is being trained on, and 3 of its files would be made anew or deleted \(b.b2nd, b.pkl, b_seg.b2nd\)"):
            preprocess()
        save_json(make_plans(spacing=(2.0, 2.0, 2.0)), preprocessed / "nnUNetPlans.json")
        with pytest.raises(InputError, match="is being trained on, and 6 of its files"):
            preprocess()
    assert times(folder) == before


@pytest.mark.slow
def test_run_names_the_case_that_fails(dataset):
    raw, _ = dataset
    (raw / "labelsTr" / "b.nii.gz").write_bytes(b"not an image")
    with pytest.raises(RuntimeError, match="1 of 2 cases failed.\nb: "):
        preprocess()


def test_run_lists_absent_labels(dataset):
    raw, _ = dataset
    for case in ("a", "b"):
        (raw / "labelsTr" / f"{case}.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)labelsTr/a.nii.gz.*labelsTr/b.nii.gz"):
        preprocess()


def test_run_without_plans_says_which_command_makes_them(dataset):
    (dataset[1] / "nnUNetPlans.json").unlink()
    with pytest.raises(FileNotFoundError, match="nnUNetv2_plan_experiment"):
        preprocess()


@pytest.mark.slow
def test_recipe_lies_beside_the_cases(dataset):
    preprocess()
    assert load_json(dataset[1] / "nnUNetPlans_3d_fullres.recipe.json")["spacing"] == [1.0, 1.0, 1.0]


class Hooked(DefaultPreprocessor):
    """As people write them against nnU-Net."""

    def modify_seg_fn(self, seg, plans_manager, dataset_json, configuration_manager):
        return np.where(seg == 2, 1, seg)

    def _normalize(self, data, seg, configuration_manager, foreground_intensity_properties_per_channel):
        return super()._normalize(data, seg, configuration_manager, foreground_intensity_properties_per_channel) + data.mean(0)

    @staticmethod
    def _sample_foreground_locations(seg, classes_or_regions, seed=1234, verbose=False):
        return {2: np.argwhere(seg == 2)}

    def run_case_save(self, output_filename_truncated, *arguments):
        super().run_case_save(output_filename_truncated + "_mine", *arguments)


def test_hooks_of_a_preprocessor_are_called():
    plans = PlansManager(make_plans(channels=2))
    image, seg = np.concatenate([ramp((4, 4, 4))] * 2), np.full((1, 4, 4, 4), 2)
    arguments = (image, seg, {"spacing": [1.0] * 3}, plans, plans.get_configuration("3d_fullres"), DATASET | {"channel_names": {"0": "CT", "1": "CT"}})
    data, labels, properties = Hooked().run_case_npy(*arguments)
    assert np.allclose(data, 2 * DefaultPreprocessor().run_case_npy(*arguments)[0], atol=1e-6)
    assert (labels == 1).all() and list(properties["class_locations"]) == [2] and len(properties["class_locations"][2]) == 64


def test_a_preprocessors_own_way_of_storing_a_case_is_taken(tmp_path, monkeypatch):
    plans = PlansManager(make_plans())
    monkeypatch.setattr(Hooked, "run_case", lambda self, *_: (ramp((4, 4, 4)), np.zeros((1, 4, 4, 4), np.int8), {"class_locations": {}}))
    _run_and_save(Hooked(), "a", {"images": [], "label": None}, tmp_path, plans, plans.get_configuration("3d_fullres"), DATASET)
    assert list_cases(tmp_path) == ["a_mine"]


def test_how_many_places_are_sampled_may_be_told():
    seg = np.zeros((1, 2, 3, 4), int)
    seg[0, 0] = 1  # 12 voxels
    sample = DefaultPreprocessor._sample_foreground_locations
    assert len(sample(seg, [1])[1]) == len(sample(seg, [1], None, False)[1]) == 12
    assert len(sample(seg, [1], min_num_samples=5)[1]) == 5 and len(sample(seg, [1], min_num_samples=5, min_percent_coverage=0.5)[1]) == 6


def test_references_of_another_format_are_written_in_the_datasets(tmp_path):
    """`dataset` in dataset.json may name files of any ending."""
    labels, properties = np.arange(8, dtype=np.uint8).reshape(2, 2, 2), {"spacing": [3.0, 1.0, 2.0]}
    for ending in (".mha", ".nrrd"):
        SimpleITKIO().write_seg(labels, tmp_path / f"mask{ending}", properties)
    cases = {case: {"images": [], "label": str(tmp_path / f"mask{ending}")} for case, ending in (("a", ".mha"), ("b", ".nrrd"))}
    _copy_references(cases, tmp_path / "references", ".nrrd", set(), SimpleITKIO())
    seg, found = SimpleITKIO().read_seg(tmp_path / "references" / "a.nrrd")
    assert np.array_equal(seg[0], labels) and found["spacing"] == properties["spacing"]
    assert (tmp_path / "references" / "b.nrrd").read_bytes() == (tmp_path / "mask.nrrd").read_bytes()
