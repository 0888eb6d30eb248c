"""Resampling by torch's interpolation: linear, fast, and what plans of the `torchres` planners name. Arrays are (C, Z, Y, X)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.preprocessing.resampling import low_resolution_axis

SHARE_SCALE = 1000.0  # shares of labels are compared in fp16, scaled so that it resolves a thousandth
SURE_SHARE = 0.7  # a label with more of a voxel takes it, whatever comes later


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def resample_torch_simple(data: Tensor | np.ndarray, new_shape: Sequence[int], is_seg: bool = False, num_threads: int = 4,
                          device: torch.device = torch.device("cpu"), memefficient_seg_resampling: bool = False, mode: str = "linear") -> Tensor | np.ndarray:
    """Interpolate (C, ...) with two or three spatial axes to (C, *new_shape); array in, array out, tensor in, tensor out.

    Args:
        is_seg: interpolate each label's mask; the label with the largest share takes the voxel, the lower one of equals. int8, or
            int16 with labels of 127 and more. memefficient_seg_resampling: a label takes what it has more than half of.
        mode: "linear", or a mode of torch's interpolate.
    Returns:
        float32 of an image; the input itself where the shape is right already.
    """
    new_shape = tuple(int(n) for n in new_shape)
    if tuple(data.shape[1:]) == new_shape:
        return data
    if mode == "linear":
        mode = {2: "bilinear", 3: "trilinear"}[data.ndim - 1]
    source = torch.as_tensor(data).to(device)
    with _threads(num_threads):
        if is_seg:
            result = _labels(source, new_shape, mode, memefficient_seg_resampling)
        else:
            result = F.interpolate(source[None].float(), new_shape, mode=mode, antialias=False)[0]
    return result.cpu().numpy() if isinstance(data, np.ndarray) else result.to(data.device)


def _labels(seg: Tensor, new_shape: tuple[int, ...], mode: str, by_majority: bool) -> Tensor:
    values = torch.unique(seg)
    result = torch.zeros((len(seg), *new_shape), dtype=torch.int8 if values.max() < 127 else torch.int16, device=seg.device)
    best = torch.full(result.shape, float("-inf"), dtype=torch.float16, device=seg.device)
    sure = torch.zeros(result.shape, dtype=torch.bool, device=seg.device)
    for value in values:
        share = F.interpolate((seg[None] == value).float() * (1.0 if by_majority else SHARE_SCALE), new_shape, mode=mode, antialias=False)[0]
        if by_majority:
            result[share > 0.5] = value.to(result.dtype)
            continue
        share = share.half()
        certain = share > SURE_SHARE * SHARE_SCALE
        result[certain | (~sure & (share > best))] = value.to(result.dtype)
        sure |= certain
        best = torch.maximum(best, share)
    return result


def resample_torch_fornnunet(data: Tensor | np.ndarray, new_shape: Sequence[int], current_spacing: Sequence[float], new_spacing: Sequence[float],
                             is_seg: bool = False, num_threads: int = 4, device: torch.device = torch.device("cpu"),
                             memefficient_seg_resampling: bool = False, force_separate_z: bool | None = None,
                             separate_z_anisotropy_threshold: float = ANISO_THRESHOLD, mode: str = "linear",
                             aniso_axis_mode: str = "nearest-exact") -> Tensor | np.ndarray:
    """(C, Z, Y, X) to (C, *new_shape). Thick slices (`low_resolution_axis`) are interpolated in their plane by `mode`, then across by `aniso_axis_mode`.

    `mode` holds for thick slices alone, as published; otherwise all axes are linear.
    """
    if data.ndim != 4:
        raise ValueError(f"Expected data (C, Z, Y, X), got shape {tuple(data.shape)}.")
    new_shape = [int(n) for n in new_shape]
    options = {"is_seg": is_seg, "num_threads": num_threads, "device": device, "memefficient_seg_resampling": memefficient_seg_resampling}
    thick = low_resolution_axis(current_spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    if thick is None:
        return resample_torch_simple(data, new_shape, **options)
    was_array = isinstance(data, np.ndarray)
    slices = torch.as_tensor(data).movedim(thick + 1, 1)  # (C, thick, a, b)
    plane = [n for axis, n in enumerate(new_shape) if axis != thick]
    flat = resample_torch_simple(slices.reshape(-1, *slices.shape[2:]), plane, mode=mode, **options)  # slices as channels
    volume = flat.reshape(*slices.shape[:2], *plane).movedim(1, thick + 1)
    result = resample_torch_simple(volume, new_shape, mode=aniso_axis_mode, **options)
    return result.numpy() if was_array else result
