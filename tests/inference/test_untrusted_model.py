"""A model folder from a stranger runs nothing and asks for no more than the machine has."""

import json

import pytest
import torch

from nnunetv2.cli.inference import predict_from_modelfolder
from nnunetv2.inference.model_loading import find_model
from nnunetv2.utilities.errors import InputError
from tests.inference.tiny_model import save_model, tiny_dataset_json, tiny_network, tiny_plans


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", tiny_plans(), tiny_dataset_json(), [tiny_network()])
    return tmp_path / "model"


def change(model, file="plans.json", **changes):
    content = json.loads((model / file).read_text())
    target = content["configurations"]["3d_fullres"] if file == "plans.json" else content
    target |= changes
    (model / file).write_text(json.dumps(content))


def with_command(model, marker):
    plans = tiny_plans()
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["arch_kwargs"] |= {"dropout_op": "subprocess.call", "dropout_op_kwargs": {"args": f"touch {marker}", "shell": True}}
    (model / "plans.json").write_text(json.dumps(plans))


def predict(model, image_folder, out):
    predict_from_modelfolder(["-i", str(image_folder), "-o", str(out), "-m", str(model), "-f", "0", "-device", "cpu", "--engine", "torch"])


def test_a_command_in_the_plans_is_not_run(model, image_folder, tmp_path):
    with_command(model, tmp_path / "ran")
    with pytest.raises(SystemExit, match=r"plans.json: dropout_op names 'subprocess.call'.*--trust subprocess"):
        predict(model, image_folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_trust_alone_does_not_make_a_function_a_layer(model, image_folder, tmp_path, monkeypatch):
    with_command(model, tmp_path / "ran")
    monkeypatch.setenv("nnUNet_trust", "subprocess")
    with pytest.raises(SystemExit, match="of another kind"):
        predict(model, image_folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_trainer_named_in_a_checkpoint_is_not_imported(model, tmp_path, monkeypatch):
    (tmp_path / "evil_trainer.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = model / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(path) | {"trainer_name": "evil_trainer:Trainer"}, path)
    assert find_model(model, (0,)).trainer_name == "evil_trainer:Trainer" and not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"patch_size": [10**6, 10**6, 10**6]}, {"patch_size": [0, 16, 16]}, {"patch_size": "x"}])
def test_an_absurd_patch_is_refused(model, changes):
    change(model, **changes)
    with pytest.raises(InputError, match="(?s)plans.json.*patch_size"):
        find_model(model, (0,))


def test_an_ending_that_leads_elsewhere_is_refused(model):
    change(model, "dataset.json", file_ending="/../../x.nii.gz")
    with pytest.raises(InputError, match="(?s)dataset.json.*file_ending"):
        find_model(model, (0,))


@pytest.mark.parametrize("name", ["../../x.pth", "/etc/passwd", "*"])
def test_a_checkpoint_name_is_a_single_component(model, name):
    with pytest.raises(InputError, match="-chk"):
        find_model(model, (0,), name)
