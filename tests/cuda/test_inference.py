"""Inference on a GPU: the same as on the CPU up to rounding, through a GPU's own troubles."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.inference import window_sums
from nnunetv2.inference.engines import make_engine
from nnunetv2.inference.engines.cuda_graph import CALLS_BEFORE_RECORDING
from nnunetv2.inference.engines.guard import GuardedEngine
from nnunetv2.inference.engines.torch_engine import TorchEngine
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, run_prediction
from nnunetv2.inference.sliding_window_prediction import mirror_views, predict_windows
from tests.inference.tiny_model import tiny_network

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (8, 16, 16)


def batch(n=1, seed=0):
    return torch.randn(n, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("half, tolerance", [(False, 5e-3), (True, 3e-2)])  # cuDNN's fp32 convolutions have TF32's 10 bits
def test_engine_gives_what_the_cpu_gives(half, tolerance):
    x = batch(3)
    expected, expected_classes = TorchEngine(tiny_network(), CPU, half=False)(x)
    seg_logits, class_logits = TorchEngine(tiny_network(), CUDA, half=half)(x)
    assert seg_logits.dtype == class_logits.dtype == torch.float32
    scale = expected.std()
    assert (seg_logits.cpu() - expected).abs().max() < tolerance * 10 * scale and (seg_logits.cpu() - expected).abs().mean() < tolerance * scale
    torch.testing.assert_close(class_logits.cpu(), expected_classes, rtol=5 * tolerance, atol=5 * tolerance * float(expected_classes.std()))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.filterwarnings("error")  # a recording that fails is a warning, and calls go on without
def test_recorded_calls_see_their_own_input_and_keep_their_own_output(n):
    network = tiny_network()
    engine = TorchEngine(network, CUDA, half=True)
    outputs = [engine(batch(n, seed)) for seed in range(2 * CALLS_BEFORE_RECORDING)]
    assert engine._forward.recording is not None
    for seed, (seg_logits, class_logits) in enumerate(outputs):
        seg_alone, class_alone = TorchEngine(network, CUDA, half=True)(batch(n, seed))
        torch.testing.assert_close(seg_logits, seg_alone, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(class_logits, class_alone, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("error")
def test_recordings_of_two_engines_do_not_disturb_each_other():
    engines = [TorchEngine(tiny_network(seed=seed), CUDA, half=True) for seed in range(2)]
    for engine in engines:
        expected = [engine(batch(seed=call)) for call in range(CALLS_BEFORE_RECORDING)]
        for call in range(CALLS_BEFORE_RECORDING):
            engine(batch(seed=call))
        engine.expected = expected
    for call in range(CALLS_BEFORE_RECORDING):
        for engine in engines:  # in turn
            found, expected = engine(batch(seed=call)), engine.expected[call]
            torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("error")
def test_recordings_of_an_ensemble_take_the_memory_of_one():
    def reserved_for(n):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        engines = [TorchEngine(tiny_network(seed=seed), CUDA, half=True) for seed in range(n)]
        for engine in engines:
            for _ in range(CALLS_BEFORE_RECORDING + 1):
                engine(x)
        assert all(engine._forward.recording is not None for engine in engines)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved() - before

    x = torch.randn(1, 1, 32, 64, 64, device=CUDA)
    assert reserved_for(4) < 2 * reserved_for(1)


@pytest.mark.filterwarnings("error")
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_gpu_that_is_not_the_current_one_records_its_own_passes():
    second = torch.device("cuda", 1)
    for device in (CUDA, second):  # in this order
        engine = TorchEngine(tiny_network(), device, half=True)
        outputs = [engine(batch(seed=seed))[0].cpu() for seed in range(2 * CALLS_BEFORE_RECORDING)]
        for seed, found in enumerate(outputs):
            torch.testing.assert_close(found, TorchEngine(tiny_network(), device, half=True)(batch(seed=seed))[0].cpu(), rtol=1e-2, atol=1e-2)
    data = torch.randn(1, 20, 24, 40)
    found = [predict_windows(TorchEngine(tiny_network(), device, half=True), data, SHAPE, device=device) for device in (CUDA, second)]
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("error")
def test_threads_with_streams_of_their_own_share_a_recording():
    engine = TorchEngine(tiny_network(), CUDA, half=True)
    expected = [engine(batch(seed=seed))[0].cpu() for seed in range(CALLS_BEFORE_RECORDING)]
    engine(batch())

    def calls(seed):
        with torch.cuda.stream(torch.cuda.Stream()):
            return [engine(batch(seed=seed))[0].cpu() for _ in range(20)]

    with ThreadPoolExecutor(4) as threads:
        for seed, found in enumerate(threads.map(calls, range(4))):
            for one in found:
                torch.testing.assert_close(one, expected[seed], rtol=1e-2, atol=1e-2)


def test_a_pass_that_does_not_fit_beside_recordings_takes_their_place(little_memory):
    engine, whole = TorchEngine(tiny_network(), CUDA, half=True), torch.randn(1, 1, 64, 128, 128)
    window = whole[:, :, :48]
    expected = engine(whole)[0].cpu()
    for _ in range(CALLS_BEFORE_RECORDING + 1):
        engine(window)
    assert engine._forward.recording is not None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    taken = torch.cuda.memory_allocated()
    TorchEngine(tiny_network(), CUDA, half=True)(whole)  # beside them: what it takes
    needed = torch.cuda.max_memory_allocated() - taken
    little_memory(int(0.7 * needed))
    with pytest.warns(UserWarning, match="does not hold recorded passes"):
        seg_logits = engine(whole)[0].cpu()
    torch.testing.assert_close(seg_logits, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("error")
def test_sums_in_main_memory_within_a_callers_inference_mode():
    data = torch.randn(1, 20, 24, 40, generator=torch.Generator().manual_seed(3))
    engine = TorchEngine(tiny_network(), CUDA, half=False)
    expected = predict_windows(engine, data, SHAPE, device=CUDA)
    with torch.inference_mode():
        found = predict_windows(engine, data, SHAPE, device=CUDA, volumes_on_device=False)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.filterwarnings("error")
def test_a_recording_without_the_class_gives_the_same_masks():
    engine = TorchEngine(tiny_network(), CUDA, half=True)
    expected = engine(batch())[0]
    for _ in range(2 * CALLS_BEFORE_RECORDING):
        seg_logits, class_logits = engine(batch(), classify=False)
    assert class_logits is None
    torch.testing.assert_close(seg_logits, expected, rtol=1e-2, atol=1e-2)


def test_an_overflow_of_fp16_is_caught_and_redone_in_fp32():
    def build_network():
        network = tiny_network()
        with torch.no_grad():
            network.encoder.stem.convs[0].conv.weight.mul_(1e6)
        return network

    engine = make_engine(build_network, CUDA, "half")  # without its bias the first layer is normalised as before: only fp16 notices
    with pytest.warns(UserWarning, match="fp16 logits of the network are NaN or infinite"):
        seg_logits, _ = engine(batch())
    assert seg_logits.isfinite().all()


def test_memory_that_does_not_hold_a_batch_gets_it_item_by_item(little_memory):
    engine = TorchEngine(tiny_network(), CUDA, half=False)
    x = torch.randn(64, 1, 32, 64, 64)  # 32 MiB, and four times that in the first layer
    expected = torch.cat([engine(item)[0].cpu() for item in x.split(1)])
    little_memory(400 * 2**20)  # what comes out takes 200 of them until it is one tensor
    seg_logits, _ = engine(x)
    torch.testing.assert_close(seg_logits.cpu(), expected, rtol=1e-2, atol=1e-2)  # a comparison takes memory, too


def test_windows_of_a_gpu_are_summed_as_those_of_the_cpu():
    data = torch.randn(1, 20, 24, 40, generator=torch.Generator().manual_seed(3))
    expected = predict_windows(TorchEngine(tiny_network(), CPU, half=False), data, SHAPE, views=mirror_views((0, 1, 2), 8))
    found = predict_windows(TorchEngine(tiny_network(), CUDA, half=False), data, SHAPE, views=mirror_views((0, 1, 2), 8), device=CUDA)
    assert found.device.type == "cpu"
    assert (found.float() - expected.float()).abs().mean() < 1e-2 * expected.float().std()


def test_sums_on_the_gpu_are_those_in_main_memory(monkeypatch):
    data = torch.randn(1, 20, 24, 40, generator=torch.Generator().manual_seed(4))
    engine = GuardedEngine(TorchEngine(tiny_network(), CUDA, half=True))
    on_gpu = predict_windows(engine, data, SHAPE, views=mirror_views((0, 1, 2), 8), device=CUDA)
    monkeypatch.setattr(window_sums, "has_room", lambda device, n_bytes: False)
    in_main_memory = predict_windows(engine, data, SHAPE, views=mirror_views((0, 1, 2), 8), device=CUDA)
    torch.testing.assert_close(on_gpu, in_main_memory, rtol=2e-3, atol=2e-3)  # cuDNN may take another algorithm


def test_convolutions_kept_in_fp16_compute_what_autocast_makes_of_fp32():
    engines = [TorchEngine(tiny_network(), CUDA, half=True), TorchEngine(tiny_network(), CUDA, half=True, rebuild=tiny_network)]
    for expected, found in zip(*(engine(batch()) for engine in engines)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    full = engines[1].in_full_precision()
    assert full.precision == "fp32" and {parameter.dtype for parameter in full.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("mode", ["exact", "half", "fast"])
def test_masks_and_classes_are_those_of_the_cpu(mode, model_folder, image_folder, tmp_path):
    for device in (CPU, CUDA):
        assert run_prediction(image_folder, tmp_path / device.type, model_folder, folds=(0, 1), mode=mode, engine="torch",
                              precision="fp32" if device == CPU else None, device=device, allow_tqdm=False) == 0
    for name in (f"case_{i}.nii.gz" for i in range(3)):
        a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / device / name))) for device in ("cpu", "cuda"))
        assert np.mean(a != b) < 0.02
    tables = [np.loadtxt(tmp_path / device / "subtype_probabilities.csv", delimiter=",", skiprows=1, usecols=(1, 2, 3)) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(*tables, atol=0.02)


@pytest.mark.filterwarnings("error")
def test_volumes_stay_in_main_memory_where_the_gpu_has_no_room(model_folder, little_memory):
    predictor = nnUNetPredictor(device=CUDA, allow_tqdm=False, tta=1, tile_step_size=1)
    predictor.initialize_from_trained_model_folder(model_folder, (0,))
    data = torch.randn(1, 32, 128, 128)
    expected = predictor.predict_logits_from_preprocessed_data(data)
    little_memory(10 * 2**20)  # anything above 1 MiB comes in pieces of 20, as image and logits would; what a window takes is below
    logits = predictor.predict_logits_from_preprocessed_data(data)
    assert (logits.float() - expected.float()).abs().mean() < 1e-2 * expected.float().std()
