"""A raw dataset that changes after planning and preprocessing is noticed, by name, and nothing is trained on it as it was."""

import os
import re
import shutil

import numpy as np
import pytest
import torch

from nnunetv2.experiment_planning.move_plans import move_plans_between_datasets
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.preprocessing.case_store import load_case
from nnunetv2.preprocessing.recipe import recipe_file_of, refuse_other_recipe
from nnunetv2.training.run_training import run_training
from nnunetv2.utilities.splits import default_splits, load_split, trainable_cases
from nnunetv2.utilities.data_manifest import read_manifest, record, refuse_changed_data
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.manifest import value_hash
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.verification import verify
from tests.planning.conftest import RawDataset

pytestmark = pytest.mark.slow

FOLDER = "nnUNetPlans_3d_fullres"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SPLIT = [{"train": ["a", "b"], "val": ["c"]}]


def prepare(dataset):
    extract_fingerprints([555], num_processes=1)
    plan_experiments([555])
    preprocess([555], configurations=["3d_fullres"], num_processes=1)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A prepared dataset, made once; each test gets a copy."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        for name in FOLDERS:
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        dataset = RawDataset(root)
        save_json(SPLIT, dataset.raw / "splits_final.json")
        dataset.classify()
        prepare(dataset)
    return dataset


@pytest.fixture
def prepared(template, data_folders):
    for name in FOLDERS:
        shutil.copytree(template.root / name, data_folders / name, dirs_exist_ok=True)
    return template.moved_to(data_folders)


def check(dataset):
    refuse_changed_data(dataset.name, FOLDER, ["a", "b"])


def other_label():
    seg = np.zeros((8, 12, 10), np.uint8)
    seg[2:6, 3:9, 3:8] = 1
    return seg


def refused(dataset, *lines):
    with pytest.raises(InputError) as error:
        check(dataset)
    text = str(error.value)
    assert all(line in text for line in (*lines, "nnUNetv2_plan_and_preprocess -d Dataset555_Small --clean")), text


def test_unchanged_data_pass(prepared, capsys):
    check(prepared)
    assert "cannot be checked" not in capsys.readouterr().out


def test_a_dataset_that_only_has_plans_of_another_is_preprocessed_with_all_that_training_reads(prepared):
    shutil.copytree(prepared.raw, prepared.raw.with_name("Dataset556_Other"))
    move_plans_between_datasets(555, 556, "nnUNetPlans")
    preprocess([556], configurations=["3d_fullres"], num_processes=1)
    folder = prepared.preprocessed.with_name("Dataset556_Other")
    for name in ("dataset.json", "subtypes.csv", "splits_final.json"):
        assert (folder / name).read_bytes() == (prepared.preprocessed / name).read_bytes()
    assert read_manifest(folder)["planned"] == read_manifest(prepared.preprocessed)["planned"]
    refuse_changed_data("Dataset556_Other", FOLDER, ["a", "b"])


def test_files_touched_without_a_change_pass(prepared):
    for path in prepared.raw.rglob("*.nii.gz"):
        os.utime(path)
    check(prepared)


def test_a_case_that_moved_to_validation_is_named(prepared):
    save_json([{"train": ["a"], "val": ["b", "c"]}], prepared.raw / "splits_final.json")
    refused(prepared, "b moved from train to validation (fold 0)")


def test_preprocessing_alone_refuses_a_moved_case_too(prepared):
    save_json([{"train": ["a"], "val": ["b", "c"]}], prepared.raw / "splits_final.json")
    with pytest.raises(InputError, match=re.escape("b moved from train to validation (fold 0)")):
        preprocess([555], configurations=["3d_fullres"], num_processes=1)


def test_a_case_that_is_held_out_now_is_named(prepared):
    prepared.save_json(holdout=["b"])
    refused(prepared, "b is held out now")


def test_other_labels_in_dataset_json_are_named(prepared):
    prepared.save_json(labels={"background": 0, "organ": 1, "tumour": 2})
    refused(prepared, "labels.tumour was None, is 2")


def test_new_cases_are_named(prepared):
    prepared.write("d", np.ones((8, 12, 10), np.int16), other_label())
    refused(prepared, "d is new")


def test_a_lost_case_is_named(prepared):
    for path in prepared.raw.rglob("b*.nii.gz"):
        path.unlink()
    refused(prepared, "b is gone")


def test_a_corrected_class_is_named_for_training_cases_alone(prepared):
    prepared.classify(rows="a,0\nb,1\nc,1\n")
    check(prepared)
    prepared.classify(rows="a,0\nb,2\nc,2\n")
    refused(prepared, "subtype of b was '1', is '2'")


def test_a_corrected_label_is_named_and_preprocessing_makes_it_anew_though_its_file_is_older(prepared):
    prepared.write("b", seg=other_label())
    os.utime(prepared.raw / "labelsTr" / "b.nii.gz", (1, 1))
    refused(prepared, "b: image or label changed")
    kept = (prepared.preprocessed / FOLDER / "a.pkl").stat().st_mtime_ns
    preprocess([555], configurations=["3d_fullres"], num_processes=1)
    check(prepared)
    assert load_case(prepared.preprocessed / FOLDER, "b")[1][:].max() == 1
    assert (prepared.preprocessed / FOLDER / "a.pkl").stat().st_mtime_ns == kept
    assert (prepared.preprocessed / "gt_segmentations" / "b.nii.gz").read_bytes() == (prepared.raw / "labelsTr" / "b.nii.gz").read_bytes()


def test_a_folder_without_record_passes_with_a_note(prepared, capsys):
    (prepared.preprocessed / "manifest.json").unlink()
    check(prepared)
    assert "has no record of what it was made from" in capsys.readouterr().out


def test_without_the_raw_dataset_it_passes_with_a_note(prepared, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    check(prepared)
    assert "the raw dataset is not here" in capsys.readouterr().out


def test_deleted_raw_images_pass_with_a_note(prepared, capsys):
    shutil.rmtree(prepared.raw / "imagesTr")
    check(prepared)
    assert "the raw dataset is not here" in capsys.readouterr().out


def test_planning_again_follows_the_raw_split(prepared):
    save_json([{"train": ["a"], "val": ["b", "c"]}], prepared.raw / "splits_final.json")
    prepare(prepared)
    check(prepared)
    assert load_split(prepared.preprocessed, 0) == (["a"], ["b", "c"])


def test_planning_refuses_a_split_that_changed_on_both_sides(prepared):
    save_json([{"train": ["a"], "val": ["b", "c"]}], prepared.raw / "splits_final.json")
    save_json([{"train": ["b"], "val": ["c"]}], prepared.preprocessed / "splits_final.json")
    with pytest.raises(InputError, match="was edited:\n  b moved from train to validation"):
        plan_experiments([555])


def test_the_default_split_is_made_anew_when_cases_came(dataset):
    for case in "def":
        dataset.write(case, np.random.default_rng(7).integers(1, 99, (8, 12, 10)).astype(np.int16), other_label())
    dataset.save_json(numTraining=6)
    prepare(dataset)
    assert len(load_split(dataset.preprocessed, 0)[0]) + len(load_split(dataset.preprocessed, 0)[1]) == 6
    dataset.write("g", np.random.default_rng(8).integers(1, 99, (8, 12, 10)).astype(np.int16), other_label())
    dataset.save_json(numTraining=7)
    prepare(dataset)
    assert "g" in {*load_split(dataset.preprocessed, 0)[0], *load_split(dataset.preprocessed, 0)[1]}


def in_the_split(dataset):
    return {*load_split(dataset.preprocessed, 0)[0], *load_split(dataset.preprocessed, 0)[1]}


def test_the_default_split_is_made_anew_without_a_case_that_is_gone(dataset):
    for case in "def":
        dataset.write(case, np.random.default_rng(8).integers(1, 99, (8, 12, 10)).astype(np.int16), other_label())
    dataset.save_json(numTraining=6)
    prepare(dataset)
    assert in_the_split(dataset) == set("abcdef")
    for path in (dataset.raw / "imagesTr" / "d_0000.nii.gz", dataset.raw / "labelsTr" / "d.nii.gz"):
        path.unlink()
    dataset.save_json(numTraining=5)
    prepare(dataset)
    assert in_the_split(dataset) == set("abcef") == set(trainable_cases(dataset.preprocessed))


def test_a_split_of_the_references_that_a_killed_preprocessing_left_is_made_anew(dataset):
    for case in "def":
        dataset.write(case, np.random.default_rng(8).integers(1, 99, (8, 12, 10)).astype(np.int16), other_label())
    dataset.save_json(numTraining=6)
    prepare(dataset)
    (dataset.preprocessed / "gt_segmentations" / "d.nii.gz").unlink()
    with pytest.raises(InputError, match="lacks 1 of 6 cases that were planned: d"):
        in_the_split(dataset)
    splits = default_splits(list("abcef"))  # as earlier versions made it
    save_json(splits, dataset.preprocessed / "splits_final.json")
    record(dataset.preprocessed, default_split=value_hash(splits))
    preprocess([555], configurations=["3d_fullres"], num_processes=1)
    assert in_the_split(dataset) == set("abcdef")


def test_references_are_not_deleted_through_a_link(dataset, tmp_path):
    prepare(dataset)
    references = dataset.preprocessed / "gt_segmentations"
    references.rename(tmp_path / "elsewhere")
    references.symlink_to(tmp_path / "elsewhere")
    (references / "other.nii.gz").touch()
    preprocess([555], configurations=["3d_fullres"], num_processes=1)
    assert (references / "other.nii.gz").is_file()


def test_a_fingerprint_of_a_case_that_is_held_out_now_is_not_kept(prepared, capsys):
    prepared.save_json(holdout=["c"])
    extract_fingerprints([555], num_processes=1, clean=False)
    assert set(read_manifest(prepared.preprocessed)["fingerprint"]) == {"a", "b"}
    assert len(load_json(prepared.preprocessed / "dataset_fingerprint.json")["spacings"]) == 2


def test_planning_refuses_a_fingerprint_of_other_cases(prepared):
    prepared.save_json(holdout=["c"])
    with pytest.raises(InputError, match="only in one of both: c. Run nnUNetv2_extract_fingerprint"):
        plan_experiments([555])


def test_verify_finds_a_preprocessed_dataset_as_it_was(prepared):
    assert not verify(prepared.preprocessed).misfits


def test_verify_names_what_changed_and_what_is_damaged(prepared):
    (prepared.preprocessed / FOLDER / "a_seg.b2nd").write_bytes(b"half")
    prepared.write("b", seg=other_label())
    prepared.write("d", np.ones((8, 12, 10), np.int16), other_label())
    misfits = "\n".join(verify(prepared.preprocessed).misfits)
    assert all(line in misfits for line in ("a is missing or damaged", "b: image or label changed", "d was not preprocessed", "d is new"))


@pytest.mark.parametrize("replanned", ["nnUNetPlans", "others"])
def test_data_that_were_preprocessed_for_other_plans_are_not_trained_on(prepared, replanned):
    plan_experiments([555], "nnUNetPlannerResEncM", overwrite_target_spacing=(2.5, 1.75, 1.5), overwrite_plans_name=replanned)  # shares the default plans' folder
    if replanned == "others":
        preprocess([555], "others", ["3d_fullres"], num_processes=1)
    with pytest.raises(InputError, match=rf"{FOLDER} was preprocessed with other settings than those of nnUNetPlans: spacing was .*nnUNetv2_preprocess -d {prepared.name} -plans_name nnUNetPlans"):
        run_training(555, "3d_fullres", 0, device=torch.device("cpu"))


def test_plans_of_the_same_settings_share_their_data(prepared):
    plan_experiments([555], "nnUNetPlannerResEncM")
    plans = PlansManager(prepared.preprocessed / "nnUNetResEncUNetMPlans.json")
    refuse_other_recipe(prepared.name, plans, plans.get_configuration("3d_fullres"), load_json(prepared.preprocessed / "dataset.json"))


def test_names_of_labels_and_settings_that_an_older_recipe_lacks_are_no_other_settings(prepared):
    recipe = recipe_file_of(prepared.preprocessed / FOLDER)
    save_json({key: value for key, value in load_json(recipe).items() if key != "image_reader_writer"}, recipe)
    plans, description = PlansManager(prepared.preprocessed / "nnUNetPlans.json"), load_json(prepared.preprocessed / "dataset.json")
    renamed = description | {"labels": {f"{name} of a patient" if value else name: value for name, value in description["labels"].items()}}
    refuse_other_recipe(prepared.name, plans, plans.get_configuration("3d_fullres"), renamed)


def test_data_without_a_recipe_pass(prepared):
    recipe_file_of(prepared.preprocessed / FOLDER).unlink()
    plan_experiments([555], overwrite_target_spacing=(2.5, 1.75, 1.5))
    plans = PlansManager(prepared.preprocessed / "nnUNetPlans.json")
    refuse_other_recipe(prepared.name, plans, plans.get_configuration("3d_fullres"), load_json(prepared.preprocessed / "dataset.json"))
