"""Where windows are added up, and when a GPU is asked whether all went well. That a GPU gives the same: tests/cuda."""

import warnings
import weakref

import pytest
import torch

from nnunetv2.inference import sliding_window_prediction, window_sums
from nnunetv2.inference.engines.guard import GuardedEngine, NotFinite
from nnunetv2.inference.sliding_window_prediction import predict_windows
from nnunetv2.inference.window_sums import WindowSums, has_room, moved_if_there_is_room, with_index

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SLICERS = [(slice(None), slice(0, 2), slice(0, 1), slice(0, 1)), (slice(None), slice(1, 3), slice(0, 1), slice(0, 1))]


class Overflowing:
    """Two channels, the image and its negative; in fp16 infinite in the passes of the numbers `broken`."""

    name, batch_size = "overflowing", 1

    def __init__(self, broken=(), precision="fp16"):
        self.broken, self.precision, self.calls = broken, precision, 0

    def __call__(self, x, classify=True):
        seg_logits = torch.cat([x, -x], 1)
        if self.calls in self.broken:
            seg_logits[0, 0, 0, 0, 0] = float("inf")
        self.calls += 1
        return seg_logits, torch.ones(len(x), 2) if classify else None

    def in_full_precision(self):
        return Overflowing(precision="fp32")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(sliding_window_prediction, "_answers_late", lambda device: True)


def image():
    return torch.arange(1.0, 33).reshape(1, 2, 4, 4)


def gpu_memory(monkeypatch, free, reserved, allocated):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)


@pytest.mark.parametrize("n_bytes, fits", [(75, True), (76, False)])
def test_half_of_what_is_free_or_unused_holds_a_volume(monkeypatch, n_bytes, fits):
    gpu_memory(monkeypatch, free=100, reserved=80, allocated=30)  # 150 in all
    assert has_room(CUDA, n_bytes) == fits and has_room(CPU, 10**15)


def test_a_device_is_named_as_its_tensors_name_it():
    assert with_index(CPU) == torch.zeros(1).device


def test_a_volume_that_does_not_fit_stays_in_main_memory(monkeypatch):
    gpu_memory(monkeypatch, free=100, reserved=0, allocated=0)
    volume = torch.zeros(13)  # 52 bytes
    assert moved_if_there_is_room(volume, CUDA) is volume


def test_the_mean_is_weighted_voxel_by_voxel():
    weight = torch.tensor([1.0, 3.0])[:, None, None]
    with WindowSums((3, 1, 1), weight, torch.float32) as sums:
        for slicer, value in zip(SLICERS, (2.0, 6.0)):
            sums.add(slicer, torch.full((1, 2, 1, 1), value))
    assert sums.mean().flatten().tolist() == [2.0, (3 * 2 + 1 * 6) / 4, 6.0]


def test_memory_that_turns_out_too_small_leaves_the_sums_in_main_memory(monkeypatch):
    places = []
    allocate = WindowSums._allocate

    def fail_once(self, channels, device):
        places.append(device)
        if len(places) == 1:
            raise torch.cuda.OutOfMemoryError("the process may take less")
        allocate(self, channels, device)

    monkeypatch.setattr(window_sums.WindowSums, "_allocate", fail_once)
    with WindowSums((2, 1, 1), 1, torch.float16) as sums:
        sums.add(SLICERS[0], torch.ones(1, 2, 1, 1))
    assert sums.mean().flatten().tolist() == [1, 1] and places == [CPU, CPU]


class OnAGpu(torch.Tensor):
    """Lies in main memory and says otherwise."""

    device = property(lambda self: CUDA)

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_windows_of_a_gpu_are_added_in_main_memory_by_a_thread(mode):
    with mode(), WindowSums((3, 1, 1), 1, torch.float32, on_device=False) as sums:
        for slicer, value in zip(SLICERS, (2.0, 6.0)):
            sums.add(slicer, torch.full((1, 2, 1, 1), value).as_subclass(OnAGpu))
    assert sums._adding is not None
    with mode():
        assert sums.mean().flatten().tolist() == [2.0, 4.0, 6.0]


class OutOfMemory(Overflowing):
    """Runs out of it at the numbers `broken`; what it had allocated by then is in `allocated`."""

    allocated = staticmethod(lambda: None)

    def __call__(self, x, classify=True):
        if self.calls in self.broken:
            self.calls += 1
            activations = torch.zeros(3)
            self.allocated = weakref.ref(activations)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        self.freed = self.allocated() is None
        return super().__call__(x, classify)


def test_volumes_make_room_for_the_passes(monkeypatch):
    expected, asked = predict_windows(Overflowing(), image(), (2, 4, 2)), []
    monkeypatch.setattr(sliding_window_prediction, "moved_if_there_is_room", lambda volume, device: asked.append(device) or volume)
    engine = OutOfMemory(broken=(1,))
    with pytest.warns(UserWarning, match="kept in main memory"):
        logits = predict_windows(engine, image(), (2, 4, 2))
    assert torch.equal(logits, expected) and len(asked) == 1 and engine.freed
    with pytest.raises(torch.cuda.OutOfMemoryError):
        predict_windows(OutOfMemory(broken=(1,)), image(), (2, 4, 2), volumes_on_device=False)


@pytest.mark.parametrize("views", [[()], [(), (0,), (1, 2)]])
def test_a_gpu_that_is_asked_later_gives_the_same(monkeypatch, views):
    expected = predict_windows(GuardedEngine(Overflowing()), image(), (2, 4, 2), 0.5, views)
    monkeypatch.setattr(sliding_window_prediction, "_answers_late", lambda device: True)
    engine = GuardedEngine(Overflowing())
    assert torch.equal(predict_windows(engine, image(), (2, 4, 2), 0.5, views), expected)
    assert engine.engine.calls == 3 * len(views)  # once


def test_a_pass_that_went_wrong_is_found_later_and_repeated(as_on_a_gpu):
    engine = GuardedEngine(Overflowing(broken=(1, 4)))  # 3 windows: the second, and when all are repeated again the second
    with pytest.warns(UserWarning, match="NaN or infinite"):
        logits = predict_windows(engine, image(), (2, 4, 2))
    torch.testing.assert_close(logits[0].float(), image()[0], rtol=2e-3, atol=0)  # fp16 sums
    assert engine.engine.calls == 6


def test_an_image_of_nan_is_an_error_that_names_the_model(as_on_a_gpu):
    data = image()
    data[0, 0, 0, 0] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not taken for an overflow of the sums
        with pytest.raises(NotFinite, match="given to the model holds NaN or infinity in 1 of its 16 values"):
            predict_windows(GuardedEngine(Overflowing(), model="the model"), data, (2, 4, 2))
