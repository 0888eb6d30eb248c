"""Networks that no checkpoint stands behind: predictions that go on tell them apart by their weights."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.inference.tiny_model import save_model, tiny_dataset_json, tiny_network, tiny_plans


def predictor_of(network, parameters=None):
    plans = PlansManager(tiny_plans())
    predictor = nnUNetPredictor(device="cpu", allow_tqdm=False, tta=1)
    predictor.manual_initialization(network, plans, plans.get_configuration("3d_fullres"), parameters, tiny_dataset_json(), "nnUNetTrainer", None)
    return predictor


def test_the_hash_is_that_of_the_weights():
    first, other = tiny_network(seed=0), tiny_network(seed=1)
    assert predictor_of(first).hashes_of_networks() == predictor_of(tiny_network(seed=0)).hashes_of_networks()
    assert predictor_of(first).hashes_of_networks() != predictor_of(other).hashes_of_networks()
    both = [network.state_dict() for network in (first, other)]
    assert predictor_of(tiny_network(seed=2), both).hashes_of_networks() == [*predictor_of(first).hashes_of_networks(), *predictor_of(other).hashes_of_networks()]


@pytest.mark.slow
def test_masks_of_another_network_are_not_kept(image_folder, tmp_path, capsys):
    predictor_of(tiny_network(seed=0)).predict_from_files(image_folder, tmp_path)
    predictor_of(tiny_network(seed=0)).predict_from_files(image_folder, tmp_path, overwrite=False)
    assert "0 of 3 cases" in capsys.readouterr().out
    with pytest.raises(InputError, match="predicted otherwise"):
        predictor_of(tiny_network(seed=1)).predict_from_files(image_folder, tmp_path, overwrite=False)


@pytest.mark.slow
def test_a_coarse_model_counts_by_its_weights_and_not_by_its_path(image_folder, model_folder, tmp_path):
    def predict(overwrite):
        predictor = nnUNetPredictor(device="cpu", allow_tqdm=False, mode="fast", precision="fp32", engine="torch", roi_model=roi)
        predictor.initialize_from_trained_model_folder(model_folder, (0,))
        predictor.predict_from_files(image_folder, tmp_path / "out", overwrite=overwrite)

    plans = tiny_plans()
    plans["configurations"]["3d_fullres"]["spacing"] = [4.0, 2.0, 2.0]
    for name, seed in (("a", 0), ("copy", 0), ("b", 1)):
        save_model(tmp_path / name, plans, tiny_dataset_json(), [tiny_network(seed=seed)])
    roi = tmp_path / "a"
    predict(True)
    roi = f"{tmp_path}/copy/"
    predict(False)
    (tmp_path / "a").rename(tmp_path / "old")
    (tmp_path / "b").rename(tmp_path / "a")
    roi = tmp_path / "a"
    with pytest.raises(InputError, match="predicted otherwise"):
        predict(False)


@pytest.mark.parametrize("call", [
    lambda predictor: predictor.predict_from_files([["x_0000.nii.gz"]], None), lambda predictor: predictor.predict_sitk_images(sitk.Image(4, 4, 4, sitk.sitkInt16)),
    lambda predictor: predictor.predict_single_npy_array(np.zeros((1, 4, 4, 4)), {"spacing": [1, 1, 1]}),
    lambda predictor: predictor.predict_from_list_of_npy_arrays([np.zeros((1, 4, 4, 4))], None, [{"spacing": [1, 1, 1]}], None),
    lambda predictor: predictor.predict_case_logits(np.zeros((1, 4, 4, 4))), lambda predictor: predictor.predict_logits_from_preprocessed_data(torch.zeros(1, 4, 4, 4))])
def test_without_a_model_every_prediction_says_what_to_call(call):
    with pytest.raises(InputError, match="No model is loaded: call initialize_from_trained_model_folder"):
        call(nnUNetPredictor(device="cpu"))
