"""batchgenerators 1's transforms of a cascade: the previous stage's labels become channels, and these are made as faulty as predictions are.

Arrays are (B, C, Z, Y, X) or (B, C, Y, X); see dict_transforms.py. Random numbers are numpy's global ones, drawn in nnU-Net's order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from acvl_utils.morphology.morphology_helper import label_with_component_sizes
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from scipy import ndimage
from skimage.morphology import ball, disk

from nnunetv2.compatibility.dict_transforms import Batch

Channels = int | Sequence[int]


def dilate(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, element)


def erode(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    """Nothing is taken away at the array's border: what lies outside counts as mask."""
    return ndimage.binary_erosion(mask, element, border_value=1)


def close(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    return erode(dilate(mask, element), element)


def open_(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    return dilate(erode(mask, element), element)


class MoveSegAsOneHotToData(AbstractTransform):
    """Append a channel a label to the data, 1 where channel `index_in_origin` of the segmentation is that label."""

    def __init__(self, index_in_origin: int, all_labels: Sequence[int], key_origin: str = "seg", key_target: str = "data", remove_from_origin: bool = True):
        self.index_in_origin, self.all_labels, self.remove_from_origin = index_in_origin, all_labels, remove_from_origin
        self.key_origin, self.key_target = key_origin, key_target

    def __call__(self, **data_dict: Any) -> Batch:
        seg, data = data_dict[self.key_origin], data_dict[self.key_target]
        one_hot = [seg[:, self.index_in_origin] == label for label in self.all_labels]
        if one_hot:
            data_dict[self.key_target] = np.concatenate([data, np.stack(one_hot, axis=1).astype(data.dtype)], axis=1)
        if self.remove_from_origin:
            data_dict[self.key_origin] = np.delete(seg, self.index_in_origin, axis=1)
        return data_dict


class ApplyRandomBinaryOperatorTransform(AbstractTransform):
    """Grow or shrink one-hot channels by a random operation with a ball of random radius (voxels); what one channel gains the others lose.

    any_of_these: functions of a bool mask and the ball, a disk for slices. The data are changed in place.
    """

    def __init__(self, channel_idx: Channels, p_per_sample: float = 0.3, any_of_these: Sequence[Callable] = (dilate, erode, close, open_),
                 key: str = "data", strel_size: tuple[float, float] = (1, 10), p_per_label: float = 1):
        self.channel_idx = _channels(channel_idx)
        self.p_per_sample, self.p_per_label = p_per_sample, p_per_label
        self.any_of_these, self.key, self.strel_size = any_of_these, key, strel_size

    def __call__(self, **data_dict: Any) -> Batch:
        for case in data_dict[self.key]:
            if np.random.uniform() < self.p_per_sample:
                np.random.shuffle(self.channel_idx)  # who comes later takes from who came first
                for channel in self.channel_idx:
                    if np.random.uniform() < self.p_per_label:
                        self._apply(case, channel)
        return data_dict

    def _apply(self, case: np.ndarray, channel: int) -> None:
        """`case` (C, Z, Y, X) or (C, Y, X)."""
        operation, radius = np.random.choice(self.any_of_these), np.random.uniform(*self.strel_size)
        before = case[channel].astype(bool)
        if not before.any():
            return
        after = operation(before, (ball if before.ndim == 3 else disk)(radius)).astype(bool)
        case[channel] = after
        for other in self.channel_idx:
            if other != channel:
                case[other][after & ~before] = 0


class RemoveRandomConnectedComponentFromOneHotEncodingTransform(AbstractTransform):
    """Remove a random component of one-hot channels, and with `fill_with_other_class_p` give it to another channel. Done in place.

    Only components below the share `dont_do_if_covers_more_than_x_percent` (0.25: a quarter) of all voxels are removed.
    """

    def __init__(self, channel_idx: Channels, key: str = "data", p_per_sample: float = 0.2, fill_with_other_class_p: float = 0.25,
                 dont_do_if_covers_more_than_x_percent: float = 0.25, p_per_label: float = 1):
        self.channel_idx, self.key = _channels(channel_idx), key
        self.p_per_sample, self.p_per_label, self.fill_with_other_class_p = p_per_sample, p_per_label, fill_with_other_class_p
        self.dont_do_if_covers_more_than_x_percent = dont_do_if_covers_more_than_x_percent

    def __call__(self, **data_dict: Any) -> Batch:
        for case in data_dict[self.key]:
            if np.random.uniform() < self.p_per_sample:
                for channel in self.channel_idx:
                    if np.random.uniform() < self.p_per_label:
                        self._remove(case, channel)
        return data_dict

    def _remove(self, case: np.ndarray, channel: int) -> None:
        """`case` (C, Z, Y, X) or (C, Y, X)."""
        components, sizes = label_with_component_sizes(case[channel].astype(bool))
        small = [number for number, size in sizes.items() if size < components.size * self.dont_do_if_covers_more_than_x_percent]
        if not small:
            return
        removed = components == np.random.choice(small)
        case[channel][removed] = 0
        if np.random.uniform() < self.fill_with_other_class_p:
            others = [other for other in self.channel_idx if other != channel]
            if others:
                case[np.random.choice(others)][removed] = 1


def _channels(given: Channels) -> list[int]:
    return list(given) if isinstance(given, (list, tuple)) else [given]
