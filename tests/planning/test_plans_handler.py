import pytest

from nnunetv2.imageio.reader_writer_registry import reader_writer_by_name, reader_writer_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

BASE = {"architecture": {"arch_kwargs": {"strides": [[1, 1, 1], [2, 2, 2]]}}, "batch_size": 2, "patch_size": [8, 8, 8],
        "next_stage": "refine"}
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "lesion": 2}}


@pytest.fixture
def plans():
    return PlansManager({
        "plans_name": "test", "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
        "configurations": {
            "base": BASE,
            "big": {"inherits_from": "base", "batch_size": 9},
            "bigger": {"inherits_from": "big", "patch_size": [16, 16, 16]},
            "refine": {"inherits_from": "base", "previous_stage": "base"}}})


def test_own_values_win_over_those_of_all_ancestors(plans):
    configuration = plans.get_configuration("bigger")
    assert (configuration.batch_size, configuration.patch_size) == (9, [16, 16, 16])


def test_inheritance_leaves_the_plans_unchanged(plans):
    plans.get_configuration("bigger")
    assert plans.plans["configurations"]["bigger"] == {"inherits_from": "big", "patch_size": [16, 16, 16]}


def test_circular_inheritance_is_shown(plans):
    plans.plans["configurations"]["big"]["inherits_from"] = "bigger"
    with pytest.raises(ValueError, match="bigger -> big -> bigger"):
        plans.get_configuration("bigger")


def test_unknown_configuration_lists_those_there_are(plans):
    with pytest.raises(ValueError, match="'3d'.*base, big, bigger, refine"):
        plans.get_configuration("3d")


def test_stages_name_each_other(plans):
    assert plans.get_configuration("base").next_stage_names == ["refine"]
    assert plans.get_configuration("refine").previous_stage_name == "base"


def test_segmentation_of_a_previous_stage_adds_a_channel_a_foreground_label(plans):
    assert determine_num_input_channels(plans, plans.get_configuration("base"), DATASET) == 1
    assert determine_num_input_channels(plans, plans.get_configuration("refine"), DATASET) == 3


def test_class_head_is_none_without_classification(plans):
    assert plans.get_configuration("base").class_head is None


def test_class_head_is_inherited(plans):
    plans.plans["configurations"]["base"] = BASE | {"architecture": BASE["architecture"] | {"class_head": {"n_classes": 3}}}
    assert plans.get_configuration("bigger").class_head == {"n_classes": 3}


def test_plans_of_old_versions_say_what_to_do():
    with pytest.raises(ValueError, match="Plan the dataset again"):
        PlansManager({"plans_name": "old", "configurations": {"2d": {"UNet_class_name": "PlainConvUNet"}}}).get_configuration("2d")


def test_foreign_label_manager_is_refused(plans):
    plans.plans["label_manager"] = "MyLabelManager"
    with pytest.raises(ValueError, match="MyLabelManager"):
        plans.get_label_manager(DATASET)


def test_preprocessor_and_resampling_come_by_name(plans):
    plans.plans["configurations"]["base"] = BASE | {
        "preprocessor_name": "DefaultPreprocessor", "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1}}
    configuration = plans.get_configuration("base")
    assert configuration.preprocessor_class.__name__ == "DefaultPreprocessor"
    assert configuration.resampling_fn_seg.keywords == {"is_seg": True, "order": 1}


@pytest.mark.parametrize("name", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient", "NaturalImage2DIO", "Tiff3DIO"])
def test_every_reader_of_nnunet_is_served(name):
    assert reader_writer_by_name(name).__name__ == name


def test_an_unknown_reader_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="MyIO.*NaturalImage2DIO.*SimpleITKIO"):
        reader_writer_by_name("MyIO")


@pytest.mark.parametrize(("dataset_json", "name"), [
    ({"file_ending": ".nii.gz"}, "SimpleITKIO"), ({"file_ending": ".nii"}, "NibabelIO"), ({"file_ending": ".NRRD"}, "SimpleITKIO"),
    ({"file_ending": ".png"}, "NaturalImage2DIO"), ({"file_ending": ".tif"}, "NaturalImage2DIO"), ({"file_ending": ".tiff"}, "Tiff3DIO"),
    ({"file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIO"}, "NibabelIO"),
    ({"file_ending": ".nii.gz", "overwrite_image_reader_writer": "None"}, "SimpleITKIO")])
def test_reader_name_written_to_plans(dataset_json, name):
    assert reader_writer_name(dataset_json) == name


def test_file_ending_without_reader_is_refused():
    with pytest.raises(ValueError, match=r"\.jpg"):
        reader_writer_name({"file_ending": ".jpg"})
