"""From logits on the network's grid to a mask on the image's grid, and to files.

Label output interpolates logits only where the result can be something other than background: linear weights are convex, so
an output voxel whose neighbours all prefer background prefers it too. Probabilities need the whole volume.
"""

import os
import pickle
import zipfile
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nnunetv2.inference.case_prediction import CasePrediction
from nnunetv2.inference.coarse_roi import Box, box_shape, foreground_box
from nnunetv2.inference.label_maps import channels_that_may_win, winning_channels
from nnunetv2.preprocessing.resampling import (
    apply_along_axis, cheapest_order, interpolation_matrix, low_resolution_axis, nearest_indices, resample_data_or_seg_to_shape,
    rounded, working_dtype,
)
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


BLOCK = (16, 64, 64)  # output voxels resampled at a time: small, because few classes come into question in a small place


def convert_logits_to_labels(logits: Tensor, label_manager: LabelManager) -> np.ndarray:
    """(S, D, H, W) -> label map (D, H, W) uint8 or uint16; the first of equal maxima wins, as in argmax."""
    dtype = label_dtype(label_manager)
    if label_manager.has_regions:
        return np.asarray(label_manager.convert_logits_to_segmentation(logits)).astype(dtype)
    return winning_channels(logits).astype(dtype)


def label_dtype(label_manager: LabelManager) -> type[np.unsignedinteger]:
    """What masks are written in; upstream counts the foreground labels in the same way."""
    return np.uint8 if len(label_manager.foreground_labels) < 255 else np.uint16


def _axis_weights(n_in: int, n_out: int, order: int) -> np.ndarray:
    """(n_out, n_in): rows of convex weights for order 0 and 1."""
    if order == 0:
        return np.eye(n_in)[nearest_indices(n_in, n_out)]
    return np.eye(n_in) if n_in == n_out else interpolation_matrix(n_in, n_out, order)


def resample_logits_to_segmentation_box(
    prediction: CasePrediction,
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    label_manager: LabelManager,
    order: int = 1,
    order_z: int = 0,
    force_separate_z: bool | None = None,
) -> tuple[np.ndarray, Box]:
    """Label map of the box of `new_shape` that can hold foreground, and that box; empty slices where there is none.

    Outside the box everything is background. Equal to resampling all logits and taking labels afterwards, rounding to the
    logits' own type in between as that does.
    """
    if max(order, order_z) > 1:
        raise ValueError(f"Only orders 0 and 1 are convex, got {order} and {order_z}.")
    coarse_labels = convert_logits_to_labels(prediction.logits, label_manager)
    foreground = foreground_box(coarse_labels != 0)
    if foreground is None:
        return np.zeros((0, 0, 0), label_dtype(label_manager)), (slice(0, 0),) * 3

    thick = low_resolution_axis(current_spacing, new_spacing, force_separate_z)
    target, source, matrices = [], [], []
    for axis, (inside, part) in enumerate(zip(prediction.box, foreground)):
        weights = _axis_weights(prediction.shape[axis], new_shape[axis], order_z if axis == thick else order)
        rows = np.flatnonzero(weights[:, inside.start + part.start : inside.start + part.stop].any(axis=1))
        rows = slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)  # order 0 can step over a thin object
        columns = np.flatnonzero(weights[rows, inside].any(axis=0))  # a voxel of background around the foreground comes along
        columns = slice(int(columns[0]), int(columns[-1]) + 1) if columns.size else slice(0, 0)
        target.append(rows)
        source.append(columns)
        matrices.append(np.ascontiguousarray(weights[rows, inside][:, columns]))
    shape = box_shape(target)
    logits = prediction.logits[(slice(None), *source)]
    if 0 in shape:
        return np.zeros((0, 0, 0), label_dtype(label_manager)), (slice(0, 0),) * 3
    if all(matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix))) for matrix in matrices):
        return coarse_labels[tuple(source)], tuple(target)

    labels = np.empty(shape, label_dtype(label_manager))
    order_of_axes = cheapest_order(list(zip(new_shape, prediction.shape, strict=True)))  # that of the whole volume: the same roundings
    for block in product(*(_parts(matrix, size) for matrix, size in zip(matrices, BLOCK))):
        voxels, used, weights = zip(*block)
        labels[voxels] = _labels_of_block(logits[(slice(None), *used)].contiguous(), weights, order_of_axes, label_manager)
    return labels, tuple(target)


def _parts(matrix: np.ndarray, size: int) -> list[tuple[slice, slice, np.ndarray]]:
    """(rows, the columns that they need, matrix[rows, columns]) of every `size` rows of a matrix (n_out, n_in)."""
    parts = []
    for start in range(0, len(matrix), size):
        rows = matrix[start : start + size]
        used = np.flatnonzero(rows.any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        parts.append((slice(start, start + len(rows)), columns, rows[:, columns]))
    return parts


def _labels_of_block(logits: Tensor, weights: Sequence[np.ndarray], order_of_axes: Sequence[int], label_manager: LabelManager) -> np.ndarray:
    """Labels (D', H', W') of logits (S, D, H, W) after interpolation by `weights`, (D', D), (H', H) and (W', W)."""
    kept = list(range(len(logits))) if label_manager.has_regions else channels_that_may_win(logits)
    if len(kept) == 1:
        return np.full([len(rows) for rows in weights], kept[0])
    half_or_single = logits[kept].numpy()
    block = half_or_single.astype(working_dtype(half_or_single.dtype))
    for axis in order_of_axes:
        block = np.stack([apply_along_axis(weights[axis], channel, axis) for channel in block])
    labels = convert_logits_to_labels(torch.from_numpy(rounded(block, half_or_single.dtype)), label_manager)
    return labels if label_manager.has_regions else np.array(kept, labels.dtype)[labels]


def convert_prediction_to_segmentation(
    prediction: CasePrediction,
    properties: dict,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    label_manager: LabelManager,
    return_probabilities: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """(mask (Z, Y, X) on the image's grid, probabilities (S, Z, Y, X) float32 or None).

    properties: as the preprocessor returned them; they say how to revert resampling, cropping and transposition.
    """
    new_shape = properties["shape_after_cropping_and_before_resampling"]
    new_spacing = [properties["spacing"][i] for i in plans_manager.transpose_forward]
    current_spacing = list(configuration_manager.spacing)
    if len(current_spacing) < len(new_shape):  # 2D plans do not resample through the slices
        current_spacing.insert(0, new_spacing[0])
    resample = configuration_manager.resampling_fn_probabilities
    crop = tuple(slice(*extent) for extent in properties["bbox_used_for_cropping"])
    mask = np.zeros(properties["shape_before_cropping"], label_dtype(label_manager))
    probabilities = None
    if not return_probabilities and _convex(resample):
        labels, box = resample_logits_to_segmentation_box(
            prediction, new_shape, current_spacing, new_spacing, label_manager, **_orders(resample))
        mask[crop][box] = labels
    else:
        logits = prediction.full_logits(label_manager.has_regions)
        logits = torch.as_tensor(resample(logits, new_shape, current_spacing, new_spacing))
        if return_probabilities:
            probabilities = label_manager.apply_inference_nonlin(logits)
            mask[crop] = np.asarray(label_manager.convert_probabilities_to_segmentation(probabilities))
            probabilities = label_manager.revert_cropping_on_probabilities(
                probabilities, properties["bbox_used_for_cropping"], properties["shape_before_cropping"])
            backward = [0, *(axis + 1 for axis in plans_manager.transpose_backward)]
            probabilities = probabilities.numpy().transpose(backward)
        else:
            mask[crop] = convert_logits_to_labels(logits, label_manager)
    return mask.transpose(plans_manager.transpose_backward), probabilities


def _orders(resample: partial) -> dict:
    return {name: value for name, value in resample.keywords.items() if name != "is_seg"}


def _convex(resample: partial) -> bool:
    """Whether the plans resample logits by nnU-Net's own function in order 0 or 1, the default."""
    orders = resample.keywords
    return resample.func is resample_data_or_seg_to_shape and not orders.get("is_seg") and max(
        orders.get("order", 3), orders.get("order_z", 0)) <= 1 and "separate_z_anisotropy_threshold" not in orders


def write_prediction(
    mask: np.ndarray,
    probabilities: np.ndarray | None,
    properties: dict,
    plans_manager: PlansManager,
    output_file_truncated: str | Path,
    file_ending: str,
) -> None:
    """OUTPUT.nii.gz and, with probabilities, OUTPUT.npz (key `probabilities`) and OUTPUT.pkl; each whole or not there.

    The mask comes last: a case counts as done when its mask is there.
    """
    if probabilities is not None:
        with atomic_write(f"{output_file_truncated}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=probabilities)
        with atomic_write(f"{output_file_truncated}.pkl") as temporary:
            temporary.write_bytes(pickle.dumps(properties))
    plans_manager.image_reader_writer_class().write_seg(mask, f"{output_file_truncated}{file_ending}", properties)


def damage_of_probabilities(output_file_truncated: str | os.PathLike) -> str | None:
    """Why OUTPUT.npz or OUTPUT.pkl is not whole, or None. Cheap: by the ends of the files, which a short write loses."""
    if not zipfile.is_zipfile(f"{output_file_truncated}.npz"):
        return f"{output_file_truncated}.npz is truncated"
    with open(f"{output_file_truncated}.pkl", "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return None if file.read() == pickle.STOP else f"{output_file_truncated}.pkl is truncated"
