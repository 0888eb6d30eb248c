"""What killed processes leave is swept; what living ones write is not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunetv2.utilities import leftovers
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.leftovers import FOREIGN_AGE, LEFTOVER, new_token, sweep, temporary_folder

REPOSITORY = Path(__file__).parents[2]
DIES = """
import os, signal, sys
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.leftovers import temporary_folder
with temporary_folder(sys.argv[1], "install") as folder, atomic_write(folder.parent / "mask.v1.nii.gz") as temporary:
    temporary.write_text("half")
    (folder / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def left_by_a_kill(tmp_path):
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 2 and all(LEFTOVER.fullmatch(name) for name in names), names
    return tmp_path


def test_leftovers_of_a_killed_process_are_swept(left_by_a_kill):
    sweep(left_by_a_kill)
    assert not list(left_by_a_kill.iterdir())


def test_the_next_write_into_a_folder_sweeps_it(left_by_a_kill):
    with atomic_write(left_by_a_kill / "other.json") as temporary:
        temporary.write_text("{}")
    assert [path.name for path in left_by_a_kill.iterdir()] == ["other.json"]


def test_what_this_process_writes_is_left_alone(tmp_path):
    with atomic_write(tmp_path / "a.nii.gz") as temporary, temporary_folder(tmp_path, "install") as folder:
        temporary.write_text("half")
        sweep(tmp_path)
        assert temporary.exists() and folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_process_number_that_was_given_out_again_does_not_protect(tmp_path):
    token = new_token()
    other_start = f"{int(token[16:24], 16) ^ 1:08x}"
    (tmp_path / f".a.{token[:16]}{other_start}{token[24:]}.json").touch()
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("age", "stays"), [(0, True), (FOREIGN_AGE + 60, False)])
def test_another_machines_file_is_swept_when_nobody_has_written_to_it_for_long(tmp_path, monkeypatch, age, stays):
    token = new_token()
    path = tmp_path / f".a.{token}.json"
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    monkeypatch.setattr(leftovers, "_machine", lambda: "0" * 8)
    sweep(tmp_path)
    assert path.exists() == stays


def test_other_hidden_files_stay(tmp_path):
    for name in (".gitignore", ".subtype_part_0_of_2.csv", f".{'0' * 32}"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_does_not_exist_has_no_leftovers(tmp_path):
    sweep(tmp_path / "nowhere")
