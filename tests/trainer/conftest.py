"""A tiny preprocessed dataset and two-stage plans, on which a whole training takes seconds."""

import copy

import numpy as np
import pytest

from nnunetv2.preprocessing.case_store import save_case
from nnunetv2.utilities.files import save_json

DATASET = "Dataset900_Tiny"
SHAPE = (14, 22, 20)  # (Z, Y, X), larger than the patch along each axis
TRAIN, VAL = [f"case_{i}" for i in range(6)], ["case_6", "case_7"]

PLANS = {
    "dataset_name": DATASET, "plans_name": "nnUNetPlans", "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
    "original_median_shape_after_transp": list(SHAPE), "image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2], "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {"0": {
        "mean": 0.0, "std": 1.0, "median": 0.0, "min": -5.0, "max": 5.0, "percentile_00_5": -5.0, "percentile_99_5": 5.0}},
    "configurations": {"3d_fullres": {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [8, 16, 16], "median_image_size_in_voxels": list(SHAPE), "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["NoNormalization"], "use_mask_for_norm": [False], "batch_dice": False,
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
        **{f"resampling_fn_{what}_kwargs": {"is_seg": what == "seg", "order": 1, "order_z": 0, "force_separate_z": None}
           for what in ("data", "seg", "probabilities")},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]], "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1], "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}},
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            "class_head": {"n_classes": 3, "lesion_labels": [2], "regions": {"lesion": [2], "foreground": [1, 2]},
                           "stages": [0, 1], "statistics": ["mean", "std"], "descriptors": True, "hidden": 0, "dropout": 0.1},
        }}},
}
DATASET_JSON = {
    "channel_names": {"0": "CT"}, "labels": {"background": 0, "pancreas": 1, "lesion": 2}, "numTraining": 8, "file_ending": ".nii.gz",
    "classification": {"name": "subtype", "classes": ["0", "1", "2"], "labels": "subtypes.csv"},
}


def make_case(index: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """A bright organ with a brighter lesion that is rougher in higher classes; a rim of -1 as outside a non-zero mask."""
    rng = np.random.default_rng(index)
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[3:12, 4:18, 4:16] = 1
    labels[5:10, 7:13, 6:12] = 2
    roughness = np.where(labels == 2, (0.05, 0.4, 1.2)[index % 3], 0.1)
    image = labels + rng.normal(size=SHAPE) * roughness
    labels[:, :, 0] = -1
    locations = {label: np.argwhere(labels[None] == label) for label in (1, 2)}
    properties = {"sitk_stuff": {"spacing": (1.0, 1.0, 2.0), "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())},
                  "spacing": [2.0, 1.0, 1.0], "shape_before_cropping": SHAPE, "shape_after_cropping_and_before_resampling": SHAPE,
                  "bbox_used_for_cropping": [[0, n] for n in SHAPE], "class_locations": locations}
    return image[None].astype(np.float32), labels[None], properties


@pytest.fixture(scope="session")
def preprocessed_template(tmp_path_factory):
    """nnUNet_preprocessed with the tiny dataset; validation cases have labels that no reader could use."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    root = tmp_path_factory.mktemp("preprocessed")
    base = root / DATASET
    (base / "gt_segmentations").mkdir(parents=True)
    for index, case in enumerate(TRAIN + VAL):
        data, labels, properties = make_case(index)
        save_case(data, labels, properties, base / "nnUNetPlans_3d_fullres", case, patch_size=(8, 16, 16))
        SimpleITKIO().write_seg(labels[0].clip(0).astype(np.uint8), str(base / "gt_segmentations" / f"{case}.nii.gz"), properties)
    save_json(PLANS, base / "nnUNetPlans.json")
    save_json(DATASET_JSON, base / "dataset.json")
    save_json([{"train": TRAIN, "val": VAL}], base / "splits_final.json")
    rows = [f"{case},{index % 3}" for index, case in enumerate(TRAIN)] + [f"{case},unreadable" for case in VAL]
    (base / "subtypes.csv").write_text("\n".join(["case,subtype", *rows]) + "\n")
    return root


@pytest.fixture
def folders(preprocessed_template, tmp_path, monkeypatch):
    """Sets the environment; results go to a folder of this test. Returns it."""
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed_template))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def plans():
    return copy.deepcopy(PLANS)


@pytest.fixture
def dataset_json():
    return copy.deepcopy(DATASET_JSON)


@pytest.fixture
def make_trainer(folders, plans, dataset_json, monkeypatch):
    """Factory of small trainers: `make_trainer(num_epochs=2, trainer=SomeClass)`. They draw no pictures, which is slow."""
    import torch

    monkeypatch.setattr("nnunetv2.training.logging.draw_progress", lambda values, path: None)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    def make(trainer=nnUNetTrainer, fold=0, **attributes):
        made = trainer(copy.deepcopy(plans), "3d_fullres", fold, copy.deepcopy(dataset_json), torch.device("cpu"))
        settings = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 2, "num_workers": 0, "picture_every": None} | attributes
        for name, value in settings.items():
            setattr(made, name, value)
        return made

    return make
