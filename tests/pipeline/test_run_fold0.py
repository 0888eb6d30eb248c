"""experiments/run_fold0.sh from end to end on tiny synthetic CTs: what it leaves behind, and that kills change nothing."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ARGUMENTS = ("--name", "TEST", "--device", "cpu", "--epochs", "2", "--iterations", "2", "--no-venv")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quiz") / "data"
    subprocess.run([sys.executable, "data_prep/make_phantom.py", str(folder), "--preset", "smoke", "--train", "12"], cwd=REPOSITORY, check=True)
    return folder


def start(data: Path, out: Path) -> subprocess.Popen:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    command = ["bash", "experiments/run_fold0.sh", "--data", str(data), "--out", str(out), *ARGUMENTS]
    with open(out.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert start(data, out).wait() == 0, out.with_suffix(".log").read_text()[-3000:]
    return out


def test_zip_holds_the_masks_and_the_csv_alone(finished, data):
    cases = sorted(path.name.replace("_0000", "") for path in (data / "test").glob("*.nii.gz"))
    with zipfile.ZipFile(finished / "TEST_results.zip") as archive:
        assert sorted(archive.namelist()) == sorted([*cases, "subtype_results.csv"])
        with archive.open("subtype_results.csv") as file:
            table = pd.read_csv(file)
    assert list(table.columns) == ["Names", "Subtype"]
    assert sorted(table["Names"]) == cases and set(table["Subtype"]) <= {0, 1, 2}


def test_metrics_hold_the_figures_the_task_is_judged_by(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["synthetic"] is True and metrics["n_cases"] == 3
    for value in (metrics["whole_pancreas"]["dsc"]["mean"], metrics["lesion"]["dsc"]["mean"], metrics["subtype"]["macro_f1"]):
        assert 0 <= value <= 1


def test_run_says_that_its_data_are_synthetic(finished):
    assert "SYNTHETIC" in finished.with_suffix(".log").read_text()
    assert json.loads((finished / "run.json").read_text())["synthetic"] is True


def test_figures_and_gallery_are_there(finished):
    assert any((finished / "figures").glob("*.png")) and (finished / "gallery.html").stat().st_size > 10_000


def test_validation_cases_are_predicted_once(finished):
    assert not list(finished.glob("work/nnUNet_results/*/*/fold_0/validation"))
    assert len(list(finished.glob("predictions/validation/*.nii.gz"))) == 3


def test_notebook_runs_from_top_to_bottom(data, finished, monkeypatch, capsys):
    """Its main job is the run that is finished, so its stages are skipped; every other cell does its work."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    notebook = json.loads((REPOSITORY / "docs/pancreas_colab.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    settings = {"DATA": str(data), "OUT": str(finished), "NAME": "TEST", "OPTIONS": list(ARGUMENTS[2:-1])}
    names = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert settings.keys() <= names.keys()
            names |= settings
    output = capsys.readouterr().out
    assert "SYNTHETIC data - 3 validation cases" in output and "[train] done before" in output and "1 case predicted" in output


def test_notebook_installs_packages_before_it_needs_them():
    notebook = json.loads((REPOSITORY / "docs/pancreas_colab.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    installs, first_use = (next(i for i, cell in enumerate(cells) if text in cell) for text in ("setup_env.sh", "data_prep/"))
    assert installs < first_use


def test_second_run_does_nothing(data, finished):
    before = results(finished)
    log = finished.with_suffix(".log")
    length = len(log.read_text())
    assert start(data, finished).wait() == 0
    assert results(finished) == before
    again = log.read_text()[length:]
    assert all(f"[{stage}] done before" in again for stage in ("convert", "preprocess", "train", "predict_test", "submission"))


def test_killed_in_three_stages_it_ends_with_the_same_files(data, finished, tmp_path):
    out = tmp_path / "run"
    for moment in ("work/nnUNet_preprocessed/*/nnUNetPlans_3d_fullres/quiz_*.b2nd", "work/nnUNet_results/*/*/fold_0/checkpoint_latest.pth",
                   "predictions/test/*.nii.gz"):
        process = start(data, out)
        deadline = time.time() + 300
        while not any(out.glob(moment)) and process.poll() is None:
            assert time.time() < deadline, f"{moment} never appeared"
            time.sleep(0.02)
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(data, out).wait() == 0, out.with_suffix(".log").read_text()[-3000:]
    assert results(out) == results(finished)
    shutil.rmtree(out)


def results(out: Path) -> dict[str, str]:
    """Hashes of what a run hands over: masks, tables, scores per case."""
    paths = [*out.glob("predictions/*/*.nii.gz"), *out.glob("predictions/*/*.csv"), out / "per_case.csv", out / "TEST_results.zip"]
    assert len(paths) == 3 + 2 + 4 + 2
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
