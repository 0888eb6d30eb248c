"""The README's picture, drawn from a run of four tiny cases."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from evaluation import compute_metrics
from experiments.front_picture import main, median_case, probabilities_of
from nnunetv2.utilities.files import load_json
from tests.evaluation.small_run import CASES, status_of, table_options, write_run


def row(case: str, whole: float, lesion: float | None, **more) -> dict:
    return {"case": case, "whole_pancreas_dsc": whole, "lesion_dsc": lesion, "p_0": 0.25, "p_1": 0.75} | more


METRICS = {
    "synthetic": True,
    "n_cases": 3,
    "cases": [
        row(CASES[0], 0.9, 0.8, subtype_true="0", subtype_predicted="1"),
        row(CASES[1], 0.5, 0.1),
        row(CASES[3], 1.0, 1.0),
    ],
}


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run's folders, laid out as the main job does."""
    written = write_run(tmp_path / "written")
    for name, place in (
        ("images", "work/validation/images"),
        ("reference", "work/validation/labels"),
        ("prediction", "predictions/validation"),
    ):
        target = tmp_path / "run" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        (written / name).rename(target)
    tables = [option.replace(str(written / "prediction"), str(tmp_path / "run/predictions/validation")) for option in table_options(written)]
    folders = ["--pred", str(tmp_path / "run/predictions/validation"), "--ref", str(tmp_path / "run/work/validation/labels")]
    assert compute_metrics.main([*folders, *tables, "--out", str(tmp_path / "run"), "--bootstrap", "20", "--jobs", "1", "--synthetic"]) == 0
    return tmp_path / "run"


def test_the_median_case_is_shown():
    assert median_case(METRICS)["case"] == CASES[0]


def test_cases_without_a_lesion_or_a_class_are_not_shown():
    without = [row("a", 0.9, None), {"case": "b", "whole_pancreas_dsc": 0.9, "lesion_dsc": 0.9}]
    with pytest.raises(ValueError, match="no case with both structures and class probabilities"):
        median_case({"cases": without})


def test_probabilities_are_by_class():
    assert probabilities_of(METRICS["cases"][0]) == {"0": 0.25, "1": 0.75}


@pytest.mark.slow
def test_a_picture_is_drawn(run, tmp_path):
    assert main(["--run", str(run), "--out", str(tmp_path / "front.png")]) == 0
    height, width, _ = plt.imread(tmp_path / "front.png").shape
    assert width > 3 * height


def test_a_run_that_lacks_a_file_is_named(run, tmp_path, capsys):
    shown = median_case(load_json(run / "metrics.json"))["case"]
    (run / "predictions/validation" / f"{shown}.nii.gz").unlink()
    assert status_of(main, ["--run", str(run), "--out", str(tmp_path / "front.png")]) == 1
    assert shown in capsys.readouterr().err and not (tmp_path / "front.png").exists()
