"""When calls are recorded, and what recordings share. Recording itself needs a GPU (tests/cuda)."""

import warnings
import weakref
from contextlib import contextmanager

import pytest
import torch

from nnunetv2.inference.engines import cuda_graph
from nnunetv2.inference.engines.cuda_graph import CALLS_BEFORE_RECORDING, RecordedCalls, has_recordings

A, B = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 4)


@pytest.fixture(autouse=True)
def no_gpu_yet(monkeypatch):
    monkeypatch.setattr(cuda_graph, "_GPUS", {})


@pytest.fixture
def recorded(monkeypatch):
    """Shapes that were recorded, in order."""
    shapes = []

    class Recording:
        def __init__(self, compute, x, classify, gpu):
            shapes.append((x.shape[-1], classify))

        def __call__(self, x):
            return "recorded", None

    monkeypatch.setattr(cuda_graph, "_Recording", Recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return shapes


def outcomes(calls, x, n, classify=True):
    return [calls(x, classify)[0] for _ in range(n)]


def test_the_ninth_call_in_a_row_is_the_first_of_the_recording(recorded):
    calls = RecordedCalls(lambda x, classify: ("computed", None))
    assert outcomes(calls, A, CALLS_BEFORE_RECORDING + 3) == ["computed"] * CALLS_BEFORE_RECORDING + ["recorded"] * 3
    assert recorded == [(2, True)]


def test_other_shapes_in_between_leave_a_recording_in_use(recorded):
    calls = RecordedCalls(lambda x, classify: ("computed", None))
    for _ in range(9):
        outcomes(calls, A, 16)
        assert outcomes(calls, B, 8) == ["computed"] * 8
    assert recorded == [(2, True)] and outcomes(calls, A, 1) == ["recorded"]


def test_what_comes_more_often_later_takes_the_place(recorded):
    calls = RecordedCalls(lambda x, classify: ("computed", None))
    outcomes(calls, A, 16), outcomes(calls, B, 16), outcomes(calls, B, 16, classify=False)
    assert recorded == [(2, True), (4, True), (4, False)]
    assert outcomes(calls, A, 8) == ["computed"] * 8


def test_a_recording_that_fails_is_told_once_and_done_without(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    streams = []
    monkeypatch.setattr(cuda_graph, "_Recording", fail)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the stream before")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    calls = RecordedCalls(lambda x, classify: ("computed", None))
    with pytest.warns(UserWarning, match="operation not permitted") as caught:
        assert outcomes(calls, A, 40) == ["computed"] * 40
    assert len(caught) == 1 and streams == ["the stream before"]


class Stream:
    def __init__(self, device=None):
        self.device, self.waited_for = device, []

    def wait_stream(self, other):
        self.waited_for.append(other)


@pytest.fixture
def pretended(monkeypatch):
    """CUDA graphs that replay nothing: (pool, stream) of each capture."""
    captures = []

    class Graph:
        def pool(self):
            return self.its_pool

        def replay(self):
            pass

    @contextmanager
    def capture(graph, pool, stream, capture_error_mode):
        graph.its_pool = pool or (0, len(captures) + 1)
        captures.append((pool, stream))
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    return captures


def halves(x, classify):
    return x / 2, None


def test_the_recordings_of_an_ensemble_share_memory_and_stream(pretended):
    folds = [RecordedCalls(halves) for _ in range(3)]
    for fold in folds:
        outcomes(fold, A, 9)
    stream = pretended[0][1]
    assert pretended == [(None, stream), ((0, 1), stream), ((0, 1), stream)]
    assert stream.device == A.device  # that of the input, whichever GPU is current


def test_memory_of_recordings_that_are_gone_is_not_asked_for(pretended):
    outcomes(RecordedCalls(halves), A, 9)  # gone at once
    calls = RecordedCalls(halves)
    outcomes(calls, A, 9), outcomes(calls, B, 9)
    assert [pool for pool, _ in pretended] == [None, None, None]


def test_a_replay_waits_for_that_of_another_stream(pretended, monkeypatch):
    calls, mine, other = RecordedCalls(halves), Stream(), Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: mine)
    outcomes(calls, A, 10)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: other)
    outcomes(calls, A, 2)
    assert other.waited_for == [mine] and mine.waited_for == []


class LittleMemory:
    """Passes of shape B do not fit beside recordings."""

    def __call__(self, x, classify):
        if x.shape == B.shape and has_recordings(x.device):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return x / 2, None


def test_recordings_go_where_a_pass_does_not_fit_beside_them(pretended):
    folds = [RecordedCalls(LittleMemory()) for _ in range(2)]
    for fold in folds:
        outcomes(fold, A, 9)
    with pytest.warns(UserWarning, match="does not hold recorded passes") as caught:
        assert torch.equal(folds[0](B, True)[0], B / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcomes(folds[1], A, 20), outcomes(folds[1], B, 20)
    assert len(caught) == 1 and len(pretended) == 2 and not has_recordings(A.device)


def test_memory_that_does_not_suffice_without_recordings_either_is_an_error():
    def compute(x, classify):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        RecordedCalls(compute)(A, True)


def test_what_a_failed_recording_had_allocated_is_free_when_the_pass_is_computed(pretended):
    allocated = []

    def compute(x, classify):
        if len(pretended) == 1 and not allocated:
            activations = torch.zeros(3)
            allocated.append(weakref.ref(activations))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return (allocated[0]() if allocated else None), None

    calls = RecordedCalls(compute)
    outcomes(calls, A, 8)
    with pytest.warns(UserWarning, match="cannot be recorded"):
        assert calls(A, True)[0] is None
