"""One engine, or one predictor, in eight threads at once gives what it gives alone."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2.inference.engines import make_engine
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tests.inference.tiny_model import smooth_ct, wide_network

pytestmark = pytest.mark.slow

CPU, THREADS, PASSES = torch.device("cpu"), 8, 3
SIZES = [(4, 16, 16), (4, 12, 20), (4, 24, 8), (6, 8, 16)]


def engine_of(wish, precision):
    if wish == "openvino":
        pytest.importorskip("openvino")
    engine = make_engine(wide_network, CPU, precision, wish, 1, (2, 4, 4), patch_size=(4, 16, 16))
    if engine.name != wish:
        pytest.skip(f"{wish} does not run here")
    return engine


def in_threads(run, items):
    """run(item) of each of them, in eight threads that begin together."""
    together = threading.Barrier(THREADS)

    def one_thread(first):
        together.wait()
        return {i: run(items[i]) for i in range(first, len(items), THREADS)}

    with ThreadPoolExecutor(THREADS) as pool:
        results = {i: result for part in pool.map(one_thread, range(THREADS)) for i, result in part.items()}
    return [results[i] for i in range(len(items))]


@pytest.mark.filterwarnings("ignore:This CPU has no bf16")
@pytest.mark.parametrize("wish, precision", [("torch", "fp32"), ("winograd", "fp32"), ("winograd", "half"), ("openvino", "fp32")])
@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES], ids=["one size", "sizes"])
def test_an_engine_in_eight_threads_gives_what_it_gives_alone(wish, precision, sizes):
    engine, generator = engine_of(wish, precision), torch.Generator().manual_seed(0)
    images = [torch.randn(1, 1, *sizes[i % len(sizes)], generator=generator) for i in range(THREADS * PASSES)]
    alone = [engine(image) for image in images]
    for (seg, classes), (expected, expected_classes) in zip(in_threads(engine, images), alone):
        torch.testing.assert_close(seg, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(classes, expected_classes, rtol=0, atol=1e-5)
    for classes, (_, expected_classes) in zip(in_threads(lambda i: engine.classify(images[i], alone[i][0]), range(len(images))), alone):
        torch.testing.assert_close(classes, expected_classes, rtol=0, atol=1e-5)


def test_a_predictor_in_eight_threads_gives_what_it_gives_alone(model_folder):
    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False, tta=1, engine="openvino" if _has_openvino() else "torch")
    predictor.initialize_from_trained_model_folder(model_folder, (0,))
    images = [smooth_ct((8 + i % 3, 18, 16 + i % 2), seed=i)[None].astype(np.float32) for i in range(THREADS)]
    predict = lambda image: predictor.predict_single_npy_array(image, {"spacing": [2.5, 0.9, 0.9]})  # noqa: E731
    alone = [predict(image) for image in images]
    assert all(np.array_equal(mask, expected) for mask, expected in zip(in_threads(predict, images), alone))


def _has_openvino():
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_pass_that_ends_halfway_leaves_no_memory_behind(error):
    engine, x = engine_of("winograd", "fp32"), torch.randn(1, 1, 16, 64, 64)
    expected = engine(x)[0]
    of_a_pass = sum(buffer.numel() for workspace in engine.engine.network.workspaces._free for buffer in workspace._free)
    assert of_a_pass > 10 << 20
    head = engine.engine.network.class_head

    def fail(*arguments):
        raise error

    engine.engine.network.class_head = fail
    before = _resident()
    for _ in range(8):
        with pytest.raises(error):
            engine(x)
    gc.collect()
    assert _resident() - before < of_a_pass
    engine.engine.network.class_head = head
    assert torch.equal(engine(x)[0], expected)
