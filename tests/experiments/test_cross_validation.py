"""What run_cv.sh does in which order, with programs replaced by a list of what would run."""

import json
from pathlib import Path

import pytest

from experiments import cross_validation
from experiments.pipeline import Stage
from experiments.preparation import Prepared
from nnunetv2.utilities.errors import CommandFailed

CASES = [f"case_{number}" for number in range(10)]


class ListedPipeline:
    """Lists stages in place of running them."""

    def __init__(self, ran: list[str]) -> None:
        self.ran = ran

    def run(self, stage: Stage, log: Path | None = None, variables: dict[str, str] | None = None) -> None:
        self.ran.append(stage.name)


@pytest.fixture
def ran(tmp_path, monkeypatch) -> list[str]:
    """Programs in their order: stages by name, other programs by their first argument that names one."""
    ran: list[str] = []
    raw = tmp_path / "raw"
    (raw / "imagesTs").mkdir(parents=True)
    folds = [{"train": [case for case in CASES if case not in CASES[2 * k : 2 * k + 2]], "val": CASES[2 * k : 2 * k + 2]} for k in range(5)]
    (raw / "splits_final.json").write_text(json.dumps([{"train": CASES, "val": []}, *folds]))
    (raw / "classes.csv").write_text("case,grade\n" + "".join(f"{case},{'low' if place % 2 else 'high'}\n" for place, case in enumerate(CASES)))
    (raw / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}, "numTraining": len(CASES), "file_ending": ".nii.gz",
        "classification": {"name": "grade", "classes": ["low", "high"], "labels": "classes.csv", "lesion_labels": [1]}}))
    at = Prepared(tmp_path / "out", tmp_path / "work", raw, tmp_path / "preprocessed", tmp_path / "results", "grade", "classes.csv", False, "cpu")
    monkeypatch.setattr(cross_validation, "prepare", lambda args, alone: (ListedPipeline(ran), at))
    monkeypatch.setattr(cross_validation, "run_command", lambda command: ran.append(next(Path(word).name.removesuffix(".py") for word in command[1:] if word != "-m")))
    return ran


def test_the_submission_is_made_before_the_radiomics_baseline(ran):
    cross_validation.main([])
    assert ran == [*["train", "validate"] * 5, "experiments.out_of_fold", "compute_metrics", "predict_test", "make_submission",
                   "radiomics_baseline", "compute_metrics", "experiments.out_of_fold", "experiments.out_of_fold", "compute_metrics", "compare_runs"]


def test_a_baseline_that_cannot_be_fitted_does_not_fail_the_run(ran, monkeypatch, capsys):
    listed = cross_validation.run_command

    def fails(command: list[str]) -> None:
        listed(command)
        if ran[-1] == "radiomics_baseline":
            raise CommandFailed("too few cases of class low")

    monkeypatch.setattr(cross_validation, "run_command", fails)
    cross_validation.main([])
    assert ran[-2:] == ["make_submission", "radiomics_baseline"]
    assert "no comparison with radiomics" in capsys.readouterr().out


def test_scores_that_cannot_be_computed_do_fail_the_run(ran, monkeypatch):
    def fails(command: list[str]) -> None:
        raise CommandFailed("no space left")

    monkeypatch.setattr(cross_validation, "run_command", fails)
    with pytest.raises(SystemExit, match="no space left"):
        cross_validation.main([])
    assert ran == ["train", "validate"] * 5


def test_a_class_that_a_fold_holds_out_as_a_whole_is_refused_before_any_training(ran, tmp_path):
    file = tmp_path / "raw" / "splits_final.json"
    splits = json.loads(file.read_text())
    splits[3]["train"] = CASES[1::2]
    file.write_text(json.dumps(splits))
    with pytest.raises(SystemExit, match="fold 3: none of class high"):
        cross_validation.main([])
    assert ran == []
