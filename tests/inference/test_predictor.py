"""The whole way, on a tiny network with random weights."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.model_loading import find_model
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, run_prediction
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.leftovers import new_token
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.inference.tiny_model import ARCHITECTURE, save_model, smooth_ct, tiny_dataset_json, tiny_network, tiny_plans, write_image

CPU = torch.device("cpu")
ARGUMENTS = dict(checkpoint="checkpoint_final.pth", device=CPU, engine="torch", tta=1, allow_tqdm=False)


def make_predictor(folder, folds=(0,), **arguments):
    predictor = nnUNetPredictor(**{"device": CPU, "allow_tqdm": False, "engine": "torch", "tta": 1} | arguments)
    predictor.initialize_from_trained_model_folder(folder, folds)
    return predictor


@pytest.fixture(scope="module")
def predicted(model_folder, image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted")
    assert run_prediction(image_folder, folder, model_folder, folds=(0,), save_probabilities=True, **ARGUMENTS) == 0
    return folder


@pytest.mark.slow
def test_every_case_has_its_files(predicted):
    names = {path.name for path in predicted.iterdir()}
    assert names == {f"case_{i}{ending}" for i in range(3) for ending in (".nii.gz", ".npz", ".pkl")} | {
        "subtype_results.csv", "subtype_probabilities.csv", "dataset.json", "plans.json", "prediction_times.json", "manifest.json"}


@pytest.mark.slow
def test_mask_carries_the_images_geometry(predicted, image_folder):
    mask, image = (sitk.ReadImage(str(path)) for path in (predicted / "case_1.nii.gz", image_folder / "case_1_0000.nii.gz"))
    assert (mask.GetSize(), mask.GetSpacing(), mask.GetOrigin(), mask.GetDirection()) == (
        image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    assert mask.GetPixelID() == sitk.sitkUInt8


def test_mask_is_the_argmax_of_the_saved_probabilities(predicted):
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(predicted / "case_0.nii.gz")))
    with np.load(predicted / "case_0.npz") as file:
        assert np.array_equal(file["probabilities"].argmax(0), mask)
    assert set(np.unique(mask)) == {0, 1, 2}


@pytest.mark.slow
def test_label_output_equals_that_of_the_full_probabilities(predicted, model_folder, image_folder, tmp_path):
    run_prediction(image_folder, tmp_path, model_folder, folds=(0,), **ARGUMENTS)
    for i in range(3):
        a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"case_{i}.nii.gz"))) for folder in (predicted, tmp_path))
        assert (a != b).mean() <= 1e-3  # softmax of fp16 logits breaks ties otherwise than the logits do


@pytest.mark.slow
def test_class_of_the_csv_is_that_of_the_case_predictor(predicted, model_folder, image_folder):
    predictor = make_predictor(model_folder)
    image, properties = SimpleITKIO().read_images([image_folder / "case_2_0000.nii.gz"])
    data, _ = predictor._preprocess(image, properties, None)
    expected = predictor.case_predictor(data).class_probabilities
    row = (predicted / "subtype_probabilities.csv").read_text().splitlines()[3].split(",")
    assert row[0] == "case_2.nii.gz" and [float(p) for p in row[1:-1]] == pytest.approx(expected.tolist(), abs=1e-6)


def test_times_of_each_stage_are_kept(predicted):
    times = json.loads((predicted / "prediction_times.json").read_text())
    assert set(times["cases"]["case_0"]) == {"read", "preprocess", "network", "classify", "resample", "write"}
    assert times["engine"] == "torch" and times["tta"] == 1 and times["computed_in"] == "fp32"


@pytest.mark.slow
def test_continuing_predicts_only_what_is_missing(predicted, model_folder, image_folder, tmp_path):
    folder = shutil.copytree(predicted, tmp_path / "out")
    (folder / "case_1.nii.gz").unlink()
    before = (folder / "subtype_probabilities.csv").read_text()
    run_prediction(image_folder, folder, model_folder, folds=(0,), overwrite=False, **ARGUMENTS)
    assert list(json.loads((folder / "prediction_times.json").read_text())["cases"]) == ["case_1"]
    assert (folder / "case_1.nii.gz").read_bytes() and (folder / "subtype_probabilities.csv").read_text() == before


@pytest.mark.slow
def test_continuing_clears_what_a_killed_process_was_writing(predicted, model_folder, image_folder, tmp_path):
    folder, dead = shutil.copytree(predicted, tmp_path / "out"), f"{new_token()[:16]}{1:08x}{0:08x}"  # began before any process
    (folder / "case_1.nii.gz").rename(folder / f".case_1.{dead}.nii.gz")
    (folder / f".case_2.{dead}.nii.gz").write_bytes(b"half")
    (folder / f".subtype_results.{dead}.csv").write_text("half")
    (folder / ".case_1.note.nii.gz").write_text("somebody else's")
    run_prediction(image_folder, folder, model_folder, folds=(0,), overwrite=False, **ARGUMENTS)
    assert sorted(path.name for path in folder.iterdir()) == sorted([".case_1.note.nii.gz", *(path.name for path in predicted.iterdir())])
    assert (folder / "case_1.nii.gz").read_bytes() == (predicted / "case_1.nii.gz").read_bytes()


@pytest.mark.slow
def test_continuing_redoes_a_case_without_its_row_in_the_csv(predicted, model_folder, image_folder, tmp_path):
    folder = shutil.copytree(predicted, tmp_path / "out")
    table = folder / "subtype_results.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if "case_2" not in line))
    run_prediction(image_folder, folder, model_folder, folds=(0,), overwrite=False, **ARGUMENTS)
    assert list(json.loads((folder / "prediction_times.json").read_text())["cases"]) == ["case_2"]
    assert "case_2" in table.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("below", ["", "out", "year_2021"])
def test_masks_in_or_under_the_folder_of_images_are_no_images_when_it_goes_on(model_folder, tmp_path, capsys, below):
    for name in ("scan", "scan_2021"):
        write_image(tmp_path / f"{name}_0000.nii.gz", smooth_ct())
    if below:
        (tmp_path / "manifest.json").write_text("[]")  # of another program
    for overwrite, pending in ((True, 2), (False, 0)):
        assert run_prediction(tmp_path, tmp_path / below, model_folder, folds=(0,), overwrite=overwrite, **ARGUMENTS) == 0
        assert f"{pending} of 2 cases" in capsys.readouterr().out


@pytest.mark.slow
def test_parts_together_do_every_case_once(model_folder, image_folder, tmp_path):
    for part in range(2):
        run_prediction(image_folder, tmp_path, model_folder, folds=(0,), num_parts=2, part_id=part, **ARGUMENTS)
    done = [list(json.loads((tmp_path / f"prediction_times_part_{part}_of_2.json").read_text())["cases"]) for part in range(2)]
    assert done == [["case_0", "case_2"], ["case_1"]]
    assert len((tmp_path / "subtype_results.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_broken_image_fails_alone_and_the_exit_status_says_so(model_folder, image_folder, tmp_path, capsys):
    images = shutil.copytree(image_folder, tmp_path / "images")
    (images / "case_1_0000.nii.gz").write_bytes(b"not an image")
    assert run_prediction(images, tmp_path / "out", model_folder, folds=(0,), **ARGUMENTS) == 1
    assert "1 of 3 case(s) failed" in (message := capsys.readouterr().err) and "case_1" in message
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"case_0.nii.gz", "case_2.nii.gz"}
    assert "case_1" not in (tmp_path / "out" / "subtype_results.csv").read_text()


@pytest.mark.slow
def test_folds_are_averaged(model_folder):
    data = torch.randn(1, 8, 16, 16)
    single = [make_predictor(model_folder, (fold,)).predict_case_logits(data) for fold in (0, 1)]
    both, probabilities = make_predictor(model_folder, (0, 1)).predict_case_logits(data)
    torch.testing.assert_close(both, (single[0][0] + single[1][0]) / 2)
    assert probabilities == pytest.approx((single[0][1] + single[1][1]) / 2)


def test_no_folds_given_takes_those_that_are_there(model_folder):
    assert [path.parent.name for path in find_model(model_folder, None).checkpoints] == ["fold_0", "fold_1"]


def test_missing_folds_are_all_named(model_folder):
    with pytest.raises(FileNotFoundError, match=r"fold_3.*fold_4.*\[0, 1\]"):
        find_model(model_folder, (0, 3, 4))


def test_weights_of_another_network_are_refused_with_the_file(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    plans = tiny_plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 16]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match="fold_0/checkpoint_final.pth does not fit"):
        make_predictor(folder)


@pytest.mark.slow
def test_manual_initialization_gives_the_folders_result(model_folder):
    data = torch.randn(1, 8, 16, 16)
    plans = PlansManager(tiny_plans())
    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False, tta=1)
    predictor.manual_initialization(tiny_network(seed=0), plans, plans.get_configuration("3d_fullres"), None, tiny_dataset_json(),
                                    "nnUNetTrainer", (0, 1, 2))
    for a, b in zip(predictor.predict_case_logits(data), make_predictor(model_folder).predict_case_logits(data)):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_network_without_class_head_writes_no_csv(image_folder, tmp_path):
    save_model(tmp_path / "model", tiny_plans(class_head=False), tiny_dataset_json(), [tiny_network(class_head=False)])
    assert run_prediction(image_folder, tmp_path / "out", tmp_path / "model", folds=(0,), **ARGUMENTS) == 0
    assert not list((tmp_path / "out").glob("*.csv"))


@pytest.mark.slow
def test_upstreams_checkpoint_under_plans_with_a_class_head_segments_without_class(image_folder, tmp_path):
    save_model(tmp_path / "model", tiny_plans(), tiny_dataset_json(), [tiny_network(class_head=False)])
    assert make_predictor(tmp_path / "model").predict_case_logits(torch.randn(1, 8, 16, 16))[1] is None


@pytest.mark.slow
def test_single_array_gives_the_mask_of_the_file(predicted, model_folder, image_folder):
    predictor = make_predictor(model_folder)
    mask, probabilities = predictor.predict_single_npy_array(
        *SimpleITKIO().read_images([image_folder / "case_0_0000.nii.gz"]), save_or_return_probabilities=True)
    assert np.array_equal(mask, sitk.GetArrayFromImage(sitk.ReadImage(str(predicted / "case_0.nii.gz"))))
    assert probabilities.shape == (3, *mask.shape)


@pytest.mark.slow
def test_without_output_the_masks_come_back(model_folder, image_folder, predicted):
    masks = make_predictor(model_folder).predict_from_files([[image_folder / "case_0_0000.nii.gz"]], None, save_probabilities=True)
    assert np.array_equal(masks[0][0], sitk.GetArrayFromImage(sitk.ReadImage(str(predicted / "case_0.nii.gz"))))


@pytest.mark.parametrize("contradiction", [{"use_mirroring": False, "tta": 8}, {"mode": "slow"}, {"roi": "fine"}])
def test_contradicting_levers_are_refused(contradiction):
    with pytest.raises(ValueError):
        nnUNetPredictor(**{"device": CPU} | contradiction)


@pytest.mark.slow
def test_cascade_needs_the_previous_stages_masks_and_adds_them_as_channels(tmp_path, image_folder, predicted):
    plans = tiny_plans(class_head=False)
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"] | {"next_stage": "3d_fullres"}
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    network = get_network_from_plans(ARCHITECTURE["network_class_name"], ARCHITECTURE["arch_kwargs"], ARCHITECTURE["_kw_requires_import"],
                                     3, 3, deep_supervision=False)
    save_model(tmp_path / "model", plans, tiny_dataset_json(), [network])
    with pytest.raises(ValueError, match="3d_lowres.*-prev_stage_predictions"):
        make_predictor(tmp_path / "model").predict_from_files(image_folder, None)
    masks = make_predictor(tmp_path / "model").predict_from_files(image_folder, None, folder_with_segs_from_prev_stage=predicted)
    assert [mask.shape for mask in masks] == [(10, 26, 24)] * 3


class AllBackground:
    """Finds nothing in half precision and everything in fp32."""

    name, batch_size = "fake", 1

    def __init__(self, precision="bf16"):
        self.precision = precision

    def in_full_precision(self):
        return AllBackground("fp32")

    def __call__(self, x, classify=True):
        low, high = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
        return torch.stack([high, low, low] if self.precision == "bf16" else [low, high, low], 1), None


@pytest.mark.slow
def test_a_case_without_foreground_in_half_precision_is_repeated_in_fp32(model_folder, image_folder):
    predictor = make_predictor(model_folder, precision="half")
    predictor.case_predictor.engines = [AllBackground()]
    predictor.case_predictor.lesion_channels = None
    with pytest.warns(UserWarning, match="case_0: bf16 finds no foreground"):
        mask, = predictor.predict_from_files([[image_folder / "case_0_0000.nii.gz"]], None)
    assert (mask == 1).all()


@pytest.mark.slow
def test_intensities_that_are_no_hounsfield_units_are_warned_of_and_noted(model_folder, tmp_path):
    write_image(tmp_path / "in" / "scaled_0000.nii.gz", smooth_ct().astype(np.float32) / 1000)
    with pytest.warns(UserWarning, match="scaled: channel 0: intensities span"):
        assert run_prediction(tmp_path / "in", tmp_path / "out", model_folder, folds=(0,), **ARGUMENTS) == 0
    assert "span" in json.loads((tmp_path / "out" / "prediction_times.json").read_text())["intensity_warnings"]["scaled"][0]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "half", "fast"])
def test_images_without_a_picture_and_single_slices_are_predicted_with_a_warning(model_folder, tmp_path, mode):
    write_image(tmp_path / "in" / "blank_0000.nii.gz", np.full((10, 26, 24), -1000, np.int16))
    write_image(tmp_path / "in" / "slice_0000.nii.gz", smooth_ct()[4:5])
    write_image(tmp_path / "in" / "zeros_0000.nii.gz", np.zeros((10, 26, 24), np.int16))
    with pytest.warns(UserWarning) as told:
        assert run_prediction(tmp_path / "in", tmp_path / "out", model_folder, folds=(0,), mode=mode, **ARGUMENTS) == 0
    messages = [str(entry.message) for entry in told]
    for start in ("blank: constant, every voxel is -1000", "zeros: constant, every voxel is 0", "slice: one slice, 1 x 26 x 24 voxels"):
        assert sum(message.startswith(start) for message in messages) == 1
    assert sitk.ReadImage(str(tmp_path / "out" / "slice.nii.gz")).GetSize()[2] == 1
    report = json.loads((tmp_path / "out" / "prediction_times.json").read_text())
    assert sorted(report["intensity_warnings"]) == ["blank", "zeros"] and list(report["single_slices"]) == ["slice"]
