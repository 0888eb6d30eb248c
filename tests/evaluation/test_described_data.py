"""Scoring, pictures and report of data that describe themselves: one label with a class task in words, and two labels without classes."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.compare_runs import main as compare_runs
from evaluation.compute_metrics import main as compute_metrics
from evaluation.make_figures import main as make_figures
from evaluation.make_gallery import build
from evaluation.radiomics_baseline import _case_features
from evaluation.radiomics_baseline import _description as baseline_description
from evaluation.result_shapes import Metrics
from evaluation.selection import failures, noteworthy
from nnunetv2.utilities.data_description import KEY, DataDescription
from nnunetv2.utilities.files import load_json
from report.make_inputs import main as make_inputs
from tests.evaluation.small_run import image_options, save_image

NODULES = {"name": "Nodules", "title": "lung nodules", "labels": {"background": 0, "nodule": 1}, "lesion": "nodule", "window": [-1350, 150],
           "classification": {"name": "malignancy", "classes": ["low", "high"], "labels": "classes.csv"}, "source": "A source of nodules", "licence": "CC BY"}
PARTS = {"name": "Parts", "organ": "organ", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2}, "source": "A source of parts"}
CASES = {"a": "low", "b": "high", "c": "high", "d": "low"}


def write_run(folder: Path, description: dict) -> Path:
    """Four cases; of nodules the prediction of `c` is empty and the class of `b` wrong."""
    two = len(description["labels"]) > 2
    for case in CASES:
        mask = np.zeros((6, 8, 8), np.uint8)
        mask[1:5, 2:6, 1:7] = 1
        if two:
            mask[1:5, 2:6, 4:7] = 2
        save_image(mask.astype(np.float32) * 60 - 800, folder / "images" / f"{case}_0000.nii.gz")
        save_image(mask, folder / "reference" / f"{case}.nii.gz")
        save_image(mask * (case != "c" or two), folder / "prediction" / f"{case}.nii.gz")
    if not two:
        (folder / "classes.csv").write_text("case,malignancy\n" + "".join(f"{case},{name}\n" for case, name in CASES.items()))
        (folder / "prediction" / "malignancy_results.csv").write_text("Names,Malignancy\na.nii.gz,low\nb.nii.gz,low\nc.nii.gz,high\nd.nii.gz,low\n")
        (folder / "prediction" / "malignancy_probabilities.csv").write_text(
            "Names,p_low,p_high\na.nii.gz,.7,.3\nb.nii.gz,.6,.4\nc.nii.gz,.2,.8\nd.nii.gz,.9,.1\n")
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "x"}, "labels": description["labels"], "file_ending": ".nii.gz", KEY: description}))
    classes = [] if two else ["--subtypes", str(folder / "prediction" / "malignancy_results.csv"), "--truth", str(folder / "classes.csv")]
    assert compute_metrics(["--pred", str(folder / "prediction"), "--ref", str(folder / "reference"), "--out", str(folder), "--bootstrap", "50",
                            "--jobs", "1", "--dataset", str(folder / "dataset.json"), *classes]) == 0
    return folder


@pytest.fixture(scope="module")
def nodules(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("nodules"), NODULES)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("parts"), PARTS)


def metrics_of(run: Path) -> dict:
    return load_json(run / "metrics.json", Metrics)


def test_figures_are_named_after_the_data(nodules):
    metrics = metrics_of(nodules)
    assert metrics["nodule"]["detection"]["rate"]["found"] == 3 and metrics["nodule"]["dsc"]["mean"] == 0.75
    assert metrics["subtype"]["task"] == "malignancy" and metrics["subtype"]["classes"] == ["low", "high"]
    assert not [key for key in json.dumps(metrics["cases"]) .split('"') if "pancreas" in key]


def test_data_without_classes_have_no_class_metrics(parts):
    metrics = metrics_of(parts)
    assert "subtype" not in metrics and {"whole_organ", "anterior", "posterior"} <= metrics.keys()
    assert "detection" not in metrics["whole_organ"] and metrics["posterior"]["dsc"]["mean"] == 1


def test_a_structure_that_is_missing_is_named(nodules):
    content = metrics_of(nodules)
    del content["nodule"]
    assert [str(problem) for problem in Metrics.problems(content)] == ["nodule: is missing"]


def test_the_table_says_real_and_cites_the_source(nodules, capsys):
    write_run(nodules, NODULES)
    printed = capsys.readouterr().out
    assert printed.startswith("REAL DATA: A source of nodules (CC BY)") and "Malignancy\n" in printed and "ancrea" not in printed


def test_data_that_say_they_are_made_up_count_as_synthetic(tmp_path):
    assert metrics_of(write_run(tmp_path, NODULES | {"real": False}))["synthetic"] is True
    assert "REAL" not in DataDescription(NODULES | {"real": False}).banner(False)


def test_reasons_of_failure_use_the_datas_words(nodules):
    rows, description = {row["case"]: row for row in metrics_of(nodules)["cases"]}, DataDescription(NODULES)
    assert failures(rows["c"], description) == ["nodule not found"] and failures(rows["b"], description) == ["wrong malignancy"]
    assert "c" in noteworthy(list(rows.values()), description)


@pytest.mark.slow
@pytest.mark.parametrize("run, drawn", [("nodules", {"distributions", "lesion_size", "volume_agreement", "confusion_matrix", "roc_and_reliability"}),
                                        ("parts", {"distributions", "volume_agreement"})])
def test_figures_that_the_data_have_are_drawn(run, drawn, request):
    folder = request.getfixturevalue(run)
    make_figures(["--results", str(folder), *image_options(folder)])
    assert set(json.loads((folder / "figures" / "figures.json").read_text())["figures"]) == drawn


def page_data(folder: Path) -> dict:
    page = build(metrics_of(folder), folder / "images", folder / "reference", folder / "prediction")
    return json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S).group(1))


def test_gallery_shows_source_structures_and_task(nodules):
    data = page_data(nodules)
    assert data["banner"] == "REAL DATA: A source of nodules (CC BY)" and data["task"] == "Malignancy"
    assert [(each["word"], each["labels"]) for each in data["structures"]] == [("nodule", [1])]
    assert [column["title"] for column in data["columns"]] == ["Case", "DSC", "Nodule ml", "True", "Predicted", "p(true)", "Failures"]


def test_gallery_without_classes(parts):
    data = page_data(parts)
    assert [column["title"] for column in data["columns"]] == ["Case", "Whole organ DSC", "Anterior DSC", "Posterior DSC", "Failures"]


@pytest.mark.slow
def test_gallery_holds_many_labels_in_two_channels(tmp_path):
    many = PARTS | {"labels": {"background": 0} | {f"part {k}": k for k in range(1, 6)}}
    folder = write_run(tmp_path, many)
    data = page_data(folder)
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(data["cases"][0]["masks"].partition(",")[2]))))
    assert not data["shared"] and sheet.shape[-1] == 3 and set(np.unique(sheet[..., 0])) == {0, 16, 32}


@pytest.mark.parametrize("run", ["nodules", "parts"])
def test_report_is_told_what_the_data_are(run, request, tmp_path):
    folder = request.getfixturevalue(run)
    make_inputs(["--results", str(folder), "--shared", str(tmp_path), "--name", "T", "--out", str(tmp_path)])
    values = (tmp_path / "values.tex").read_text()
    assert r"\setvalue{data.source}{A source of" in values and r"\setvalue{quiz}" not in values and r"\setvalue{whole.dsc}{" in values
    assert r"\setvalue{synthetic}" not in values  # the sources ask whether it is set, not what it holds
    assert (r"\setvalue{have.classes}" in values) == (r"\setvalue{lesion.word}" in values) == (run == "nodules")
    choice = {"nodules": "nodule", "parts": "one of anterior, posterior"}[run]  # "every voxel is background or ..."
    assert rf"\setvalue{{labels.choice}}{{{choice}}}" in values
    assert "ancrea" not in (tmp_path / "table_segmentation.tex").read_text() + (tmp_path / "table_failures.tex").read_text()


def test_runs_of_the_same_data_are_compared(nodules, capsys):
    compare_runs([str(nodules), str(nodules), "--resamples", "20"])
    printed = capsys.readouterr().out
    assert "Nodule\n" in printed and "Malignancy\n" in printed


def test_runs_of_different_data_are_not_compared(nodules, parts):
    with pytest.raises((SystemExit, ValueError)):
        compare_runs([str(nodules), str(parts), "--resamples", "20"])


def test_a_dataset_json_without_a_description_is_scored_by_its_own_labels(tmp_path):
    labels = {"background": 0, "lesion": 1, "organ": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}))
    for folder in ("reference", "prediction"):
        save_image(np.full((2, 2, 2), 2 if folder == "reference" else 1, np.uint8), tmp_path / folder / "a.nii.gz")
    compute_metrics(["--pred", str(tmp_path / "prediction"), "--ref", str(tmp_path / "reference"), "--out", str(tmp_path), "--bootstrap", "10", "--jobs", "1",
                     "--dataset", str(tmp_path / "dataset.json")])
    metrics = metrics_of(tmp_path)
    assert metrics["organ"]["empty"]["missed"]["count"] == metrics["lesion"]["empty"]["false_alarm"]["count"] == 1
    assert metrics["whole_foreground"]["dsc"]["mean"] == 1 and "detection" not in metrics["lesion"]


@pytest.mark.parametrize("declared, measured", [([1], (1,)), ([1, 2, 3], (1, 2, 3)), ([2, 3], None)])
def test_radiomics_measures_the_labels_that_decide_the_class(declared, measured, tmp_path):
    task = {"name": "kind", "classes": ["a", "b"], "labels": "classes.csv", "lesion_labels": declared}
    labels = {"background": 0, "tumour": 1, "cyst": 2, "duct": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "classification": task}))
    if measured is None:
        with pytest.raises(ValueError, match=r"dataset.json: lesion_labels \[2, 3\] are not \[1, 2, 3\]"):
            baseline_description(tmp_path / "dataset.json")
    else:
        description = baseline_description(tmp_path / "dataset.json")
        assert (description.lesion or description.whole).labels == measured


def test_radiomics_looks_at_the_datas_lesion(nodules):
    features = _case_features(nodules / "images" / "a_0000.nii.gz", nodules / "reference" / "a.nii.gz", (1,), (0, 1))
    assert features is not None and np.isfinite(features).all()
