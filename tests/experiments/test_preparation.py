"""How an experiment begins."""

import argparse
import json

import pytest

from experiments import main_job, preparation
from experiments.pipeline import Pipeline, nnunet_folders
from nnunetv2.utilities.data_description import THE_QUIZ
from nnunetv2.utilities.errors import InputError


def listing(tmp_path, monkeypatch, planned, dataset=THE_QUIZ.dataset):
    """Options of a run whose stages do nothing but the plans, and the list that their names come into."""
    ran = []
    for variable in nnunet_folders(tmp_path):
        monkeypatch.setenv(variable, "")  # given back after the test

    def listed(self, stage, *more):
        ran.append(stage.name)
        if stage.name == "plan":
            plans = tmp_path / "out" / "work" / "nnUNet_preprocessed" / dataset / f"{preparation.PLANS}.json"
            plans.parent.mkdir(parents=True)
            plans.write_text(json.dumps({"configurations": {name: {} for name in planned}}))

    monkeypatch.setattr(Pipeline, "run", listed)
    return argparse.Namespace(out=tmp_path / "out", from_stage=None, data=tmp_path, device="cpu"), ran


@pytest.mark.parametrize("real", [True, False])
def test_data_whose_description_says_so_are_made_up(tmp_path, monkeypatch, capsys, real):
    (tmp_path / "dataset_description.json").write_text(json.dumps({"name": "Balls", "labels": {"background": 0, "ball": 1}, "real": real}))
    args, _ = listing(tmp_path, monkeypatch, ["3d_fullres"], "Dataset777_Balls")
    assert preparation.prepare(args)[1].synthetic is not real
    assert ("ARE SYNTHETIC" in capsys.readouterr().out) is not real


def test_a_folder_with_a_run_on_other_data_is_refused_before_anything_of_it_is_touched(tmp_path, monkeypatch):
    (tmp_path / "dataset_description.json").write_text(json.dumps({"name": "Balls", "labels": {"background": 0, "ball": 1}}))
    args, ran = listing(tmp_path, monkeypatch, ["3d_fullres"], "Dataset777_Balls")
    (tmp_path / "out" / "work" / "nnUNet_raw" / THE_QUIZ.dataset).mkdir(parents=True)
    with pytest.raises(InputError, match="holds a run on Dataset777_PancreasCT, and the data given are Dataset777_Balls. Choose another folder with --out"):
        preparation.prepare(args)
    assert ran == []


@pytest.mark.parametrize("planned", [["2d"], ["2d", "3d_fullres"]])
def test_single_slices_are_refused_before_they_are_preprocessed(tmp_path, monkeypatch, planned):
    args, ran = listing(tmp_path, monkeypatch, planned)
    if "3d_fullres" in planned:
        preparation.prepare(args)
        assert ran == ["convert", "plan", "preprocess"]
    else:
        with pytest.raises(InputError, match="single slices, planned as 2d.*-c 2d"):
            preparation.prepare(args)
        assert ran == ["convert", "plan"]


@pytest.mark.parametrize(("name", "drawn"), [("PancreasCT", True), ("LungNodules", False)])
def test_the_speed_of_the_quizs_phantoms_is_drawn_beside_the_quiz_alone(tmp_path, name, drawn):
    commands = {}
    raw = tmp_path / f"Dataset777_{name}"
    at = preparation.Prepared(tmp_path, tmp_path, raw, tmp_path, tmp_path, "", "", False, "cpu")
    main_job.evaluate(argparse.Namespace(run=lambda stage: commands.update({stage.name: stage.command})), at, tmp_path)
    assert ("--speed" in commands["figures"]) is drawn
