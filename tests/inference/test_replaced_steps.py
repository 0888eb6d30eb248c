"""Programs that set a predictor's parts one by one, replace its steps or hang hooks on its network, as they do with nnU-Net's."""

import json
from types import MethodType

import numpy as np
import pytest
import torch
from torch import nn

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.inference.tiny_model import save_model, smooth_ct, tiny_dataset_json, tiny_network, tiny_plans

IMAGE = smooth_ct()[None], {"spacing": [2.0, 1.0, 1.0]}
INNER = ["_internal_get_sliding_window_slicers", "_internal_maybe_mirror_and_predict", "_internal_predict_sliding_window_return_logits"]
LOGITS = ["predict_logits_from_preprocessed_data", "predict_sliding_window_return_logits"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two folds without a class head, as nnU-Net has them."""
    folder, dataset_json = tmp_path_factory.mktemp("model"), tiny_dataset_json()
    del dataset_json["classification"]
    save_model(folder, tiny_plans(False), dataset_json, [tiny_network(False, seed) for seed in (0, 1)])
    return folder


def load(model, kind=nnUNetPredictor, folds=(0, 1)):
    predictor = kind(device="cpu", allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(model, folds)
    return predictor


def mask_of(predictor):
    return predictor.predict_single_npy_array(*IMAGE)


@pytest.fixture(scope="module")
def mask(model):
    return mask_of(load(model))


def parts_of(model):
    dataset_json = json.loads((model / "dataset.json").read_text())
    plans = PlansManager(json.loads((model / "plans.json").read_text()))
    weights = [torch.load(model / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)["network_weights"] for fold in (0, 1)]
    return {"plans_manager": plans, "configuration_manager": plans.get_configuration("3d_fullres"), "list_of_parameters": weights,
            "network": tiny_network(False, 5), "dataset_json": dataset_json, "trainer_name": "nnUNetTrainer", "allowed_mirroring_axes": (0, 1, 2),
            "label_manager": plans.get_label_manager(dataset_json)}


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1])
def test_parts_that_are_set_one_by_one_are_a_model(model, mask, order):
    class Own(nnUNetPredictor):
        def initialize_from_trained_model_folder(self, folder, use_folds, checkpoint_name="checkpoint_final.pth"):
            for name, value in list(parts_of(folder).items())[::order]:
                setattr(self, name, value)

    assert np.array_equal(mask_of(load(model, Own)), mask)


def test_a_step_that_goes_on_to_nnunets_own_takes_every_fold(model, mask):
    class Own(nnUNetPredictor):
        def _internal_maybe_mirror_and_predict(self, x):
            return super()._internal_maybe_mirror_and_predict(x)

    assert np.mean(mask_of(load(model, Own)) != mask) < 1e-3


def test_weights_that_were_read_in_inference_mode_can_be_changed_and_compared(model, mask):
    with torch.inference_mode():
        predictor = load(model)
        parameters, network = predictor.list_of_parameters, predictor.network
    network.load_state_dict(parameters[1])
    assert np.array_equal(mask_of(predictor), mask)
    with torch.inference_mode():
        predictor.list_of_parameters = [{name: value.clone() for name, value in fold.items()} for fold in parameters]
        predictor.list_of_parameters  # noqa: B018 (from here on they are compared)
    assert np.array_equal(mask_of(predictor), mask)


def test_a_model_that_lacks_parts_names_them(model):
    predictor = nnUNetPredictor(device="cpu")
    for name, value in parts_of(model).items():
        if name not in ("dataset_json", "plans_manager"):
            setattr(predictor, name, value)
    with pytest.raises(InputError, match="plans_manager, dataset_json of the predictor are still None"):
        mask_of(predictor)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["subclass", "class", "predictor"])
@pytest.mark.parametrize("method", LOGITS + INNER[1:])
def test_a_step_that_computes_is_called_wherever_it_was_replaced(model, mask, method, where, monkeypatch):
    original, calls = getattr(nnUNetPredictor, method), []

    def replaced(self, *args):
        calls.append(method)
        return -original(self, *args)

    kind = type("Own", (nnUNetPredictor,), {method: replaced} if where == "subclass" else {})
    if where == "class":
        monkeypatch.setattr(nnUNetPredictor, method, replaced)
    predictor = load(model, kind)
    if where == "predictor":
        setattr(predictor, method, MethodType(replaced, predictor))
    assert not np.array_equal(mask_of(predictor), mask) and calls


@pytest.mark.slow
def test_windows_of_ones_own_are_used(model, mask):
    class EveryOther(nnUNetPredictor):
        def _internal_get_sliding_window_slicers(self, image_size):
            own.append(super()._internal_get_sliding_window_slicers(image_size))
            return own[-1]

    own = []
    found = mask_of(load(model, EveryOther))
    assert np.array_equal(found, mask) and own[0][0] == (slice(None), slice(0, 8), slice(0, 16), slice(0, 16))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [["_internal_get_data_iterator_from_lists_of_filenames"], ["predict_from_data_iterator"], ["_manage_input_and_output_lists"]])
def test_steps_between_files_and_masks_are_called(model, image_folder, tmp_path, steps):
    def replaced(name):
        def step(self, *args, **kwargs):
            calls.append(name)
            return getattr(super(Own, self), name)(*args, **kwargs)
        return step

    calls = []
    Own = type("Own", (nnUNetPredictor,), {name: replaced(name) for name in steps})
    load(model, Own).predict_from_files(image_folder, tmp_path / "own")
    load(model).predict_from_files(image_folder, tmp_path / "plain")
    names = sorted(path.name for path in (tmp_path / "plain").glob("*.nii.gz"))
    assert calls == steps and len(names) == 3
    assert all((tmp_path / "own" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes() for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["get_data_iterator_from_raw_npy_data", "predict_from_data_iterator"])
def test_steps_between_arrays_and_masks_are_called(model, mask, name):
    class Own(nnUNetPredictor):
        pass

    def step(self, *args, **kwargs):
        calls.append(name)
        return getattr(super(Own, self), name)(*args, **kwargs)

    calls = []
    setattr(Own, name, step)
    found, = load(model, Own).predict_from_list_of_npy_arrays([IMAGE[0]], None, [IMAGE[1]], None, 1, False, 1)
    assert np.array_equal(found, mask) and calls == [name]


@pytest.mark.slow
def test_hooks_on_the_network_are_called(model, mask):
    predictor, seen = load(model), []
    predictor.network.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    assert np.array_equal(mask_of(predictor), mask) and set(seen) == {(1, 1, 8, 16, 16)}


@pytest.mark.slow
def test_a_part_of_the_network_that_was_exchanged_computes(model, mask):
    class Negative(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return -self.inner(x)

        def load_state_dict(self, weights, *args, **kwargs):
            return self.inner.load_state_dict(weights)

    predictor = load(model, folds=(0,))
    before = mask_of(predictor)
    network = predictor.network
    plain = network.forward
    network.forward = lambda x: -plain(x)
    assert not np.array_equal(mask_of(predictor), before)
    other = load(model, folds=(0,))
    other.network = Negative(other.network)
    assert np.array_equal(mask_of(other), mask_of(predictor))


class Runtime:
    """What answers as a network does and is none, and cannot be copied."""

    def __init__(self, network):
        self.network, self.session = network, iter(())

    def __call__(self, x):
        return self.network(x)

    def __deepcopy__(self, memo):
        raise TypeError("a session cannot be copied")

    def to(self, device):
        return self

    def eval(self):
        pass

    def load_state_dict(self, weights):
        self.network.load_state_dict(weights)


@pytest.mark.slow
def test_what_is_no_module_may_stand_for_the_network(model, mask, image_folder, tmp_path):
    predictor = load(model)
    predictor.network = Runtime(predictor.network)
    assert np.array_equal(mask_of(predictor), mask)
    predictor.predict_from_files(image_folder, tmp_path)
    assert len(list(tmp_path.glob("*.nii.gz"))) == 3


@pytest.mark.slow
def test_weights_that_were_written_to_count(model):
    first, second = (mask_of(load(model, folds=(fold,))) for fold in (0, 1))
    predictor = load(model)
    del predictor.list_of_parameters[1]
    assert np.array_equal(mask_of(predictor), first)
    for name, tensor in load(model, folds=(1,)).list_of_parameters[0].items():
        predictor.list_of_parameters[0][name].copy_(tensor)
    assert np.array_equal(mask_of(predictor), second) and not np.array_equal(first, second)


@pytest.mark.slow
def test_a_patch_size_that_is_changed_between_two_predictions_counts(model):
    predictor = load(model)
    predictor.network.encoder.register_forward_hook(lambda module, inputs, output: seen.add(tuple(inputs[0].shape[2:])))
    seen = set()
    predictor.configuration_manager.configuration["patch_size"] = [8, 24, 24]
    mask_of(predictor)
    assert seen == {(8, 24, 24)}


def test_which_files_are_predicted_and_where_results_go(model, image_folder, tmp_path):
    predictor = load(model, folds=(0,))
    images, outputs, stages = predictor._manage_input_and_output_lists(str(image_folder), str(tmp_path))
    assert len(images) == len(outputs) == 3 and stages == [None] * 3 and all(isinstance(files[0], str) for files in images)
    (tmp_path / f"{outputs[0].rpartition('/')[2]}.nii.gz").touch()
    assert predictor._manage_input_and_output_lists(str(image_folder), str(tmp_path), overwrite=False)[1] == outputs[1:]
    assert predictor._manage_input_and_output_lists(images, None, None, True, 1, 3) == ([images[1]], None, [None])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hook", "forward"])
def test_a_network_with_a_hook_or_a_forward_of_its_own_computes_as_it_stands_in_any_engine(model, mask, how):
    parts = parts_of(model)
    network, plain = parts["network"], parts["network"].forward
    network.load_state_dict(parts["list_of_parameters"][0])
    predictor = nnUNetPredictor(device="cpu", allow_tqdm=False, engine="auto", tta=1)
    if how == "hook":
        network.register_forward_hook(lambda module, inputs, output: -output)
    else:
        network.forward = lambda x: -plain(x)
    predictor.manual_initialization(network, parts["plans_manager"], parts["configuration_manager"], None, parts["dataset_json"], "nnUNetTrainer", None)
    without = load(model, folds=(0,))
    data, _ = without._preprocess(*IMAGE, None)
    torch.testing.assert_close(predictor.predict_logits_from_preprocessed_data(data), -without.predict_logits_from_preprocessed_data(data))
