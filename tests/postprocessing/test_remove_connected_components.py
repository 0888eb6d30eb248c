import pickle
import shutil

import numpy as np
import pytest

from nnunetv2.evaluation.evaluate_predictions import load_summary_json, overlap_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    apply_postprocessing_to_folder,
    determine_postprocessing,
    largest_component,
    load_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.folder_lock import FolderBusy, prediction_lock
from nnunetv2.utilities.prediction_manifest import trained_on
from nnunetv2.verification import verify

GEOMETRY = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}}
PLANS = {"plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO", "configurations": {}}
DATASET = {"labels": {"background": 0, "organ": 1, "lesion": 2}, "file_ending": ".nii.gz"}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "lesion": [2]}, "regions_class_order": [1, 2], "file_ending": ".nii.gz"}


def line(*values):
    return np.reshape(values, (1, 1, -1))


def removed(values, step):
    return remove_all_but_largest_component_from_segmentation(line(*values), step).ravel().tolist()


def test_smaller_component_becomes_background():
    assert removed([1, 1, 0, 1], 1) == [1, 1, 0, 0]


def test_other_labels_stay():
    assert removed([1, 1, 2, 1], 1) == [1, 1, 2, 0]


def test_a_list_of_labels_is_taken_together():
    assert removed([1, 2, 0, 2], [1, 2]) == [1, 2, 0, 0]


def test_a_region_is_taken_together():
    assert removed([1, 2, 0, 2], (1, 2)) == [1, 2, 0, 0]


def test_equally_large_components_all_stay():
    assert removed([1, 0, 1], 1) == [1, 0, 1]


def test_functions_with_their_keywords_are_applied_one_after_the_other():
    function = remove_all_but_largest_component_from_segmentation
    found = apply_postprocessing(line(1, 1, 0, 1, 2), [function, function], [{"labels_or_regions": 1}, {"labels_or_regions": 2, "background_label": 7}])
    assert found.ravel().tolist() == [1, 1, 0, 0, 2]


def test_without_the_label_nothing_changes():
    assert removed([0, 2], 1) == [0, 2]


def test_corner_neighbours_belong_together():
    mask = np.zeros((2, 2, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert np.array_equal(largest_component(mask), mask)


@pytest.fixture
def folders(tmp_path):
    def write(name, *cases):
        for i, values in enumerate(cases):
            SimpleITKIO().write_seg(line(*values), tmp_path / name / f"case{i}.nii.gz", GEOMETRY)
        return tmp_path / name
    return write


def steps(functions, keywords):
    assert functions == [remove_all_but_largest_component_from_segmentation] * len(keywords)
    return [given["labels_or_regions"] for given in keywords]


def test_foreground_step_is_adopted_when_every_label_gains(folders):
    ref = folders("ref", [1, 1, 2, 2, 0, 0, 0, 0])
    pred = folders("pred", [1, 1, 2, 2, 0, 0, 1, 2])
    assert steps(*determine_postprocessing(pred, ref, PLANS, DATASET)) == [[1, 2]]


def test_foreground_step_is_refused_when_a_label_loses(folders):
    """Only the organ's far piece is wrong; removing both would cost the lesion, so the organ is treated alone."""
    ref = folders("ref", [1, 1, 0, 0, 0, 2, 0])
    pred = folders("pred", [1, 1, 0, 1, 0, 2, 0])
    assert steps(*determine_postprocessing(pred, ref, PLANS, DATASET)) == [1]


def test_nothing_is_adopted_without_gain(folders):
    ref = folders("ref", [1, 0, 1, 2])
    assert steps(*determine_postprocessing(folders("pred", [1, 0, 1, 2]), ref, PLANS, DATASET)) == []


def test_regions_are_tried_as_regions(folders):
    ref = folders("ref", [1, 2, 2, 0, 0, 0])
    assert steps(*determine_postprocessing(folders("pred", [1, 2, 2, 0, 0, 2]), ref, PLANS, REGIONS)) == [[1, 2]]


def test_a_step_that_is_not_adopted_is_scored_by_its_own_label_alone(folders, monkeypatch):
    """With a hundred labels, all of them for each of them would take hours."""
    scored = []

    def counted(reference, prediction, labels_or_regions, ignore_label):
        scored.append(list(labels_or_regions))
        return overlap_metrics(reference, prediction, labels_or_regions, ignore_label)

    monkeypatch.setattr("nnunetv2.postprocessing.remove_connected_components.overlap_metrics", counted)
    pred, ref = folders("pred", [1, 1, 0, 1, 0, 2, 0]), folders("ref", [1, 1, 0, 0, 0, 2, 0])
    determine_postprocessing(pred, ref, PLANS, DATASET, 1, keep_postprocessed_files=False)
    assert scored == [[1, 2], [1, 2], [1], [1, 2], [2]]
    assert load_json(pred / "postprocessing.json")["postprocessed"]["mean"]["1"]["Dice"] == 1


def test_decision_files_hold_what_was_decided(folders):
    ref = folders("ref", [1, 1, 2, 2, 0, 0, 0, 0])
    pred = folders("pred", [1, 1, 2, 2, 0, 0, 1, 2])
    determine_postprocessing(pred, ref, PLANS, DATASET)
    stored = load_json(pred / "postprocessing.json")
    assert stored["postprocessing_kwargs"] == [{"labels_or_regions": [1, 2]}]
    assert stored["input_folder"]["mean"]["1"]["Dice"] == pytest.approx(0.8) and stored["postprocessed"]["mean"]["1"]["Dice"] == 1
    assert load_summary_json(pred / "postprocessed" / "summary.json")["foreground_mean"]["Dice"] == 1
    assert load_summary_json(pred / "summary.json")["foreground_mean"]["Dice"] == pytest.approx(0.8)


def test_postprocessed_files_can_be_dropped(folders):
    pred = folders("pred", [1, 0])
    determine_postprocessing(pred, folders("ref", [1, 0]), PLANS, DATASET, keep_postprocessed_files=False)
    assert not (pred / "postprocessed").exists()


def test_decision_is_applied_to_a_folder(folders, tmp_path):
    pred = folders("pred", [1, 1, 2, 2, 0, 0, 1, 2])
    determine_postprocessing(pred, folders("ref", [1, 1, 2, 2, 0, 0, 0, 0]), PLANS, DATASET)
    apply_postprocessing_to_folder(pred, tmp_path / "out", pred / "postprocessing.json", None, PLANS, DATASET)
    assert SimpleITKIO().read_seg(tmp_path / "out" / "case0.nii.gz")[0].ravel().tolist() == [1, 1, 2, 2, 0, 0, 0, 0]


def without(segmentation, label):
    return segmentation * (segmentation != label)


def test_functions_are_applied_to_a_folder_as_upstreams_are(folders, tmp_path):
    pred = folders("pred", [1, 1, 2, 2, 0, 0, 1, 2])
    functions, keywords = determine_postprocessing(pred, folders("ref", [1, 1, 2, 2, 0, 0, 0, 0]), PLANS, DATASET)
    apply_postprocessing_to_folder(pred, tmp_path / "out", [*functions, without], [*keywords, {"label": 2}], PLANS, DATASET, 1)
    assert SimpleITKIO().read_seg(tmp_path / "out" / "case0.nii.gz")[0].ravel().tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    for given in ((pred / "postprocessing.json", keywords), (functions, None)):
        with pytest.raises(ValueError, match="give the file alone, or pp_fns and pp_fn_kwargs"):
            apply_postprocessing_to_folder(pred, tmp_path / "again", *given, PLANS, DATASET)


def test_tables_of_classes_come_along(decided, tmp_path):
    task = {"name": "subtype", "classes": ["a", "b"], "labels": "subtypes.csv"}
    tables = {"subtype_probabilities.csv": "Names,p_a,p_b,lesion_found\ncase0.nii.gz,0.250000,0.750000,1\n", "subtype_results.csv": "Names,Subtype\ncase0.nii.gz,b\n"}
    for name, text in tables.items():
        (decided / name).write_text(text)
    apply_postprocessing_to_folder(decided, tmp_path / "out", decided / "postprocessing.json", None, PLANS, DATASET | {"classification": task})
    assert {name: (tmp_path / "out" / name).read_text() for name in tables} == tables


def test_upstreams_pickle_is_understood(tmp_path):
    function = remove_all_but_largest_component_from_segmentation
    (tmp_path / "postprocessing.pkl").write_bytes(pickle.dumps(([function], [{"labels_or_regions": (1, 2)}])))
    assert load_postprocessing(tmp_path / "postprocessing.pkl") == [(1, 2)]


def test_a_pickle_that_is_not_there_is_the_json_beside_it(tmp_path):
    content = {"input_folder": {}, "postprocessed": {}, "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
               "postprocessing_kwargs": [{"labels_or_regions": 1}]}
    save_json(content, tmp_path / "postprocessing.json")
    assert load_postprocessing(tmp_path / "postprocessing.pkl") == [1]


def test_pickle_with_another_function_is_refused(tmp_path):
    (tmp_path / "postprocessing.pkl").write_bytes(pickle.dumps(([shutil.rmtree], [{}])))
    with pytest.raises(ValueError, match="rmtree"):
        load_postprocessing(tmp_path / "postprocessing.pkl")


def test_missing_plans_are_named_with_the_flag(folders):
    with pytest.raises(FileNotFoundError, match="-plans_json"):
        determine_postprocessing(folders("pred", [1]), folders("ref", [1]))


@pytest.fixture
def decided(folders):
    pred = folders("pred", [1, 1, 2, 2, 0, 0, 1, 2])
    determine_postprocessing(pred, folders("ref", [1, 1, 2, 2, 0, 0, 0, 0]), PLANS, DATASET)
    return pred


@pytest.mark.parametrize("output", ["", "../pred"])
def test_masks_are_not_post_processed_in_place(decided, output):
    before = (decided / "case0.nii.gz").read_bytes()
    with pytest.raises(InputError, match="Name an output folder apart from the inputs"):
        apply_postprocessing_to_folder(decided, decided / output, decided / "postprocessing.json", None, PLANS, DATASET)
    assert (decided / "case0.nii.gz").read_bytes() == before


def test_post_processed_masks_know_what_their_model_was_trained_on(decided, tmp_path):
    made_with = {"model": {"checkpoints": {"x.pth": "x"}, "trained_on": ["case0"]}, "settings": {}}
    save_json({"format": 1, "made_with": made_with, "cases": {}}, decided / "manifest.json")
    apply_postprocessing_to_folder(decided, tmp_path / "out", decided / "postprocessing.json", None, PLANS, DATASET)
    assert trained_on(tmp_path / "out", ["case0"]) == ["case0"] and not verify(tmp_path / "out").misfits


def test_a_folder_of_post_processed_masks_is_made_anew(decided, folders, tmp_path):
    (decided / "case0.nii.gz").rename(decided / "case1.nii.gz")
    (tmp_path / "ref" / "case0.nii.gz").rename(tmp_path / "ref" / "case1.nii.gz")
    determine_postprocessing(decided, tmp_path / "ref", PLANS, DATASET)
    assert sorted(path.name for path in (decided / "postprocessed").iterdir()) == ["case1.nii.gz", "manifest.json", "summary.json"]


def test_somebody_elses_files_among_post_processed_masks_stay(decided, tmp_path):
    (decided / "postprocessed" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="notes.txt"):
        determine_postprocessing(decided, tmp_path / "ref", PLANS, DATASET)
    assert (decided / "postprocessed" / "notes.txt").read_text() == "mine"


def test_references_in_the_folder_that_is_made_anew_are_refused(decided):
    with pytest.raises(InputError, match="which is read"):
        determine_postprocessing(decided, decided / "postprocessed", PLANS, DATASET)
    assert (decided / "postprocessed" / "case0.nii.gz").is_file()


def test_masks_that_a_run_is_writing_are_not_post_processed(decided, folders, tmp_path):
    with prediction_lock(decided):
        with pytest.raises(FolderBusy, match="cases are predicted"):
            determine_postprocessing(decided, folders("ref", [1, 1, 2, 2, 0, 0, 0, 0]), PLANS, DATASET)
        with pytest.raises(FolderBusy, match="cases are predicted"):
            apply_postprocessing_to_folder(decided, tmp_path / "out", decided / "postprocessing.json", PLANS, DATASET)
    assert not (tmp_path / "out").exists()
