"""The common part of run_lidc.sh and run_cues.sh on made-up descriptions, and the tables of both."""

import json

import numpy as np
import pytest

from data_prep.phantom_cues import CUES, LEVELS
from experiments import class_study, cues, lidc
from experiments.class_study import ROWS, Fold, _Task, by_group, score, weighted_f1

LABELS = np.array([0, 0, 1, 1])


def test_weighted_f1_by_hand():
    guess = np.array([0, 1, 1, 1])  # class 0: 1 hit of 2, F1 2/3; class 1: 2 hits, 3 guessed, F1 4/5
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1]])
    assert weighted_f1(LABELS, guess, weights, 2) == pytest.approx([(2 / 3 + 4 / 5) / 2, 1.0])


def test_groups_are_drawn_whole():
    weights = by_group(["a", "b", "a", "c"], seed=0)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, [0, 1, 3]].sum(1) == 3).all()


def test_scores_stand_beside_the_evidence_and_rows_without_figures_are_left_out():
    right = np.eye(2)[LABELS]
    wrong = np.eye(2)[1 - LABELS]
    table = score({"evidence": right, "volume": wrong, "honest_blocks": np.full((4, 2), np.nan)}, LABELS, np.ones((5, 4)), 2, seed=0)
    assert set(table) == {"evidence", "volume"}
    assert table["volume"]["evidence_minus_this"] == 1.0 and table["volume"]["difference_ci"] == (1.0, 1.0)
    assert table["evidence"]["macro_f1"] == 1.0 and 0 < table["evidence"]["p"] <= 1


def described(n: int, seed: int) -> dict:
    """Cases whose class, n modulo 2, shows in the volume alone."""
    rng = np.random.default_rng(seed)
    rows = {}
    for i in range(n):
        blocks = {"size": {"volume": float(i % 2 + 0.1 * rng.normal())}, "texture": {"sd": float(rng.normal())}}
        rows[f"c{i:02d}"] = {"evidence": blocks, "true": blocks, "radiomics": [float(rng.normal()), 1.0 + i % 2], "log_volume": float(i % 2 + 0.1 * rng.normal())}
    return rows


@pytest.mark.slow
def test_rows_that_need_no_network_find_what_is_there():
    rows = described(40, 0)
    rows["c39"] |= {"radiomics": None, "evidence": None}  # no lesion found in a new case
    train, new = [f"c{i:02d}" for i in range(30)], [f"c{i:02d}" for i in range(30, 40)]
    rows["c29"]["evidence"] = None  # nor in a training case: left out of the fit
    task = _Task(Fold(None, rows, {}, train), {f"c{i:02d}": i % 2 for i in range(40)}, 2, new)
    truth = np.array([i % 2 for i in range(30, 40)])
    assert task.with_lesion == train[:-1]
    for row in ("volume", "true_masks", "radiomics", "blocks"):
        found = getattr(task, row)()
        assert found.shape == (10, 2) and found.sum(1) == pytest.approx(1)
        assert (found.argmax(1) == truth)[:9].all(), row
    assert task.radiomics()[-1] == pytest.approx([15 / 29, 14 / 29])  # the shares of the classes in training
    assert np.isnan(task.honest_blocks()).all()


def test_every_row_is_a_method_and_both_studies_know_them():
    assert all(hasattr(_Task, row) for row in ROWS) and set(cues.STUDIED) <= set(ROWS)


def made_up(row_names, value: float) -> dict:
    return {row: {"macro_f1": value, "ci": [value - 0.1, value + 0.1], "p": 0.0005, "chance_95": [0.2, 0.4], "evidence_minus_this": 0.0, "difference_ci": [-0.1, 0.1]}
            for row in row_names}


@pytest.mark.slow
def test_the_table_of_cues_says_synthetic_and_names_the_lowest(tmp_path):
    tasks = {task: {"weights": {"size": 0.5, "joint": 0.25}, "parts": {part: {"n_of_class": [1, 2, 3], "rows": made_up(cues.STUDIED, 0.7 if task == "duct" else 0.9),
                                                                             "oracle": None if task == "shuffled" else 0.97} for part in cues.PARTS}} for task in cues.TASKS}
    world = {"lesion_dsc": {part: {"mean": 0.6, "ci": [0.5, 0.7], "n": 6} for part in cues.PARTS}, "tasks": tasks}
    text = cues.markdown({"worlds": {"cells": world}, "environment": {"CPU": "a CPU"}, "commit": "abc", "command": "bash experiments/run_cues.sh"})
    assert text.startswith("# SYNTHETIC") and "lowest 0.700 (duct)" in text and f"{(11 * 0.9 + 0.7) / 12:.3f}" in text
    assert len([line for line in text.splitlines() if line.startswith("| shuffled |")]) == len(cues.PARTS) + 1
    class_study.draw_rows({"cells": {task: found["parts"]["new"] for task, found in tasks.items()}}, "SYNTHETIC", tmp_path / "x.png")
    class_study.draw_rows({"nodules": {"margin": {"rows": made_up(ROWS, 0.5)}}}, "every row", tmp_path / "y.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("x.png", "y.png"))


def test_cues_share_images_and_shuffled_labels_are_the_textures_in_another_order():
    world = cues.World("abdomen", cues._parse(["--train", "40", "--new", "20", "--other", "10"]))
    labels = cues.draw_labels(world.drawn, 1)
    assert list(labels) == [*CUES, "shuffled"] and len(world.drawn) == 70
    assert sorted(labels["shuffled"].values()) == sorted(labels["texture"].values()) and labels["shuffled"] != labels["texture"]
    held_out = [case for split in world.splits for case in split["val"]]
    assert len(held_out) == len(set(held_out)) == 40 and all(not set(split["train"]) & set(split["val"]) for split in world.splits)
    assert json.dumps(world.splits) == json.dumps(cues.World("cells", world.args).splits)


@pytest.mark.slow
def test_the_drawn_numbers_bound_what_can_be_found():
    world = cues.World("abdomen", cues._parse(["--train", "60", "--new", "30", "--other", "10"]))
    labels = cues.draw_labels(world.drawn, 1)
    new = [name for name in world.drawn if name not in world.splits[0]["train"]]
    for cue in LEVELS:
        found = cues.oracle(cue, world.drawn, labels[cue], world.splits[0]["train"], new).argmax(1)
        assert (found == [labels[cue][name] for name in new]).mean() > 0.85, cue
    assert cues.oracle("shuffled", world.drawn, labels["shuffled"], new, new) is None


def test_lidc_without_its_data_says_so_and_ends(tmp_path, capsys):
    assert lidc.main(["--lidc", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "REAL nodules are left out" in capsys.readouterr().out and not (tmp_path / "out").exists()
