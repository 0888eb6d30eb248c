"""Accumulation of folds, ensembles of models, choice of the best: two models, two folds, two one-row cases a fold."""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest

from nnunetv2.cli import results
from nnunetv2.ensembling.ensemble import ensemble_crossvalidations, ensemble_folders
from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from nnunetv2.evaluation.find_best_configuration import find_best_configuration, inference_instructions
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing
from nnunetv2.preprocessing.safe_pickle import save_pickle
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.folder_lock import FolderBusy, folder_lock, prediction_lock
from nnunetv2.utilities.prediction_manifest import trained_on
from nnunetv2.verification import verify

GEOMETRY = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}}
DATASET = {"labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz", "channel_names": {"0": "CT"},
           "classification": {"name": "subtype", "classes": ["x", "y"], "labels": "subtypes.csv"}}
ARCHITECTURE = {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []}
PLANS = {"dataset_name": "Dataset902_Cv", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
         "configurations": {name: {"architecture": ARCHITECTURE} for name in ("2d", "3d_fullres", "3d_lowres")}}
TRUTH = [0, 0, 1, 1, 1, 1]


def write_prediction(folder, case, foreground):
    """Mask and probabilities; `foreground` (X,) is the probability of label 1."""
    foreground = np.reshape(foreground, (1, 1, -1)).astype(np.float32)
    SimpleITKIO().write_seg((foreground > 0.5).astype(np.uint8), folder / f"{case}.nii.gz", GEOMETRY)
    np.savez_compressed(folder / f"{case}.npz", probabilities=np.stack([1 - foreground, foreground]))
    save_pickle(GEOMETRY, folder / f"{case}.pkl")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """2d finds the left half of the organ, 3d_fullres the right, each with a doubt that the other's certainty outvotes."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    name = "Dataset902_Cv"
    results, labels = tmp_path / "nnUNet_results" / name, tmp_path / "nnUNet_raw" / name / "labelsTr"
    save_json(PLANS, tmp_path / "nnUNet_preprocessed" / name / "nnUNetPlans.json")
    for configuration, probabilities in (("2d", [0, 0, 0.9, 0.9, 0.4, 0.4]), ("3d_fullres", [0, 0, 0.4, 0.4, 0.4, 0.9])):
        model = results / f"nnUNetTrainer__nnUNetPlans__{configuration}"
        for fold, case in ((0, "a"), (1, "b")):
            (model / f"fold_{fold}" / "validation").mkdir(parents=True)
            write_prediction(model / f"fold_{fold}" / "validation", case, probabilities)
            SimpleITKIO().write_seg(np.reshape(TRUTH, (1, 1, -1)), labels / f"{case}.nii.gz", GEOMETRY)
        save_json(PLANS, model / "plans.json")
        save_json(DATASET, model / "dataset.json")
    SimpleITKIO().write_seg(np.reshape(TRUTH, (1, 1, -1)), labels / "not_predicted.nii.gz", GEOMETRY)
    models = [path for path in sorted(results.iterdir())]
    return SimpleNamespace(results=results, models=models, merged=tmp_path / "merged")


def test_folds_are_scored_together(study):
    accumulate_cv_results(study.models[0], study.merged, (0, 1))
    summary = load_summary_json(study.merged / "summary.json")
    assert len(summary["metric_per_case"]) == 2 and summary["foreground_mean"]["Dice"] == pytest.approx(2 / 3)


def test_case_in_two_folds_is_named(study):
    write_prediction(study.models[0] / "fold_1" / "validation", "a", TRUTH)
    with pytest.raises(ValueError, match="a.nii.gz"):
        accumulate_cv_results(study.models[0], study.merged, (0, 1))


def test_untrained_folds_are_all_named(study):
    with pytest.raises(FileNotFoundError, match="2, 3"):
        accumulate_cv_results(study.models[0], study.merged, (0, 1, 2, 3))


def test_without_overwrite_the_summary_is_kept(study):
    accumulate_cv_results(study.models[0], study.merged, (0, 1))
    (study.merged / "summary.json").write_text("kept")
    accumulate_cv_results(study.models[0], study.merged, (0, 1), overwrite=False)
    assert (study.merged / "summary.json").read_text() == "kept"


def test_ensemble_of_folders_averages_probabilities(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    ensemble_folders(folders, study.merged, save_merged_probabilities=True, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)
    assert SimpleITKIO().read_seg(study.merged / "a.nii.gz")[0].ravel().tolist() == [0, 0, 1, 1, 0, 1]
    assert np.load(study.merged / "a.npz")["probabilities"][1].ravel() == pytest.approx([0, 0, 0.65, 0.65, 0.4, 0.65])


@pytest.mark.parametrize(("flags", "kept"), [([], False), (["-np", "2"], False), (["--save_npz"], True), (["--save_npz", "-np", "2"], True)])
def test_the_command_keeps_averaged_probabilities_where_asked_and_nowhere_else(study, flags, kept):
    folders = [model / "fold_0" / "validation" for model in study.models]
    for name, content in (("dataset.json", DATASET), ("plans.json", PLANS)):
        save_json(content, folders[0] / name)
    results.ensemble(["-i", *map(str, folders), "-o", str(study.merged), *flags])
    assert [(study.merged / name).exists() for name in ("a.nii.gz", "a.npz", "a.pkl")] == [True, kept, kept]


def test_ensemble_lists_the_cases_that_a_folder_lacks(study):
    first, second = (model / "fold_0" / "validation" for model in study.models)
    write_prediction(first, "c", TRUTH)
    with pytest.raises(FileNotFoundError, match=f"{second} lacks c"):
        ensemble_folders([first, second], study.merged, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)


@pytest.mark.slow
def test_class_tables_are_averaged(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    for folder, row in zip(folders, ("0.2,0.8", "0.7,0.3")):
        (folder / "subtype_probabilities.csv").write_text(f"Names,p_x,p_y\na.nii.gz,{row}\n")
    ensemble_folders(folders, study.merged, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)
    assert (study.merged / "subtype_results.csv").read_text().split() == ["Names,Subtype", "a.nii.gz,y"]
    assert (study.merged / "subtype_probabilities.csv").read_text().split() == ["Names,p_x,p_y,lesion_found", "a.nii.gz,0.450000,0.550000,unknown"]


def with_classes(folder, *rows, ending=".nii.gz"):
    (folder / "subtype_probabilities.csv").write_text("Names,p_x,p_y\n" + "".join(f"{case}{ending},{p}\n" for case, p in rows))


def classes_in(folder):
    """{case: probability of class y}, of masks that are there."""
    lines = (folder / "subtype_probabilities.csv").read_text().split()[1:]
    assert all((folder / line.split(",")[0]).is_file() for line in lines)
    return {line.split(".")[0]: float(line.split(",")[2]) for line in lines}


def test_gathered_validations_keep_their_classes_each_time(study):
    for fold, case, p in (("fold_0", "a", "0.2,0.8"), ("fold_1", "b", "0.7,0.3")):
        with_classes(study.models[0] / fold / "validation", (case, p))
    for folds, expected in (((0, 1), {"a": 0.8, "b": 0.3}), ((1,), {"b": 0.3})):
        accumulate_cv_results(study.models[0], study.merged, folds)
        assert classes_in(study.merged) == expected
    assert (study.merged / "subtype_results.csv").read_text().split() == ["Names,Subtype", "b.nii.gz,x"]


def test_postprocessed_masks_keep_their_classes_each_time(study):
    with_classes(study.models[0] / "fold_0" / "validation", ("a", "0.2,0.8"))
    accumulate_cv_results(study.models[0], study.merged, (0,))
    for _ in range(2):
        determine_postprocessing(study.merged, study.results.parents[1] / "nnUNet_raw" / "Dataset902_Cv" / "labelsTr")
        assert classes_in(study.merged / "postprocessed") == {"a": 0.8}
    accumulate_cv_results(study.models[0], study.merged, (0,))
    assert not (study.merged / "postprocessed").exists() or not list((study.merged / "postprocessed").iterdir())


def test_an_ensemble_of_crossvalidations_averages_classes(study):
    for model, p in zip(study.models, ("0.2,0.8", "0.7,0.3")):
        for fold, case in (("fold_0", "a"), ("fold_1", "b")):
            with_classes(model / fold / "validation", (case, p))
    ensemble_crossvalidations(study.models, study.merged, (0, 1))
    assert classes_in(study.merged) == {"a": 0.55, "b": 0.55}


@pytest.mark.parametrize("first", [0, 1])
def test_a_model_without_class_head_has_no_say_in_the_class(study, first):
    folders = [model / "fold_0" / "validation" for model in study.models]
    with_classes(folders[1], ("a", "0.2,0.8"))
    save_json({key: value for key, value in DATASET.items() if key != "classification"}, study.models[0] / "dataset.json")
    ensemble_crossvalidations([study.models[first], study.models[1 - first]], study.merged, (0,))
    assert classes_in(study.merged) == {"a": 0.8}
    assert load_json(study.merged / "dataset.json")["classification"] == DATASET["classification"]


def test_a_folder_given_twice_counts_twice(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    for folder, p in zip(folders, ("0.0,1.0", "0.9,0.1")):
        with_classes(folder, ("a", p))
    ensemble_folders([folders[0], folders[0], folders[1]], study.merged, True, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)
    assert np.load(study.merged / "a.npz")["probabilities"][1].ravel() == pytest.approx([0, 0, 2.2 / 3, 2.2 / 3, 0.4, 1.7 / 3])
    assert classes_in(study.merged) == {"a": 0.7}


def test_classes_of_masks_with_another_ending_are_averaged(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    with_classes(folders[0], ("a", "0.2,0.8"))
    with_classes(folders[1], ("a", "0.7,0.3"), ending=".mha")
    save_json(DATASET | {"file_ending": ".mha"}, study.models[1] / "dataset.json")
    ensemble_folders(folders, study.merged, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)
    assert classes_in(study.merged) == {"a": 0.55}


def test_nothing_is_written_where_classes_are_missing(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    with_classes(folders[0], ("a", "0.2,0.8"))
    save_json({"configurations": {"2d": {"architecture": ARCHITECTURE | {"class_head": {"n_classes": 2}}}}}, study.models[1] / "plans.json")
    with pytest.raises(FileNotFoundError, match=f"{folders[1]}/subtype_probabilities.csv lacks a.nii.gz"):
        ensemble_folders(folders, study.merged, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)
    assert not study.merged.exists()


def test_a_trainer_given_by_import_path_is_found_by_its_class(study, capsys):
    results.accumulate_crossval_results(["Dataset902_Cv", "-c", "2d", "-tr", "my.package:nnUNetTrainer", "-f", "0", "1"])
    assert (study.models[0] / "crossval_results_folds_0_1" / "summary.json").is_file()


@pytest.mark.slow
def test_a_trainer_given_by_import_path_can_be_the_best(study):
    results.find_best_configuration(["Dataset902_Cv", "-c", "2d", "-tr", "my.package:nnUNetTrainer", "-f", "0", "1"])
    assert "-tr my.package:nnUNetTrainer -c 2d" in (study.results / "inference_instructions.txt").read_text()


def test_models_without_probabilities_are_all_named(study):
    for model in study.models:
        (model / "fold_1" / "validation" / "b.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)--npz.*2d/fold_1.*3d_fullres/fold_1"):
        ensemble_crossvalidations(study.models, study.merged, (0, 1))


def models(*configurations):
    return [{"plans": "nnUNetPlans", "configuration": c, "trainer": "nnUNetTrainer"} for c in configurations]


@pytest.mark.slow
def test_the_better_ensemble_is_found_and_described(study):
    information = find_best_configuration("Dataset902_Cv", models("2d", "3d_fullres", "3d_lowres", "not_planned"), folds=(0, 1))
    best = information["best_model_or_ensemble"]
    assert [model["configuration"] for model in best["selected_model_or_models"]] == ["2d", "3d_fullres"]
    assert best["result_on_crossval_pre_pp"] == pytest.approx(6 / 7)
    assert load_json(study.results / "inference_information.json") == json.loads(json.dumps(information))
    instructions = (study.results / "inference_instructions.txt").read_text()
    assert instructions.count("--save_probabilities") == 2 and "nnUNetv2_ensemble -i OUTPUT_FOLDER_MODEL_1 OUTPUT_FOLDER_MODEL_2" in instructions


@pytest.mark.slow
def test_without_ensembling_the_better_single_model_wins(study):
    information = find_best_configuration("Dataset902_Cv", models("3d_fullres", "2d"), allow_ensembling=False, folds=(0, 1))
    assert information["best_model_or_ensemble"]["selected_model_or_models"][0]["configuration"] == "2d"
    assert "nnUNetv2_predict -d Dataset902_Cv -i INPUT_FOLDER -o OUTPUT_FOLDER -f 0 1 -tr nnUNetTrainer -c 2d -p nnUNetPlans\n" in \
        (study.results / "inference_instructions.txt").read_text()


def test_instructions_can_be_copied_where_a_path_holds_a_blank():
    best = {"selected_model_or_models": [], "postprocessing_file": "/my data/postprocessing.json", "some_plans_file": "/it's/plans.json"}
    command = inference_instructions({"best_model_or_ensemble": best, "folds": [0], "dataset_name_or_id": 1}).strip().splitlines()[-1]
    assert shlex.split(command)[-4:] == ["-pp_pkl_file", "/my data/postprocessing.json", "-plans_json", "/it's/plans.json"]


def test_strict_refuses_untrained_models(study):
    with pytest.raises(FileNotFoundError, match="3d_lowres"):
        find_best_configuration("Dataset902_Cv", models("2d", "3d_lowres"), folds=(0, 1), strict=True)


def with_split(study, *folds):
    save_json([{"train": ["other"], "val": list(val)} for val in folds], study.results.parents[1] / "nnUNet_preprocessed" / "Dataset902_Cv" / "splits_final.json")


def test_an_interrupted_validation_is_refused_with_its_cases(study):
    with_split(study, ["a", "a2"], ["b", "b2", "b3"])
    with pytest.raises(InputError, match="(?s)fold 0: 1 of 2 cases.*a2.*fold 1: 2 of 3 cases.*b2, b3.*--val"):
        accumulate_cv_results(study.models[0], study.merged, (0, 1))
    assert not study.merged.exists()


def test_a_complete_validation_is_taken(study):
    with_split(study, ["a"], ["b"])
    accumulate_cv_results(study.models[0], study.merged, (0, 1))
    assert (study.merged / "summary.json").is_file()


def test_training_cases_choose_nothing_unless_asked(study):
    with pytest.raises(InputError, match="trained on the very cases.*--by_training_cases"):
        find_best_configuration("Dataset902_Cv", folds=("all",))


@pytest.mark.slow
def test_scores_of_training_cases_say_so(study, capsys):
    for model in study.models:
        (model / "fold_0").rename(model / "fold_all")
    models = [{"plans": "nnUNetPlans", "configuration": name, "trainer": "nnUNetTrainer"} for name in ("2d", "3d_fullres")]
    information = find_best_configuration("Dataset902_Cv", models, allow_ensembling=False, folds=("all",), by_training_cases=True)
    assert "trained on the very cases" in information["scored_on"] and "trained on the very cases" in capsys.readouterr().out


def with_training(study, **training_cases):
    """fold_X/manifest.json of the first model: fold_0=["b"] and so on."""
    for fold, cases in training_cases.items():
        save_json({"format": 1, "training": {"split": {"train": cases, "val": []}, "dataset": {}, "plans": {}, "settings": {}, "class_labels": {}, "cases": {}}},
                  study.models[0] / fold / "manifest.json")


@pytest.mark.parametrize("output", ["", "fold_0", "fold_0/validation/merged", ".."])
def test_gathering_never_deletes_what_it_reads(study, output):
    before = sorted(study.results.rglob("*"))
    with pytest.raises(InputError, match="which is read"):
        accumulate_cv_results(study.models[0], study.models[0] / output, (0, 1))
    assert sorted(study.results.rglob("*")) == before


@pytest.mark.parametrize("name", ["notes.txt", "a.nii.gz", "checkpoint_final.pth", "postprocessed/a.nii.gz", "plans.json"])
def test_gathering_deletes_nothing_of_another_origin(study, name):
    (study.merged / name).parent.mkdir(parents=True)
    (study.merged / name).write_text("mine")
    with pytest.raises(InputError, match="holds what this command did not make"):
        accumulate_cv_results(study.models[0], study.merged, (0, 1))
    assert (study.merged / name).read_text() == "mine" and len(list(study.merged.rglob("*"))) == 1 + name.count("/")


@pytest.mark.parametrize("has_manifest", [True, False])
def test_gathering_again_starts_anew(study, has_manifest):
    merged = study.models[0] / "crossval_results_folds_0_1"
    accumulate_cv_results(study.models[0], merged, (0, 1))
    if not has_manifest:  # as earlier versions and nnU-Net leave it
        (merged / "manifest.json").unlink()
    accumulate_cv_results(study.models[0], merged, (0,))
    assert sorted(path.name for path in merged.iterdir()) == ["a.nii.gz", "dataset.json", "manifest.json", "plans.json", "summary.json"]


def test_gathered_masks_know_their_folds_training_cases(study):
    with_training(study, fold_0=["a", "b"], fold_1=["a"])
    accumulate_cv_results(study.models[0], study.merged, (0, 1))
    assert trained_on(study.merged, ["a", "b"]) == ["a"] and not verify(study.merged).misfits


def test_an_ensemble_of_models_knows_the_training_cases_of_all(study):
    with_training(study, fold_0=["a", "b"], fold_1=["a"])
    ensemble_crossvalidations(study.models, study.merged, (0, 1))
    assert trained_on(study.merged, ["a", "b"]) == ["a"] and not verify(study.merged).misfits


def test_an_ensemble_of_folders_knows_the_training_cases_of_all(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    made_with = {"model": {"checkpoints": {"x.pth": "x"}, "trained_on": ["a"]}, "settings": {}}
    save_json({"format": 1, "made_with": made_with, "cases": {}}, folders[1] / "manifest.json")
    ensemble_folders(folders, study.merged, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)
    assert trained_on(study.merged, ["a", "b"]) == ["a"] and not verify(study.merged).misfits


@pytest.mark.parametrize("output", ["", "../validation"])
def test_an_ensemble_is_not_written_over_its_members(study, output):
    folders = [model / "fold_0" / "validation" for model in study.models]
    before = {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="which is read"):
        ensemble_folders(folders, folders[1] / output, True, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)
    with pytest.raises(InputError, match="which is read"):
        ensemble_crossvalidations(study.models, folders[1] / output, (0, 1))
    assert {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file()} == before


OTHER_LABELS = {"background": 0, "lesion": 1}
REGIONS = {"background": 0, "whole": [1, 2], "lesion": 2}


@pytest.mark.parametrize(("ours", "theirs", "named"), [
    ({}, {"labels": OTHER_LABELS}, "labels is .*lesion.*organ"),
    ({"labels": REGIONS, "regions_class_order": [1, 2]}, {"labels": REGIONS, "regions_class_order": [2, 1]}, "regions_class_order"),
    ({"labels": REGIONS, "regions_class_order": [1, 2]}, {"labels": dict(reversed(REGIONS.items())), "regions_class_order": [1, 2]}, "labels is")])
def test_predictions_whose_labels_mean_other_things_are_not_averaged(study, ours, theirs, named):
    folders = [model / "fold_0" / "validation" for model in study.models]
    for folder, labels in zip(folders, (ours, theirs)):
        save_json(DATASET | labels, folder / "dataset.json")
        save_json(DATASET | labels, folder.parents[1] / "dataset.json")
    with pytest.raises(InputError, match=f"mean different things(.|\n)*{folders[1]}/dataset.json: {named}"):
        ensemble_folders(folders, study.merged, plans_json_file_or_dict=PLANS)
    with pytest.raises(InputError, match=f"mean different things(.|\n)*{study.models[1]}/dataset.json: {named}"):
        ensemble_crossvalidations(study.models, study.merged, (0, 1))
    assert not study.merged.exists()


def test_the_order_in_which_labels_are_listed_means_nothing(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    for folder, labels in zip(folders, (DATASET["labels"], dict(reversed(DATASET["labels"].items())))):
        save_json(DATASET | {"labels": labels}, folder / "dataset.json")
    ensemble_folders(folders, study.merged, plans_json_file_or_dict=PLANS)
    assert (study.merged / "a.nii.gz").is_file()


def test_another_spacing_is_refused_whatever_reader_wrote_it(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    for folder, spacing in zip(folders, ([1, 1, 1], [2, 1, 1])):
        save_pickle({"spacing": spacing, "shape_before_cropping": (1, 1, 6)}, folder / "a.pkl")
    with pytest.raises(Exception, match=r"a.npz has the spacing \[2, 1, 1\]"):
        ensemble_folders(folders, study.merged, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)


def test_folders_that_a_run_is_writing_to_are_not_read(study):
    folders = [model / "fold_0" / "validation" for model in study.models]
    with prediction_lock(folders[1]), pytest.raises(FolderBusy, match=f"{folders[1]} is in use by another run"):
        ensemble_folders(folders, study.merged, dataset_json_file_or_dict=DATASET, plans_json_file_or_dict=PLANS)
    with folder_lock(study.models[0] / "fold_1", "training", "fold 1 is validated"):
        for function, what in ((accumulate_cv_results, study.models[0]), (ensemble_crossvalidations, study.models)):
            with pytest.raises(FolderBusy, match="fold 1 is validated"):
                function(what, study.merged, (0, 1))
    assert not study.merged.exists()
