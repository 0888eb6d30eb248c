import pytest

from nnunetv2.inference import modes
from nnunetv2.inference.modes import MODES, InferenceMode, inference_mode


def test_exact_is_upstreams_default():
    assert MODES["exact"] == InferenceMode(precision="upstream", tta=8, tiling="windows", roi="none", tile_step_size=0.5)


def test_a_lever_overrides_the_mode_and_none_leaves_it():
    mode = inference_mode("fast", tta=4, roi=None)
    assert mode == InferenceMode(precision="reduced", tta=4, tiling="windows", roi="coarse")


@pytest.mark.parametrize("precision, device, expected", [
    ("upstream", "cuda", "half"), ("upstream", "cpu", "fp32"), ("upstream", "mps", "fp32"), ("fp32", "cuda", "fp32"), ("half", "cpu", "half"),
    ("int8", "cpu", "int8"), ("reduced", "cuda", "half"), ("reduced", "mps", "half")])
def test_precision_by_device(precision, device, expected):
    assert InferenceMode(precision=precision).precision_on(device) == expected


@pytest.mark.parametrize("amx, int16_pays, int8_pays, expected", [
    (True, False, False, "half"), (True, True, True, "half"), (False, True, True, "half"), (False, False, True, "int8"), (False, False, False, "fp32")])
def test_the_reduced_modes_take_the_fastest_that_a_cpu_has(monkeypatch, amx, int16_pays, int8_pays, expected):
    monkeypatch.setattr(modes, "cpu_has_fast_bf16", lambda: amx)
    for name in ("half", "fast"):
        assert MODES[name].precision_on("cpu", int16_pays, int8_pays) == expected


@pytest.mark.parametrize("lever", [{"tta": 3}, {"precision": "fp8"}, {"tiling": "x"}, {"roi": "fine"}, {"tile_step_size": 0.0}])
def test_bad_lever_is_named(lever):
    with pytest.raises(ValueError, match=next(iter(lever))):
        inference_mode("exact", **lever)


def test_unknown_mode_lists_the_known():
    with pytest.raises(ValueError, match="exact, half, fast"):
        inference_mode("quick")


def test_so_many_views_as_are_asked_for_end_the_turns():
    assert inference_mode("fast").in_turn and inference_mode("fast", roi="none").in_turn
    assert not inference_mode("fast", tta=1).in_turn
