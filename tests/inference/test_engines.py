import sys

import pytest
import torch
from torch import nn

from nnunetv2.inference.engines import ReducedPrecisionGuard, make_engine
from nnunetv2.inference.engines.torch_engine import TorchEngine

CPU = torch.device("cpu")


class Scripted:
    """A reduced-precision engine that returns what it is told; its fp32 twin returns the input."""

    name, batch_size = "scripted", 4

    def __init__(self, outputs=None, class_logits=None):
        self.outputs, self.class_logits, self.precision = outputs, class_logits, "fp32" if outputs is None else "fp16"
        self.calls = 0

    def in_full_precision(self):
        self.full = Scripted(class_logits=None if self.class_logits is None else torch.zeros_like(self.class_logits[:1]))
        return self.full

    def __call__(self, x, classify=True):
        self.calls += 1
        return (x if self.outputs is None else self.outputs.clone()), self.class_logits

    def classify(self, x, seg_logits):
        return self.class_logits


ALIVE = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1, 1)
INPUT = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1, 1)


def test_living_output_passes_unchanged():
    half = Scripted(torch.cat([ALIVE, ALIVE]))
    seg_logits, class_logits = ReducedPrecisionGuard(half)(INPUT)
    assert torch.equal(seg_logits, half.outputs) and class_logits is None and half.calls == 1


@pytest.mark.parametrize("broken", [torch.full_like(ALIVE, torch.nan), torch.zeros_like(ALIVE), torch.full_like(ALIVE, torch.inf),
                                    ALIVE * torch.tensor([1, torch.nan]).reshape(1, 2, 1, 1, 1)])
def test_dead_window_is_redone_in_fp32_and_the_others_are_kept(broken):
    guard = ReducedPrecisionGuard(Scripted(torch.cat([ALIVE, broken])))
    with pytest.warns(UserWarning, match="1 of 2 fp16 outputs"):
        seg_logits, _ = guard(INPUT)
    assert torch.equal(seg_logits, torch.cat([ALIVE, INPUT[1:]]))


def test_nan_in_the_class_alone_is_caught_too():
    guard = ReducedPrecisionGuard(Scripted(torch.cat([ALIVE, ALIVE]), torch.tensor([[1.0, 2.0], [torch.nan, 0.0]])))
    with pytest.warns(UserWarning, match="1 of 2"):
        _, class_logits = guard(INPUT)
    assert class_logits.tolist() == [[1, 2], [0, 0]]


def test_a_class_by_a_known_segmentation_is_redone_in_fp32_where_it_is_nan():
    assert ReducedPrecisionGuard(Scripted(ALIVE)).classify(INPUT[:1], ALIVE) is None
    assert ReducedPrecisionGuard(Scripted(ALIVE, torch.ones(1, 2))).classify(INPUT[:1], ALIVE).tolist() == [[1, 1]]
    with pytest.warns(UserWarning, match="class logits are NaN"):
        class_logits = ReducedPrecisionGuard(Scripted(ALIVE, torch.tensor([[1.0, torch.nan]]))).classify(INPUT[:1], ALIVE)
    assert class_logits.tolist() == [[0, 0]]


def test_the_fp32_twin_is_made_once():
    guard = ReducedPrecisionGuard(Scripted(torch.zeros(2, 2, 1, 1, 1)))
    with pytest.warns(UserWarning):
        guard(INPUT), guard(INPUT)
    assert guard.fast.full.calls == 4


def test_nan_in_fp32_is_an_error_not_a_mask():
    with pytest.warns(UserWarning), pytest.raises(FloatingPointError, match="fp32"):
        ReducedPrecisionGuard(Scripted(torch.zeros(1, 2, 1, 1, 1)))(torch.full_like(ALIVE, torch.nan))


class Net(nn.Module):
    def __init__(self, deep_supervision=False):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        self.deep_supervision = deep_supervision

    def forward(self, x):
        y = self.conv(x)
        return ([y, y[..., ::2]] if self.deep_supervision else y), y.mean((2, 3, 4))


def test_torch_engine_takes_the_finest_of_deep_supervision():
    net, x = Net(deep_supervision=True), torch.rand(1, 1, 4, 4, 4)
    seg_logits, class_logits = TorchEngine(net, CPU, half=False)(x)
    assert torch.equal(seg_logits, net.conv(x)) and torch.equal(class_logits, seg_logits.mean((2, 3, 4)))


def test_torch_engine_in_half_computes_in_bf16_and_returns_fp32():
    net, x = Net(), torch.rand(1, 1, 4, 4, 4)
    half, full = TorchEngine(net, CPU, half=True), TorchEngine(net, CPU, half=False)
    a, b = half(x)[0], full(x)[0]
    assert a.dtype == torch.float32 and torch.equal(a, a.bfloat16().float()) and 0 < (a - b).abs().max() < 0.05
    assert torch.equal(half.in_full_precision()(x)[0], b)


def test_a_batch_that_memory_does_not_hold_goes_through_item_by_item():
    class Small(Net):
        def forward(self, x):
            if len(x) > 1:
                raise torch.cuda.OutOfMemoryError("too much")
            return super().forward(x)

    engine, x = TorchEngine(net := Small(), CPU, half=False), torch.rand(8, 1, 2, 2, 2)
    torch.testing.assert_close(engine(x)[0], net.conv(x))


def test_an_item_that_memory_does_not_hold_is_an_error():
    class Smallest(Net):
        def forward(self, x):
            raise torch.cuda.OutOfMemoryError("too much")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        TorchEngine(Smallest(), CPU, half=False)(torch.rand(1, 1, 2, 2, 2))


def test_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="auto, torch, openvino"):
        make_engine(Net, CPU, "fp32", wish="tensorrt")


def test_half_precision_is_guarded_and_full_is_not():
    assert isinstance(make_engine(Net, CPU, "half", wish="torch"), ReducedPrecisionGuard)
    assert isinstance(make_engine(Net, CPU, "fp32", wish="torch"), TorchEngine)


@pytest.mark.parametrize("wish, device", [("torch", CPU), ("auto", torch.device("meta"))])
def test_int8_without_openvino_on_the_cpu_is_refused(wish, device, tmp_path):
    with pytest.raises(ValueError, match="nnUNetv2_quantize"):
        make_engine(Net, device, "int8", wish, quantised_model=tmp_path / "model.xml")


def test_absent_openvino_falls_back_to_torch_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "nnunetv2.inference.engines.openvino_engine", raising=False)
    with pytest.warns(UserWarning, match="not installed"):
        assert make_engine(Net, CPU, "fp32").name == "torch"
