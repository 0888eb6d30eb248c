"""The study of a training step's levers: its figures by hand, and one process of it."""

import json

import pytest

from experiments import training_step
from experiments.training_step import ROWS, markdown, summary


def run(seconds: list[float], gib: float) -> dict:
    return {"seconds": seconds, "losses": [1.0, 0.9, 0.8, 0.7], "GiB": gib}


def test_a_rows_figures_are_over_all_steps_of_all_processes():
    first = summary([run([4.0, 6.0, 5.0], 2.0), run([5.0, 5.0, 9.0], 3.0)], None)
    assert first == {"seconds": 5.0, "fastest": 4.0, "slowest": 9.0, "times_faster": 1.0, "GiB": 3.0, "loss": 0.7}
    assert summary([run([2.0, 2.5, 3.0], 1.0)], first["seconds"])["times_faster"] == 2.0


def test_rows_take_turns_and_each_is_measured_by_the_first_of_its_instructions(tmp_path, monkeypatch):
    order = []

    def in_a_process(row, patch, threads, isa):
        order.append((isa, row))
        return run([8.0 if isa else 4.0] * 3 if row == "as nnU-Net" else [2.0] * 3, 1.0)

    monkeypatch.setattr(training_step, "in_a_process", in_a_process)
    monkeypatch.setattr(training_step, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    assert training_step.main(["--rounds", "2", "--isa", "AVX2", "--out", str(tmp_path / "step")]) == 0
    assert order[:len(order) // 2] == order[:len(order) // 2 - 1:-1]
    result = json.loads((tmp_path / "step.json").read_text())
    faster = {(row["instructions"], row["row"]): row["times_faster"] for row in result["rows"]}
    assert faster["all of this CPU", "bf16"] == 2.0 and faster["AVX2", "layout"] == 4.0 and ("AVX2", "bf16") not in faster
    assert "| AVX2 | layout | 2.00 (2.00 to 2.00) | 4.00 | 1.0 | 0.7000 |" in markdown(result)


@pytest.mark.slow
def test_a_process_measures_a_row():
    result = training_step.in_a_process("memory kept, layout", (32, 32, 64), 1, None)
    assert len(result["seconds"]) == 3 and min(result["seconds"]) > 0 and result["GiB"] > 0.2
    assert result["losses"][-1] < result["losses"][0]
    assert set(ROWS) >= {"as nnU-Net", "memory kept, layout"}
