"""experiments/stage.py: stages are skipped, resumed and redone by the identity of what they depend on."""

import sys

import pytest

from experiments.stage import StageLog, folder_key, run_stage

APPEND = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"


def append(path, *extra):
    """A command that adds one letter to `path` each time it runs."""
    return [sys.executable, "-c", APPEND, str(path), *extra]


def test_finished_stage_is_skipped(tmp_path):
    out = tmp_path / "a.txt"
    for _ in range(2):
        assert run_stage(tmp_path, "a", [out], append(out), []) == 0
    assert out.read_text() == "x"


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


def test_changed_command_starts_over_and_so_does_all_after_it(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    run_stage(tmp_path, "a", [a], append(a), [])
    run_stage(tmp_path, "b", [b], append(b), [])
    run_stage(tmp_path, "a", [a], append(a, "--other"), [])
    run_stage(tmp_path, "b", [b], append(b), [])
    assert (a.read_text(), b.read_text()) == ("x", "x")
    assert all(stage["done"] for stage in StageLog(tmp_path).stages)


def test_changed_input_folder_changes_its_key(tmp_path):
    (tmp_path / "ct.nii.gz").write_text("1")
    before = folder_key(tmp_path)
    (tmp_path / "ct.nii.gz").write_text("12")
    assert folder_key(tmp_path) != before


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
