"""A measured command keeps seconds, memory, output and status, and says how often it was started."""

import pytest
import json
import subprocess
import sys
from pathlib import Path

from experiments.measured_process import measure

REPOSITORY = Path(__file__).parents[2]


def measured(out, code):
    """(exit status, figures) of the script around `python -c code`."""
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.measured_process", "--out", str(out), "--", sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended, json.loads(out.read_text())


@pytest.mark.slow
def test_seconds_and_memory_of_a_process_and_its_child(tmp_path):
    child = "import time; held = b'x' * (80 * 2**20); time.sleep(1.2)"
    found = measure(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"],
        tmp_path / "log",
        1,
    )
    assert found["status"] == 0 and found["seconds"] > 1.2
    assert found["peak_memory"] > 80 * 2**20


@pytest.mark.slow
def test_output_goes_to_the_log_and_the_status_out(tmp_path):
    ended, found = measured(tmp_path / "m.json", "print('seen'); raise SystemExit(3)")
    assert ended.returncode == found["status"] == 3
    assert (tmp_path / "m.log").read_text() == "seen\n" and "seen" in ended.stderr


@pytest.mark.slow
def test_a_start_after_a_kill_is_counted(tmp_path):
    out = tmp_path / "m.json"
    out.write_text('{"starts": 1}')  # what a killed one leaves
    assert measured(out, "pass")[1]["starts"] == 2
