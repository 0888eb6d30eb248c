"""A reduced campaign of damaged inputs: the runs of results/fuzz.md are some of the same."""

import json
import os
import subprocess
import sys

import pytest

from experiments.campaigns.forked import REPOSITORY

pytestmark = pytest.mark.slow

RUNS = 64


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Report of a campaign in a process of its own, which forks and limits itself as a test's must not."""
    out = tmp_path_factory.mktemp("fuzz") / "fuzz"
    command = [sys.executable, "-m", "experiments.fuzz.campaign", "--runs", str(RUNS), "--seed", "7", "--out", str(out), "--jobs", "2"]
    ended = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=600, check=False)
    assert out.with_suffix(".json").is_file(), ended.stderr[-3000:]
    return json.loads(out.with_suffix(".json").read_text())


@pytest.mark.slow
def test_every_damaged_input_is_met_well(campaign):
    assert len(campaign["records"]) == RUNS
    bad = [f"{record['input']}: {'; '.join(record['problems'])}" for record in campaign["records"] if not record["good"]]
    assert not bad, "\n".join(bad)
