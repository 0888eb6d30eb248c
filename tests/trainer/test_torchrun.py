"""Training under torchrun: two processes end with the weights of one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnunetv2.training import run_training as command
from tests.trainer.conftest import DATASET

ROOT = Path(__file__).parents[2]
LENGTH = {"epochs": 2, "iterations": 5, "val_iterations": 1}


@pytest.fixture
def without_classes(preprocessed_template, tmp_path, monkeypatch, plans, dataset_json):
    """The tiny dataset as nnU-Net has it, in a folder of its own."""
    root = tmp_path / "preprocessed"
    shutil.copytree(preprocessed_template, root)
    del plans["configurations"]["3d_fullres"]["architecture"]["class_head"], dataset_json["classification"]
    (root / DATASET / "nnUNetPlans.json").write_text(json.dumps(plans))
    (root / DATASET / "dataset.json").write_text(json.dumps(dataset_json))
    monkeypatch.setenv("nnUNet_preprocessed", str(root))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def final_weights(results: Path) -> dict[str, torch.Tensor]:
    model = results / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"
    return torch.load(model / "checkpoint_final.pth", weights_only=False)["network_weights"]


@pytest.mark.slow
def test_two_processes_under_torchrun_train_as_one(without_classes, monkeypatch):
    flags = [flag for name, value in LENGTH.items() for flag in (f"--{name}", str(value))]
    environment = os.environ | {"nnUNet_results": str(without_classes / "two"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "nnunetv2.run.run_training",
                           "900", "3d_fullres", "0", "-device", "cpu", "--no_val", *flags], env=environment, cwd=without_classes, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setenv("nnUNet_results", str(without_classes / "one"))
    command.run_training(DATASET, "3d_fullres", 0, device=torch.device("cpu"), final_validation=False, **LENGTH)
    one, two = final_weights(without_classes / "one"), final_weights(without_classes / "two")
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"hours": 1.0}, {"num_gpus": 2}, {"disable_checkpointing": True}])
def test_what_torchrun_decides_or_cannot_do_is_refused(without_classes, monkeypatch, options):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0"),
                        ("nnUNet_results", str(without_classes / "results"))):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun|one process|GPU"):
        command.run_training(DATASET, "3d_fullres", 0, device=torch.device("cpu"), **options)
