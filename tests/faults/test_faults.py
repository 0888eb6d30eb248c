"""The fault campaign's plan and comparison, and a reduced campaign."""

import gzip
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from experiments.campaigns.forked import REPOSITORY
from experiments.campaigns.listing import canonical, leftovers, listing
from experiments.campaigns.world import write_volume
from experiments.faults.campaign import plan
from experiments.faults.faults import KILLS
from experiments.faults.report import number_of_kills
from experiments.faults.stages import DISTURBED, difference

pytestmark = pytest.mark.slow


def test_two_hundred_kills_reach_every_stage():
    runs = [(stage, fault) for stage, fault, _ in plan(DISTURBED, 220, mounting=False) if fault in KILLS]
    assert {stage.name for stage, _ in runs} == {stage.name for stage in DISTURBED}
    assert number_of_kills([{"fault": fault.name} for _, fault in runs]) >= 200


def test_equal_masks_have_one_hash_however_they_were_compressed(tmp_path):
    write_volume(np.ones((3, 4, 5), np.uint8), tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()), 9))
    write_volume(np.ones((3, 4, 5), np.uint8), tmp_path / "c.nii.gz", spacing=(1.0, 1.0, 2.0))
    assert canonical(tmp_path / "a.nii.gz") == canonical(tmp_path / "b.nii.gz") != canonical(tmp_path / "c.nii.gz")


def test_times_and_places_in_json_do_not_count(tmp_path):
    for name, seconds, value in (("a", 1, 2), ("b", 9, 2), ("c", 1, 3)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"seconds": seconds, "dice": [{"value": value, "host": name}]}))
    assert canonical(tmp_path / "a.json") == canonical(tmp_path / "b.json") != canonical(tmp_path / "c.json")


def test_a_picture_that_was_cut_short_is_told_from_a_whole_one(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG....IEND\xaeB`\x82")
    (tmp_path / "b.png").write_bytes(b"\x89PNG....")
    assert (canonical(tmp_path / "a.png"), canonical(tmp_path / "b.png")) == ("whole picture", "broken picture")


def test_differences_are_listed_by_file():
    assert difference({"a": "1", "b": "1"}, {"b": "2", "c": "1"}) == ["missing: a", "too much: c", "differs: b"]


def test_half_written_files_are_known_by_their_names(tmp_path):
    for name in (".mask.0123456789abcdef0123456789abcdef.nii.gz", "x.pdf.part", "mask.nii.gz", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / ".install_abc").mkdir()
    assert leftovers(listing(tmp_path)) == [".install_abc/", ".mask.0123456789abcdef0123456789abcdef.nii.gz", "x.pdf.part"]


@pytest.mark.slow
def test_a_reduced_campaign_changes_no_result():
    command = [sys.executable, "-m", "experiments.faults.campaign", "--only", "convert Decathlon | ", "--kills", "40", "--jobs", "2"]
    ended = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0 and " 0 not," in ended.stdout, ended.stdout[-3000:] + ended.stderr[-3000:]


def test_commands_of_an_odd_place_are_those_of_a_plain_one(tmp_path):
    found = []
    for name in ("plain", "Jürgen's data $x"):
        root = tmp_path / name
        root.mkdir()
        (root / "commands.txt").write_text(f"nnUNetv2_predict -i {shlex.quote(str(root / 'in'))}", encoding="utf-8")
        found.append(canonical(root / "commands.txt", root))
    assert found[0] == found[1]
