"""A second model that finds the boxes: what it sees, what it decides, and which models are refused."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from nnunetv2.inference.case_prediction import CasePredictor
from nnunetv2.inference.coarse_network import CoarseNetwork, foreground_of, same_network_on_a_coarser_grid
from nnunetv2.inference.model_loading import find_model, load_coarse_network
from nnunetv2.inference.modes import InferenceMode, inference_mode
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, run_prediction
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tests.inference.threshold_engine import Threshold
from tests.inference.tiny_model import save_model, tiny_dataset_json, tiny_network, tiny_plans

CPU = torch.device("cpu")
ORGAN = LabelManager({"background": 0, "organ": 1}, None)
GEOMETRY = NetworkGeometry(patch_size=(8, 8, 8), divisor=(2, 2, 2), spacing=(2.0, 2.0, 2.0), mirror_axes=None)


def test_foreground_of_labels_and_of_regions():
    logits = torch.tensor([[1.0, 0.0, 0.5], [2.0, -1.0, 0.4]]).reshape(2, 1, 1, 3)
    assert foreground_of(logits, ORGAN).flatten().tolist() == [True, False, False]
    regions = LabelManager({"background": 0, "whole": [1, 2], "part": 2}, [1, 2])
    assert foreground_of(logits, regions).flatten().tolist() == [True, False, True]


@pytest.mark.parametrize(("shape", "whole"), [((7, 8, 6), True), ((20, 9, 30), False)])
def test_small_volume_goes_whole_and_large_one_in_windows_of_the_patch_at_most(shape, whole):
    data = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    engine = Threshold(0.5)
    assert np.array_equal(CoarseNetwork(engine, GEOMETRY, ORGAN).foreground(data), data[0].half().numpy() > 0.5)
    if whole:
        assert engine.sizes == [(8, 8, 6)]
    else:
        assert len(engine.sizes) > 1 and all(max(size) <= 8 for size in engine.sizes)


def test_own_network_looks_at_twice_the_spacing():
    geometry = NetworkGeometry(patch_size=(8, 8, 8), divisor=(2, 2, 2), spacing=(5.0, 1.0, 1.0), mirror_axes=None)
    assert same_network_on_a_coarser_grid(Threshold(0), geometry, ORGAN).geometry.spacing == (5.0, 2.0, 2.0)


def test_second_network_decides_where_the_first_one_looks():
    """Two objects that the first network segments; the second one sees only the brighter."""
    image = torch.zeros(1, 48, 48, 48)
    image[0, 8:12, 8:12, 8:12], image[0, 36:40, 36:40, 36:40] = 1.0, 0.6
    fine = NetworkGeometry(patch_size=(8, 8, 8), divisor=(2, 2, 2), spacing=(15.0, 15.0, 15.0), mirror_axes=None)
    coarse = CoarseNetwork(Threshold(0.8), NetworkGeometry((16, 16, 16), (2, 2, 2), (30.0, 30.0, 30.0), None), ORGAN)
    for coarse_network, found in ((None, 128), (coarse, 64)):
        predictor = CasePredictor([Threshold(0.5)], fine, InferenceMode(roi="coarse", tta=1, tiling="whole"), ORGAN, None, coarse_network=coarse_network)
        logits = predictor(image).full_logits(has_regions=False)
        assert int((logits[1] > logits[0]).sum()) == found


def lowres_plans():
    plans = tiny_plans()
    lowres = deepcopy(plans["configurations"]["3d_fullres"]) | {"spacing": [4.0, 2.0, 2.0], "data_identifier": "nnUNetPlans_3d_lowres"}
    plans["configurations"]["3d_lowres"] = lowres
    return plans


@pytest.fixture
def roi_folder(tmp_path):
    save_model(tmp_path / "roi", lowres_plans(), tiny_dataset_json(), [tiny_network(seed=2)], "3d_lowres")
    return tmp_path / "roi"


@pytest.mark.slow
def test_model_folder_finds_boxes_from_command_to_report(roi_folder, model_folder, image_folder, tmp_path):
    arguments = dict(checkpoint="checkpoint_final.pth", device=CPU, engine="torch", allow_tqdm=False, folds=(0,), mode="fast", precision="fp32")
    assert run_prediction(image_folder, tmp_path / "out", model_folder, roi_model=roi_folder, **arguments) == 0
    assert json.loads((tmp_path / "out" / "prediction_times.json").read_text())["roi_model"] == str(roi_folder)
    predictor = nnUNetPredictor(device=CPU, mode="fast", precision="fp32", engine="torch", allow_tqdm=False, roi_model=roi_folder)
    predictor.initialize_from_trained_model_folder(model_folder, (0,))
    coarse = predictor.case_predictor.coarse_network
    assert coarse.geometry.spacing == (4.0, 2.0, 2.0) and coarse.growths == 1
    expected = find_model(roi_folder, (0,)).build_network(roi_folder / "fold_0" / "checkpoint_final.pth")
    x = torch.randn(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(coarse.engine(x)[0], expected(x)[0], atol=1e-5)


def test_box_finder_without_a_box_to_find_is_refused(roi_folder):
    with pytest.raises(ValueError, match="--mode fast or --roi coarse"):
        nnUNetPredictor(device=CPU, mode="exact", roi_model=roi_folder)


@pytest.mark.slow
def test_model_that_is_preprocessed_otherwise_is_refused_with_all_reasons(roi_folder, model_folder):
    main = find_model(model_folder, (0,))
    load = dict(dataset_json=tiny_dataset_json(), device=CPU, mode=inference_mode("fast", precision="fp32"), wish="torch")
    assert load_coarse_network(roi_folder, main.plans_manager, main.configuration_manager, **load).geometry.patch_size == (8, 16, 16)

    plans = lowres_plans() | {"transpose_forward": [2, 0, 1]}
    plans["foreground_intensity_properties_per_channel"]["0"]["mean"] = 80.0
    plans["configurations"]["3d_lowres"]["normalization_schemes"] = ["ZScoreNormalization"]
    plans["configurations"]["3d_lowres"]["spacing"] = [2.0, 0.5, 2.0]
    (roi_folder / "plans.json").write_text(json.dumps(plans))
    load["dataset_json"]["channel_names"]["1"] = "PET"
    with pytest.raises(ValueError) as refusal:
        load_coarse_network(roi_folder, main.plans_manager, main.configuration_manager, **load)
    for reason in ("input channels: 1 against 2", "spacing (2.0, 0.5, 2.0)", "axis order: [2, 0, 1]", "ZScoreNormalization", "'mean': 80.0", "3d_lowres"):
        assert reason in str(refusal.value)


def test_folder_without_a_model_is_named(model_folder, tmp_path):
    main = find_model(model_folder, (0,))
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        load_coarse_network(tmp_path / "nothing_here", main.plans_manager, main.configuration_manager, main.dataset_json, CPU, inference_mode("fast"), "torch")
