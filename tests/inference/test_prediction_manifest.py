"""The manifest of predictions: whose masks they are, and that masks of two models never mix."""

import os
import shutil

import pytest
import SimpleITK as sitk
import torch

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, run_prediction
from nnunetv2.inference.watch import PredictionCancelled
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.folder_lock import FolderBusy, prediction_lock
from nnunetv2.utilities.manifest import dataset_identity, plans_identity
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.prediction_manifest import PredictionManifest, comparable, model_record, read_prediction_manifest, trained_on
from nnunetv2.verification import report, verify

ARGUMENTS = {"device": torch.device("cpu"), "engine": "torch", "tta": 1, "allow_tqdm": False}


@pytest.fixture
def images(image_folder, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(2):
        shutil.copy2(image_folder / f"case_{i}_0000.nii.gz", folder)
    return folder


@pytest.fixture
def model(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / model_folder.name)


@pytest.fixture
def predicted(model, images, tmp_path):
    assert run_prediction(images, tmp_path / "out", model, folds=(0,), **ARGUMENTS) == 0
    return tmp_path / "out"


def other_weights(model):
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    next(iter(content["network_weights"].values())).add_(1)
    torch.save(content, checkpoint)


def again(images, out, model, **changes):
    return run_prediction(images, out, model, folds=(0,), overwrite=False, **ARGUMENTS | changes)


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}


@pytest.mark.slow
def test_what_was_predicted_fits(predicted, capsys):
    assert report(predicted) == 0
    assert "0 misfit(s)" in capsys.readouterr().out


@pytest.mark.slow
def test_continuing_with_the_same_model_keeps_all(predicted, images, model):
    before = times(predicted)
    again(images, predicted, model)
    assert times(predicted) == before and not verify(predicted).misfits


@pytest.mark.slow
@pytest.mark.parametrize(("change", "named"), [("weights", "model.checkpoints"), ("mode", "settings.tta")])
def test_continuing_with_another_model_or_mode_is_refused(predicted, images, model, change, named):
    if change == "weights":
        other_weights(model)
    with pytest.raises(InputError, match=f"holds 2 masks that were predicted otherwise(.|\n)*{named}"):
        again(images, predicted, model, **({"tta": 2} if change == "mode" else {}))


@pytest.mark.slow
def test_continuing_predicts_a_case_anew_whose_image_changed(predicted, images, model):
    before = times(predicted)
    image = sitk.ReadImage(str(images / "case_1_0000.nii.gz"))
    sitk.WriteImage(sitk.Flip(image, [True, False, False]) + 1, str(images / "case_1_0000.nii.gz"))
    again(images, predicted, model)
    after = times(predicted)
    assert after["case_0.nii.gz"] == before["case_0.nii.gz"] and after["case_1.nii.gz"] != before["case_1.nii.gz"]


@pytest.mark.slow
def test_a_mask_that_an_interrupted_run_meant_to_write_over_is_no_mask_of_that_run(predicted, images, model):
    other_weights(model)
    before = times(predicted)
    stop = iter([False, False, True, True, True])
    predictor = nnUNetPredictor(device=torch.device("cpu"), engine="torch", tta=1, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, (0,))
    with pytest.raises(PredictionCancelled):
        predictor.predict_from_files(images, predicted, cancelled=lambda: next(stop, True))
    assert times(predicted) == before
    again(images, predicted, model)
    after = times(predicted)
    assert all(after[name] != before[name] for name in before) and not verify(predicted).misfits


@pytest.mark.slow
def test_masks_without_a_record_are_kept_and_stay_of_unknown_origin(predicted, images, model):
    (predicted / "manifest.json").unlink()
    before = times(predicted)
    again(images, predicted, model)
    found = verify(predicted)
    assert times(predicted) == before and not found.misfits and "no record says which model" in found.unknown[0]


@pytest.mark.slow
def test_a_model_that_was_moved_is_the_same(predicted, images, model, tmp_path):
    again(images, predicted, model.rename(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_parts_keep_a_manifest_each_that_read_as_one(images, model, tmp_path):
    for part in range(2):
        run_prediction(images, tmp_path / "parts", model, folds=(0,), num_parts=2, part_id=part, **ARGUMENTS)
    assert set(read_prediction_manifest(tmp_path / "parts")["cases"]) == {"case_0.nii.gz", "case_1.nii.gz"}
    assert not verify(tmp_path / "parts").misfits


@pytest.mark.slow
def test_a_second_run_into_the_folder_is_refused(predicted, images, model):
    with prediction_lock(predicted), pytest.raises(FolderBusy):
        again(images, predicted, model)


def harm_mask(predicted, images, model):
    mask = predicted / "case_0.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(mask)) * 0, str(mask))


def lose_mask(predicted, images, model):
    (predicted / "case_0.nii.gz").unlink()


def add_mask(predicted, images, model):
    shutil.copy(predicted / "case_0.nii.gz", predicted / "case_9.nii.gz")


def change_image(predicted, images, model):
    shutil.copy(images / "case_1_0000.nii.gz", images / "case_0_0000.nii.gz")


def change_model(predicted, images, model):
    other_weights(model)


@pytest.mark.slow
@pytest.mark.parametrize(("harm", "named"), [
    (harm_mask, "case_0.nii.gz was changed after its prediction"), (lose_mask, "case_0.nii.gz is gone"),
    (add_mask, "case_9.nii.gz is of another origin"), (change_image, "case_0_0000.nii.gz changed since case_0.nii.gz was predicted"),
    (change_model, "has other weights now")])
def test_what_does_not_fit_is_named(predicted, images, model, capsys, harm, named):
    harm(predicted, images, model)
    assert report(predicted) == 1
    assert named in capsys.readouterr().err


@pytest.mark.slow
def test_images_and_model_that_are_elsewhere_are_no_misfit(predicted, images, model, capsys):
    shutil.rmtree(images)
    shutil.rmtree(model)
    assert report(predicted) == 0
    assert "2 image(s) are not where they were" in capsys.readouterr().out


def test_a_folder_without_manifest_says_so(tmp_path):
    with pytest.raises(InputError, match="nothing is known of how it came about"):
        verify(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        verify(tmp_path / "nowhere")


@pytest.mark.slow
def test_cases_that_the_model_was_trained_on_are_known(model, images, tmp_path):
    save_json({"format": 1, "code": {"source": "x"}, "checkpoints": {}, "training": {
        "split": {"train": ["case_0", "far"], "val": []}, "dataset": {}, "plans": {}, "settings": {}, "class_labels": {}, "cases": {}}}, model / "fold_0" / "manifest.json")
    with pytest.raises(InputError, match="was trained with other plans or labels"):
        run_prediction(images, tmp_path / "out", model, folds=(0,), **ARGUMENTS)
    manifest = load_json(model / "fold_0" / "manifest.json")
    plans = PlansManager(model / "plans.json")
    manifest["training"] |= {"plans": plans_identity(plans.plans, plans.get_configuration("3d_fullres").configuration),
                             "dataset": dataset_identity(load_json(model / "dataset.json"))}
    save_json(manifest, model / "fold_0" / "manifest.json")
    run_prediction(images, tmp_path / "out", model, folds=(0,), **ARGUMENTS)
    assert trained_on(tmp_path / "out", ["case_0", "case_1"]) == ["case_0"]


@pytest.mark.slow
def test_files_touched_but_the_same_are_no_misfit(predicted, images):
    for path in images.iterdir():
        os.utime(path)
    assert not verify(predicted).misfits


def made_with(weights, *training_cases):
    return {"model": {"checkpoints": {f"{weights}.pth": weights}, "trained_on": sorted(training_cases)}, "settings": {}}


def run_into(folder, maker, *names, keep=(), **options):
    """A run that writes the masks `names`, in a stand-in's way, and keeps others."""
    manifest = PredictionManifest(folder, maker, {f"{name}.nii.gz": () for name in (*names, *keep)}, **options)
    manifest.begin({f"{name}.nii.gz" for name in names})
    for name in names:
        (folder / f"{name}.nii.gz").write_text(f"{name} by {maker['model']['checkpoints']}")
    manifest.finish()


def test_each_case_is_judged_by_the_model_that_made_it(tmp_path):
    run_into(tmp_path, made_with("first", "a"), "a", "b")
    run_into(tmp_path, made_with("second", "b"), "c")
    assert trained_on(tmp_path, ["a", "b", "c"]) == ["a"]


def test_a_mask_of_unknown_origin_is_judged_by_all_that_wrote_there(tmp_path):
    run_into(tmp_path, made_with("first", "a", "x"), "a")
    run_into(tmp_path, made_with("second", "y"), "b")
    assert trained_on(tmp_path, ["x", "y", "z"]) == ["x", "y"]


def test_an_older_manifest_knows_its_last_run(tmp_path):
    run_into(tmp_path, made_with("first", "a"), "a")
    content = load_json(tmp_path / "manifest.json")
    del content["makers"]
    save_json(content, tmp_path / "manifest.json")
    run_into(tmp_path, made_with("second"), "b")
    assert trained_on(tmp_path, ["a", "b"]) == ["a"]


def test_a_later_whole_run_counts_more_than_earlier_parts(tmp_path):
    run_into(tmp_path, made_with("first", "a"), "a", num_parts=2)
    part = tmp_path / "manifest_part_0_of_2.json"
    save_json(load_json(part) | {"written": "2020-01-01T00:00:00+00:00"}, part)
    run_into(tmp_path, made_with("second"), "a")
    assert trained_on(tmp_path, ["a"]) == []


def test_a_mask_that_was_edited_is_kept_and_not_certified_anew(tmp_path, capsys):
    run_into(tmp_path, made_with("first"), "a", "b")
    recorded = read_prediction_manifest(tmp_path)["cases"]
    (tmp_path / "a.nii.gz").write_text("by hand")
    run_into(tmp_path, made_with("first"), keep=("a", "b"))
    save_json({"file_ending": ".nii.gz"}, tmp_path / "dataset.json")
    assert read_prediction_manifest(tmp_path)["cases"]["a.nii.gz"] == recorded["a.nii.gz"]
    assert "1 mask(s) are not the ones that were recorded" in capsys.readouterr().out
    assert [line for line in verify(tmp_path).misfits if "mask" in line or ".nii.gz" in line] == [f"{tmp_path}: 2 masks: a.nii.gz was changed after its prediction"]


def test_an_edited_mask_is_not_written_over_because_its_image_changed(tmp_path):
    image = tmp_path / "a_0000.nii.gz"
    image.write_text("image")
    cases = {"a.nii.gz": [str(image)]}
    first = PredictionManifest(tmp_path, made_with("first"), cases)
    first.begin({"a.nii.gz"})
    (tmp_path / "a.nii.gz").write_text("by the model")
    first.finish()
    PredictionManifest(tmp_path, made_with("first"), cases).begin(set())  # and killed
    (tmp_path / "a.nii.gz").write_text("by hand")
    image.write_text("another image")
    assert PredictionManifest(tmp_path, made_with("first"), cases).changed_inputs() == set()
    (tmp_path / "a.nii.gz").write_text("by the model")
    assert PredictionManifest(tmp_path, made_with("first"), cases).changed_inputs() == {"a.nii.gz"}


def test_one_fold_without_a_record_does_not_hide_the_others(tmp_path):
    save_json({"format": 1, "training": {"split": {"train": ["a"], "val": []}, "dataset": {}, "plans": {}, "settings": {}, "class_labels": {}, "cases": {}}},
              tmp_path / "fold_0" / "manifest.json")
    model = model_record([tmp_path / f"fold_{i}" / "checkpoint_final.pth" for i in range(2)], {}, {})
    maker = {"model": model, "settings": {}}
    run_into(tmp_path, maker, "a", "b")
    assert model["trained_on"] is None and trained_on(tmp_path, ["a", "b"]) == ["a"]
    assert "trained_on_at_least" not in comparable(maker)["model"]  # predictions of earlier versions go on
