"""What a run leaves in its folders: nothing swapped, half written or forgotten, whatever the disk does."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.utilities.commands import run
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.output_folders import refuse_unwritable
from nnunetv2.inference.pipeline import CasesFailed
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, run_prediction
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.leftovers import sweep
from tests.inference.full_disk import no_file_larger_than
from tests.inference.tiny_model import smooth_ct, write_image

ARGUMENTS = dict(folds=(0,), device=torch.device("cpu"), engine="torch", tta=1, allow_tqdm=False)


@pytest.fixture(scope="module")
def predictor(model_folder):
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(model_folder, (0,))
    return predictor


@pytest.fixture
def twins(tmp_path):
    """Two patients' images of one name, of different sizes."""
    for i, shape in enumerate([(10, 26, 24), (8, 20, 20)]):
        write_image(tmp_path / f"d{i}" / "x_0000.nii.gz", smooth_ct(shape, seed=i))
    return [[str(tmp_path / f"d{i}" / "x_0000.nii.gz")] for i in range(2)]


@pytest.fixture(scope="module")
def predicted(predictor, image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted")
    predictor.predict_from_files(image_folder, folder, save_probabilities=True)
    return folder


def cases_predicted(folder):
    return sorted(json.loads((folder / "prediction_times.json").read_text())["cases"])


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.slow
def test_two_images_of_one_name_have_each_their_mask(predictor, twins):
    assert [mask.shape for mask in predictor.predict_from_files(twins, None)] == [(10, 26, 24), (8, 20, 20)]


def test_a_damaged_image_does_not_take_its_namesake_along(predictor, twins):
    with open(twins[0][0], "wb") as file:
        file.write(b"no image")
    with pytest.raises(CasesFailed, match=f"(?s)1 of 2 case.*{twins[0][0]}") as caught:
        predictor.predict_from_files(twins, None)
    assert caught.value.results[0] is None and caught.value.results[1].shape == (8, 20, 20)


def test_two_images_of_one_name_do_not_go_into_one_folder(predictor, twins, tmp_path):
    with pytest.raises(InputError, match=f"{twins[0][0]} and {twins[1][0]} would both be written"):
        predictor.predict_from_files(twins, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_each_folder_has_the_class_tables_of_its_own_masks(predictor, twins, tmp_path):
    predictor.predict_from_files(twins, [tmp_path / "a" / "x", tmp_path / "b" / "y"])
    for folder, name in (("a", "x"), ("b", "y")):
        rows = (tmp_path / folder / "subtype_results.csv").read_text().splitlines()
        assert len(rows) == 2 and rows[1].startswith(f"{name}.nii.gz,")
        assert len(cases_predicted(tmp_path / folder)) == 1 and (tmp_path / folder / "plans.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:100]),
    lambda path: path.write_bytes(path.read_bytes()[:-3]),
    lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-500])),
], ids=["empty", "head", "without its end", "short inside"])
def test_continuing_makes_a_damaged_mask_again(predictor, predicted, image_folder, tmp_path, damage, capsys):
    folder = shutil.copytree(predicted, tmp_path / "out")
    damage(folder / "case_1.nii.gz")
    predictor.predict_from_files(image_folder, folder, overwrite=False)
    assert cases_predicted(folder) == ["case_1"] and "case_1.nii.gz" in capsys.readouterr().out
    assert np.array_equal(voxels(folder / "case_1.nii.gz"), voxels(predicted / "case_1.nii.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".npz", ".pkl"])
def test_continuing_makes_damaged_probabilities_again(predictor, predicted, image_folder, tmp_path, ending):
    folder = shutil.copytree(predicted, tmp_path / "out")
    path = folder / f"case_2{ending}"
    path.write_bytes(path.read_bytes()[:-10])
    predictor.predict_from_files(image_folder, folder, True, overwrite=False)
    assert cases_predicted(folder) == ["case_2"] and path.read_bytes() == (predicted / path.name).read_bytes()


def test_continuing_with_nothing_left_changes_no_table(predictor, predicted, image_folder, tmp_path):
    folder = shutil.copytree(predicted, tmp_path / "out")
    predictor.predict_from_files(image_folder, folder, overwrite=False)
    assert cases_predicted(folder) == [] and (folder / "subtype_results.csv").read_bytes() == (predicted / "subtype_results.csv").read_bytes()


@pytest.mark.slow
def test_a_disk_that_takes_no_more_costs_the_cases_it_did_not_take(model_folder, image_folder, predicted, tmp_path, capsys):
    """Probabilities do not fit, masks would."""
    with no_file_larger_than(20_000):
        assert run_prediction(image_folder, tmp_path, model_folder, save_probabilities=True, **ARGUMENTS) == 1
    message = capsys.readouterr().err
    assert "3 of 3 case(s) failed" in message and f"case_1: {tmp_path / 'case_1.npz'}: File too large." in message and "Traceback" not in message
    assert not list(tmp_path.glob("*.nii.gz")) and not list(tmp_path.glob(".case*"))
    run_prediction(image_folder, tmp_path, model_folder, save_probabilities=True, overwrite=False, **ARGUMENTS)
    assert cases_predicted(tmp_path) == ["case_0", "case_1", "case_2"]
    assert np.array_equal(voxels(tmp_path / "case_1.nii.gz"), voxels(predicted / "case_1.nii.gz"))


@pytest.mark.slow
def test_the_list_of_failures_survives_a_report_that_cannot_be_written(predictor, image_folder, tmp_path):
    images = shutil.copytree(image_folder, tmp_path / "images")
    (images / "case_1_0000.nii.gz").write_bytes(b"no image")
    (tmp_path / "out" / "prediction_times.json").mkdir(parents=True)
    with pytest.raises(CasesFailed, match="(?s)1 of 3 case.*case_1: .*could not be written:.*prediction_times.json: Is a directory"):
        predictor.predict_from_files(images, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


@pytest.mark.slow
def test_a_report_that_cannot_be_written_is_an_error_though_all_cases_are_done(predictor, image_folder, tmp_path):
    (tmp_path / "prediction_times.json").mkdir()
    with pytest.raises(CasesFailed, match="^These files of the run could not be written"):
        predictor.predict_from_files(image_folder, tmp_path)
    assert len(list(tmp_path.glob("*.nii.gz"))) == 3


@pytest.mark.slow
def test_the_report_names_the_cases_that_failed(predictor, image_folder, tmp_path):
    images = shutil.copytree(image_folder, tmp_path / "images")
    (images / "case_1_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(CasesFailed):
        predictor.predict_from_files(images, tmp_path / "out")
    assert list(json.loads((tmp_path / "out" / "prediction_times.json").read_text())["failed"]) == ["case_1"]


@pytest.mark.parametrize("make", [lambda path: path.write_text("a file"), lambda path: path.symlink_to("/proc/version")], ids=["file", "link to a file"])
def test_an_output_that_is_no_folder_is_one_message_before_the_model_is_loaded(model_folder, image_folder, tmp_path, monkeypatch, make):
    make(tmp_path / "out")
    monkeypatch.setattr(predict_from_raw_data, "find_model", None)
    with pytest.raises(SystemExit, match=f"^error: {tmp_path / 'out'}: "):
        run(lambda: run_prediction(image_folder, tmp_path / "out", model_folder, **ARGUMENTS))


def test_an_output_that_takes_no_file_is_one_message_before_the_model_is_loaded(model_folder, image_folder, monkeypatch):
    monkeypatch.setattr(predict_from_raw_data, "find_model", None)
    with pytest.raises(SystemExit, match="^error: /proc/self/task: "):
        run(lambda: run_prediction(image_folder, "/proc/self/task", model_folder, **ARGUMENTS))


def test_an_empty_folder_is_refused_before_the_model_is_loaded(model_folder, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.setattr(predict_from_raw_data, "find_model", None)
    with pytest.raises(SystemExit, match=f"^error: {tmp_path / 'in'}"):
        run(lambda: run_prediction(tmp_path / "in", tmp_path / "out", model_folder, **ARGUMENTS))


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(model_folder, image_folder, tmp_path, monkeypatch, capsys):
    predict = predict_from_raw_data.CasePredictor.__call__

    def interrupted(self, data, name, *rest):
        if name == "case_2":
            raise KeyboardInterrupt
        return predict(self, data, name, *rest)

    monkeypatch.setattr(predict_from_raw_data.CasePredictor, "__call__", interrupted)
    assert run_prediction(image_folder, tmp_path, model_folder, **ARGUMENTS) == 130
    assert "--continue_prediction" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == ["case_0.nii.gz", "case_1.nii.gz"]
    assert len((tmp_path / "subtype_results.csv").read_text().splitlines()) == 3


def test_a_checkpoint_that_was_replaced_is_not_read_later(model_folder, tmp_path):
    from nnunetv2.inference.model_loading import find_model

    folder = shutil.copytree(model_folder, tmp_path / "model")
    model = find_model(folder, (0,))
    model.build_network(model.checkpoints[0])
    shutil.copyfile(folder / "fold_1" / "checkpoint_final.pth", folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(InputError, match="fold_0/checkpoint_final.pth was replaced"):
        model.build_network(model.checkpoints[0])


class NothingToCompute:
    """Stands for the network where only the way around it is looked at."""

    def __init__(self, channels):
        self.channels = channels

    def __call__(self, data, name, on_window, properties, decide=True):
        from nnunetv2.inference.case_prediction import CasePrediction

        shape = tuple(data.shape[1:])
        return CasePrediction(torch.zeros(self.channels, *shape), tuple(slice(0, n) for n in shape), shape, np.array([0.2, 0.3, 0.5]))


@pytest.mark.slow
def test_late_cases_cost_what_early_ones_do(model_folder, tmp_path, monkeypatch):
    """Files opened and listings made a case, which grew with their number; seconds tell more about other work on the machine."""
    import os

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(model_folder, (0,))
    predictor.case_predictor = NothingToCompute(3)
    write_image(tmp_path / "image_0000.nii.gz", smooth_ct((2, 4, 4)))
    counted = {"scandir": 0, "stat": 0, "open": 0}
    for name in counted:
        original = getattr(os, name)

        def counting(*args, name=name, original=original, **kwargs):
            counted[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, counting)

    def work_a_case(n):
        folder = tmp_path / f"out_{n}"
        before = dict(counted)
        predictor.predict_from_files([[tmp_path / "image_0000.nii.gz"]] * n, [folder / f"case_{i}" for i in range(n)], False, True, 0, 0)
        assert len((folder / "subtype_results.csv").read_text().splitlines()) == n + 1
        return {name: (counted[name] - before[name]) / n for name in counted}

    few, many = work_a_case(10), work_a_case(100)
    assert all(many[name] <= few[name] for name in counted), (few, many)


def test_the_file_that_tries_a_folder_is_swept_where_a_kill_leaves_it(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda path: None)
        refuse_unwritable(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("nnunetv2.utilities.leftovers._is_living", lambda token, path: False)
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())
