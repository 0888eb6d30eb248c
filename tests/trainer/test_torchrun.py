"""Training under torchrun: two processes end with the weights of one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from dynamic_network_architectures.building_blocks.class_head import RunningStandardiser
from nnunetv2.training import run_training as command
from nnunetv2.training.loss.compound_losses import DC_and_CE_and_weighted_CE_loss
from nnunetv2.training.torchrun import agree
from tests.trainer.conftest import DATASET

pytestmark = pytest.mark.slow

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
    monkeypatch.setenv("nnUNet_cpu_training", "fp32")  # bf16 rounds the sums of one process otherwise than those of two
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def final_weights(results: Path) -> dict[str, torch.Tensor]:
    model = results / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"
    return torch.load(model / "checkpoint_final.pth", weights_only=False)["network_weights"]


def torchrun(results: Path, options: list[str], program: list[str], length: dict[str, int]) -> subprocess.Popen:
    flags = [flag for name, value in length.items() for flag in (f"--{name}", str(value))]
    environment = os.environ | {"nnUNet_results": str(results), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *options, *program, "900", "3d_fullres", "0", "-device", "cpu", "--no_val", *flags],
                            env=environment, cwd=results.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def assert_trained_as_one(root: Path, together: str, monkeypatch, length: dict[str, int]) -> None:
    monkeypatch.setenv("nnUNet_results", str(root / "one"))
    command.run_training(DATASET, "3d_fullres", 0, device=torch.device("cpu"), final_validation=False, **length)
    one, several = final_weights(root / "one"), final_weights(root / together)
    assert one.keys() == several.keys()
    for key, value in one.items():
        torch.testing.assert_close(several[key], value, rtol=0, atol=1e-5)


MODULE = ["-m", "nnunetv2.run.run_training"]


@pytest.mark.slow
def test_two_processes_under_torchrun_train_as_one(without_classes, monkeypatch):
    process = torchrun(without_classes / "two", ["--standalone", "--nproc_per_node", "2"], MODULE, LENGTH)
    output = process.communicate()[0]
    assert process.returncode == 0, output[-3000:]
    assert_trained_as_one(without_classes, "two", monkeypatch, LENGTH)


@pytest.mark.slow
def test_two_nodes_of_one_process_train_as_one(without_classes, monkeypatch):
    """Two torchrun agents, here on one machine, that find each other by address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [torchrun(without_classes / "nodes", ["--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1", "--master_addr", "127.0.0.1",
                                                  "--master_port", str(port)], MODULE, LENGTH) for rank in range(2)]
    outputs = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs[0][-3000:]
    assert_trained_as_one(without_classes, "nodes", monkeypatch, LENGTH)


DYING = """
import os, signal
from pathlib import Path
from nnunetv2.cli.training import train
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

begin = nnUNetTrainer.on_train_epoch_start

def begin_or_die(self):
    died = Path("died")
    if self.current_epoch == 2 and self.local_rank == 1 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    begin(self)

nnUNetTrainer.on_train_epoch_start = begin_or_die
train()
"""


@pytest.mark.slow
def test_a_lost_process_is_started_anew_and_the_training_ends_as_if_undisturbed(without_classes, monkeypatch):
    (without_classes / "dying.py").write_text(DYING)
    length = LENGTH | {"epochs": 4}
    process = torchrun(without_classes / "lost", ["--standalone", "--nproc_per_node", "2", "--max_restarts", "1"], ["dying.py"], length)
    output = process.communicate()[0]
    assert process.returncode == 0, output[-3000:]
    assert (without_classes / "died").exists()
    assert_trained_as_one(without_classes, "lost", monkeypatch, length)


def test_a_new_attempt_reads_nothing_of_the_lost_one():
    """Three threads as three processes, twice with one store, as torchrun keeps it; the late first process must not be taken for the lost one's."""
    store = dist.HashStore()
    names = set()
    for attempt in range(2):
        with ThreadPoolExecutor(3) as pool:
            others = [pool.submit(agree, store, rank, 3, False, timedelta(seconds=20)) for rank in (1, 2)]
            time.sleep(0.5)
            found = {pool.submit(agree, store, 0, 3, False, timedelta(seconds=20)).result(), *(other.result() for other in others)}
        assert len(found) == 1
        name, again = found.pop()
        assert again == bool(attempt)
        names.add(name)
    assert len(names) == 2


def test_a_process_that_never_starts_ends_the_wait():
    with pytest.raises(TimeoutError, match="Not all processes"):
        agree(dist.HashStore(), 0, 2, False, timedelta(seconds=0.1))


class Head(nn.Module):
    """What a class head does with pooled features: standardise by what was seen so far, weigh."""

    def __init__(self):
        super().__init__()
        self.standardiser, self.classifier = RunningStandardiser(3), nn.Linear(3, 2)
        nn.init.constant_(self.classifier.weight, 0.1)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x, complete):
        return self.classifier(self.standardiser(x, complete))


def step_of(rows: slice, ddp: bool) -> dict[str, torch.Tensor]:
    """Gradients and statistics after the class loss of `rows` of one batch of six, four of them with a lesion."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(6, 3, generator=generator, dtype=torch.double) * 4 + 2, torch.tensor([0, 1, 1, 0, 1, 1])
    has_lesion = torch.tensor([True, True, True, False, False, True])
    head = Head().double()
    head.standardiser.over_processes = ddp
    network = DistributedDataParallel(head) if ddp else head
    loss = DC_and_CE_and_weighted_CE_loss(lambda logits, target: 0 * logits.sum(), torch.tensor([0.7, 1.4]), ddp=ddp)
    for _ in range(2):  # the second step stands on the first one's statistics
        network.zero_grad()
        logits = network(x[rows], has_lesion[rows].double())
        loss(logits, None, logits, target[rows], has_lesion[rows], 0)[0].backward()
    return {"weight": head.classifier.weight.grad, "bias": head.classifier.bias.grad, **dict(head.standardiser.named_buffers())}


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(step_of((slice(0, 3), slice(3, 6))[rank], ddp=True), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_class_gradients_and_statistics_of_two_processes_are_those_of_one(tmp_path):
    # three lesions in one process, one in the other: a mean per process would weigh that one threefold
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    expected = step_of(slice(None), ddp=False)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"hours": 1.0}, {"num_gpus": 2}, {"disable_checkpointing": True}])
def test_what_torchrun_decides_or_cannot_do_is_refused(without_classes, monkeypatch, options):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0"),
                        ("nnUNet_results", str(without_classes / "results"))):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun|one process|GPU"):
        command.run_training(DATASET, "3d_fullres", 0, device=torch.device("cpu"), **options)
