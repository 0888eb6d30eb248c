"""What runs between the passes of a case, on torch's meta device in a GPU's place.

Its tensors have no values: asking for one, as `.item()`, `bool()` and indexing with booleans do, which all wait on a GPU, is an error there, and
so is most arithmetic with a tensor that was left in main memory.
"""

from contextlib import nullcontext

import pytest
import torch

from nnunetv2.inference import sliding_window_prediction
from nnunetv2.inference.case_classification import ClassEvidence
from nnunetv2.inference.engines import guard
from nnunetv2.inference.engines.guard import GuardedEngine
from nnunetv2.inference.engines.torch_engine import TorchEngine, prepare_for_cuda
from nnunetv2.inference.sliding_window_prediction import mirror_views, predict_windows
from tests.inference.tiny_model import tiny_network

META = torch.device("meta")
SHAPE = (8, 16, 16)


@pytest.fixture
def as_a_gpu(monkeypatch):
    """The meta device is one, and what is asked once a case is answered: how often."""
    asked = []
    weights = sliding_window_prediction.compute_gaussian
    monkeypatch.setattr(sliding_window_prediction, "compute_gaussian", lambda *size, device: weights(*size).to(device))
    monkeypatch.setattr(sliding_window_prediction, "_answers_late", lambda device: device.type == "meta")
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    monkeypatch.setattr(guard.AskedLater, "all_well", lambda self: self._well.device == META and not asked.append("passes"))
    monkeypatch.setattr(sliding_window_prediction, "_is_finite", lambda logits: not asked.append("sums"))
    monkeypatch.setattr(sliding_window_prediction, "_in_main_memory", lambda logits, inner: logits[inner])
    return asked


def engine():
    network = tiny_network()
    prepare_for_cuda(network)
    return GuardedEngine(TorchEngine(network, META, half=False), (2, 4, 4))


@pytest.mark.parametrize("classify", [True, False])
def test_a_gpu_is_asked_once_a_case(as_a_gpu, classify):
    evidence = ClassEvidence((2,)) if classify else None
    logits = predict_windows(engine(), torch.zeros(1, 12, 20, 24), SHAPE, 0.5, mirror_views((0, 1, 2), 8), device=META, observer=evidence)
    assert logits.device == META and logits.shape == (3, 12, 20, 24) and logits.dtype == torch.float16
    assert as_a_gpu == ["passes", "sums"]
    if classify:
        assert len(evidence._values) == 2 * 2 * 2 and {part.device for part in evidence._values + evidence._masses} == {META}


def test_the_guard_itself_waits_for_every_pass(as_a_gpu):
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        engine()(torch.zeros(1, 1, *SHAPE, device=META))
