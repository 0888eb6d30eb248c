"""A network of 4 to 8 channels in a complete model folder, and images for it: everything predicts in milliseconds."""

import json
from copy import deepcopy

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.utilities.checkpoint import split_network_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_blocks_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1], "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
CLASS_HEAD = {"n_classes": 3, "lesion_labels": [2], "regions": {"lesion": [2], "pancreas": [1, 2], "patch": None},
              "stages": [0, 1, 2], "statistics": ["mean", "std"], "descriptors": True, "hidden": 0, "dropout": 0.1}
ORDERS = {"is_seg": False, "order_z": 0, "force_separate_z": None}


def tiny_plans(class_head: bool = True) -> dict:
    architecture = deepcopy(ARCHITECTURE | ({"class_head": CLASS_HEAD} if class_head else {}))
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [8, 16, 16], "median_image_size_in_voxels": [16.0, 40.0, 40.0], "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False], "batch_dice": False,
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": ORDERS | {"order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_seg_kwargs": ORDERS | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape", "resampling_fn_probabilities_kwargs": ORDERS | {"order": 1},
        "architecture": architecture,
    }
    intensities = {"mean": 75.0, "std": 44.0, "min": -200.0, "max": 400.0, "median": 80.0, "percentile_00_5": -56.0, "percentile_99_5": 180.0}
    return {
        "dataset_name": "Dataset999_Tiny", "plans_name": "tinyPlans", "image_reader_writer": "SimpleITKIO",
        "original_median_spacing_after_transp": [2.0, 1.0, 1.0], "original_median_shape_after_transp": [16, 40, 40],
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def tiny_dataset_json() -> dict:
    return {"channel_names": {"0": "CT"}, "labels": {"background": 0, "pancreas": 1, "lesion": 2}, "numTraining": 3, "file_ending": ".nii.gz",
            "classification": {"name": "subtype", "classes": ["0", "1", "2"], "labels": "subtypes.csv"}}


def tiny_network(class_head: bool = True, seed: int = 0) -> torch.nn.Module:
    """Random weights, in the head and the norms too, where initialisation puts zeros and ones; all labels occur in its output."""
    torch.manual_seed(seed)
    network = get_network_from_plans(
        ARCHITECTURE["network_class_name"], ARCHITECTURE["arch_kwargs"], ARCHITECTURE["_kw_requires_import"], 1, 3,
        deep_supervision=False, class_head=CLASS_HEAD if class_head else None)
    for name, parameter in network.named_parameters():
        if "norm" in name or "class_head" in name:
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.1)
        if "seg_layers" in name:
            torch.nn.init.normal_(parameter, std=float("weight" in name))
    return network.eval()


def wide_network(kind: type = ResidualEncoderUNet, class_head: bool = True, **changed: object) -> torch.nn.Module:
    """A network of 16 and 32 channels and strides of (2, 4, 4) in all, as the Winograd engine takes; `changed` are its constructor's arguments."""
    torch.manual_seed(0)
    arguments = {"n_stages": 3, "features_per_stage": [16, 32, 32], "conv_op": nn.Conv3d, "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
                 "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "n_conv_per_stage_decoder": [1, 2], "num_classes": 3, "conv_bias": True,
                 "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
    arguments["n_blocks_per_stage" if kind is ResidualEncoderUNet else "n_conv_per_stage"] = [1, 2, 2]
    network = kind(changed.pop("input_channels", 1), **arguments | changed, class_head=CLASS_HEAD if class_head else None)
    for parameter in network.parameters():
        if parameter.ndim == 1 or parameter.ndim == 2:  # norms, biases and the head start at zeros and ones
            nn.init.normal_(parameter, 0.5)
    return network.eval()


def save_model(folder, plans: dict, dataset_json: dict, networks: list[torch.nn.Module], configuration: str = "3d_fullres") -> None:
    """A model folder as training leaves it, one fold a network."""
    for fold, network in enumerate(networks):
        (folder / f"fold_{fold}").mkdir(parents=True)
        weights, head = split_network_weights(network)
        torch.save({"network_weights": weights, "class_head_weights": head, "trainer_name": "nnUNetTrainer",
                    "init_args": {"plans": plans, "configuration": configuration, "fold": fold, "dataset_json": dataset_json},
                    "inference_allowed_mirroring_axes": (0, 1, 2)}, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))


def write_image(path, array: np.ndarray, spacing=(0.9, 0.9, 2.5), origin=(-30.0, 12.0, 5.0)) -> None:
    """array (Z, Y, X); spacing and origin as SimpleITK has them, x first."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def smooth_ct(shape=(10, 26, 24), seed: int = 0) -> np.ndarray:
    """int16 HU that vary over a few voxels."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.normal(70, 90, (1, 1, *(n // 4 + 2 for n in shape))))
    volume = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0].numpy()
    return (volume + generator.normal(0, 10, shape)).astype(np.int16)
