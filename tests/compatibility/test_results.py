"""Models to choose among, the commands that predict with them, and postprocessing of one file."""

import numpy as np
import pytest

from nnunetv2.evaluation.find_best_configuration import (
    DEFAULT_MODELS,
    default_trained_models,
    dumb_trainer_config_plans_to_trained_models_dict,
    filter_available_models,
    generate_inference_command,
    print_inference_instructions,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.model_sharing.entry_points import print_license_warning
from nnunetv2.postprocessing.remove_connected_components import load_postprocess_save, remove_all_but_largest_component_from_segmentation
from nnunetv2.utilities.files import save_json

GEOMETRY = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}}
ARCHITECTURE = {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []}
PLANS = {"dataset_name": "Dataset902_Tiny", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
         "configurations": {"2d": {"architecture": ARCHITECTURE}, "3d_lowres": {"architecture": ARCHITECTURE},
                            "3d_cascade_fullres": {"architecture": ARCHITECTURE, "previous_stage": "3d_lowres"}}}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Plans of 2d and a cascade; 2d is trained, and of the cascade both stages."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    save_json(PLANS, tmp_path / "nnUNet_preprocessed" / "Dataset902_Tiny" / "nnUNetPlans.json")
    for configuration in PLANS["configurations"]:
        save_json(PLANS, tmp_path / "nnUNet_results" / "Dataset902_Tiny" / f"nnUNetTrainer__nnUNetPlans__{configuration}" / "plans.json")
    return tmp_path / "nnUNet_results" / "Dataset902_Tiny"


def test_models_are_all_combinations():
    found = dumb_trainer_config_plans_to_trained_models_dict(["T"], ["a", "b"], ["P", "Q"])
    assert [(model["trainer"], model["configuration"], model["plans"]) for model in found] == [
        ("T", "a", "P"), ("T", "a", "Q"), ("T", "b", "P"), ("T", "b", "Q")]
    assert default_trained_models is DEFAULT_MODELS


def test_models_without_plans_are_named_and_left_out(results, capsys):
    found = filter_available_models(default_trained_models, 902)
    assert [model["configuration"] for model in found] == ["2d", "3d_lowres", "3d_cascade_fullres"]
    assert "3d_fullres" in capsys.readouterr().out
    assert filter_available_models([default_trained_models[1]], 902) == []


def test_planned_models_must_be_trained(results):
    with pytest.raises(FileNotFoundError, match="nnUNetTrainerX__nnUNetPlans__2d"):
        filter_available_models([{"plans": "nnUNetPlans", "configuration": "2d", "trainer": "nnUNetTrainerX"}], 902)


def test_a_command_predicts_with_a_model(results):
    assert generate_inference_command("Dataset902_Tiny", "2d", folds=(0, 1), input_folder="in", output_folder="out", save_npz=True) == (
        "nnUNetv2_predict -d Dataset902_Tiny -i in -o out -f 0 1 -tr nnUNetTrainer -c 2d -p nnUNetPlans --save_probabilities")


def test_a_cascade_takes_two_commands_or_the_masks_of_the_first(results):
    first, second = generate_inference_command(902, "3d_cascade_fullres", folds=(0,), input_folder="in").splitlines()
    assert "-i in -o OUTPUT_FOLDER_PREV_STAGE" in first and second.endswith("-prev_stage_predictions OUTPUT_FOLDER_PREV_STAGE")
    alone = generate_inference_command(902, "3d_cascade_fullres", folds=(0,), folder_with_segs_from_prev_stage="masks")
    assert alone.count("nnUNetv2_predict") == 1 and alone.endswith("-prev_stage_predictions masks")


def test_instructions_are_printed_and_written(results, tmp_path, capsys):
    information = {"dataset_name_or_id": 902, "folds": [0], "best_model_or_ensemble": {
        "selected_model_or_models": [{"configuration": "2d", "trainer": "nnUNetTrainer", "plans_identifier": "nnUNetPlans"}],
        "postprocessing_file": "pp.json", "some_plans_file": "plans.json"}}
    print_inference_instructions(information, tmp_path / "how.txt")
    assert (tmp_path / "how.txt").read_text() in capsys.readouterr().out
    assert "-pp_pkl_file pp.json -plans_json plans.json" in (tmp_path / "how.txt").read_text()


def test_a_file_is_postprocessed_by_functions_in_turn(tmp_path):
    SimpleITKIO().write_seg(np.array([[[1, 1, 0, 1, 0, 2]]]), tmp_path / "a.nii.gz", GEOMETRY)
    functions, keywords = [remove_all_but_largest_component_from_segmentation, np.flip], [{"labels_or_regions": 1}, {"axis": 2}]
    load_postprocess_save(str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz"), SimpleITKIO(), functions, keywords)
    assert SimpleITKIO().read_seg(tmp_path / "b.nii.gz")[0].ravel().tolist() == [2, 0, 0, 0, 1, 1]


def test_the_licence_of_the_data_is_pointed_at(capsys):
    print_license_warning()
    assert "licence" in capsys.readouterr().out
