import pytest

from nnunetv2.inference import modes
from nnunetv2.inference.modes import MODES, InferenceMode, inference_mode


def test_exact_is_upstreams_default():
    assert MODES["exact"] == InferenceMode(precision="upstream", tta=8, tiling="windows", roi="none", tile_step_size=0.5)


def test_a_lever_overrides_the_mode_and_none_leaves_it():
    mode = inference_mode("fast", tta=4, roi=None)
    assert mode == InferenceMode(precision="half_if_faster", tta=4, tiling="whole", roi="coarse")


@pytest.mark.parametrize("precision, device, half", [
    ("upstream", "cuda", True), ("upstream", "cpu", False), ("upstream", "mps", False), ("fp32", "cuda", False), ("half", "cpu", True)])
def test_half_precision_by_device(precision, device, half):
    assert InferenceMode(precision=precision).half_on(device) is half


@pytest.mark.parametrize("amx", [True, False])
def test_the_half_modes_use_bf16_only_where_it_is_faster(monkeypatch, amx):
    monkeypatch.setattr(modes, "cpu_has_fast_bf16", lambda: amx)
    for name in ("half", "fast"):
        assert MODES[name].half_on("cpu") is amx and MODES[name].half_on("cuda")


@pytest.mark.parametrize("lever", [{"tta": 3}, {"precision": "fp8"}, {"tiling": "x"}, {"roi": "fine"}, {"tile_step_size": 0.0}])
def test_bad_lever_is_named(lever):
    with pytest.raises(ValueError, match=next(iter(lever))):
        inference_mode("exact", **lever)


def test_unknown_mode_lists_the_known():
    with pytest.raises(ValueError, match="exact, half, fast"):
        inference_mode("quick")
