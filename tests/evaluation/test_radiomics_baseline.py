"""Lesion features by hand-made lesions, and a baseline that must not see what it predicts."""

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.lesion_features import NAMES, lesion_features
from evaluation.radiomics_baseline import fit_and_predict, main, out_of_fold, select
from tests.evaluation.small_run import status_of

SPACING = (1.0, 1.0, 1.0)


def ball(radius: float, spacing: tuple = SPACING, shape: tuple = (40, 40, 40)) -> np.ndarray:
    z, y, x = np.meshgrid(*((np.arange(n) - n // 2) * s for n, s in zip(shape, spacing)), indexing="ij")
    return z**2 + y**2 + x**2 <= radius**2


def features_of(image: np.ndarray, lesion: np.ndarray, spacing: tuple = SPACING) -> dict[str, float]:
    return dict(zip(NAMES, lesion_features(image, lesion, spacing), strict=True))


def test_homogeneous_ball_has_its_hu_its_volume_and_no_texture():
    lesion = ball(10)
    found = features_of(np.where(lesion, 50.0, 50.0), lesion)
    assert found["mean"] == found["p10"] == found["p90"] == 50
    assert found["core_sd"] == found["rim_sd"] == found["margin_step"] == found["contrast"] == 0
    assert found["volume_ml"] == pytest.approx(lesion.sum() / 1000)
    assert 0.85 < found["sphericity"] <= 1 and found["elongation"] == pytest.approx(1, abs=0.02)


def test_selected_features_keep_the_asked_order():
    row = np.arange(len(NAMES), dtype=float)
    chosen = select({"a": row, "empty": None}, ["volume_ml", "mean"])
    assert chosen["a"].tolist() == [NAMES.index("volume_ml"), 0] and chosen["empty"] is None


def test_margin_step_is_outside_minus_inside():
    lesion = ball(10)
    assert features_of(np.where(lesion, 50.0, -30.0), lesion)["margin_step"] == -80


def test_rim_minus_core_tells_a_bright_rim():
    lesion = ball(12)
    image = np.where(ball(8), 20.0, 80.0)
    assert features_of(image, lesion)["rim_minus_core"] == pytest.approx(60, abs=8)


def test_a_checkerboard_has_no_correlation_of_direct_neighbours_and_high_contrast():
    lesion = np.zeros((14, 14, 14), bool)
    lesion[2:12, 2:12, 2:12] = True
    board = np.indices(lesion.shape).sum(0) % 2 * 100.0
    found = features_of(board, lesion)
    stripes = features_of(np.repeat(board[::2], 2, 0)[:14] * 0 + (np.indices(lesion.shape)[0] // 5 % 2) * 100.0, lesion)
    assert found["contrast"] > 2 * stripes["contrast"] and found["correlation"] < 0.2 < stripes["correlation"]


def test_a_lesion_along_z_is_elongated_by_its_spacing():
    lesion = np.zeros((20, 20, 20), bool)
    lesion[5:15, 5:15, 5:15] = True
    found = features_of(np.zeros(lesion.shape), lesion, (3.0, 1.0, 1.0))
    assert found["elongation"] == pytest.approx(1 / 3, abs=1e-3) and found["flatness"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["volume_ml"] == pytest.approx(3.0)


@pytest.mark.slow
def test_features_hardly_change_with_the_spacing_of_the_same_lesion():
    def scene(spacing, shape):
        return np.where(ball(8, spacing, shape), 20.0, 80.0), ball(12, spacing, shape)

    fine, coarse = features_of(*scene((1, 1, 1), (50, 50, 50)), (1, 1, 1)), features_of(*scene((2, 1, 1), (25, 50, 50)), (2, 1, 1))
    for name in ("mean", "rim_minus_core", "volume_ml", "elongation"):
        assert fine[name] == pytest.approx(coarse[name], rel=0.12), name


def test_tiny_lesions_have_no_features_and_odd_ones_have_finite_ones():
    lesion = np.zeros((8, 8, 8), bool)
    lesion[4, 4, 1:7] = True
    assert lesion_features(np.zeros(lesion.shape), lesion, SPACING) is None
    lesion[3, 4, 1:7] = True
    assert np.isfinite(lesion_features(np.zeros(lesion.shape), lesion, SPACING)).all()
    assert np.isfinite(lesion_features(np.zeros(lesion.shape), np.ones_like(lesion), SPACING)).all()


CLASSES = ["0", "1", "2"]


@pytest.fixture
def separable() -> tuple[dict, dict, list[dict]]:
    """30 cases whose first feature is their class plus noise; 5 folds."""
    rng = np.random.default_rng(0)
    features = {f"c{i}": np.array([i % 3 * 3 + rng.normal(0, 0.5), rng.normal()]) for i in range(30)}
    truth = {case: str(i % 3) for i, case in enumerate(features)}
    cases = list(features)
    splits = [{"train": [c for c in cases if c not in cases[k::5]], "val": cases[k::5]} for k in range(5)]
    return features, truth, splits


@pytest.mark.slow
def test_every_case_is_predicted_out_of_fold(separable):
    features, truth, splits = separable
    predicted = out_of_fold(features, truth, splits, [0, 1, 2, 3, 4], CLASSES)
    assert predicted.keys() == features.keys()
    assert np.mean([CLASSES[p.argmax()] == truth[case] for case, p in predicted.items()]) > 0.9
    assert all(p.sum() == pytest.approx(1) for p in predicted.values())


@pytest.mark.slow
def test_labels_of_validation_cases_are_not_looked_at(separable):
    features, truth, splits = separable
    blind = {case: label for case, label in truth.items() if case in splits[1]["train"]}
    seen, unseen = (out_of_fold(features, table, splits, [1], CLASSES) for table in (truth, blind))
    assert all(np.array_equal(seen[case], unseen[case]) for case in splits[1]["val"])


@pytest.mark.slow
def test_a_case_without_a_lesion_gets_the_training_shares(separable):
    features, truth, splits = separable
    predicted = fit_and_predict(features | {"empty": None}, truth, splits[0]["train"], ["empty"], CLASSES)
    assert predicted["empty"] == pytest.approx([1 / 3] * 3)


@pytest.mark.slow
def test_further_cases_that_share_names_with_training_cases_are_not_trained_on(separable):
    features, truth, splits = separable
    swapped = {case: np.array([6.0 - values[0], values[1]]) for case, values in features.items()}  # classes 0 and 2 exchanged
    predicted = fit_and_predict(features, truth, sorted(features), ["c0", "c2"], CLASSES, others=swapped)
    assert [predicted[case].argmax() for case in ("c0", "c2")] == [2, 0]


def test_a_true_class_that_is_none_is_named(folder, capsys):
    assert run(folder, "--classes", "0", "1") == 1
    message = capsys.readouterr().err
    assert "4 row(s) of another class" in message and "c02: '2' is none of 0, 1" in message


def test_too_few_training_cases_of_a_class_are_refused(separable):
    features, truth, _ = separable
    with pytest.raises(ValueError, match=r"have \[2, 2, 1\] training cases"):
        fit_and_predict(features, truth, ["c0", "c1", "c2", "c3", "c4"], ["c5"], CLASSES)
    with pytest.raises(ValueError, match=r"have \[0, 0, 0\] training cases"):
        fit_and_predict(features, truth, [], ["c5"], CLASSES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve tiny CTs, class 0 smooth, 1 noisy, 2 striped, with tables and two folds."""
    rng = np.random.default_rng(0)
    labels = np.zeros((14, 14, 14), np.uint8)
    labels[3:11, 3:11, 3:11] = 2
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(12):
        texture = (0.0, rng.normal(0, 40, labels.shape), np.indices(labels.shape)[0] % 4 // 2 * 60.0)[i % 3]
        for array, file in ((50 + texture + rng.normal(0, 2, labels.shape), f"images/c{i:02d}_0000.nii.gz"), (labels, f"masks/c{i:02d}.nii.gz")):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / file), True)
    cases = [f"c{i:02d}" for i in range(12)]
    (tmp_path / "subtypes.csv").write_text("case,subtype\n" + "".join(f"{c},{i % 3}\n" for i, c in enumerate(cases)))
    (tmp_path / "splits.json").write_text(str([{"train": cases[6:], "val": cases[:6]}, {"train": cases[:6], "val": cases[6:]}]).replace("'", '"'))
    return tmp_path


def run(folder: Path, *more: str) -> int:
    return status_of(main, ["--images", str(folder / "images"), "--masks", str(folder / "masks"), "--truth", str(folder / "subtypes.csv"),
                            "--splits", str(folder / "splits.json"), "--folds", "0", "1", "--out", str(folder / "out"), *more])


@pytest.mark.slow
def test_tables_have_the_networks_columns(folder):
    assert run(folder) == 0
    rows = list(csv.DictReader((folder / "out/subtype_probabilities.csv").open()))
    assert list(rows[0]) == ["Names", "p_0", "p_1", "p_2"] and [row["Names"] for row in rows] == [f"c{i:02d}.nii.gz" for i in range(12)]
    results = list(csv.DictReader((folder / "out/subtype_results.csv").open()))
    assert [row["Subtype"] for row in results] == ["0", "1", "2"] * 4


@pytest.mark.slow
def test_further_cases_are_predicted_with_all_training_cases(folder):
    assert run(folder, "--predict_images", str(folder / "images"), "--predict_masks", str(folder / "masks")) == 0
    assert len(list(csv.DictReader((folder / "out/test/subtype_results.csv").open()))) == 12


def test_all_missing_files_are_named(folder, capsys):
    (folder / "masks/c03.nii.gz").unlink()
    (folder / "images/c05_0000.nii.gz").unlink()
    assert run(folder) == 1
    message = capsys.readouterr().err
    assert "c03: no mask" in message and "c05_0000.nii.gz: does not exist" in message
