"""The comparison with upstream on real scans: what is equal, what differs and by how much, from tiny hand-made cases."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from evaluation.files import write_json
from experiments import real
from experiments.real import kept, learning_curve, validation_images
from experiments.real_compare import (
    compare_masks,
    compare_preprocessed,
    compare_structures,
    leaves,
    ranked,
    score_case,
    summarise,
)
from experiments.real_preparation import lay_out, write_compared_plans
from experiments.real_report import curve_table, markdown, summary
from experiments.real_sides import COMPARED, EXPERIMENTS, PLANNED, TASK, Budget, Side
from nnunetv2.preprocessing.case_store import save_case
from nnunetv2.utilities.errors import CommandFailed, InputError
from nnunetv2.utilities.files import load_json, save_json
from tests.evaluation.small_run import status_of

LABELS = {"anterior": 1, "posterior": 2}
BUDGET = Budget(epochs=3, iterations=5, val_iterations=2, seed=7)


def side(name, folder):
    return Side(name, Path(sys.executable), folder / name, threads=1, device="cpu", workers=0)


def write(path, values):
    """A mask of one row of voxels, 1 mm each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.array(values, np.uint8).reshape(1, 1, -1)), str(path))
    return path


def test_leaves_are_named_by_their_path():
    assert dict(leaves({"a": [1, {"b": None}], "c": {}})) == {"a.0": 1, "a.1.b": None, "c": {}}


def test_structures_differ_where_a_number_a_text_or_a_key_does():
    found = compare_structures(
        {"n": 8, "t": "x", "same": [1.5], "here": 1}, {"n": 10, "t": "y", "same": [1.5], "there": True}
    )
    assert found == {
        "fields": 5,
        "equal": 1,
        "differ": ["n", "t", "here", "there"],
        "largest_relative": pytest.approx(0.2),
    }


def test_a_flag_is_no_number():
    assert compare_structures({"a": True}, {"a": 1})["differ"] == []  # equal to Python and to JSON's readers
    assert compare_structures({"a": True}, {"a": 2})["differ"] == ["a"]


def test_preprocessed_cases_are_compared_voxel_by_voxel(tmp_path):
    data, seg = np.zeros((1, 2, 3, 4), np.float32), np.zeros((1, 2, 3, 4), np.int16)
    for folder, value, label, shape in (("a", 0.0, 0, 4), ("b", 0.25, 1, 3)):
        (tmp_path / folder).mkdir()
        data[0, 1, 2, 0], seg[0, 0, 0, 0] = value, label
        save_case(data, seg, {}, tmp_path / folder, "one")
        save_case(data[..., :shape], seg[..., :shape], {}, tmp_path / folder, "two")
    found = compare_preprocessed(tmp_path / "a", tmp_path / "b", ["one", "two"])
    assert found == {
        "cases": 2,
        "voxels": 24,
        "largest_difference": 0.25,
        "label_voxels_differ": 1,
        "other_shape": ["two"],
    }


def test_masks_of_one_model_are_compared_by_voxel_and_label(tmp_path):
    write(tmp_path / "a/x.nii.gz", [0, 1, 1, 2])
    write(tmp_path / "b/x.nii.gz", [0, 1, 0, 2])
    for folder in "ab":
        write(tmp_path / folder / "y.nii.gz", [0, 1, 0, 0])
    found = compare_masks(tmp_path / "a", tmp_path / "b", LABELS)
    assert found["voxels_differ"] == 1 and found["share"] == 1 / 8 and found["cases_with_any"] == 1
    assert found["lowest_dsc"] == {"anterior": pytest.approx(2 / 3), "posterior": 1.0}


def test_masks_that_are_missing_are_named(tmp_path):
    write(tmp_path / "a/x.nii.gz", [1])
    write(tmp_path / "b/z.nii.gz", [1])
    with pytest.raises(ValueError, match=r"x\.nii\.gz, z\.nii\.gz"):
        compare_masks(tmp_path / "a", tmp_path / "b", LABELS)


def test_a_case_is_scored_by_label_for_both_programs(tmp_path):
    truth = write(tmp_path / "truth.nii.gz", [1, 1, 2, 2])
    masks = {
        "ours": write(tmp_path / "ours.nii.gz", [1, 1, 2, 2]),
        "upstream": write(tmp_path / "upstream.nii.gz", [1, 0, 0, 0]),
    }
    found = score_case(truth, masks, LABELS)
    assert found["anterior"]["ours"] == {"dsc": 1.0, "hd95_mm": 0.0} and found["anterior"]["upstream"][
        "dsc"
    ] == pytest.approx(2 / 3)
    assert found["posterior"]["upstream"]["dsc"] == 0 and np.isnan(found["posterior"]["upstream"]["hd95_mm"])


def rows(ours, upstream):
    return [
        {
            "labels": {
                label: {"ours": {"dsc": a, "hd95_mm": 1.0}, "upstream": {"dsc": b, "hd95_mm": 2.0}} for label in LABELS
            }
        }
        for a, b in zip(ours, upstream)
    ]


def test_the_difference_is_ours_minus_upstream_by_case():
    found = summarise([row["labels"] for row in rows([0.8, 0.9, 0.7], [0.7, 0.8, 0.6])], seed=0)["anterior"]
    assert found["dsc"]["ours"]["mean"] == pytest.approx(0.8) and found["dsc"]["upstream"]["mean"] == pytest.approx(0.7)
    assert [found["dsc"]["difference"][key] for key in ("difference", "ci_low", "ci_high")] == pytest.approx([0.1] * 3)
    assert found["hd95_mm"]["difference"]["difference"] == -1.0


def test_best_median_and_worst_go_by_both_programs():
    assert ranked(rows([0.9, 0.2, 0.6], [0.7, 0.4, 0.6])) == {"best": 0, "median": 2, "worst": 1}


def test_both_train_with_the_same_budget_and_upstream_never_sees_this_repository(tmp_path):
    ours, upstream = (side(name, tmp_path).training(0, BUDGET) for name in ("ours", "upstream"))
    assert ours[-10:-2] == upstream[-8:] == BUDGET.flags() and ours[-2:] == ["--no_val", "--c"]
    assert upstream[upstream.index(sys.executable) + 1] == "-I" and "-I" not in ours
    assert [word for word in ours if "=" in word and "nnUNet_" not in word] == [
        word for word in upstream if "=" in word and "nnUNet_" not in word
    ]


def test_upstreams_trainer_takes_what_it_is_given(tmp_path):
    text = (EXPERIMENTS / "upstream_train.py").read_text()
    flags = [word for word in side("upstream", tmp_path).training(0, BUDGET) if re.fullmatch(r"--?[a-z_]+", word)]
    assert len(flags) == 6 and [flag for flag in flags if f'"{flag}"' not in text] == []


@pytest.mark.slow
def test_a_stage_is_measured_once_and_a_failed_one_names_its_log(tmp_path):
    ours = side("ours", tmp_path)
    made = ours.folder / "made"
    command = [sys.executable, "-c", f"open({str(made)!r}, 'a').write('x')"]
    for _ in range(2):
        ours.stage("make", command, [made])
    assert made.read_text() == "x" and ours.measured("make")["starts"] == 1 and ours.measured("other") is None
    with pytest.raises(CommandFailed, match=r"stage break failed.*break\.log"):
        ours.stage("break", [sys.executable, "-c", "raise SystemExit(1)"], [])


def test_small_plans_halve_the_features_and_planned_ones_stay(tmp_path):
    sides = (side("ours", tmp_path), side("upstream", tmp_path))
    small = write_compared_plans(plans(), "small", sides)
    assert small["configurations"]["3d_fullres"]["batch_size"] == 4
    assert small["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32]
    assert [json.loads((one.preprocessed / f"{COMPARED}.json").read_text()) for one in sides] == [
        small,
        small,
    ] and small["plans_name"] == COMPARED
    assert write_compared_plans(plans(), "tiny", ())["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"][
        "features_per_stage"
    ] == [8, 16]
    assert write_compared_plans(plans(), "planned", ()) == plans() | {"plans_name": COMPARED}


def plans():
    return {
        "plans_name": PLANNED,
        "configurations": {
            "3d_fullres": {"batch_size": 9, "architecture": {"arch_kwargs": {"features_per_stage": [32, 64]}}}
        },
    }


@pytest.fixture
def decathlon(tmp_path):
    """Three cases in the Decathlon's layout, without test images."""
    folder = tmp_path / "set"
    for case in "abc":
        for name in ("imagesTr", "labelsTr"):
            write(folder / name / f"{case}.nii.gz", [1])
    save_json(
        {"name": "Set", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior"}, "numTraining": 3},
        folder / "dataset.json",
    )
    return folder


def test_the_set_is_laid_out_as_both_converters_want_it(decathlon, tmp_path):
    task = lay_out(decathlon, tmp_path, 2)
    assert task.name.startswith("Task04_") and (task / "imagesTs").is_dir()
    assert sorted(path.name for path in (task / "imagesTr").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    described = json.loads((task / "dataset.json").read_text())
    assert (
        described["numTraining"] == len(described["training"]) == 2
        and described["training"][1]["label"] == "./labelsTr/b.nii.gz"
    )


def test_scans_are_not_deleted_where_the_layout_would_lie(decathlon, tmp_path):
    source = tmp_path / TASK
    decathlon.rename(source)
    with pytest.raises(InputError, match="--out"):
        lay_out(source, tmp_path, 2)
    assert list((source / "imagesTr").glob("*.nii.gz"))


def test_images_of_an_earlier_choice_go_and_files_of_others_stay(decathlon, tmp_path):
    side = SimpleNamespace(raw=decathlon)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (decathlon / "imagesTr").glob("*.nii.gz"))
    for case in cases:
        (decathlon / "imagesTr" / f"{case}.nii.gz").rename(decathlon / "imagesTr" / f"{case}_0000.nii.gz")
    validation_images(side, 0, cases[:2], tmp_path)
    images = validation_images(side, 0, cases[:1], tmp_path)
    assert [path.name for path in images.glob("[!.]*")] == [f"{cases[0]}_0000.nii.gz"]
    (images / "mine.nii.gz").touch()
    with pytest.raises(InputError, match="mine.nii.gz: no run"):
        validation_images(side, 0, cases, tmp_path)


def test_without_the_scans_it_says_so_and_ends_well(tmp_path, capsys):
    assert status_of(real.main, ["--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "holds no dataset.json" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_without_upstream_the_remedy_is_named(decathlon, tmp_path, capsys):
    assert (
        status_of(
            real.main,
            ["--source", str(decathlon), "--upstream", str(tmp_path / "none"), "--out", str(tmp_path / "out")],
        )
        != 0
    )
    assert not (tmp_path / "out").exists()


def test_seconds_are_kept_of_a_quiet_machine_and_of_one_start_alone():
    figures = {"starts": 1, "seconds": 4.0, "peak_memory": 2**30, "peak_gpu_memory": 0}
    assert kept(figures, True) == {"seconds": 4.0, "gib": 1.0, "gpu_gib": 0.0}
    assert (
        kept(figures, False)["seconds"] is None
        and kept(figures | {"starts": 2}, True)["seconds"] is None
        and kept(None, True) is None
    )


def test_times_are_in_the_table_of_a_quiet_machine_alone():
    result = small_result()
    assert "nnU-Net, s" not in markdown(result) and "no times are given" in markdown(result)
    quiet = markdown(result | {"quiet_machine": True})
    assert "| train 0 | 5.0 | 4.0 | 2.00 | 1.00 |" in quiet and "no times" not in quiet


def test_a_budget_in_which_neither_learns_is_said_to_compare_nothing(tmp_path):
    result = small_result()
    assert "compare nothing" not in markdown(result)
    nothing = [case["labels"] for case in rows([0.0, 0.01], [0.0, 0.0])]
    for label in LABELS:
        for case in nothing:
            case[label]["ours"]["hd95_mm"] = float("nan")  # of an empty mask
    write_json(result | {"scores": summarise(nothing, 0)}, tmp_path / "r.json")
    assert "compare nothing" in (text := markdown(load_json(tmp_path / "r.json"))) and "| anterior | HD95, mm | 2.00 (2.00 to 2.00) | - | - |" in text


def test_curves_stand_beside_each_other_at_the_same_epochs():
    lines = curve_table(small_result())
    assert lines == [
        "| program | epoch 1 | epoch 2 | epoch 3 |",
        "|---|---|---|---|",
        "| nnU-Net 2.8.1, fold 0 | 0.00 | - | - |",
        "| here, fold 0 | 0.10 | 0.20 | 0.35 |",
    ]
    assert "here, fold 0" in markdown(small_result()) and "](mine.png)" in markdown(small_result(), "mine.png")


def test_the_manual_shows_the_curves_of_every_seed():
    other = small_result()
    other["budget"] = other["budget"] | {"seed": 8}
    text = summary(small_result(), [other])
    assert text.count("| here, fold 0 | 0.10 | 0.20 | 0.35 |") == 2
    assert "seed 7; afterwards, on 2 held-out cases, a mean DSC of 0.750 (nnU-Net) and 0.850 (here)" in text and "seed 8; afterwards" in text


def test_a_learning_curve_is_read_from_a_checkpoint(tmp_path):
    torch.save({"logging": {"mean_fg_dice": [0.25, np.float32(0.5), float("nan")]}}, tmp_path / "c.pth")
    assert learning_curve(tmp_path / "c.pth") == [0.25, 0.5, None]


def small_result():
    """What a run of two cases would write."""
    cases = rows([0.8, 0.9], [0.7, 0.8])
    preparation = {name: compare_structures({"a": 1}, {"a": 1}) for name in ("dataset", "fingerprint", "plans")}
    arrays = {"cases": 2, "voxels": 8, "largest_difference": 0.0, "label_voxels_differ": 0, "other_shape": []}
    masks = {
        "cases": 2,
        "voxels": 8,
        "voxels_differ": 1,
        "share": 0.125,
        "cases_with_any": 1,
        "lowest_dsc": {"anterior": 0.9},
    }
    figures = {"gib": 1.0, "gpu_gib": 0.0}
    return {
        "source": "a set",
        "licence": "CC",
        "n": 2,
        "folds": [0],
        "network": "small",
        "threads": 1,
        "device": "cpu",
        "quiet_machine": False,
        "side_by_side": False,
        "command": "x",
        "environment": {"CPU": "y"},
        "commit": "z",
        "scores": summarise([case["labels"] for case in cases], 0),
        "curves": {"0": {"ours": [0.1, 0.2, 0.35], "upstream": [0.0, None]}},
        "exchange": [{"ours": masks, "upstream": masks}],
        "budget": vars(BUDGET) | {"batch_size": 4, "patch_size": [8, 8, 8], "features_per_stage": [16, 32]},
        "drawn": {"best": "a"},
        "preparation": preparation | {"preprocessed": arrays, "splits_equal": True},
        "stages": {
            "train_0": {"ours": {"seconds": 4.0} | figures, "upstream": {"seconds": 5.0, "gib": 2.0, "gpu_gib": 0.0}}
        },
    }


@pytest.mark.parametrize(("cores", "flags", "threads"), [(8, [], 8), (8, ["--side_by_side"], 4), (1, ["--side_by_side"], 1), (8, ["--threads", "3"], 3)])
def test_two_programs_share_the_cores(monkeypatch, cores, flags, threads):
    monkeypatch.setattr(real, "available_cores", lambda: cores)
    assert real._parse(flags).threads == threads


def test_two_programs_do_not_get_more_threads_than_cores(monkeypatch, capsys):
    monkeypatch.setattr(real, "available_cores", lambda: 8)
    with pytest.raises(SystemExit):
        real._parse(["--side_by_side", "--threads", "5"])
    assert "at most 4 each" in capsys.readouterr().err
