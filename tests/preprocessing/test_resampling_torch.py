"""Linear resampling by torch, on volumes whose answers can be said beforehand."""

import numpy as np
import pytest
import torch

from nnunetv2.preprocessing.resampling import resampling_fn_by_name
from nnunetv2.preprocessing.resampling_torch import resample_torch_fornnunet, resample_torch_simple

MM = (1.0, 1.0, 1.0)


def test_the_input_comes_back_where_the_shape_is_right():
    data = np.zeros((1, 2, 3, 4), np.float32)
    assert resample_torch_fornnunet(data, (2, 3, 4), MM, MM) is data


def test_a_ramp_stays_a_ramp():
    ramp = np.arange(8, dtype=np.float32) * 2
    data = np.broadcast_to(ramp[:, None, None], (8, 4, 4))[None].copy()
    found = resample_torch_fornnunet(data, (4, 4, 4), MM, (2.0, 1.0, 1.0), force_separate_z=False)
    assert np.allclose(found[0, :, 0, 0], [1, 5, 9, 13])  # means of neighbours


@pytest.mark.parametrize("as_tensor", [False, True])
def test_kind_and_device_of_the_input_are_kept(as_tensor):
    data = torch.rand(2, 4, 4, 4)
    found = resample_torch_fornnunet(data if as_tensor else data.numpy(), (8, 8, 8), MM, MM)
    assert isinstance(found, torch.Tensor if as_tensor else np.ndarray) and tuple(found.shape) == (2, 8, 8, 8)


def test_the_label_with_the_largest_share_wins():
    seg = np.zeros((1, 1, 1, 6), np.int16)
    seg[..., 2:4], seg[..., 4:] = 3, 200
    found = resample_torch_simple(seg, (1, 1, 3), is_seg=True)
    assert found.dtype == np.int16 and found[0, 0, 0].tolist() == [0, 3, 200]


def test_small_labels_come_as_int8():
    assert resample_torch_simple(np.ones((1, 2, 2, 2), np.int16), (4, 4, 4), is_seg=True).dtype == np.int8


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_thick_slices_are_taken_as_they_are(thick):
    spacing = [1.0, 1.0, 1.0]
    spacing[thick] = 5.0
    shape, new_shape = [6, 6, 6], [12, 12, 12]
    shape[thick], new_shape[thick] = 3, 6
    data = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    found = resample_torch_fornnunet(data, new_shape, spacing, spacing)
    doubled = np.moveaxis(found[0], thick, 0)
    assert np.array_equal(doubled[0::2], doubled[1::2])  # every slice twice: nothing in between was made up


def test_torch_resampling_is_found_by_its_name():
    assert resampling_fn_by_name("resample_torch_fornnunet") is resample_torch_fornnunet


def test_other_axes_are_refused():
    with pytest.raises(ValueError, match="C, Z, Y, X"):
        resample_torch_fornnunet(np.zeros((3, 4, 5), np.float32), (3, 4, 5), MM, MM)
