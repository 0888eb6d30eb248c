import pytest
import torch
from torch import nn

from nnunetv2.inference.engines import make_engine
from tests.inference.tiny_model import tiny_network

pytest.importorskip("openvino")
from nnunetv2.inference.engines.openvino_engine import OpenVINOEngine, cached_model_path, load_or_convert  # noqa: E402

CPU, DIVISOR = torch.device("cpu"), (2, 4, 4)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The tiny network's model and where it is kept."""
    path = tmp_path_factory.mktemp("cache") / "checkpoint_final.openvino_0123.xml"
    outdated = path.with_name("checkpoint_final.openvino_9999.xml")
    outdated.touch()
    model = load_or_convert(tiny_network, 1, DIVISOR, path)
    assert not outdated.exists()
    return model, path


def test_both_outputs_equal_torchs_at_a_size_that_was_not_traced(converted):
    x = torch.randn(1, 1, 6, 12, 20)
    with torch.no_grad():
        expected = tiny_network()(x)
    got = OpenVINOEngine(converted[0], half=False)(x)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-4, atol=1e-4)


def test_the_class_head_keeps_its_precision_when_the_network_runs_in_bf16(converted):
    x = torch.randn(1, 1, 16, 48, 48)
    half = OpenVINOEngine(converted[0], half=True)
    if half.precision == "fp32":
        pytest.skip("this CPU has no bf16")
    torch.testing.assert_close(half(x)[1], OpenVINOEngine(converted[0], half=False)(x)[1], rtol=0, atol=0.02)


def test_a_kept_model_needs_no_network(converted):
    def build():
        raise AssertionError("the weights were read")

    engine = make_engine(build, CPU, "fp32", "openvino", 1, DIVISOR, converted[1])
    assert engine.name == "openvino" and engine(torch.randn(1, 1, 4, 8, 8))[0].shape == (1, 3, 4, 8, 8)


def test_outputs_survive_the_next_call(converted):
    engine = OpenVINOEngine(converted[0], half=False)
    first = engine(torch.ones(1, 1, 4, 8, 8))[0]
    before = first.clone()
    engine(torch.randn(1, 1, 4, 8, 8))
    assert torch.equal(first, before)


def test_the_key_changes_with_weights_and_architecture_only(tmp_path):
    paths = [tmp_path / folder / "checkpoint_best.pth" for folder in "abc"]
    for path, value in zip(paths, (1.0, 1.0, 2.0)):
        path.parent.mkdir()
        torch.save({"network_weights": {"w": torch.full((3,), value)}}, path)
    a, b, c = (cached_model_path(path, {"n_stages": 3}).name for path in paths)
    assert a == b != c and a.startswith("checkpoint_best.openvino_")
    assert cached_model_path(paths[0], {"n_stages": 4}).name != a
    assert cached_model_path(paths[0], {"n_stages": 3}, "int8").name.startswith("checkpoint_best.int8_")


class FrozenSize(nn.Module):
    """Counts voxels in Python, which tracing turns into a constant."""

    def forward(self, x):
        return torch.cat([x, x], 1), x.mean((2, 3, 4)) * len(x.flatten().tolist())


def test_conversion_that_changes_the_output_falls_back_to_torch():
    with pytest.warns(UserWarning, match="class logits differ"):
        assert make_engine(FrozenSize, CPU, "fp32", "auto", 1, (2, 2, 2)).name == "torch"


def test_asked_for_on_another_device_torch_runs_and_a_warning_says_why():
    with pytest.warns(UserWarning, match="the device is meta"):
        assert make_engine(tiny_network, torch.device("meta"), "fp32", "openvino").name == "torch"
