"""The small functions that other people's code calls."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nnunetv2.utilities.collate_outputs import collate_outputs
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_path_utilities import (
    convert_ensemble_folder_to_model_identifiers_and_folds,
    convert_identifier_to_trainer_plans_config,
    convert_trainer_plans_config_to_identifier,
    folds_string_to_tuple,
    folds_tuple_to_string,
    get_ensemble_name,
    parse_dataset_trainer_plans_configuration_from_path,
)
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.helpers import softmax_helper_dim0, softmax_helper_dim1
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.network_initialization import InitWeights_He
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder, create_paths_fn, get_identifiers_from_splitted_dataset_folder


def test_softmax_sums_to_one_over_its_axis():
    x = torch.randn(2, 3, 4)
    assert torch.allclose(softmax_helper_dim0(x).sum(0), torch.ones(3, 4))
    assert torch.allclose(softmax_helper_dim1(x).sum(1), torch.ones(2, 4))


def test_step_outputs_are_collated_by_their_kind():
    outputs = [{"loss": 1.0, "tp": np.array([1, 2]), "names": ["a"]}, {"loss": 2.0, "tp": np.array([3, 4]), "names": ["b", "c"]}]
    found = collate_outputs(outputs)
    assert found["loss"] == [1.0, 2.0] and found["names"] == ["a", "b", "c"]
    assert np.array_equal(found["tp"], [[1, 2], [3, 4]])


def test_every_case_validates_once():
    cases = [f"case_{i}" for i in range(11)]
    folds = generate_crossval_split(cases)
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(cases)


def test_identifiers_go_there_and_back():
    parts = ["nnUNetTrainer", "nnUNetPlans", "3d_fullres"]
    assert convert_identifier_to_trainer_plans_config("x/" + convert_trainer_plans_config_to_identifier(*parts)) == parts
    assert folds_string_to_tuple(folds_tuple_to_string((0, 1, "all"))) == [0, 1, "all"]
    assert convert_ensemble_folder_to_model_identifiers_and_folds(get_ensemble_name("r/A__P__2d", "r/B__P__3d", (0, 1))) == (["A__P__2d", "B__P__3d"], "0_1")


@pytest.mark.parametrize("path", ["/r/Dataset002_Heart/T__P__3d_fullres", "Dataset002_Heart/T__P__3d_fullres/fold_all/validation"])
def test_a_model_folder_tells_dataset_trainer_plans_and_configuration(path):
    assert parse_dataset_trainer_plans_configuration_from_path(path) == ("Dataset002_Heart", "T", "P", "3d_fullres")


def test_another_path_is_refused():
    with pytest.raises(InputError, match="Dataset002_Heart"):
        parse_dataset_trainer_plans_configuration_from_path("/r/Dataset002_Heart")


def test_numpy_values_become_json():
    content = {np.int64(1): np.float32(0.5), "a": np.arange(3), "b": {"c": [np.bool_(True), (np.int8(2),)]}, "d": torch.device("cpu")}
    recursive_fix_for_json_export(content)
    assert json.loads(json.dumps(content)) == {"1": 0.5, "a": [0, 1, 2], "b": {"c": [True, [2]]}, "d": "cpu"}


def test_weights_are_initialised_in_place():
    layer = nn.Conv3d(2, 3, 3)
    nn.init.ones_(layer.bias)
    weight = layer.weight
    layer.apply(InitWeights_He(1e-2))
    assert layer.weight is weight and not layer.bias.any()


def test_files_are_listed_by_case(tmp_path):
    for name in ("b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz", "b_0001.nii.gz"):
        (tmp_path / name).touch()
    assert list(get_identifiers_from_splitted_dataset_folder(str(tmp_path), ".nii.gz")) == ["a", "b"]
    assert create_lists_from_splitted_dataset_folder(str(tmp_path), ".nii.gz", ["b"]) == [[str(tmp_path / "b_0000.nii.gz"), str(tmp_path / "b_0001.nii.gz")]]


def test_a_class_is_found_in_a_folder_and_its_packages(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "deep_module_of_this_test.py").write_text("class Wanted:\n    pass\n")
    assert recursive_find_python_class(str(tmp_path), "Wanted", None).__name__ == "Wanted"
    assert recursive_find_python_class(str(tmp_path), "Missing", None) is None


def test_files_of_a_case_are_picked_from_a_listing():
    names = ["a_0000.nii.gz", "a_0001.nii.gz", "aa_0000.nii.gz", "a_000.nii.gz", "a_0000.nii"]
    assert create_paths_fn("in", names, ".nii.gz", "a") == [os.path.join("in", name) for name in names[:2]]


def test_datasets_of_a_number_are_all_listed(tmp_path, monkeypatch):
    for variable, names in (("nnUNet_raw", ["Dataset007_B", "Dataset070_X"]), ("nnUNet_preprocessed", ["Dataset007_B"]), ("nnUNet_results", ["Dataset007_A"])):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        for name in names:
            (tmp_path / variable / name).mkdir(parents=True)
    assert find_candidate_datasets(7).tolist() == ["Dataset007_A", "Dataset007_B"] and len(find_candidate_datasets(8)) == 0


def test_workers_that_augment_are_the_users_number_or_one_a_core(monkeypatch):
    from nnunetv2 import configuration

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert configuration.default_n_proc_DA == 0
    monkeypatch.delenv("nnUNet_n_proc_DA")
    assert configuration.default_n_proc_DA == min(12, configuration.available_cores())


def test_the_folder_of_trainers_is_read_when_it_is_asked_for(monkeypatch):
    from nnunetv2 import paths

    monkeypatch.setenv("nnUNet_extTrainer", "/some/folder")
    assert paths.nnUNet_extTrainer == Path("/some/folder")
    monkeypatch.delenv("nnUNet_extTrainer")
    with pytest.raises(ValueError, match="nnUNet_extTrainer"):
        os.fspath(paths.nnUNet_extTrainer)


def test_slices_are_resampled_on_their_own_along_the_axis_that_is_given():
    """Along it the nearest slice is taken, so no value lies between two; a line of 0 and 4 has 1 and 3 between them otherwise."""
    data = np.array([0, 4]).reshape(1, 2, 1, 1)
    assert resample_data_or_seg(data, (4, 1, 1), axis=0, do_separate_z=True).ravel().tolist() == [0, 0, 4, 4]
    assert resample_data_or_seg(data, (4, 1, 1), order=1, dtype_out=np.float32).ravel().tolist() == [0, 1, 3, 4]
    assert resample_data_or_seg(data, (2, 1, 1)) is data
    with pytest.raises(ValueError, match="axis along which"):
        resample_data_or_seg(data, (4, 1, 1), do_separate_z=True)


def test_a_process_of_several_trains_as_under_torchrun(monkeypatch):
    from nnunetv2.compatibility import training
    from nnunetv2.run.run_training import run_ddp
    from nnunetv2.training.torchrun import under_torchrun

    called = {}
    monkeypatch.setattr(training, "run_training", lambda *arguments: called.update(arguments=arguments, several=under_torchrun(), rank=os.environ["RANK"]))
    run_ddp(1, 777, "3d_fullres", 0, "T", "P", False, True, False, None, True, False, 2)
    assert called["several"] and called["rank"] == "1"
    assert called["arguments"][:-1] == (777, "3d_fullres", 0, "T", "P", None, 1, True, True, False, False, False)
