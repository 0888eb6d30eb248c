import json
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from evaluation.figures_of_runs import speed_accuracy
from experiments.measured_process import tree_memory
from experiments import run_speed
from experiments.run_speed import command, kept_runs, link_cases, parse_arguments, planned_runs
from experiments.speed_accuracy import accuracy_markdown, compared_with_exact
from experiments.speed_masks import structure_titles
from experiments.speed_table import agreement, as_markdown, derive_with_tta, same_subtype, summarise, write_table
from experiments.upstream_tiles import upstream_tiles
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from report.tables import TABLES
from tests.inference.tiny_model import save_model, tiny_dataset_json, tiny_network, tiny_plans, write_image

GEOMETRY = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())}}


def write(path, values):
    path.parent.mkdir(exist_ok=True)
    SimpleITKIO().write_seg(np.array(values, np.uint8).reshape(1, 1, -1), path, GEOMETRY)


def run(row, seconds, cases=1, times=None):
    return {"row": row, "seconds": seconds, "cases": cases, "peak_memory": 2**30, "peak_gpu_memory": 0, "times": times}


@pytest.mark.slow
def test_what_two_runs_of_upstream_differ_by_is_told(tmp_path):
    write(tmp_path / "upstream/a.nii.gz", [0, 1, 1, 2])
    write(tmp_path / "upstream_run_before/a.nii.gz", [0, 1, 1, 0])
    (tmp_path / "exact").mkdir()
    result = {"runs": [run("upstream", 20), run("exact", 5)], "reference": "upstream", "command": "bash", "environment": {}, "threads": 2, "device": "cuda"}
    write_table(result, tmp_path, None, None, tmp_path / "speed")
    assert result["repeated"]["changed"] == 0.25
    assert "differ from one another in 2.5e-01 of the voxels, and their whole DSC is 0.80000" in (tmp_path / "speed.md").read_text()


def test_rounds_go_forwards_and_backwards_and_the_reference_runs_fewer():
    args = Namespace(rows=["upstream", "exact", "fast", "exact, TTA 4"], rounds=3, reference_rounds=1, lever_rounds=2)
    assert planned_runs(args) == [(0, "upstream"), (0, "exact"), (0, "fast"), (0, "exact, TTA 4"), (1, "exact, TTA 4"), (1, "fast"), (1, "exact"),
                                  (2, "exact"), (2, "fast")]


def arguments_of(monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["run_speed.py", "--upstream", "python", *map(str, flags)])
    return parse_arguments()


def test_a_run_gives_the_model_of_3d_fullres_and_says_that_it_is_synthetic(tmp_path, monkeypatch):
    results = tmp_path / "work/nnUNet_results/Dataset777_PancreasCT"
    for configuration in ("3d_coarse", "3d_crops", "3d_fullres"):
        (results / f"T__P__{configuration}/fold_0").mkdir(parents=True)
        (results / f"T__P__{configuration}/fold_0/checkpoint_final.pth").touch()
    raw = tmp_path / "work/nnUNet_raw/Dataset777_PancreasCT"
    raw.mkdir(parents=True)
    args = arguments_of(monkeypatch, "--run", tmp_path)
    assert args.model.name == "T__P__3d_fullres" and not args.synthetic and "exact, int8" not in args.rows
    (raw / "SYNTHETIC.txt").touch()
    (args.model / "fold_0/checkpoint_final.int8_0123.xml").touch()
    args = arguments_of(monkeypatch, "--run", tmp_path)
    assert args.synthetic and "exact, int8" in args.rows
    assert "exact, fp32" not in args.rows and "half" in args.rows
    rows = arguments_of(monkeypatch, "--run", tmp_path, "--device", "cuda").rows
    assert "exact, fp32" in rows and not {"half", "exact, int8", "exact, torch", "exact, OpenVINO"} & set(rows)


def test_runs_of_another_machine_code_or_model_are_not_gone_on_with(tmp_path, monkeypatch, capsys):
    args = arguments_of(monkeypatch, "--model", tmp_path / "model", "--images", tmp_path / "images", "--rows", "exact")
    kept = {"runs": [{"round": 0} | run("exact", 1.0)], "rows": {}, **run_speed._conditions(args)}
    file = tmp_path / "speed.json"
    for changed in ({}, {"environment": {"CPU": "another"}}, {"commit": "1234567"}, {"model": "other"}, {"threads": 1}):
        file.write_text(json.dumps(kept | changed))
        assert bool(kept_runs(file, args)["runs"]) == (not changed)
        assert (f"another {' '.join(changed)}; all rows are measured anew" in capsys.readouterr().out) == bool(changed)
    file.write_text(json.dumps({"runs": kept["runs"], "rows": {}}))  # as earlier versions wrote it
    assert not kept_runs(file, args)["runs"]
    assert kept_runs(file, arguments_of(monkeypatch, "--model", tmp_path, "--images", tmp_path, "--table_alone"))["runs"]


def test_the_row_with_a_second_model_needs_one_and_names_it(tmp_path, monkeypatch):
    flags = ("--model", tmp_path, "--images", tmp_path)
    assert "fast, ROI model" not in arguments_of(monkeypatch, *flags).rows
    with pytest.raises(SystemExit, match="needs --roi_model"):
        arguments_of(monkeypatch, *flags, "--rows", "fast, ROI model")
    args = arguments_of(monkeypatch, *flags, "--roi_model", "coarse")
    assert "fast, ROI model" in args.rows
    assert command("fast, ROI model", args, tmp_path, tmp_path)[-4:] == ["--mode", "fast", "-roi_model", "coarse"]
    assert command("fast", args, tmp_path, tmp_path)[-2:] == ["--mode", "fast"]


@pytest.mark.slow
def test_a_reference_on_fewer_windows_is_scaled_and_the_table_says_so(tmp_path):
    """10 s on one window are 20 s on two: a row that takes 5 s there is four times faster."""
    for row in ("upstream", "exact"):
        write(tmp_path / f"{row}/a.nii.gz", [0, 1, 1, 2])
    result = {"runs": [run("upstream", 10), run("exact", 10, cases=2)], "reference": "upstream", "command": "bash", "environment": {}, "threads": 2,
              "device": "cpu", "tiles": {"reference": {"a": 1}, "cases": {"a": 1, "b": 3}}}
    write_table(result, tmp_path, None, None, tmp_path / "speed")
    assert {row: figures["times_faster"] for row, figures in result["rows"].items()} == {"upstream": 1.0, "exact": 4.0}
    assert result["rows"]["upstream"]["seconds_a_case"]["median"] == 20 and result["runs"][0]["seconds"] == 10
    assert "cases with 0.5 times as many windows" in (tmp_path / "speed.md").read_text()


def test_upstream_runs_in_its_own_environment_alone(tmp_path, monkeypatch):
    """A PYTHONPATH that names this repository would make nnU-Net's row one of ours."""
    args = arguments_of(monkeypatch, "--model", tmp_path, "--images", tmp_path)
    assert command("upstream", args, tmp_path, tmp_path)[:3] == ["python", "-I", "nnUNetv2_predict_from_modelfolder"]
    assert "-I" not in command("exact", args, tmp_path, tmp_path)


def test_a_table_without_seconds_a_window_cannot_derive_tta(tmp_path, monkeypatch):
    (tmp_path / "speed.json").write_text('{"runs": []}')
    with pytest.raises(SystemExit, match="speed.json holds no seconds_a_tile"):
        arguments_of(monkeypatch, "--model", tmp_path, "--images", tmp_path, "--tta_from", tmp_path / "speed.json")


def test_the_first_cases_are_linked_with_all_channels(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("b_0000", "a_0000", "a_0001", "c_0000"):
        (images / f"{name}.nii.gz").touch()
    assert sorted(path.name for path in link_cases(images, 2, tmp_path / "out").iterdir()) == ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz"]


def test_memory_of_this_process_is_found():
    assert tree_memory(os.getpid()) > 2**20


def test_agreement_of_two_folders(tmp_path):
    write(tmp_path / "a" / "x.nii.gz", [0, 1, 1, 2])
    write(tmp_path / "b" / "x.nii.gz", [0, 1, 0, 2])
    write(tmp_path / "b" / "only_here.nii.gz", [1, 1, 1, 1])
    got = agreement(tmp_path / "a", tmp_path / "b")
    assert got["changed"] == 0.25 and got["cases"] == 1
    assert got["whole_mean"] == pytest.approx(2 * 2 / (3 + 2)) and got["lesion_mean"] == 1


def test_structure_absent_from_both_counts_nowhere(tmp_path):
    for folder in "ab":
        write(tmp_path / folder / "x.nii.gz", [0, 1])
    assert "lesion_mean" not in agreement(tmp_path / "a", tmp_path / "b")


def test_no_common_case_no_agreement(tmp_path):
    write(tmp_path / "a" / "x.nii.gz", [0, 1])
    assert agreement(tmp_path / "a", tmp_path / "b") == {}


def test_subtypes_are_compared_on_common_cases(tmp_path):
    for folder, rows in (("a", "x,1\ny,2\n"), ("b", "x,1\ny,0\nz,0\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "subtype_results.csv").write_text("Names,Subtype\n" + rows)
    assert same_subtype(tmp_path / "a", tmp_path / "b") == "1/2"


def subtype_table(folder, **classes):
    folder.mkdir(exist_ok=True)
    (folder / "subtype_results.csv").write_text("Names,Subtype\n" + "".join(f"{case}.nii.gz,{k}\n" for case, k in classes.items()))


def test_scores_stand_beside_those_of_exact_by_hand(tmp_path):
    for case, exact, fast in (("x", [0, 1, 1, 2], [0, 1, 1, 2]), ("y", [0, 1, 1, 2], [0, 0, 1, 2])):
        write(tmp_path / "labels" / f"{case}.nii.gz", [0, 1, 1, 2])
        write(tmp_path / "exact" / f"{case}.nii.gz", exact)
        write(tmp_path / "fast" / f"{case}.nii.gz", fast)
    write(tmp_path / "exact" / "fast_was_not_run_on_it.nii.gz", [0, 0, 0, 0])
    subtype_table(tmp_path / "exact", x=0, y=1)
    subtype_table(tmp_path / "fast", x=0, y=0)
    got = compared_with_exact(tmp_path / "fast", tmp_path / "exact", tmp_path / "labels", {"x": "0", "y": "1"})
    assert got["whole"]["n"] == got["macro_f1"]["n"] == 2
    assert got["whole"]["a"] == 1 and got["whole"]["b"] == pytest.approx((1 + 2 * 2 / (3 + 2)) / 2)
    assert got["whole"]["difference"] == pytest.approx(-0.1) and got["lesion"]["difference"] == 0
    assert got["macro_f1"]["a"] == 1 and got["macro_f1"]["b"] == pytest.approx((2 / 3 + 0) / 2)
    assert "| fast | 2 | 0.900 (-0.1000, -0.2000 to +0.0000) | 1.000 (" in "\n".join(accuracy_markdown({"fast": {"truth_beside_exact": got}}))


def test_scores_without_common_cases_or_subtypes(tmp_path):
    for folder in ("labels", "exact", "fast"):
        write(tmp_path / folder / f"{folder}.nii.gz", [0, 1])
    assert compared_with_exact(tmp_path / "fast", tmp_path / "exact", tmp_path / "labels", None) == {}
    assert accuracy_markdown({"fast": {"truth_beside_exact": {}}}) == []
    for folder in ("labels", "exact", "fast"):
        write(tmp_path / folder / "x.nii.gz", [0, 1])
    got = compared_with_exact(tmp_path / "fast", tmp_path / "exact", tmp_path / "labels", {"x": "0"})
    assert "macro_f1" not in got and got["lesion"]["n"] == 0 and got["whole"]["b"] == 1
    assert "| fast | 1 | 1.000 (+0.0000, +0.0000 to +0.0000) | - | - |" in accuracy_markdown({"fast": {"truth_beside_exact": got}})


def test_ratio_is_between_medians_of_seconds_a_case(tmp_path):
    times = {"cases_wall": 3.0, "cases": {"x": dict.fromkeys(("read", "preprocess", "network", "classify", "resample", "write"), 0.5)}}
    runs = [run("upstream", 60, cases=3), run("exact", 4.0, times=times), run("exact", 5.0, times=times), run("exact", 90.0, times=times)]
    result = {"runs": runs, "reference": "upstream", "command": "c", "environment": {}, "threads": 2, "device": "cpu"}
    result["rows"] = summarise(result, tmp_path, None)
    assert result["rows"]["exact"]["times_faster"] == 4.0
    assert result["rows"]["exact"]["seconds_a_case"] == {"median": 5.0, "min": 4.0, "max": 90.0}
    assert result["rows"]["exact"]["time_split"]["network"] == 0.5
    assert "| exact | 5.0 (4.0-90.0) | 4.0 | 3 x 1 |" in as_markdown(result)
    assert r"exact & 5.00 & 4.0 & 1.0 & --" in TABLES["speed"]({"speed": result})


def test_seconds_a_window_and_what_tta_would_take_by_hand():
    # 10 s a case besides 2 s a window: 3 windows with TTA 10 + 48, 4 windows without 10 + 8
    runs = [run("upstream", 3 * 58, cases=3), run("upstream, no TTA", 4 * 18, cases=4)]
    measured = {"runs": runs, "reference": "upstream", "tiles": {"reference": {"a": 2, "b": 4}, "cases": {"a": 4}}}
    derive_with_tta(measured)
    assert measured["seconds_a_tile"] == 2.0
    large = {"runs": [run("upstream, no TTA", 210), run("fast", 5)], "reference": "upstream", "tiles": {"reference": {"c": 100}, "cases": {"c": 100}},
             "derived": {"from": "speed.json", "seconds_a_tile": measured["seconds_a_tile"]}, "command": "c", "environment": {}, "threads": 2,
             "device": "cpu"}
    derive_with_tta(large)
    assert large["derived"]["seconds_a_case"] == 10 + 8 * 100 * 2
    large["rows"] = summarise(large, Path("nowhere"), None)
    assert large["rows"]["fast"]["times_faster"] == 1610 / 5
    assert "1610 s per case. DERIVED" in as_markdown(large)


def test_windows_of_upstreams_tiling_by_hand(tmp_path):
    save_model(tmp_path / "model", tiny_plans(), tiny_dataset_json(), [tiny_network()])
    # 12 x 20 x 30 voxels of 2 x 2 x 1 mm are 12 x 40 x 30 of the plans' 2 x 1 x 1; patch 8 x 16 x 16 -> 2 x 4 x 3 windows
    write_image(tmp_path / "images" / "a_0000.nii.gz", np.zeros((12, 20, 30), np.int16), spacing=(1.0, 2.0, 2.0))
    write_image(tmp_path / "images" / "b_0000.nii.gz", np.zeros((3, 4, 5), np.int16), spacing=(1.0, 1.0, 2.0))
    assert upstream_tiles(tmp_path / "images", tmp_path / "model", "0") == {"a": 24, "b": 1}


@pytest.mark.slow
def test_the_chart_takes_the_rows_as_they_are(tmp_path):
    write(tmp_path / "labels" / "x.nii.gz", [0, 1, 1, 2])
    write(tmp_path / "exact" / "x.nii.gz", [0, 1, 1, 2])
    result = {"runs": [run("exact", 4.0)], "reference": "upstream"}
    result["rows"] = summarise(result, tmp_path, tmp_path / "labels")
    speed_accuracy(result, tmp_path / "chart")
    assert (tmp_path / "chart.pdf").is_file() and r"exact & 4.00 & -- & 1.0 & --" in TABLES["speed"]({"speed": result})


@pytest.mark.parametrize("labels, titles", [
    ({"background": 0, "pancreas": 1, "lesion": 2}, {"whole": "whole", "lesion": "lesion"}),
    ({"background": 0, "Anterior": 1, "Posterior": 2}, {"whole": "foreground", "lesion": "Posterior"}),
    ({"background": 0, "nodule": 1}, {"whole": "nodule"}),
    ({"background": 0, "whole": [1, 2], "core": [2]}, {"whole": "foreground"})])
def test_tables_name_the_structures_of_the_dataset(labels, titles):
    assert structure_titles(labels) == titles


def test_a_table_of_a_dataset_with_one_label_has_one_score():
    compared = {"whole": {"n": 3, "b": 0.5, "difference": 0.0, "ci_low": 0.0, "ci_high": 0.0}}
    lines = accuracy_markdown({"exact": {"truth_beside_exact": compared}}, {"whole": "nodule"})
    assert lines[3:] == ["| row | n | nodule DSC | class macro-F1 |", "|---|---|---|---|", "| exact | 3 | 0.500 | - |"]
