"""Transforms of batchgenerators 1 with nnU-Net's signatures: each takes a batch as keywords and returns it as a dictionary.

Arrays are (B, C, Z, Y, X) or (B, C, Y, X). Trainings of this package use batchgenerators 2 (training/augmentation.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from batchgenerators.augmentations.utils import resize_segmentation
from batchgenerators.transforms.abstract_transforms import AbstractTransform

Batch = dict[str, Any]


class MaskTransform(AbstractTransform):
    """Set channels of the data to a value where a channel of the segmentation is below 0, which is outside the image."""

    def __init__(self, apply_to_channels: Sequence[int], mask_idx_in_seg: int = 0, set_outside_to: int = 0, data_key: str = "data", seg_key: str = "seg"):
        self.apply_to_channels, self.mask_idx_in_seg, self.set_outside_to = apply_to_channels, mask_idx_in_seg, set_outside_to
        self.data_key, self.seg_key = data_key, seg_key

    def __call__(self, **data_dict: Any) -> Batch:
        outside = data_dict[self.seg_key][:, self.mask_idx_in_seg] < 0
        for channel in self.apply_to_channels:
            data_dict[self.data_key][:, channel][outside] = self.set_outside_to
        return data_dict


class ConvertSegmentationToRegionsTransform(AbstractTransform):
    """One channel of labels -> one uint8 channel a region: 1 where the label is one of the region's."""

    def __init__(self, regions: Sequence[int | Sequence[int]], seg_key: str = "seg", output_key: str = "seg", seg_channel: int = 0):
        self.regions, self.seg_key, self.output_key, self.seg_channel = regions, seg_key, output_key, seg_channel

    def __call__(self, **data_dict: Any) -> Batch:
        seg = data_dict.get(self.seg_key)
        if seg is not None:
            data_dict[self.output_key] = np.stack([np.isin(seg[:, self.seg_channel], region) for region in self.regions], axis=1).astype(np.uint8)
        return data_dict


class DownsampleSegForDSTransform2(AbstractTransform):
    """The segmentation -> a list with one an output of deep supervision, from the whole size down.

    ds_scales: a factor an output, or one an axis in `axes`; axes: by default all but the first two. ValueError when they differ in number.
    """

    def __init__(self, ds_scales: Sequence[float | Sequence[float]], order: int = 0, input_key: str = "seg", output_key: str = "seg",
                 axes: Sequence[int] | None = None):
        self.ds_scales, self.order, self.input_key, self.output_key, self.axes = ds_scales, order, input_key, output_key, axes

    def __call__(self, **data_dict: Any) -> Batch:
        seg = data_dict[self.input_key]
        data_dict[self.output_key] = [self._scaled(seg, scale) for scale in self.ds_scales]
        return data_dict

    def _scaled(self, seg: np.ndarray, scale: float | Sequence[float]) -> np.ndarray:
        axes = range(2, seg.ndim) if self.axes is None else self.axes
        factors = list(scale) if isinstance(scale, (tuple, list)) else [scale] * len(axes)
        if len(factors) != len(axes):
            raise ValueError(f"ds_scales holds {tuple(factors)} for an output; give one factor an axis, {len(axes)}.")
        if all(factor == 1 for factor in factors):
            return seg
        shape = np.array(seg.shape, float)
        shape[list(axes)] *= factors
        shape = np.round(shape).astype(int)
        return np.array([[resize_segmentation(channel, shape[2:], self.order) for channel in case] for case in seg], seg.dtype)


class Convert3DTo2DTransform(AbstractTransform):
    """(B, C, Z, Y, X) -> (B, C * Z, Y, X), so that slices are moved as the channels of one picture; the shape is kept as orig_shape_KEY.

    ValueError for arrays of other dimensions and where that key is taken.
    """

    def __init__(self, apply_to_keys: Sequence[str] = ("data", "seg")):
        self.apply_to_keys = apply_to_keys

    def __call__(self, **data_dict: Any) -> Batch:
        for key in self.apply_to_keys:
            shape = data_dict[key].shape
            if len(shape) != 5 or f"orig_shape_{key}" in data_dict:
                raise ValueError(f"{key} is {shape}; expected (B, C, Z, Y, X), and no orig_shape_{key} in the batch yet.")
            data_dict[f"orig_shape_{key}"] = shape
            data_dict[key] = data_dict[key].reshape(shape[0], shape[1] * shape[2], *shape[3:])
        return data_dict


class Convert2DTo3DTransform(AbstractTransform):
    """Undoes Convert3DTo2DTransform; Y and X may have changed between the two. ValueError without its orig_shape_KEY."""

    def __init__(self, apply_to_keys: Sequence[str] = ("data", "seg")):
        self.apply_to_keys = apply_to_keys

    def __call__(self, **data_dict: Any) -> Batch:
        for key in self.apply_to_keys:
            if f"orig_shape_{key}" not in data_dict:
                raise ValueError(f"The batch has no orig_shape_{key}. Put Convert3DTo2DTransform before this transform.")
            data_dict[key] = data_dict[key].reshape(*data_dict[f"orig_shape_{key}"][:3], *data_dict[key].shape[-2:])
        return data_dict
