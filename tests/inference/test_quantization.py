"""int8: what is quantised, how its ranges are found, and when prediction uses it."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from nnunetv2.inference import model_loading, modes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.case_store import save_case
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tests.inference.tiny_model import save_model, tiny_dataset_json, tiny_network, tiny_plans

pytest.importorskip("openvino")
if find_spec("nncf") is None:  # importing it takes seconds
    pytest.skip("without nncf", allow_module_level=True)
from nnunetv2.inference import quantization  # noqa: E402
from nnunetv2.inference.engines.guard import GuardedEngine  # noqa: E402
from nnunetv2.inference.engines.openvino_engine import Int8Engine, OpenVINOEngine, load_or_convert  # noqa: E402
from nnunetv2.inference.quantization import agreement, foreground_window, quantise, quantise_model  # noqa: E402

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LABELS = LabelManager({"background": 0, "pancreas": 1, "lesion": 2}, None)


@pytest.fixture(scope="module")
def networks():
    """The tiny network as OpenVINO model, and its quantised copy."""
    model = load_or_convert(tiny_network, 1, (2, 4, 4), None)
    inputs = [np.random.default_rng(i).normal(size=(1, 1, 8, 16, 16)).astype(np.float32) for i in range(3)]
    return model, quantise(model, inputs)


def test_only_inner_convolutions_larger_than_a_voxel_are_quantised(networks):
    for convolution in (node for node in networks[1].get_ops() if node.get_type_name() == "Convolution"):
        source = convolution.input_value(0).get_node().get_type_name()
        kernel = convolution.input_value(1).get_partial_shape().to_shape()[2:]
        is_first = convolution.input_value(1).get_partial_shape().to_shape()[1] == 1
        assert (source == "FakeQuantize") == (not is_first and max(kernel) > 1), convolution.get_friendly_name()
    others = [node for node in networks[1].get_ops() if node.get_type_name() in ("MatMul", "Add", "ConvolutionBackpropData")]
    assert others and not any(port.get_node().get_type_name() == "FakeQuantize" for node in others for port in node.input_values())


def test_the_original_model_stays_as_it_is(networks):
    assert not any(node.get_type_name() == "FakeQuantize" for node in networks[0].get_ops())


def test_int8_is_close_to_fp32_but_not_the_same(networks):
    x = torch.randn((1, 1, 8, 16, 16), generator=torch.Generator().manual_seed(9))
    fp32 = OpenVINOEngine(networks[0], half=False)
    int8 = Int8Engine(networks[1], lambda: fp32)
    (seg, class_logits), (reference, reference_class) = int8(x), fp32(x)
    assert 0 < (seg - reference).abs().mean() < 0.1 * reference.std()
    torch.testing.assert_close(class_logits, reference_class, rtol=0, atol=0.1)
    assert int8.precision == "int8" and int8.in_full_precision() is fp32


def test_window_lies_around_the_middle_of_the_foreground():
    data = np.arange(4 * 6 * 8, dtype=np.float32).reshape(1, 4, 6, 8)
    seg = np.zeros((1, 4, 6, 8), np.int16)
    seg[0, 1:3, 4, 2:5] = 1  # middle (1, 4, 3)
    window = foreground_window(data, seg, (2, 2, 4))
    assert torch.equal(window[0, 0], torch.from_numpy(data[0, 0:2, 3:5, 1:5]))


def test_window_stays_inside_and_pads_what_is_too_small():
    seg = np.zeros((1, 2, 6, 8), np.int16)
    seg[0, 1, 5, 7] = 1
    window = foreground_window(np.ones((1, 2, 6, 8), np.float32), seg, (4, 4, 4))
    assert window.shape == (1, 1, 4, 4, 4) and window[0, 0, 1:3].min() == 1 and window.sum() == 32


def test_without_foreground_the_window_is_the_middle_and_2d_takes_one_slice():
    data = np.arange(4 * 6 * 8, dtype=np.float32).reshape(1, 4, 6, 8)
    window = foreground_window(data, np.zeros((1, 4, 6, 8), np.int16), (2, 4))
    assert torch.equal(window[0, 0], torch.from_numpy(data[0, 2, 2:4, 2:6]))


def test_agreement_by_hand():
    def engine_of(labels, class_logits):
        return lambda x: (torch.nn.functional.one_hot(torch.tensor(labels), 3).T.float().reshape(1, 3, 1, 1, -1), torch.tensor([class_logits]))

    a, b = engine_of([0, 1, 1, 2], [0.0, 0.0, 0.0]), engine_of([0, 0, 2, 2], [0.0, 0.0, 100.0])
    found = agreement(a, b, [torch.zeros(1, 1, 1, 1, 4)], LABELS)
    assert found["foreground_dsc"] == pytest.approx(2 * 2 / (3 + 2))
    assert found["class_probability_difference"] == pytest.approx(2 / 3)


def test_two_empty_masks_agree():
    nothing = lambda x: (torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 4), None)  # noqa: E731
    assert agreement(nothing, nothing, [torch.zeros(1, 1, 1, 1, 4)], LABELS) == {"foreground_dsc": 1.0}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A model folder and its preprocessed training cases; of the validation cases there is nothing to read."""
    plans = tiny_plans()
    dataset = tmp_path / "preprocessed" / plans["dataset_name"]
    monkeypatch.setenv("nnUNet_preprocessed", str(dataset.parent))
    cases = [f"case_{i}" for i in range(6)]
    for i, case in enumerate(cases):
        rng = np.random.default_rng(i)
        save_case(rng.normal(size=(1, 8, 16, 16)).astype(np.float32), np.ones((1, 8, 16, 16), np.int16), {"spacing": [2, 1, 1]},
                  dataset / "nnUNetPlans_3d_fullres", case)
    save_json([{"train": cases, "val": ["held_out"]}], dataset / "splits_final.json")
    save_model(tmp_path / "model", plans, tiny_dataset_json(), [tiny_network()])
    monkeypatch.setattr(modes, "cpu_has_fast_bf16", lambda: False)
    monkeypatch.setattr(model_loading, "cpu_has_fast_int8", lambda: True)
    return tmp_path / "model"


def predictor_of(folder, **arguments):
    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False, **arguments)
    predictor.initialize_from_trained_model_folder(folder, (0,))
    return predictor


def test_a_quantised_model_is_used_by_the_reduced_modes_until_the_weights_change(trained, monkeypatch):
    assert predictor_of(trained, mode="fast").engines[0].precision == "fp32"
    with pytest.raises(FileNotFoundError, match="checkpoint_final.pth.*nnUNetv2_quantize"):
        predictor_of(trained, precision="int8")
    monkeypatch.setattr(quantization, "LOWEST_AGREEMENT", 0.5)  # random weights are all edge
    report = quantise_model(trained, 0, n_cases=2)
    assert report["calibration_cases"] == 2 and report["checked_on"] == 4
    assert load_json(trained / "fold_0" / "quantization.json") == report

    engine = predictor_of(trained, mode="fast").engines[0]
    assert isinstance(engine, GuardedEngine) and engine.precision == "int8"
    assert engine.in_full_precision().precision == "fp32"
    assert predictor_of(trained).engines[0].precision == "fp32", "exact never uses it"

    monkeypatch.setattr(model_loading, "cpu_has_fast_int8", lambda: False)
    monkeypatch.setattr(model_loading, "check_supported", lambda network: None)
    monkeypatch.setattr(model_loading, "cpu_has_fast_int16", lambda: False)
    assert predictor_of(trained, mode="fast").engines[0].precision == "fp32", "Winograd convolutions are faster"
    assert predictor_of(trained, mode="fast", engine="openvino").engines[0].precision == "int8"
    monkeypatch.setattr(model_loading, "cpu_has_fast_int16", lambda: True)
    monkeypatch.setattr(modes, "cpu_has_fast_bf16", lambda: True)
    monkeypatch.setattr(model_loading, "check_supported", lambda network: pytest.fail("compiles, though bf16 is the choice anyway"))
    assert predictor_of(trained, mode="fast").engines[0].precision in ("bf16", "fp32"), "OpenVINO's half, fp32 on a CPU without bf16"
    monkeypatch.setattr(modes, "cpu_has_fast_bf16", lambda: False)
    monkeypatch.setattr(model_loading, "check_supported", lambda network: None)
    monkeypatch.setattr(model_loading, "cpu_has_fast_int16", lambda: False)
    monkeypatch.setattr(model_loading, "cpu_has_fast_int8", lambda: True)

    path = trained / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=True)
    content["network_weights"] = {key: value + 1 for key, value in content["network_weights"].items()}
    torch.save(content, path)
    assert predictor_of(trained, mode="fast").engines[0].precision == "fp32"


def test_int8_that_changes_the_masks_is_not_kept(trained, monkeypatch):
    monkeypatch.setattr(quantization, "LOWEST_AGREEMENT", 1.1)
    with pytest.raises(ValueError, match="nothing is kept"):
        quantise_model(trained, 0, n_cases=2)
    assert not list((trained / "fold_0").glob("*int8*")) and not (trained / "fold_0" / "quantization.json").exists()
