"""The transforms of batchgenerators 1, on arrays of a few voxels."""

import numpy as np
import pytest

from nnunetv2.compatibility.cascade_transforms import close, dilate, erode, open_
from nnunetv2.training.data_augmentation.custom_transforms.cascade_transforms import (
    ApplyRandomBinaryOperatorTransform,
    MoveSegAsOneHotToData,
    RemoveRandomConnectedComponentFromOneHotEncodingTransform,
)
from nnunetv2.training.data_augmentation.custom_transforms.deep_supervision_donwsampling import DownsampleSegForDSTransform2
from nnunetv2.training.data_augmentation.custom_transforms.masking import MaskTransform
from nnunetv2.training.data_augmentation.custom_transforms.region_based_training import ConvertSegmentationToRegionsTransform
from nnunetv2.training.data_augmentation.custom_transforms.transforms_for_dummy_2d import Convert2DTo3DTransform, Convert3DTo2DTransform


def row(*values):
    """(1, 1, 1, X)."""
    return np.array(values).reshape(1, 1, 1, -1)


def test_outside_is_set_where_the_mask_is_negative():
    batch = MaskTransform([1], set_outside_to=9)(data=np.concatenate([row(1, 2, 3)] * 2, axis=1), seg=row(-1, 0, 1))
    assert batch["data"].reshape(2, 3).tolist() == [[1, 2, 3], [9, 2, 3]]


def test_labels_become_regions():
    batch = ConvertSegmentationToRegionsTransform([(1, 2), 2])(seg=row(0, 1, 2))
    assert batch["seg"].reshape(2, 3).tolist() == [[0, 1, 1], [0, 0, 1]] and batch["seg"].dtype == np.uint8
    assert ConvertSegmentationToRegionsTransform([(1,)])(data=1) == {"data": 1}


def test_targets_of_deep_supervision_shrink():
    seg = np.arange(2).repeat(8).reshape(1, 1, 4, 4)
    whole, half, slim = DownsampleSegForDSTransform2([1, 0.5, (1, 0.25)], output_key="targets")(seg=seg)["targets"]
    assert whole is seg and half.tolist() == [[[[0, 0], [1, 1]]]] and slim.ravel().tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="one factor an axis, 2"):
        DownsampleSegForDSTransform2([(1, 1, 0.5)])(seg=seg)


def test_slices_become_channels_and_come_back():
    data = np.arange(24).reshape(1, 2, 3, 2, 2)
    flat = Convert3DTo2DTransform(["data"])(data=data.copy())
    assert flat["data"].shape == (1, 6, 2, 2) and np.array_equal(flat["data"][0, 3], data[0, 1, 0])
    flat["data"] = flat["data"][..., :1]  # as a crop would
    assert np.array_equal(Convert2DTo3DTransform(["data"])(**flat)["data"], data[..., :1])
    with pytest.raises(ValueError, match="orig_shape_data"):
        Convert3DTo2DTransform(["data"])(data=data, orig_shape_data=0)
    with pytest.raises(ValueError, match="orig_shape_seg"):
        Convert2DTo3DTransform(["seg"])(seg=data)


def test_a_channel_of_labels_moves_to_the_data():
    batch = MoveSegAsOneHotToData(1, [1, 2])(data=row(0.5, 0.5, 0.5), seg=np.concatenate([row(7, 7, 7), row(0, 1, 2)], axis=1))
    assert batch["data"].reshape(3, 3).tolist() == [[0.5, 0.5, 0.5], [0, 1, 0], [0, 0, 1]] and batch["seg"].ravel().tolist() == [7, 7, 7]
    kept = MoveSegAsOneHotToData(0, [1], remove_from_origin=False)(data=row(0.0), seg=row(1))
    assert kept["seg"].shape == (1, 1, 1, 1)


def cube(*filled):
    """(1, 2, 5, 5, 5): one-hot channels, each filled at the given voxels."""
    data = np.zeros((1, 2, 5, 5, 5), np.float32)
    for channel, voxels in enumerate(filled):
        for voxel in voxels:
            data[(0, channel, *voxel)] = 1
    return data


def test_what_a_channel_gains_the_other_loses():
    """A ball of radius 1 is a voxel and its six neighbours; the two balls share the voxel between their centres."""
    data = cube([(2, 2, 1)], [(2, 2, 3)])
    transform = ApplyRandomBinaryOperatorTransform([0, 1], 1.0, (dilate,), strel_size=(1, 1), p_per_label=1)
    np.random.seed(0)
    found = transform(data=data)["data"]
    first, last = transform.channel_idx
    assert found[0, first].sum() == 6 and found[0, last].sum() == 7 and not (found[0, 0] * found[0, 1]).any()


def test_operations_leave_the_border_of_the_array():
    full, element = np.ones((3, 3), bool), np.ones((3, 3), bool)
    assert erode(full, element).all() and close(full, element).all() and open_(full, element).all()
    full[1, 1] = False
    assert close(full, element).all() and not open_(full, element).any()


def test_slices_are_changed_by_a_disk():
    found = ApplyRandomBinaryOperatorTransform(0, 1.0, (lambda mask, element: element.ndim == mask.ndim == 2 and mask,))(data=row(0.0, 1.0))
    assert found["data"].ravel().tolist() == [0, 1]


def test_small_components_are_removed_and_may_change_sides():
    big = [(z, y, 0) for z in range(5) for y in range(5)] + [(z, y, 1) for z in range(5) for y in range(5)]  # 50 of 125 voxels
    moved = RemoveRandomConnectedComponentFromOneHotEncodingTransform([0, 1], p_per_sample=1.0, fill_with_other_class_p=1.0)(data=cube(big, []))["data"]
    assert moved[0, 0].sum() == 50
    transform = RemoveRandomConnectedComponentFromOneHotEncodingTransform(0, p_per_sample=1.0, fill_with_other_class_p=0.0)
    assert transform(data=cube([(2, 2, 2), (2, 2, 3)], []))["data"].sum() == 0
    swapped = RemoveRandomConnectedComponentFromOneHotEncodingTransform([1, 0], p_per_sample=1.0, fill_with_other_class_p=1.0)
    assert swapped(data=cube([(2, 2, 2)], []))["data"][0, 1, 2, 2, 2] == 1
