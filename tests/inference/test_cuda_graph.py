"""When calls are recorded. Recording itself needs a GPU (tests/cuda)."""

import pytest
import torch

from nnunetv2.inference.engines import cuda_graph
from nnunetv2.inference.engines.cuda_graph import CALLS_BEFORE_RECORDING, RecordedCalls

A, B = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 4)


@pytest.fixture
def recorded(monkeypatch):
    """Shapes that were recorded, in order."""
    shapes = []

    class Recording:
        def __init__(self, compute, x, classify):
            shapes.append((x.shape[-1], classify))

        def __call__(self, x):
            return "recorded", None

    monkeypatch.setattr(cuda_graph, "_Recording", Recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
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
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream before")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    calls = RecordedCalls(lambda x, classify: ("computed", None))
    with pytest.warns(UserWarning, match="operation not permitted") as caught:
        assert outcomes(calls, A, 40) == ["computed"] * 40
    assert len(caught) == 1 and streams == ["the stream before"]
