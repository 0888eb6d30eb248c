"""A dataset, plans or a command line cannot make planning and preprocessing write, delete or import elsewhere."""

import pytest

from nnunetv2.experiment_planning.dataset_fingerprint import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.dataset_integrity import verify_dataset_integrity
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess
from nnunetv2.preprocessing.preprocessors import DefaultPreprocessor
from nnunetv2.training.run_training import TrainingJob
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.dataset_files import (
    create_lists_from_splitted_dataset_folder, get_filenames_of_train_images_and_targets, get_output_folder)
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


@pytest.fixture
def planned(dataset):
    dataset.write_fingerprint((2.5, 0.875, 0.75), (8, 12, 10), n=3)
    plan_experiments([555])
    return dataset


def change_plans(dataset, configuration=None, **changes):
    path = dataset.preprocessed / "nnUNetPlans.json"
    plans = load_json(path) | changes
    plans["configurations"]["2d"] |= configuration or {}
    save_json(plans, path)


def listed(dataset, names):
    image, label = str(dataset.raw / "imagesTr/a_0000.nii.gz"), str(dataset.raw / "labelsTr/a.nii.gz")
    dataset.save_json(dataset={name: {"images": [image], "label": label} for name in names}, numTraining=len(names))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["/home/you/.bashrc", "../../../outside", "..", "a/b", "a\\b", ".hidden", "a\nb", "", "-rf"])
@pytest.mark.parametrize("read", [verify_dataset_integrity, lambda raw: DatasetFingerprintExtractor(raw.name).run()])
def test_a_case_name_that_leads_elsewhere_is_refused(dataset, name, read):
    listed(dataset, [name, "good"])
    with pytest.raises(InputError, match="dataset.json: 1 name"):
        read(dataset.raw)


def test_preprocessing_writes_no_case_outside_its_folder(planned, tmp_path):
    listed(planned, [str(tmp_path / "target")])
    save_json(planned.json, planned.preprocessed / "dataset.json")
    with pytest.raises(InputError):
        preprocess([555], configurations=["2d"])
    assert not list(tmp_path.glob("target*"))


def test_listed_files_may_lie_elsewhere(dataset, tmp_path):
    (dataset.raw / "imagesTr/a_0000.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    dataset.save_json(dataset={"a": {"images": [str(tmp_path / "elsewhere.nii.gz")], "label": "labelsTr/a.nii.gz"}}, numTraining=1)
    verify_dataset_integrity(dataset.raw)


@pytest.mark.parametrize("names", [("p1", "p1_seg"), ("p1", "P1"), ("F\u00e4lle", "Fa\u0308lle")])
def test_cases_that_would_share_a_file_are_refused(dataset, names):
    listed(dataset, names)
    with pytest.raises(InputError, match=f"{names[0]} and {names[1]}"):
        get_filenames_of_train_images_and_targets(dataset.raw, dataset.json)


def test_files_on_disk_that_would_share_a_file_are_refused(dataset):
    (dataset.raw / "imagesTr/b_0000.nii.gz").rename(dataset.raw / "imagesTr/a_seg_0000.nii.gz")
    with pytest.raises(InputError, match="a and a_seg: a_seg.b2nd"):
        verify_dataset_integrity(dataset.raw)


def test_image_names_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "good_0000.nii.gz").touch()
    (tmp_path / b"bad\xff_0000.nii.gz".decode(errors="surrogateescape")).touch()
    with pytest.raises(InputError, match=r"(?s)1 problem.*udcff.*not UTF-8"):
        create_lists_from_splitted_dataset_folder(tmp_path, ".nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize("identifier", ["/absolute", "..", "../x", "gt_segmentations", "GT_segmentations", "a/b", None, ""])
def test_preprocessing_deletes_no_folder_that_plans_name(planned, tmp_path, identifier):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "keep.txt").write_text("mine")
    change_plans(planned, {"data_identifier": str(victim) if identifier == "/absolute" else identifier})
    with pytest.raises(InputError, match="data_identifier"):
        preprocess([555], configurations=["2d"])
    assert (victim / "keep.txt").exists()


def test_preprocessing_deletes_nothing_through_a_link(planned, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/a.pkl").write_text("mine")
    (planned.preprocessed / "nnUNetPlans_2d").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="is a link to"):
        preprocess([555], configurations=["2d"])
    assert (tmp_path / "victim/a.pkl").exists()


def test_preprocessing_deletes_no_folder_with_other_things_in_it(planned):
    folder = planned.preprocessed / "nnUNetPlans_2d"
    folder.mkdir()
    (folder / "thesis.docx").write_text("mine")
    with pytest.raises(InputError, match="thesis.docx"):
        preprocess([555], configurations=["2d"])
    assert (folder / "thesis.docx").exists()


@pytest.mark.parametrize(("key", "value"), [("dataset_name", "/tmp/x"), ("dataset_name", "../x"), ("plans_name", "a/b"), ("plans_name", "..")])
def test_names_in_plans_are_single_components(key, value):
    with pytest.raises(InputError, match=key):
        getattr(PlansManager({key: value}), key)


def test_a_previous_stage_is_a_single_component():
    plans = PlansManager({"configurations": {"c": {"architecture": {}, "previous_stage": "../../x"}}})
    with pytest.raises(InputError, match="previous_stage"):
        _ = plans.get_configuration("c").previous_stage_name


@pytest.mark.parametrize("name", ["../x", "a/b", None, 3, ["2d"]])
def test_a_configuration_is_named_by_a_single_component(name):
    with pytest.raises(InputError, match="configuration"):
        PlansManager({"configurations": {}}).get_configuration(name)


@pytest.mark.parametrize("wrong", [{"trainer_name": "../x"}, {"plans_identifier": "a/b"}, {"configuration": "/x"}, {"fold": "../1"}, {"dataset_name_or_id": "Dataset1/../.."}])
def test_a_model_folder_lies_where_its_names_say(data_folders, wrong):
    with pytest.raises(InputError):
        get_output_folder(**{"dataset_name_or_id": "Dataset555_Small", "fold": 0} | wrong)


@pytest.mark.parametrize("name", ["../x", "dataset", "Splits_Final", "a/b", "manifest", "nnUNetPlans_2d.recipe"])
def test_new_plans_overwrite_no_other_file(dataset, name):
    dataset.write_fingerprint((2.5, 0.875, 0.75), (8, 12, 10))
    with pytest.raises(InputError, match="-overwrite_plans_name"):
        plan_experiments([555], overwrite_plans_name=name)


def test_training_reads_plans_of_its_dataset_alone(data_folders):
    with pytest.raises(InputError, match="-p: plans"):
        TrainingJob("Dataset555_Small", "2d", 0, "nnUNetTrainer", "../../x").make_trainer("cpu")


@pytest.mark.parametrize(("key", "value"), [("name", "../../x"), ("name", "/tmp/x"), ("labels", "/etc/passwd"), ("labels", "../x.csv"), ("classes", ["a", "../b"]), ("name", 3)])
def test_names_of_a_classification_are_single_components(key, value):
    declared = {"name": "subtype", "classes": ["0", "1"], "labels": "subtypes.csv", "lesion_labels": [1]} | {key: value}
    with pytest.raises(ValueError, match="classification"):
        ClassificationTask.from_dataset_json({"classification": declared}, [1])


@pytest.mark.parametrize(("key", "value"), [("preprocessor_name", "os.system"), ("resampling_fn_data", "subprocess.call"), ("resampling_fn_seg_kwargs", {"device": "cuda"})])
def test_functions_in_plans_are_known_ones(planned, key, value):
    change_plans(planned, {key: value})
    configuration = PlansManager(planned.preprocessed / "nnUNetPlans.json").get_configuration("2d")
    with pytest.raises(InputError, match="nnUNetPlans.json"):
        _ = configuration.preprocessor_class, configuration.resampling_fn_data, configuration.resampling_fn_seg


@pytest.mark.parametrize(("key", "value"), [("image_reader_writer", "os.system"), ("image_reader_writer", ["SimpleITKIO"]), ("label_manager", "builtins.exec")])
def test_classes_in_plans_are_known_ones(key, value):
    with pytest.raises(InputError, match=key):
        plans = PlansManager({"image_reader_writer": "SimpleITKIO", key: value})
        _ = plans.image_reader_writer_class, plans.get_label_manager({"labels": {"background": 0}})


def test_a_trusted_preprocessor_is_found(planned, tmp_path, monkeypatch):
    (tmp_path / "my_preprocessor.py").write_text(
        "from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor\nclass Mine(DefaultPreprocessor): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("nnUNet_trust", "my_preprocessor")
    change_plans(planned, {"preprocessor_name": "my_preprocessor.Mine"})
    assert PlansManager(planned.preprocessed / "nnUNetPlans.json").get_configuration("2d").preprocessor_class.__name__ == "Mine"


def test_an_absurd_spacing_is_refused_before_anything_is_resampled(planned):
    change_plans(planned, {"spacing": [1e-6, 1e-6]})
    plans = PlansManager(planned.preprocessed / "nnUNetPlans.json")
    files = get_filenames_of_train_images_and_targets(planned.raw, planned.json)["a"]
    with pytest.raises(InputError, match="nnUNetPlans.json: an image of .* would take at least"):
        DefaultPreprocessor().run_case(files["images"], files["label"], plans, plans.get_configuration("2d"), planned.json)
