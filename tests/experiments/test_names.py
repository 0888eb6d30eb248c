"""A name that serves for no file ends an experiment before anything has run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.options import DEVELOPMENT_SEEDS, PARSERS, PRESETS, SEEDS, Length, parse

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["run_fold0.sh", "run_cv.sh"])
@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-x", "a\nb", "x" * 201, "a*"])
def test_a_name_that_leads_elsewhere_is_refused_at_once(script, name, tmp_path):
    found = subprocess.run(["bash", str(ROOT / "experiments" / script), "--name", name, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=20)
    assert found.returncode == 2 and "--name" in found.stderr and len(found.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["TEAM", "my team", "Gr\u00fcn-2.v3", "$(touch ran)", "a;b"])
def test_other_names_pass(name):
    assert parse("main_job", ["--name", name]).name == name


@pytest.mark.slow
@pytest.mark.parametrize(("options", "message"), [
    (["--epochs", "0"], "--epochs"), (["--hours", "2", "--epochs", "3"], "--hours chooses the length"), (["--data", "/nowhere"], "/nowhere is not a folder"),
    (["--nme", "x"], "unknown option --nme x"), (["--device", "tpu"], "tpu"), (["--hours", "nan"], "--hours")])
def test_wrong_options_end_with_one_line(options, message):
    found = subprocess.run([sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, sys.argv.pop(1)); import runpy; runpy.run_module("
                            "'experiments.options', run_name='__main__', alter_sys=True)", str(ROOT), "experiments/run_fold0.sh", "main_job", *options], capture_output=True, text=True)
    assert found.returncode == 2 and message in found.stderr and len(found.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("experiment", PARSERS)
def test_help_shows_and_sets_nothing_up(experiment, tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HOME": str(tmp_path)}
    script = {"main_job": "run_fold0", "cross_validation": "run_cv", "train_quiz_size": "train_quiz_size"}.get(experiment, f"run_{experiment}")
    found = subprocess.run(["bash", str(ROOT / "experiments" / f"{script}.sh"), "--help"], env=environment, capture_output=True, text=True, timeout=20)
    shown = " ".join(found.stdout.split())  # a long path to the script breaks the line of usage
    assert found.returncode == 0 and f"{script}.sh [-h]" in shown and f"bash experiments/{script}.sh" in shown and not found.stderr


def test_lengths_follow_the_data_and_the_options():
    args = parse("main_job", ["--epochs", "3"])
    assert PRESETS["main_job"].length(args, synthetic=True) == Length(3, 20, 4)
    assert PRESETS["main_job"].length(args, synthetic=False) == Length(3, 250, 50)


def test_no_seed_serves_two_purposes():
    seeds = [*SEEDS.values(), *DEVELOPMENT_SEEDS]
    assert len(set(seeds)) == len(seeds)


def test_no_experiment_bends_the_search_path():
    """They run as `python -m experiments.NAME` from the repository's root."""
    bent = [path.name for path in (ROOT / "experiments").glob("*.py") if "sys.path" in path.read_text(encoding="utf-8")]
    assert not bent
