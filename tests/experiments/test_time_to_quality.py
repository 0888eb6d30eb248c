"""Tables and curves of the time to quality, from runs made up by hand; the trainings themselves are played by a stub."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import time_to_quality
from experiments.options import DEVELOPMENT_SEEDS, SEEDS
from experiments.time_to_quality import RECIPES, SETS, seed_of
from experiments.time_to_quality_report import dice_of_cases, markdown, of_label, reached, rows_of, write_report

ROOT = Path(__file__).parents[2]


def run(recipe: str, seed: int, dice: list[float], seconds: float = 10.0, iterations: int = 4) -> dict:
    """Two cases, one label; per epoch one value, which the second case exceeds by .2; the third case has no such label."""
    points = [{"epoch": k + 1, "seconds": seconds * (k + 1), "dice": [[value], [value + 0.2], [None]], "cases": ["a", "b", "c"], "labels": [1]}
              for k, value in enumerate(dice)]
    return {"recipe": recipe, "seed": seed, "iterations": iterations, "process_seconds": 40.0, "points": points}


RUNS = [run("upstream", 0, [0.1, 0.3, 0.5]), run("upstream", 1, [0.1, 0.3, 0.4]), run("short", 0, [0.4, 0.6, 0.7], 5.0, 2), run("short", 1, [0.1, 0.2, 0.3], 5.0, 2)]


def test_a_case_without_the_label_does_not_count():
    values = dice_of_cases({"dice": [[0.2, 0.4], [None, 0.6], [None, None]]})
    assert values[:2] == pytest.approx([0.3, 0.6]) and values[2] != values[2]


def test_the_goal_is_reached_at_the_first_epoch_that_is_as_good():
    assert reached(RUNS[2], 0.6) == 10.0 and reached(RUNS[3], 0.6) is None


def test_rows_by_hand():
    first, short = rows_of(RUNS, ["upstream", "short"], "upstream")
    assert first["dice"] == pytest.approx(0.55) and first["difference"] == 0 and first["n"] == 2 and first["steps"] == 12 and first["seconds"] == 30
    # ends: .7 and .3 with .2 more in the second case, minus .5 and .4: +.05 in either case, so that no resampling changes it
    assert short["dice"] == pytest.approx(0.6) and short["difference"] == pytest.approx(0.05)
    assert short["difference_ci"] == pytest.approx([0.05, 0.05]) and short["steps"] == 6
    # .6 is reached at the second of its epochs of 5 s, a third of upstream's 30 s; the other seed never gets there
    assert short["seconds_to_goal"] == [10.0, None] and short["share_of_time"] == [pytest.approx(1 / 3), None]


def test_the_runs_of_one_label_hold_its_dice_alone():
    both = {"recipe": "upstream", "points": [{"epoch": 1, "seconds": 1.0, "labels": [1, 2], "dice": [[0.2, 0.4], [None, 0.6]]}]}
    assert of_label([both], 2)[0]["points"][0]["dice"] == [[0.4], [0.6]]
    assert both["points"][0]["labels"] == [1, 2]


@pytest.mark.slow
def test_files_are_written_and_say_what_is_real(tmp_path):
    result = {"synthetic": False, "command": "bash x", "commit": "c", "environment": {"CPU": "Some CPU"}, "threads": "1", "epochs": 3, "n": 3,
              "recipes": {"upstream": "nnU-Net 2.8.1", "short": "Short"}, "sets": {"nodules": {"title": "REAL CT, lung nodules", "runs": RUNS}}}
    write_report(result, tmp_path / "out")
    assert json.loads((tmp_path / "out.json").read_text())["rows"][1]["recipe"] == "short" and (tmp_path / "out.png").stat().st_size > 1000
    text = (tmp_path / "out.md").read_text()
    assert "REAL CT, lung nodules" in text and "+0.050" in text and "0.33, never" in text and text == markdown(result)


def test_every_set_and_recipe_can_be_made():
    for data in SETS.values():
        assert (ROOT / "data_prep" / data.script).is_file() and "SYNTHETIC" in data.title or "REAL" in data.title
    kept = importlib.import_module("experiments.kept_trainers.kept_trainers")
    for recipe in RECIPES.values():
        assert recipe.upstream or issubclass(getattr(kept, recipe.trainer), kept.KeptDefault)
    assert {recipe.trainer for recipe in RECIPES.values() if recipe.upstream} == {"nnUNetTrainer"}


def test_other_draws_hold_other_cases():
    assert [seed_of(SETS["phantom"], draw) for draw in (0, 10)] == [SEEDS["time_to_quality"], SEEDS["time_to_quality"] + 10_000]
    assert not {seed_of(SETS["phantom"], draw) for draw in range(1, 100)} & {*SEEDS.values(), *DEVELOPMENT_SEEDS}
    assert seed_of(SETS["nodules"], 10) == 10


def test_the_rates_are_what_the_recipes_say():
    kept = importlib.import_module("experiments.kept_trainers.kept_trainers")
    for name in ("short_3e-3", "short_1e-2", "muon_1e-3", "muon_3e-3", "muon_1e-2", "muon_3e-2"):
        assert getattr(kept, RECIPES[name].trainer).rate == float(name.split("_")[1]) == float(RECIPES[name].title.split()[-1])


@pytest.mark.slow
def test_missing_data_and_environment_are_said_in_one_line(tmp_path):
    for options, message in ((["--upstream", "/nowhere/python"], "/nowhere/python is missing"), (["--sets", "brains"], "invalid choice"), (["--seeds", "-1"], "--seeds")):
        found = subprocess.run([sys.executable, "-m", "experiments.time_to_quality", "--out", str(tmp_path), *options], cwd=ROOT, capture_output=True, text=True)
        assert found.returncode != 0 and message in found.stderr and "Traceback" not in found.stderr


def test_a_set_that_is_not_there_is_left_out(tmp_path, monkeypatch, capsys):
    from dataclasses import replace

    from nnunetv2.utilities.errors import InputError

    monkeypatch.setitem(SETS, "nodules", replace(SETS["nodules"], source=tmp_path / "none"))
    args = time_to_quality._parse(["--sets", "nodules", "--out", str(tmp_path)])
    with pytest.raises(InputError, match="--sets phantom"):
        time_to_quality.study(args)
    assert "is left out" in capsys.readouterr().out
