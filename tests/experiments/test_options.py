"""What an experiment's options decide before anything runs."""

from pathlib import Path

import pytest

from experiments.accuracy import trainer_of
from experiments.cross_validation import _again
from experiments.options import PRESETS, SEEDS, TRAINER, parse
from experiments.preparation import PLANS, Prepared


@pytest.mark.parametrize("experiment", ["main_job", "cross_validation"])
def test_a_trainer_that_is_given_goes_before_the_presets(experiment):
    preset = PRESETS[experiment]
    assert preset.trainer(parse(experiment, []), synthetic=True) == preset.short_recipe
    assert preset.trainer(parse(experiment, []), synthetic=False) == TRAINER
    given = parse(experiment, ["--trainer", "nnUNetTrainerAdam"])
    assert preset.trainer(given, synthetic=True) == preset.trainer(given, synthetic=False) == "nnUNetTrainerAdam"


def test_the_models_folder_follows_the_trainer(tmp_path):
    places = dict.fromkeys(("out", "work", "raw", "preprocessed"), tmp_path)
    at = Prepared(**places, results=tmp_path / "results", task="", table="", synthetic=True, device="cpu", trainer="nnUNetTrainerShort")
    assert at.model == tmp_path / "results" / f"nnUNetTrainerShort__{PLANS}__3d_fullres"
    assert trainer_of(at.model) == "nnUNetTrainerShort"


def test_a_fold_in_a_process_of_its_own_gets_the_trainer():
    args = parse("cross_validation", ["--trainer", "nnUNetTrainerShort"])
    assert "--trainer nnUNetTrainerShort" in " ".join(_again(args, Prepared(*[Path("x")] * 5, "", "", True, "cpu")))


def test_no_two_purposes_share_a_seed_and_the_reported_run_has_its_own():
    assert len(set(SEEDS.values())) == len(SEEDS)
    assert parse("main_job", []).synthetic_seed == SEEDS["main_job"]


@pytest.mark.parametrize("name", ["../x", "a b\n", ""])
def test_a_trainer_that_is_no_name_is_refused(name, capsys):
    with pytest.raises(SystemExit):
        parse("main_job", ["--trainer", name])
    assert capsys.readouterr().err.startswith("error: ")
