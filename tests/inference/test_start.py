"""What a prediction costs before its first case."""

import subprocess
import sys

import torch

from nnunetv2.inference.engines import cuda_start
from nnunetv2.inference.engines.cuda_start import begin_cuda, first_convolution

SLOW_TO_IMPORT = ("sklearn", "pandas", "matplotlib", "scipy.stats", "skimage", "openvino", "torch._dynamo")  # .2 to 2 s each


def test_prediction_imports_nothing_slow_that_it_does_not_use():
    program = f"import sys, nnunetv2.cli.inference, nnunetv2.inference.predict_from_raw_data\nprint([m for m in {SLOW_TO_IMPORT} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_cuda_begins_beside_the_checkpoint_and_its_troubles_wait_for_the_first_pass(monkeypatch):
    devices = []

    def no_gpu(device):
        devices.append(device.type)
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(cuda_start, "first_convolution", no_gpu)
    assert begin_cuda(torch.device("cpu")) is None
    begin_cuda(torch.device("cuda")).join()
    assert devices == ["cuda"]


def test_cuda_begins_on_the_gpu_that_the_caller_chose(monkeypatch):
    devices = []
    monkeypatch.setattr(cuda_start, "first_convolution", devices.append)
    begin_cuda(torch.device("cuda")).join()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for name in ("cuda", "cuda:2"):
        begin_cuda(torch.device(name)).join()
    assert [str(device) for device in devices] == ["cuda", "cuda:1", "cuda:2"]


def test_an_interpreter_that_ends_waits_for_cuda_to_begin(monkeypatch):
    monkeypatch.setattr(cuda_start, "first_convolution", lambda device: None)
    assert not begin_cuda(torch.device("cuda")).daemon  # one that is within CUDA's libraries cannot be ended in good order


def test_the_first_convolution_is_one():
    x = first_convolution(torch.device("cpu")).float()
    assert x[0, 0, 4, 4, 4] > x[0, 0, 0, 0, 0] and abs(float(x.mean())) < 1e-2  # 27 products inside, 8 in a corner; normalised
