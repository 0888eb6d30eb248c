"""Refit of a checkpoint: what it reads, what it writes, what prediction sees of it."""

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax

from experiments.class_averaging import view_logits
from nnunetv2.inference.case_classification import ClassEvidence
from nnunetv2.inference.engines import make_engine
from nnunetv2.inference.model_loading import find_model
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import mirror_views, predict_windows, whole_volume_tile
from nnunetv2.preprocessing.case_store import save_case
from nnunetv2.training.class_head_refit import REPORT_FILE, refit_class_head
from nnunetv2.utilities.checkpoint import load_checkpoint, save_checkpoint, split_network_weights
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

pytestmark = pytest.mark.slow

ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        "n_stages": 3, "features_per_stage": [4, 6, 8], "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "n_blocks_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}},
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    "class_head": {"n_classes": 3, "lesion_labels": [2], "regions": {"lesion": [2], "patch": None}, "stages": [0, 1]},
}
TRAIN = [f"case_{i:02d}" for i in range(24)]
VALIDATION = ["held_out_0", "held_out_1"]


def image(label: int, seed: int) -> np.ndarray:
    """(1, 4, 12, 16): noise whose grain tells the class."""
    rng = np.random.default_rng(seed)
    grain = (1, 2, 4)[label]
    noise = rng.normal(size=(1, 4, 12 // grain, 16 // grain)).repeat(grain, 2).repeat(grain, 3)
    return noise.astype(np.float32)


def class_of_whole_case(engine, data, divisor, views=((),)):
    """Class probabilities (n,) of data (C, D, H, W) in one pass a view."""
    evidence = ClassEvidence([2])
    predict_windows(engine, data, whole_volume_tile(data.shape, divisor), views=views, gaussian=False, observer=evidence)
    return evidence.mean().numpy()


@pytest.fixture
def model_folder(tmp_path, monkeypatch):
    """A model with one fold. Of its validation cases there is nothing but rows that no reader can understand."""
    dataset = tmp_path / "preprocessed" / "Dataset999_Tiny"
    monkeypatch.setenv("nnUNet_preprocessed", str(dataset.parent))
    for i, case in enumerate(TRAIN):
        save_case(image(i % 3, i), np.ones((1, 4, 12, 16), np.int16), {"spacing": [1, 1, 1]}, dataset / "tinyPlans_3d_fullres", case)
    rows = [f"{case},{'abc'[i % 3]}" for i, case in enumerate(TRAIN)] + [f"{case},unreadable" for case in VALIDATION]
    (dataset / "subtypes.csv").write_text("\n".join(["case,subtype", *rows]) + "\n")
    save_json([{"train": TRAIN, "val": VALIDATION}], dataset / "splits_final.json")

    configuration = {"data_identifier": "tinyPlans_3d_fullres", "patch_size": [4, 12, 16], "spacing": [1.0, 1.0, 1.0], "batch_size": 2,
                     "normalization_schemes": ["CTNormalization"], "architecture": ARCHITECTURE}
    plans = {"dataset_name": dataset.name, "plans_name": "tinyPlans", "configurations": {"3d_fullres": configuration},
             "label_manager": "LabelManager",
             "foreground_intensity_properties_per_channel": {"0": dict.fromkeys(("mean", "std", "percentile_00_5", "percentile_99_5"), 1.0)}}
    dataset_json = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "pancreas": 1, "lesion": 2}, "file_ending": ".nii.gz",
                    "classification": {"name": "subtype", "classes": ["a", "b", "c"], "labels": "subtypes.csv"}}
    folder = tmp_path / "model"
    save_json(plans, folder / "plans.json")
    save_json(dataset_json, folder / "dataset.json")
    torch.manual_seed(0)
    network = get_network_from_plans(
        ARCHITECTURE["network_class_name"], ARCHITECTURE["arch_kwargs"], ARCHITECTURE["_kw_requires_import"], 1, 3,
        class_head=ARCHITECTURE["class_head"])
    weights, head = split_network_weights(network)
    save_checkpoint({"network_weights": weights, "class_head_weights": head, "trainer_name": "nnUNetTrainer",
                     "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset_json},
                     "inference_allowed_mirroring_axes": None}, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def test_prediction_with_the_refitted_head_knows_new_cases_of_each_class(model_folder):
    refit_class_head(model_folder, 0)
    model = find_model(model_folder, (0,))
    engine = make_engine(lambda: model.build_network(model.checkpoints[0]), torch.device("cpu"), "fp32", "torch", 1, (2, 4, 4))
    geometry = network_geometry(model.configuration_manager, None)
    labels = [label for label in range(3) for _ in range(4)]
    predicted = [class_of_whole_case(engine, torch.from_numpy(image(label, 100 + i)), geometry.divisor).argmax()
                 for i, label in enumerate(labels)]
    assert predicted == labels


def test_only_the_head_changes_and_the_trained_one_is_kept(model_folder):
    path = model_folder / "fold_0" / "checkpoint_final.pth"
    before = load_checkpoint(path)
    refit_class_head(model_folder, 0)
    after = load_checkpoint(path)
    for key, value in before["network_weights"].items():
        assert torch.equal(after["network_weights"][key], value)
    for key, value in before["class_head_weights"].items():
        assert torch.equal(after["class_head_weights_before_refit"][key], value)
    assert after["class_head_weights"]["classifier.weight"].abs().max() > 0
    assert after["class_head_weights"]["temperature"] != 1


def test_refitting_twice_changes_nothing(model_folder):
    path = model_folder / "fold_0" / "checkpoint_final.pth"
    refit_class_head(model_folder, 0)
    once = load_checkpoint(path)
    refit_class_head(model_folder, 0)
    twice = load_checkpoint(path)
    for part in ("class_head_weights", "class_head_weights_before_refit"):
        for key, value in once[part].items():
            assert torch.equal(twice[part][key], value)


def test_report_stands_beside_the_checkpoint(model_folder):
    report = refit_class_head(model_folder, 0)
    assert load_json(model_folder / "fold_0" / REPORT_FILE) == json.loads(json.dumps(report))
    assert report["cases_per_class"] == [8, 8, 8]


def test_training_cases_without_label_are_left_out(model_folder, tmp_path):
    table = tmp_path / "preprocessed" / "Dataset999_Tiny" / "subtypes.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if not line.startswith("case_00,")))
    assert refit_class_head(model_folder, 0)["cases_per_class"] == [7, 8, 8]


def test_model_without_class_head_is_named(model_folder):
    path = model_folder / "fold_0" / "checkpoint_final.pth"
    save_checkpoint({**load_checkpoint(path), "class_head_weights": None}, path)
    with pytest.raises(ValueError, match="checkpoint_final.pth has no class head"):
        refit_class_head(model_folder, 0)


def test_mean_of_view_logits_is_what_prediction_decides_by(model_folder):
    path = model_folder / "fold_0" / "checkpoint_final.pth"
    save_checkpoint(load_checkpoint(path) | {"inference_allowed_mirroring_axes": (1, 2)}, path)
    refit_class_head(model_folder, 0, n_views=4)
    logits = view_logits(model_folder, 0, path.name, TRAIN[:5], torch.device("cpu"), views=4)
    assert logits.shape == (4, 5, 3)
    model = find_model(model_folder, (0,))
    engine = make_engine(lambda: model.build_network(model.checkpoints[0]), torch.device("cpu"), "fp32", "torch", 1, (2, 4, 4))
    geometry = network_geometry(model.configuration_manager, None)
    predicted = [class_of_whole_case(engine, torch.from_numpy(image(i % 3, i)), geometry.divisor, mirror_views((1, 2), 4))
                 for i in range(5)]
    np.testing.assert_allclose(softmax(logits.mean(0), axis=1), predicted, atol=1e-5)
