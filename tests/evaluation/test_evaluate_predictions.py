import math

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.evaluation.evaluate_predictions import (
    compute_metrics,
    compute_metrics_on_folder,
    compute_metrics_on_folder_simple,
    key_to_label_or_region,
    label_or_region_to_key,
    load_summary_json,
    overlap_metrics,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.folder_lock import prediction_lock

GEOMETRY = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}}
REF = np.array([0, 1, 1, 2, 2, 0])
PRED = np.array([0, 1, 2, 2, 0, 1])


def write(folder, **masks):
    for name, values in masks.items():
        SimpleITKIO().write_seg(np.reshape(values, (1, 1, -1)), folder / f"{name}.nii.gz", GEOMETRY)
    return folder


def test_two_files_are_compared_by_their_names(tmp_path):
    write(tmp_path, ref=REF, pred=PRED)
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("ref", "pred")]
    found = compute_metrics(*files, SimpleITKIO(), [1, (1, 2)], None)
    assert found == {"reference_file": files[0], "prediction_file": files[1], "metrics": overlap_metrics(REF, PRED, [1, (1, 2)])}


@pytest.fixture
def folders(tmp_path):
    return write(tmp_path / "ref", a=REF, b=[0, 1, 0, 0, 0, 0]), write(tmp_path / "pred", a=PRED, b=[0, 1, 0, 0, 0, 0])


def test_counts_of_a_label():
    assert overlap_metrics(REF, PRED, [1])[1] == {"Dice": 0.5, "IoU": 1 / 3, "TP": 1, "FP": 1, "FN": 1, "TN": 3, "n_pred": 2, "n_ref": 2}


def test_a_region_is_the_union_of_its_labels():
    assert overlap_metrics(REF, PRED, [(1, 2)])[1, 2]["TP"] == 3


def test_ignored_voxels_count_nowhere():
    metrics = overlap_metrics(np.array([1, 3, 3, 0]), np.array([1, 1, 0, 0]), [1], ignore_label=3)[1]
    assert (metrics["TP"], metrics["FP"], metrics["TN"]) == (1, 0, 1)


def test_other_labels_count_as_not_the_label():
    assert overlap_metrics(np.array([9, 1]), np.array([1, 9]), [1])[1]["TP"] == 0


def test_label_absent_on_both_sides_has_no_dice():
    metrics = overlap_metrics(REF, PRED, [5])[5]
    assert math.isnan(metrics["Dice"]) and math.isnan(metrics["IoU"]) and metrics["TN"] == 6


def test_label_absent_on_one_side_has_dice_zero():
    assert overlap_metrics(REF, REF * 0, [2])[2]["Dice"] == 0


def test_mean_leaves_out_cases_without_the_label(folders):
    summary = compute_metrics_on_folder(*folders, None, SimpleITKIO(), ".nii.gz", [1, 2])
    assert summary["mean"][1]["Dice"] == 0.75 and summary["mean"][2]["Dice"] == 0.5 and summary["mean"][2]["TP"] == 0.5


def test_foreground_mean_leaves_out_label_0(folders):
    summary = compute_metrics_on_folder(*folders, None, SimpleITKIO(), ".nii.gz", [0, 1, 2])
    assert summary["foreground_mean"]["Dice"] == (0.75 + 0.5) / 2


def test_label_in_no_case_makes_the_foreground_mean_nan(folders):
    summary = compute_metrics_on_folder(*folders, None, SimpleITKIO(), ".nii.gz", [1, 7])
    assert math.isnan(summary["foreground_mean"]["Dice"])


def test_summary_is_read_back_as_it_was(folders, tmp_path):
    summary = compute_metrics_on_folder(*folders, tmp_path / "summary.json", SimpleITKIO(), ".nii.gz", [1, (1, 2)])
    assert load_summary_json(tmp_path / "summary.json") == summary


def test_missing_predictions_are_listed_together(folders):
    write(folders[0], c=REF, d=REF)
    with pytest.raises(FileNotFoundError, match="c.nii.gz, d.nii.gz"):
        compute_metrics_on_folder_simple(*folders, [1])


def test_chill_leaves_missing_predictions_out(folders):
    write(folders[0], c=REF)
    assert len(compute_metrics_on_folder_simple(*folders, [1], chill=True)["metric_per_case"]) == 2


def test_what_scores_a_folder_by_its_labels_leaves_them_out_unasked_as_upstreams_does(folders):
    write(folders[0], c=REF)
    assert len(compute_metrics_on_folder(*folders, None, SimpleITKIO(), ".nii.gz", [1])["metric_per_case"]) == 2


def test_predictions_without_reference_are_listed_together(folders):
    write(folders[1], x=REF, y=REF)
    with pytest.raises(FileNotFoundError, match="x.nii.gz, y.nii.gz"):
        compute_metrics_on_folder_simple(*folders, [1], chill=True)


def test_shapes_that_differ_are_named(folders):
    write(folders[1], b=[0, 1])
    with pytest.raises(RuntimeError, match=r"b.nii.gz has \(z, y, x\) = \(1, 1, 2\) voxels, must have \(1, 1, 6\)"):
        compute_metrics_on_folder_simple(*folders, [1])


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"origin": (0.0, 0.0, 5.0)}, {"direction": (-1.0, 0, 0, 0, 1, 0, 0, 0, 1)}, {"spacing": (1.0, 1.0, 2.0)}])
def test_masks_on_another_grid_are_all_named_and_nothing_is_written(folders, change):
    for name in ("a", "b"):
        for folder, geometry in ((folders[0], {}), (folders[1], change)):
            SimpleITKIO().write_seg(np.zeros((3, 1, 6), np.uint8), folder / f"{name}.nii.gz", {"sitk_stuff": GEOMETRY["sitk_stuff"] | geometry})
    with pytest.raises(RuntimeError, match=r"(?s)pred/a\.nii\.gz lies up to.*pred/b\.nii\.gz lies up to"):
        compute_metrics_on_folder_simple(*folders, [1])
    assert not (folders[1] / "summary.json").exists()


def test_fractions_in_a_mask_are_named(folders):
    sitk.WriteImage(sitk.GetImageFromArray(np.reshape([0.5, 1, 1, 0, 0, 2], (1, 1, 6))), str(folders[1] / "b.nii.gz"))
    with pytest.raises(RuntimeError, match=r"b.nii.gz holds values that are no labels: 0.5"):
        compute_metrics_on_folder_simple(*folders, [1])


def test_labels_that_the_data_set_does_not_know_are_named(folders):
    with pytest.raises(RuntimeError, match=r"holds label\(s\) 2, dataset.json declares \[0, 1\]"):
        compute_metrics_on_folder(*folders, None, SimpleITKIO(), ".nii.gz", [1], known_labels=[0, 1])


def test_damaged_reference_is_named(folders):
    path = folders[0] / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RuntimeError, match=r"a\.nii\.gz is damaged"):
        compute_metrics_on_folder_simple(*folders, [1])


def test_empty_prediction_folder_is_an_error(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no file"):
        compute_metrics_on_folder_simple(folders[0], tmp_path / "empty", [1])


@pytest.mark.parametrize("entry", [3, (1, 2), (4,)])
def test_keys_stand_for_labels_and_regions(entry):
    assert key_to_label_or_region(label_or_region_to_key(entry)) == entry


def test_a_tiff_volume_that_says_nothing_of_its_spacing_is_compared_by_its_shape(tmp_path):
    for name, mask in (("ref", REF), ("pred", PRED)):
        Tiff3DIO().write_seg(np.reshape(mask, (1, 2, 3)).astype(np.uint8), tmp_path / f"{name}.tif", {"spacing": [3.0, 0.5, 0.5]})
    files = [str(tmp_path / f"{name}.tif") for name in ("ref", "pred")]
    expected = compute_metrics(*files, Tiff3DIO(), [1, 2])
    (tmp_path / "ref.json").write_text('{"spacing": [3, 0.5, 0.8]}')
    with pytest.raises(InputError, match="mm off"):
        compute_metrics(*files, Tiff3DIO(), [1, 2])
    (tmp_path / "ref.json").unlink()
    assert compute_metrics(*files, Tiff3DIO(), [1, 2]) == expected
    Tiff3DIO().write_seg(np.zeros((1, 3, 2), np.uint8), tmp_path / "pred.tif", {"spacing": [3.0, 0.5, 0.5]})
    with pytest.raises(InputError, match="voxels, must have"):
        compute_metrics(*files, Tiff3DIO(), [1, 2])


def test_of_very_many_missing_predictions_a_hundred_are_named(tmp_path):
    ref, pred = write(tmp_path / "ref", a=REF), write(tmp_path / "pred", a=PRED)
    for number in range(130):
        (ref / f"b{number:03d}.nii.gz").touch()
    with pytest.raises(FileNotFoundError, match="lacks 130 predictions: b000.nii.gz, .*, b099.nii.gz and 30 more. Predict them"):
        compute_metrics_on_folder(ref, pred, None, SimpleITKIO(), ".nii.gz", [1], chill=False)


def test_scores_of_masks_that_a_run_is_writing_are_warned_of(folders):
    with prediction_lock(folders[1]), pytest.warns(UserWarning, match="A run is writing masks into .*pred; scores may mix"):
        compute_metrics_on_folder(*folders, None, SimpleITKIO(), ".nii.gz", [1])
