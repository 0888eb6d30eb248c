"""The study of nodules from files to table, on made-up nodules."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data_prep.lidc_to_quiz import TASKS
from experiments import lidc
from experiments.class_study import ROWS

pytestmark = pytest.mark.slow


@pytest.fixture
def nodules(tmp_path) -> Path:
    """Thirty balls in noise, one per patient; every class of every task has some."""
    folder, rng = tmp_path / "nodules", np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (16, 32, 32)), indexing="ij"))
    rows = ["case,patient_id,class3,Texture,Margin,Spiculation,Calcification"]
    for i in range(30):
        mask = np.linalg.norm((grid - np.array([8, 16, 16]).reshape(3, 1, 1, 1)) * np.array([2, 1, 1]).reshape(3, 1, 1, 1), axis=0) <= 6 + i % 3
        image = np.where(mask, 40, -800) + rng.normal(0, 20, mask.shape)
        for kind, array in (("image", image.astype(np.int16)), ("nodule_mask", mask.astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            file = sitk.GetImageFromArray(array)
            file.SetSpacing((0.7, 0.7, 1.5))
            sitk.WriteImage(file, str(folder / kind / f"n{i:02d}.nii.gz"))
        values = {task.column: list(task.classes.values())[i % len(task.classes)][0] for task in TASKS.values()}
        rows.append(f"n{i:02d},p{i:02d}," + ",".join(values[column] for column in rows[0].split(",")[2:]))
    (folder / "nodules.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_task_has_its_rows_and_a_rerun_segments_nothing_again(nodules, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(lidc, "TASKS", {"malignancy": TASKS["malignancy"]})  # each takes half a minute
    out = tmp_path / "lidc"
    options = ["--lidc", str(nodules), "--out", str(out), "--epochs", "1", "--iterations", "1", "--folds", "2", "--network", "small"]
    assert lidc.main(options) == 0
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["n"] == result["patients"] == 30 and 0 <= result["dsc"]["of_training_cases"] <= 1
    rows = result["tasks"]["malignancy"]["rows"]
    assert set(rows) == {*ROWS, "readers"} and all(0 <= row["macro_f1"] <= 1 for row in rows.values())
    assert out.with_suffix(".md").read_text().startswith("# REAL") and out.with_suffix(".png").is_file()
    kept = {path: path.stat().st_mtime_ns for path in (out / "work" / "segmented").rglob("*.npz")}
    assert len(kept) == 60  # every nodule by both folds
    assert lidc.main(options) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "work" / "segmented").rglob("*.npz")} == kept
    assert json.loads(out.with_suffix(".json").read_text())["tasks"] == result["tasks"]
