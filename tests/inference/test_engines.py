import sys
import warnings

import pytest
import torch
from torch import nn

from nnunetv2.inference.engines import make_engine
from nnunetv2.inference.engines.guard import GuardedEngine, NotFinite
from nnunetv2.inference.engines.torch_engine import TorchEngine
from nnunetv2.utilities.errors import InputError
from tests.inference.tiny_model import wide_network

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
    seg_logits, class_logits = GuardedEngine(half)(INPUT)
    assert torch.equal(seg_logits, half.outputs) and class_logits is None and half.calls == 1


@pytest.mark.parametrize("broken, reason", [
    (torch.full_like(ALIVE, torch.nan), "NaN or infinite"), (torch.full_like(ALIVE, torch.inf), "NaN or infinite"),
    (ALIVE * torch.tensor([1, torch.nan]).reshape(1, 2, 1, 1, 1), "NaN or infinite"), (torch.zeros_like(ALIVE), "the same everywhere")])
def test_dead_window_is_redone_in_fp32_and_the_others_are_kept(broken, reason):
    guard = GuardedEngine(Scripted(torch.cat([ALIVE, broken])))
    with pytest.warns(UserWarning, match=f"fp16 logits of the network are {reason}"):
        seg_logits, _ = guard(INPUT)
    assert torch.equal(seg_logits, torch.cat([ALIVE, INPUT[1:]]))


def test_nan_in_the_class_alone_is_caught_too():
    guard = GuardedEngine(Scripted(torch.cat([ALIVE, ALIVE]), torch.tensor([[1.0, 2.0], [torch.nan, 0.0]])))
    with pytest.warns(UserWarning, match="NaN or infinite"):
        _, class_logits = guard(INPUT)
    assert class_logits.tolist() == [[1, 2], [0, 0]]


def test_a_class_by_a_known_segmentation_is_redone_in_fp32_where_it_is_nan():
    assert GuardedEngine(Scripted(ALIVE)).classify(INPUT[:1], ALIVE) is None
    assert GuardedEngine(Scripted(ALIVE, torch.ones(1, 2))).classify(INPUT[:1], ALIVE).tolist() == [[1, 1]]
    with pytest.warns(UserWarning, match="NaN or infinite"):
        class_logits = GuardedEngine(Scripted(ALIVE, torch.tensor([[1.0, torch.nan]]))).classify(INPUT[:1], ALIVE)
    assert class_logits.tolist() == [[0, 0]]


def test_the_fp32_twin_is_made_once_and_the_reason_said_once():
    guard = GuardedEngine(Scripted(torch.zeros(2, 2, 1, 1, 1)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        guard(INPUT), guard(INPUT)
    assert guard.engine.full.calls == 4 and len(said) == 1


class Identity:
    """Logits that are the image, whatever it holds, in any precision; `classify` gives its mean."""

    name, batch_size = "identity", 1

    def __init__(self, precision="fp32", seg=lambda x: x.repeat(1, 2, 1, 1, 1), mean=lambda x: x.mean((2, 3, 4))):
        self.precision, self.seg, self.mean = precision, seg, mean

    def in_full_precision(self):
        return Identity("fp32", self.seg, self.mean)

    def __call__(self, x, classify=True):
        return self.seg(x), self.mean(x) if classify else None

    def classify(self, x, seg_logits):
        return self.mean(x)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "bf16x3", "int16", "int8"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("hides", [False, True])
def test_an_image_that_is_not_finite_is_named_as_such_and_no_precision_is_blamed(precision, value, hides):
    x = torch.rand(1, 1, 2, 4, 4)
    x[0, 0, 1, 2, 3] = value
    engine = Identity(precision, *([lambda x: torch.arange(64.0).reshape(1, 2, 2, 4, 4), lambda x: torch.zeros(1, 1)] if hides else []))
    guard = GuardedEngine(engine, model="fold_0/checkpoint.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in (lambda: guard(x), lambda: guard(x, False), lambda: guard.classify(x, x)):
            with pytest.raises(NotFinite, match="image given to fold_0/checkpoint.pth holds NaN or infinity in 1 of its 32 values"):
                run()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_logits_that_are_not_finite_in_fp32_are_an_error_that_names_the_model(precision):
    guard = GuardedEngine(Identity(precision, lambda x: x.repeat(1, 2, 1, 1, 1) / 0), model="fold_0/checkpoint.pth")
    with warnings.catch_warnings(), pytest.raises(NotFinite, match="logits of fold_0/checkpoint.pth are NaN or infinite in fp32"):
        warnings.simplefilter("ignore")
        guard(torch.rand(1, 1, 2, 4, 4))


def test_logits_of_fp32_that_are_the_same_everywhere_pass():
    assert torch.equal(GuardedEngine(Identity())(torch.ones(1, 1, 2, 4, 4))[0], torch.ones(1, 2, 2, 4, 4))


@pytest.mark.parametrize("shape, reason", [
    ((1, 1, 10, 13, 17), r"10 x 13 x 17 voxels, which its strides \(2 x 4 x 4 in all\) do not divide. Pad to 10 x 16 x 20"),
    ((1, 1, 8, 8), "shape"), ((1, 1, 2, 0, 4), "none empty"), ((1, 0, 2, 4, 4), "none empty")])
def test_sizes_that_a_network_does_not_take_are_refused_with_the_one_that_it_does(shape, reason):
    guard = GuardedEngine(Identity(), (2, 4, 4))
    for run in (guard, lambda x: guard.classify(x, x)):
        with pytest.raises(InputError, match=reason):
            run(torch.zeros(shape))


@pytest.mark.slow
@pytest.mark.parametrize("wish", ["torch", "openvino", "winograd"])
@pytest.mark.parametrize("precision", ["fp32", "half"])
def test_weights_that_are_nan_are_an_error_in_every_engine_and_no_engine_is_blamed(wish, precision):
    network = wide_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    with warnings.catch_warnings(), pytest.raises(NotFinite, match="weights"):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "This CPU has no bf16|bf16 logits")
        make_engine(lambda: network, CPU, precision, wish, 1, (2, 4, 4), patch_size=(4, 16, 16))(torch.rand(1, 1, 4, 16, 16))


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


@pytest.mark.slow
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


def test_every_precision_is_guarded():
    assert all(isinstance(make_engine(Net, CPU, precision, wish="torch"), GuardedEngine) for precision in ("half", "fp32"))
    assert isinstance(make_engine(Net, CPU, "fp32", wish="torch").engine, TorchEngine)


@pytest.mark.parametrize("wish, device", [("torch", CPU), ("auto", torch.device("meta"))])
def test_int8_without_openvino_on_the_cpu_is_refused(wish, device, tmp_path):
    with pytest.raises(ValueError, match="nnUNetv2_quantize"):
        make_engine(Net, device, "int8", wish, quantised_model=tmp_path / "model.xml")


def test_absent_openvino_falls_back_to_torch_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "nnunetv2.inference.engines.openvino_engine", raising=False)
    with pytest.warns(UserWarning, match="not installed"):
        assert make_engine(Net, CPU, "fp32").name == "torch"
