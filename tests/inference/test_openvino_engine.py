import os
import shutil

import pytest
import torch
from torch import nn

from nnunetv2.inference.engines import make_engine
from tests.inference.tiny_model import tiny_network

openvino = pytest.importorskip("openvino")
from nnunetv2.inference.engines import openvino_engine  # noqa: E402
from nnunetv2.inference.engines.openvino_engine import Int8Engine, OpenVINOEngine, cached_model_path, is_intact, load_or_convert, without_telemetry  # noqa: E402
from nnunetv2.utilities.errors import InputError  # noqa: E402

pytestmark = pytest.mark.slow

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


def _cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("suffix", [".bin", ".xml", ".sha256"])
@pytest.mark.parametrize("damage", [_cut, _flip, lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_a_kept_model_that_is_damaged_is_converted_anew(converted, monkeypatch, tmp_path, suffix, damage):
    for file in converted[1].parent.glob(f"{converted[1].stem}.*"):
        shutil.copy(file, tmp_path)
    kept, conversions = tmp_path / converted[1].name, []
    monkeypatch.setattr(openvino_engine, "_convert", lambda *arguments: conversions.append(arguments) or converted[0])
    assert is_intact(kept)
    damage(kept.with_suffix(suffix))
    load_or_convert(tiny_network, 1, DIVISOR, kept)
    assert len(conversions) == 1 and is_intact(kept)
    load_or_convert(tiny_network, 1, DIVISOR, kept)
    assert len(conversions) == 1


def test_a_quantised_model_that_is_damaged_is_refused_with_the_remedy(converted, tmp_path):
    for file in converted[1].parent.glob(f"{converted[1].stem}.*"):
        shutil.copy(file, tmp_path)
    _cut((tmp_path / converted[1].name).with_suffix(".bin"))
    with pytest.raises(InputError, match="openvino_0123.xml.*nnUNetv2_quantize"):
        Int8Engine(tmp_path / converted[1].name, lambda: None)


@pytest.mark.parametrize("suffix", [".bin", ".xml"])
def test_on_a_full_disk_no_model_is_kept_and_the_converted_one_serves(converted, monkeypatch, tmp_path, suffix):
    def save_short(model, path, save=openvino.save_model, **options):
        save(model, path, **options)
        _cut(path.with_suffix(suffix))

    monkeypatch.setattr(openvino, "save_model", save_short)
    monkeypatch.setattr(openvino_engine, "_convert", lambda *arguments: converted[0])
    with pytest.warns(UserWarning, match="cannot be kept.*in part"):
        assert load_or_convert(tiny_network, 1, DIVISOR, tmp_path / "checkpoint_final.openvino_0123.xml") is converted[0]
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("before", [None, "false"])
def test_nobody_is_told_of_a_conversion(before, monkeypatch):
    monkeypatch.delenv("CI", raising=False) if before is None else monkeypatch.setenv("CI", before)
    with without_telemetry():
        from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry

        assert init_ovc_telemetry().consent is False
    assert os.environ.get("CI") == before
