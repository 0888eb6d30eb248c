import csv
import json
import shutil

import numpy as np
import pytest

from evaluation import compute_metrics
from evaluation.case_pairs import find_masks
from evaluation.compute_metrics import main
from evaluation.tables import BANNER
from nnunetv2.utilities.errors import CasesFailed
from nnunetv2.utilities.folder_lock import prediction_lock
from nnunetv2.verification import _verify_metrics
from tests.evaluation.small_run import CASES, labels, save_image, status_of, table_options

FEW = ["--bootstrap", "50", "--jobs", "1"]


def score(folder, *extra: str) -> int:
    return status_of(main, ["--pred", str(folder / "prediction"), "--ref", str(folder / "reference"), "--out", str(folder / "out"), *FEW, *extra])


@pytest.fixture
def scored(run_folder, capsys):
    assert score(run_folder, *table_options(run_folder)) == 0
    return json.loads((run_folder / "out" / "metrics.json").read_text()), run_folder, capsys.readouterr().out


def test_means_over_all_cases(scored):
    metrics = scored[0]
    assert metrics["n_cases"] == 4
    assert metrics["whole_pancreas"]["dsc"]["mean"] == 1
    assert metrics["lesion"]["dsc"]["mean"] == 0.75  # one of four lesions missed: its 0 counts
    assert metrics["lesion"]["empty"]["missed"] == {"count": 1, "n": 4}


def test_distances_leave_the_missed_lesion_out_and_say_so(scored):
    assert scored[0]["lesion"]["hd95_mm"]["mean"] == 0 and scored[0]["lesion"]["hd95_mm"]["n"] == 3


def test_macro_f1_of_one_error(scored):
    assert scored[0]["subtype"]["macro_f1"] == pytest.approx(7 / 9)  # F1 2/3, 2/3 and 1
    assert scored[0]["subtype"]["confusion_matrix"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    low, high = scored[0]["subtype"]["macro_f1_ci"]
    assert low <= 7 / 9 <= high


def test_probabilities_beside_the_table_are_read(scored):
    expected = [0.3**2 + 0.2**2 + 0.1**2, 0.2**2 + 0.1**2 + 0.1**2, 0.5**2 + 0.7**2 + 0.2**2, 0.1**2 + 0.3**2 + 0.4**2]
    assert scored[0]["subtype"]["brier"] == pytest.approx(np.mean(expected))


def test_command_and_seed_stand_in_the_file(scored):
    assert scored[0]["command"].startswith("python evaluation/compute_metrics.py --pred") and scored[0]["seed"] == 0


@pytest.mark.slow
def test_true_masks_are_known_by_their_voxels_and_not_by_how_they_are_stored(run_folder):
    known = []
    for kind, moved in ((np.uint8, 0), (np.float32, 0), (np.uint8, 1)):
        save_image(np.roll(labels(), moved, 1).astype(kind), run_folder / "reference" / "quiz_0_001.nii.gz")
        assert score(run_folder) == 0
        metrics = json.loads((run_folder / "out" / "metrics.json").read_text())
        known.append(metrics["provenance"]["references"])
    assert list(known[0]) == CASES and known[0] == known[1] and [case for case in CASES if known[0][case] != known[2][case]] == ["quiz_0_001"]


def test_csv_has_one_row_a_case(scored):
    with open(scored[1] / "out" / "per_case.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == CASES
    assert rows[2]["lesion_dsc"] == "0.0" and rows[2]["lesion_hd95_mm"] == "" and rows[2]["subtype_predicted"] == "0"


def test_real_data_carries_no_banner(scored):
    assert scored[0]["synthetic"] is False and BANNER not in scored[2]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["option", "marker"])
def test_synthetic_data_is_called_so(run_folder, capsys, by):
    if by == "marker":
        (run_folder / "reference" / "SYNTHETIC.txt").touch()
    assert score(run_folder, *(["--synthetic"] if by == "option" else [])) == 0
    assert BANNER in capsys.readouterr().out
    assert json.loads((run_folder / "out" / "metrics.json").read_text())["synthetic"] is True


def test_all_missing_cases_are_named_and_nothing_is_written(run_folder, capsys):
    (run_folder / "prediction" / "quiz_0_001.nii.gz").unlink()
    (run_folder / "prediction" / "quiz_2_004.nii.gz").unlink()
    assert score(run_folder) == 1
    message = capsys.readouterr().err
    assert "quiz_0_001" in message and "quiz_2_004" in message and "quiz_1_002" not in message
    assert not (run_folder / "out" / "metrics.json").exists()


def test_allowed_missing_cases_score_as_empty(run_folder):
    (run_folder / "prediction" / "quiz_0_001.nii.gz").unlink()
    rows = (run_folder / "prediction" / "subtype_results.csv").read_text()
    (run_folder / "prediction" / "subtype_results.csv").write_text(rows.replace("quiz_0_001.nii.gz,0\n", ""))
    assert score(run_folder, *table_options(run_folder), "--allow-missing") == 0
    metrics = json.loads((run_folder / "out" / "metrics.json").read_text())
    assert metrics["missing_predictions"] == ["quiz_0_001"] and metrics["n_cases"] == 4
    assert metrics["whole_pancreas"]["dsc"]["mean"] == 0.75
    assert metrics["subtype"]["not_predicted"] == 1 and metrics["subtype"]["per_class"]["0"]["recall"] == 0


def test_a_shifted_grid_and_a_wrong_label_are_listed_together(run_folder, capsys):
    mask = np.ones((6, 8, 8), np.uint8)
    save_image(mask, run_folder / "prediction" / "quiz_0_001.nii.gz", origin=(0, 0, 1))
    save_image(mask * 3, run_folder / "prediction" / "quiz_1_002.nii.gz")
    save_image(mask[:5], run_folder / "prediction" / "quiz_2_004.nii.gz")
    assert score(run_folder) == 1
    message = capsys.readouterr().err
    assert "quiz_0_001.nii.gz lies up to 1 mm off" in message
    assert "quiz_1_002.nii.gz holds 3, labels must be" in message
    assert "quiz_2_004.nii.gz has (z, y, x) = (5, 8, 8)" in message


def test_exchanged_spacing_axes_are_refused(run_folder, capsys):
    save_image(np.ones((6, 8, 8), np.uint8), run_folder / "prediction" / "quiz_0_001.nii.gz", spacing=(1.0, 1.0, 2.0))
    assert score(run_folder) == 1 and "spacing (2.0, 1.0, 1.0)" in capsys.readouterr().err


def test_spacing_is_read_in_array_order(run_folder):
    """Lesion shifted by one slice of 2 mm: its surfaces lie 2 mm apart there, and 1 mm would mean a swapped axis."""
    for case in CASES:
        for folder, z in (("reference", 2), ("prediction", 3)):
            mask = np.zeros((6, 8, 8), np.uint8)
            mask[z, 4, 4] = 2
            save_image(mask, run_folder / folder / f"{case}.nii.gz")
    assert score(run_folder) == 0
    assert json.loads((run_folder / "out" / "metrics.json").read_text())["lesion"]["hd95_mm"]["mean"] == pytest.approx(2)


def test_float_masks_a_hair_off_their_label_are_snapped(run_folder):
    mask = np.zeros((6, 8, 8), np.float64)
    mask[1:5, 2:6, 1:4], mask[1:5, 2:6, 4:7] = 1.0000152587890625, 2
    save_image(mask, run_folder / "reference" / "quiz_0_001.nii.gz")
    assert score(run_folder) == 0
    assert json.loads((run_folder / "out" / "metrics.json").read_text())["cases"][0]["normal_pancreas_dsc"] == 1


def test_a_label_of_one_and_a_half_is_refused(run_folder, capsys):
    save_image(np.full((6, 8, 8), 1.5), run_folder / "reference" / "quiz_0_001.nii.gz")
    assert score(run_folder) == 1 and "holds values that are no labels: 1.5" in capsys.readouterr().err


def test_an_unreadable_file_is_named(run_folder, capsys):
    (run_folder / "prediction" / "quiz_0_001.nii.gz").write_bytes(b"not a gzip")
    assert score(run_folder) == 1 and "quiz_0_001.nii.gz is no NIfTI-1 file" in capsys.readouterr().err


def test_a_truncated_file_is_not_read_as_background(run_folder, capsys):
    path = save_image(np.random.default_rng(0).integers(0, 3, (6, 64, 64)).astype(np.uint8), run_folder / "prediction" / "quiz_0_001.nii.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    assert score(run_folder) == 1 and "quiz_0_001.nii.gz is damaged" in capsys.readouterr().err


def test_images_beside_their_masks_are_not_masks(run_folder):
    reference = run_folder / "reference"
    for path in list(reference.glob("*.nii.gz")):  # the quiz's layout: sub-folders with image and mask side by side
        (reference / "subtype0").mkdir(exist_ok=True)
        path.rename(reference / "subtype0" / path.name)
        save_image(np.full((6, 8, 8), 77, np.int16), reference / "subtype0" / path.name.replace(".nii.gz", "_0000.nii.gz"))
    assert score(run_folder) == 0


NAMED_LIKE_IMAGES = ["p", "p_0000", "p_0001", "p_2021", "q"]


def cases_scored(folder, reference: list[str], prediction: list[str], images: tuple[str, ...] = (), kind: type = np.uint8, *extra: str) -> list[str]:
    """Cases scored of masks in both folders, with images (int16, 77) beside those of the reference."""
    for part, names in (("reference", reference), ("prediction", prediction)):
        shutil.rmtree(folder / part, ignore_errors=True)
        for name in names:
            save_image(np.ones((2, 2, 2), kind), folder / part / f"{name}.nii.gz")
    for name in images:
        save_image(np.full((2, 2, 2), 77, np.int16), folder / "reference" / f"{name}.nii.gz")
    assert score(folder, "--bootstrap", "5", *extra) == 0
    return [row["case"] for row in json.loads((folder / "out" / "metrics.json").read_text())["cases"]]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_cases_that_are_named_like_images_are_scored(tmp_path, kind):
    assert cases_scored(tmp_path, NAMED_LIKE_IMAGES, NAMED_LIKE_IMAGES, (), kind) == NAMED_LIKE_IMAGES


def test_images_beside_masks_and_cases_named_like_images_are_told_apart(tmp_path):
    masks = ["p", "p_2021"]
    assert cases_scored(tmp_path, masks, masks, ("p_0000", "p_0001", "p_2021_0000")) == masks


def test_a_mask_in_one_folder_is_no_image_in_the_other(tmp_path):
    """Alone in the prediction p_0000 must be a mask, and the reference has it too."""
    assert cases_scored(tmp_path, ["p", "p_0000"], ["p_0000"], (), np.int16, "--allow-missing") == ["p", "p_0000"]


def test_a_missing_prediction_of_a_case_named_like_an_image_is_named(tmp_path, capsys):
    with pytest.raises(AssertionError):
        cases_scored(tmp_path, ["p", "p_0000"], ["p"])
    assert "p_0000: no prediction" in capsys.readouterr().err


@pytest.mark.parametrize("files, found", [
    (["p", "p_2021", "q"], ["p", "p_2021", "q"]), (["p", "p_0000", "p_0001"], ["p"]), (["p", "p_0000", "p_0002"], ["p", "p_0002"]), (["p_0000"], ["p_0000"]),
])
def test_only_numbers_from_0_without_a_gap_are_an_images_channels(tmp_path, files, found):
    for name in files:
        (tmp_path / f"{name}.nii.gz").touch()
    assert sorted(find_masks(tmp_path)) == found
    assert sorted(find_masks(tmp_path, files)) == files


def test_only_the_validation_cases_of_a_fold_are_scored(run_folder):
    (run_folder / "splits.json").write_text(json.dumps([{"train": ["quiz_2_004"], "val": ["quiz_1_003", "quiz_0_001"]}]))
    assert score(run_folder, "--splits", str(run_folder / "splits.json")) == 0
    assert [row["case"] for row in json.loads((run_folder / "out" / "metrics.json").read_text())["cases"]] == ["quiz_0_001", "quiz_1_003"]


def test_what_a_killed_process_left_half_written_is_no_mask(tmp_path):
    for name in ("case_1.nii.gz", f".case_1.{'0a' * 16}.nii.gz"):
        (tmp_path / name).touch()
    assert find_masks(tmp_path) == {"case_1": tmp_path / "case_1.nii.gz"}


@pytest.mark.slow
def test_cases_that_the_model_was_trained_on_are_refused_unless_asked_for(run_folder, capsys):
    made_with = {"model": {"checkpoints": {}, "trained_on": ["quiz_1_002", "quiz_9_999"]}, "settings": {}}
    (run_folder / "prediction" / "manifest.json").write_text(json.dumps({"format": 1, "made_with": made_with, "cases": {}}))
    assert score(run_folder) == 1
    text = capsys.readouterr().err
    assert "quiz_1_002: the model that predicted it was trained on it" in text and "quiz_0_001" not in text
    assert score(run_folder, "--allow-training-cases") == 0


def test_a_killed_worker_ends_in_its_cases_name_and_status_1(run_folder, capsys, monkeypatch):
    def killed(function, jobs, processes, description):
        raise CasesFailed("Scoring: 1 of 4 cases failed.\nquiz_0_001: its worker process was killed")

    monkeypatch.setattr(compute_metrics, "in_processes", killed)
    assert score(run_folder, "--jobs", "2") == 1
    assert "quiz_0_001: its worker process was killed" in capsys.readouterr().err
    assert not (run_folder / "out" / "metrics.json").exists()


def test_scores_fit_their_masks_until_a_mask_changes(scored):
    folder = scored[1]
    assert not _verify_metrics(folder / "out" / "metrics.json").misfits
    save_image(labels(lesion=False), folder / "prediction" / "quiz_0_001.nii.gz")
    assert "score them again" in _verify_metrics(folder / "out" / "metrics.json").misfits[0]


@pytest.mark.slow
@pytest.mark.parametrize("synthetic", [True, False])
def test_a_dataset_json_says_whether_the_data_are_made_up(run_folder, synthetic):
    """Of links to its masks no folder above tells."""
    (run_folder / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "pancreas": 1, "lesion": 2}, "file_ending": ".nii.gz", "synthetic": synthetic}))
    assert score(run_folder, "--dataset", str(run_folder / "dataset.json")) == 0
    assert json.loads((run_folder / "out" / "metrics.json").read_text())["synthetic"] is synthetic


@pytest.mark.parametrize("options", [[], ["--classes", "0", "1", "1"]])
def test_fewer_than_two_classes_or_one_given_twice_are_refused(run_folder, capsys, options):
    """Nothing could read such results."""
    (run_folder / "truth.csv").write_text("case,subtype\n" + "".join(f"{case},0\n" for case in CASES))
    assert score(run_folder, *table_options(run_folder), *options) == 1
    assert "are not two or more different ones" in capsys.readouterr().err and not (run_folder / "out").exists()


def test_masks_that_are_scored_against_themselves_are_named(run_folder, capsys):
    link = run_folder / "prediction" / "quiz_0_001.nii.gz"
    link.unlink()
    link.symlink_to(run_folder / "reference" / link.name)
    assert score(run_folder) == 0
    message = capsys.readouterr().err
    assert "1 prediction(s) are their reference itself" in message and "quiz_0_001" in message and "quiz_1_002" not in message


def test_predictions_without_a_reference_are_counted(run_folder, capsys):
    (run_folder / "reference" / "quiz_0_001.nii.gz").unlink()
    assert score(run_folder) == 0
    assert "1 prediction(s) have no reference" in capsys.readouterr().err


def test_scores_of_masks_that_a_run_is_writing_are_warned_of(run_folder, capsys):
    with prediction_lock(run_folder / "prediction"):
        assert score(run_folder) == 0
    assert "warning: a run is writing masks into " in capsys.readouterr().err
