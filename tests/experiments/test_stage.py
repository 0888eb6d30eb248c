"""experiments/stage.py: stages are skipped, resumed and redone by the identity of what they depend on."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.pipeline import Pipeline, Stage
from experiments.stage import StageLog, content_key, run_stage
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.folder_lock import FolderBusy

REPOSITORY = Path(__file__).resolve().parents[2]

APPEND = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"


def append(path, *extra):
    """A command that adds one letter to `path` each time it runs."""
    return [sys.executable, "-c", APPEND, str(path), *extra]


def test_finished_stage_is_skipped(tmp_path):
    out = tmp_path / "a.txt"
    for _ in range(2):
        assert run_stage(tmp_path, "a", [out], append(out), []) == 0
    assert out.read_text() == "x"


@pytest.mark.slow
def test_stage_runs_again_when_its_output_is_gone(tmp_path):
    out = tmp_path / "a.txt"
    run_stage(tmp_path, "a", [out], append(out), [])
    out.unlink()
    run_stage(tmp_path, "a", [out], append(out), [])
    assert out.read_text() == "x"


def test_killed_stage_keeps_its_partial_output(tmp_path):
    out = tmp_path / "a.txt"
    die = [sys.executable, "-c", f"{APPEND}; sys.exit(9 if len(p.read_text()) == 1 else 0)", str(out)]
    assert run_stage(tmp_path, "a", [out], die, []) == 9
    assert run_stage(tmp_path, "a", [out], die, []) == 0
    assert out.read_text() == "xx"


@pytest.mark.slow
def test_changed_command_starts_over_and_so_does_all_after_it(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    run_stage(tmp_path, "a", [a], append(a), [])
    run_stage(tmp_path, "b", [b], append(b), [])
    run_stage(tmp_path, "a", [a], append(a, "--other"), [])
    run_stage(tmp_path, "b", [b], append(b), [])
    assert (a.read_text(), b.read_text()) == ("x", "x")
    assert all(stage["done"] for stage in StageLog(tmp_path).stages)


def test_changed_content_changes_the_key_even_with_size_and_time_kept(tmp_path):
    path, known = tmp_path / "ct.nii.gz", {}
    path.write_text("1")
    before, times = content_key([tmp_path], known), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text("2")
    os.utime(path, ns=times)
    assert content_key([tmp_path], known) != before


def test_touched_copied_and_hidden_files_keep_the_key(tmp_path):
    data = tmp_path / "a" / "data"
    data.mkdir(parents=True)
    (data / "ct.nii.gz").write_text("1")
    before, known = content_key([data]), {}
    os.utime(data / "ct.nii.gz", (1, 1))
    (data / ".half.nii.gz").write_text("2")
    shutil.copytree(data, tmp_path / "b" / "data")
    assert content_key([data], known) == content_key([tmp_path / "b" / "data"]) == before


def test_an_input_that_is_not_there_is_named_and_a_pattern_may_match_nothing(tmp_path):
    assert content_key([tmp_path / "speed.jso[n]"]) == content_key([])
    with pytest.raises(InputError, match="speed.json is not there"):
        content_key([tmp_path / "speed.json"])


@pytest.mark.slow
@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_text(""), lambda file: file.write_text("hal")])
def test_stage_runs_again_over_outputs_that_are_half_there(tmp_path, harm):
    out = tmp_path / "masks"
    make = [sys.executable, "-c", f"import pathlib; p = pathlib.Path({str(out)!r}); p.mkdir(exist_ok=True); "
            "[(p / f'{n}.nii.gz').write_text('whole') for n in 'ab' if not (p / f'{n}.nii.gz').is_file() or (p / f'{n}.nii.gz').stat().st_size < 5]"]
    run_stage(tmp_path, "a", [out], make, [])
    (out / "a.nii.gz").touch()
    harm(out / "b.nii.gz")
    assert run_stage(tmp_path, "a", [out], make, []) == 0
    assert (out / "b.nii.gz").read_text() == "whole"


def test_outputs_that_grew_are_no_reason_to_run_again(tmp_path):
    out = tmp_path / "a.txt"
    run_stage(tmp_path, "a", [out], append(out), [])
    out.write_text("xyz")
    run_stage(tmp_path, "a", [out], append(out), [])
    assert out.read_text() == "xyz"


@pytest.mark.slow
def test_a_second_run_of_a_script_is_refused_until_the_first_has_ended(tmp_path):
    program = ("import sys, pathlib; from experiments.pipeline import Pipeline; "
               "pipeline = Pipeline(pathlib.Path(sys.argv[1])); print('locked', flush=True); sys.stdin.readline()")
    command = [sys.executable, "-c", f"from nnunetv2.utilities.commands import run; run(lambda: exec({program!r}))", str(tmp_path)]
    start = {"cwd": REPOSITORY, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, **start)
    assert first.stdout.readline() == "locked\n"
    second = subprocess.run(command, **{**start, "stdin": subprocess.DEVNULL})
    assert second.returncode != 0 and f"error: {tmp_path.parent} is in use by another run" in second.stderr
    first.kill()
    first.communicate()
    assert "locked" in subprocess.run(command, **{**start, "stdin": subprocess.DEVNULL}).stdout


@pytest.mark.slow
def test_commands_hold_the_lock_of_a_run_that_was_killed(tmp_path):
    (tmp_path / "wait.py").write_text("import sys; print('begun', flush=True); sys.stdin.readline()")
    program = ("import sys, pathlib; from experiments.pipeline import Pipeline, Stage; work = pathlib.Path(sys.argv[1]); "
               "Pipeline(work).run(Stage('a', [sys.executable, str(work / 'wait.py')], []))")
    first = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert any(line == "begun\n" for line in first.stdout)
    first.kill()
    with pytest.raises(FolderBusy):
        Pipeline(tmp_path)
    first.communicate()  # closes the command's input, which ends it
    deadline = time.monotonic() + 20
    while True:
        try:
            Pipeline(tmp_path)
            break
        except FolderBusy:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_variables_of_a_stage_reach_its_command(tmp_path):
    write = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['CARD'])"
    Pipeline(tmp_path).run(Stage("a", [sys.executable, "-c", write, tmp_path / "a"], [tmp_path / "a"]), variables={"CARD": "1"})
    assert (tmp_path / "a").read_text() == "1"


def test_a_stage_that_fails_ends_the_experiment_with_its_status(tmp_path):
    with pytest.raises(SystemExit) as end:
        Pipeline(tmp_path).run(Stage("a", [sys.executable, "-c", "raise SystemExit(3)"], []))
    assert end.value.code == 3


@pytest.mark.slow
def test_forget_from_reruns_that_stage_and_later_ones_only(tmp_path):
    paths = {name: tmp_path / name for name in "abc"}
    for name, path in paths.items():
        run_stage(tmp_path, name, [path], append(path), [])
    StageLog(tmp_path).forget_from("b")
    assert [stage["done"] for stage in StageLog(tmp_path).stages] == [True, False, False]
    for name, path in paths.items():
        run_stage(tmp_path, name, [path], append(path), [])
    assert [path.read_text() for path in paths.values()] == ["x", "x", "x"]


def test_forget_from_an_unknown_stage_names_those_there(tmp_path):
    run_stage(tmp_path, "a", [], append(tmp_path / "a"), [])
    with pytest.raises(SystemExit, match="stages there: a"):
        StageLog(tmp_path).forget_from("trian")


def test_missing_output_is_a_failure(tmp_path):
    assert run_stage(tmp_path, "a", [tmp_path / "never"], [sys.executable, "-c", ""], []) == 1
    assert not StageLog(tmp_path).find("a")["done"]
