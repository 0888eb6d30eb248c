"""The two scripts for whoever edits a block of evidence, on a few small SYNTHETIC cases."""

import json

import pytest

from experiments import evidence_blocks, evidence_seconds
from experiments.record_run import shown_command
from nnunetv2.class_evidence.blocks import BLOCKS


@pytest.mark.slow
def test_the_size_block_finds_the_size(tmp_path, capsys):
    assert evidence_blocks.main(["--cues", "size", "--train", "30", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("SYNTHETIC") and "n = 30" in lines[0]
    row = dict(zip(lines[1].split(), lines[2].split()[1:]))
    assert float(row["size"]) > 0.6 > float(row["parench"])


@pytest.mark.slow
def test_seconds_of_every_block_add_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evidence_seconds, "PRESET", "demo")
    assert evidence_seconds.main(["--cases", "3", "--out", str(tmp_path / "seconds")]) == 0
    result = json.loads((tmp_path / "seconds.json").read_text())
    assert result["synthetic"] and result["n"] == 3 and list(result["parts"]) == ["case", *BLOCKS]
    assert sum(result["parts"].values()) == pytest.approx(result["seconds_a_case"]["mean"])
    assert "SYNTHETIC" in capsys.readouterr().out


def test_a_module_and_a_script_are_shown_as_they_are_called():
    assert shown_command("run_cues.sh", ["--train", "9"]) == "bash experiments/run_cues.sh --train 9"
    assert shown_command("evidence_seconds", []) == "python -m experiments.evidence_seconds"
