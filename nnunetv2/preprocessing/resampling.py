"""Resample volumes to a new grid. Arrays are (C, Z, Y, X), spacings mm in array order.

Spline interpolation on a regular grid is separable and linear, so each axis is one small matrix (n_out, n_in) and a volume
is resampled by three matrix products. The matrices are read off `scipy.ndimage.zoom`, which makes the result that of
`skimage.transform.resize(mode="edge", anti_aliasing=False)` up to rounding, at a fraction of its time and memory.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from scipy import ndimage

from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.utilities.trusted_names import name_of, resolve

BLOCK = 32  # rows of a matrix applied at a time; fewer rows waste less on the zeros beside the band, more rows feed BLAS better
NEGLIGIBLE = 1e-9  # spline weights decay by 0.27 a voxel; those below this are left out
SINGLE_PRECISION_LIMIT = 50.0  # larger values (images not normalised) are resampled in double precision, for errors below 1e-4
SNAP = 1.5 * 2.0 ** 19  # doubles of this size are 2^-33 apart, so adding it rounds to that
NEAR_TIE = 1e-6  # a label's share this close to one half is computed again in double precision


def compute_new_shape(old_shape: Sequence[int], old_spacing: Sequence[float], new_spacing: Sequence[float]) -> tuple[int, ...]:
    """Number of voxels of the same extent at another spacing, each axis rounded to the nearest."""
    return tuple(int(round(old / new * n)) for old, new, n in zip(old_spacing, new_spacing, old_shape, strict=True))


def low_resolution_axis(current_spacing: Sequence[float], new_spacing: Sequence[float], force_separate_z: bool | None = None,
                        threshold: float = ANISO_THRESHOLD) -> int | None:
    """The axis to treat apart because its slices are thick, or None.

    The current spacing decides when its anisotropy exceeds `threshold`, else the new one. None if several axes share the
    coarsest spacing. `force_separate_z` True or False overrides the comparison.
    """
    if force_separate_z is False:
        return None
    for spacing in (current_spacing, new_spacing):
        if force_separate_z or max(spacing) / min(spacing) > threshold:
            coarsest = [axis for axis, value in enumerate(spacing) if value == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


@lru_cache(maxsize=64)
def interpolation_matrix(n_in: int, n_out: int, order: int) -> np.ndarray:
    """(n_out, n_in) float64: spline interpolation of `order` from n_in to n_out samples that cover the same extent."""
    matrix = ndimage.zoom(np.eye(n_in), (n_out / n_in, 1), order=order, mode="nearest", grid_mode=True)
    if matrix.shape != (n_out, n_in):
        raise ValueError(f"Cannot resample an axis from {n_in} to {n_out} voxels.")
    if order > 1:
        matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    matrix.flags.writeable = False
    return matrix


def nearest_indices(n_in: int, n_out: int) -> np.ndarray:
    """(n_out,) index of the input sample nearest to each output sample, both covering the same extent."""
    centres = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
    return ndimage.map_coordinates(np.arange(n_in), [centres], order=0, mode="nearest")


def apply_along_axis(matrix: np.ndarray, volume: np.ndarray, axis: int) -> np.ndarray:
    """Multiply `volume` (Z, Y, X, contiguous) by a banded `matrix` (n_out, n_in) along `axis`; dtype of the volume."""
    matrix = matrix.astype(volume.dtype)
    n_out = matrix.shape[0]
    out = np.empty((*volume.shape[:axis], n_out, *volume.shape[axis + 1:]), volume.dtype)
    for start in range(0, n_out, BLOCK):
        rows = matrix[start:start + BLOCK]
        used = np.flatnonzero(rows.any(axis=0))
        if used.size == 0:
            out[(slice(None),) * axis + (slice(start, start + BLOCK),)] = 0
            continue
        lo, hi = used[0], used[-1] + 1
        band = rows[:, lo:hi]
        if axis == 0:
            np.matmul(band, volume[lo:hi].reshape(hi - lo, -1), out=out[start:start + BLOCK].reshape(len(band), -1))
        elif axis == 1:
            np.matmul(band, volume[:, lo:hi], out=out[:, start:start + BLOCK])
        else:
            np.matmul(volume[:, :, lo:hi], band.T, out=out[:, :, start:start + BLOCK])
    return out


def _apply_all(matrices: Sequence[np.ndarray | None], volume: np.ndarray) -> np.ndarray:
    """Apply one matrix an axis (None: axis stays), the axis that shrinks most first so that the others have less to do."""
    for axis in cheapest_order([None if m is None else m.shape for m in matrices]):
        volume = apply_along_axis(matrices[axis], volume, axis)
    return volume


def cheapest_order(shapes: Sequence[tuple[int, int] | None]) -> list[int]:
    """Axes in the order in which their matrices of (n_out, n_in) are applied; None: the axis stays and is left out."""
    axes = [axis for axis, shape in enumerate(shapes) if shape is not None]
    return sorted(axes, key=lambda axis: shapes[axis][0] / shapes[axis][1])


def working_dtype(dtype: np.dtype) -> np.dtype:
    """What values of `dtype` are interpolated in: half precision in double, as upstream does, because its grid is so coarse
    that logits of two classes often round to the same value, and an error of single precision then decides which of them do.
    """
    return np.dtype(np.float64) if dtype == np.float16 else np.result_type(dtype, np.float32)


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Interpolated `values`, which may be overwritten, in `dtype`. To half precision by way of a grid of 2^-33, on which all
    points half way between two of its numbers lie: weights are simple fractions, so values on such points are common, and
    there the order of a sum would decide otherwise.
    """
    if dtype == np.float16:
        values += SNAP
        values -= SNAP
    return values.astype(dtype, copy=False)


def _resample_image(image: np.ndarray, matrices: Sequence[np.ndarray | None], by_slice_of: int | None) -> np.ndarray:
    """(Z, Y, X) -> (Z', Y', X'), clipped to the input's range, because cubic splines overshoot at edges.

    The range is that of the volume, or of each slice along `by_slice_of`.
    """
    plane = None if by_slice_of is None else tuple(a for a in range(3) if a != by_slice_of)
    low, high = image.min(axis=plane, keepdims=True), image.max(axis=plane, keepdims=True)
    precise = max(-low.min(), high.max()) > SINGLE_PRECISION_LIMIT
    resampled = _apply_all(matrices, image.astype(np.float64) if precise else image)
    return np.clip(resampled, low, high, out=None if resampled is image else resampled)


def _resample_labels(seg: np.ndarray, matrices: Sequence[np.ndarray | None]) -> np.ndarray:
    """(Z, Y, X) integers -> (Z', Y', X'): each label's mask is interpolated and set where it reaches one half.

    Labels are set in ascending order, so the higher one wins a tie, and a voxel in which no label reaches one half is 0: that
    is what upstream's data hold. Only the box of a label is interpolated. `matrices` are of order 0 or 1.
    """
    out = np.zeros([n if m is None else len(m) for n, m in zip(seg.shape, matrices)], seg.dtype)
    lowest = int(seg.min())
    ties = []  # voxels in which a negative label, set before 0, has about one half
    for label, box in enumerate(ndimage.find_objects(seg.astype(np.int32) - (lowest - 1)), start=lowest):
        if box is None:
            continue
        if label == 0:  # `out` is 0 already, except where 0 wins a tie
            for voxels in ties:
                won = _exact_share(seg, 0, matrices, voxels) >= 0.5
                out[tuple(index[won] for index in voxels)] = 0
            continue
        spans = [box[axis] if m is None else _reach(m, box[axis]) for axis, m in enumerate(matrices)]
        if any(span.start == span.stop for span in spans):
            continue
        inner = [None if m is None else m[span, box[axis]] for axis, (m, span) in enumerate(zip(matrices, spans))]
        share = _apply_all(inner, (seg[box] == label).astype(np.float32))
        chosen = share >= 0.5
        # Shares of exactly one half are common on regular grids, and there upstream's result hangs on the last bit.
        near = np.nonzero(np.abs(share - 0.5) < NEAR_TIE)
        voxels = tuple(index + span.start for index, span in zip(near, spans))
        chosen[near] = _exact_share(seg, label, matrices, voxels) >= 0.5
        out[tuple(spans)][chosen] = label
        if label < 0:
            ties.append(voxels)
    return out


def _reach(matrix: np.ndarray, span: slice) -> slice:
    """The outputs to which any input in `span` contributes; empty when a thin span falls between two samples."""
    rows = np.flatnonzero(matrix[:, span].any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)


def _exact_share(seg: np.ndarray, label: int, matrices: Sequence[np.ndarray | None], voxels: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) float64 linear interpolation of `label`'s mask at output voxels (n indices an axis), rounded as scipy rounds.

    That is: both neighbours an axis keep weights of their own even where they are the same edge voxel, and the corners are
    summed with the last axis fastest.
    """
    corners = []
    for matrix, index, n_in in zip(matrices, voxels, seg.shape):
        if matrix is None:
            corners.append([(index, np.ones(len(index)))])
            continue
        centre = (index + 0.5) * (n_in / len(matrix)) - 0.5
        first = np.floor(centre).astype(int)
        weight = centre - first
        corners.append([(np.clip(first, 0, n_in - 1), 1 - weight), (np.clip(first + 1, 0, n_in - 1), weight)])
    share = np.zeros(len(voxels[0]))
    for (z, weight_z), (y, weight_y), (x, weight_x) in product(*corners):
        share += (seg[z, y, x] == label) * weight_z * weight_y * weight_x
    return share


def resample_data_or_seg_to_shape(data: np.ndarray | torch.Tensor, new_shape: Sequence[int], current_spacing: Sequence[float],
                                  new_spacing: Sequence[float], is_seg: bool = False, order: int = 3, order_z: int = 0,
                                  force_separate_z: bool | None = False,
                                  separate_z_anisotropy_threshold: float = ANISO_THRESHOLD) -> np.ndarray:
    """Resample (C, Z, Y, X) to (C, *new_shape). The input comes back itself when the shape is already right.

    Args:
        order: spline order; with `is_seg` that of each label's mask, 0 or 1.
        order_z: order along an axis with thick slices (see `low_resolution_axis`); 0 takes the nearest slice.
        force_separate_z: None decides by the spacings.
    Returns:
        The dtype of `data`.
    """
    if isinstance(data, torch.Tensor):
        data = data.numpy(force=True)
    if data.ndim != 4 or len(new_shape) != 3:
        raise ValueError(f"Expected data (C, Z, Y, X) and a new shape of 3 values, got {data.shape} and {tuple(new_shape)}.")
    new_shape = tuple(int(n) for n in new_shape)
    if data.shape[1:] == new_shape:
        return data
    if is_seg and (order > 1 or order_z != 0):
        raise ValueError(f"Segmentations are resampled with order 0 or 1 and order_z 0, got {order} and {order_z}. "
                         "Correct resampling_fn_seg_kwargs in the plans.")

    thick = low_resolution_axis(current_spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    matrices = [None if a == b or axis == thick else interpolation_matrix(a, b, order)
                for axis, (a, b) in enumerate(zip(data.shape[1:], new_shape))]
    slices = across = None  # what becomes of the thick axis: nearest slices, picked first so that less is interpolated, or a matrix
    if thick is not None and data.shape[thick + 1] != new_shape[thick]:
        if order_z == 0:
            slices = nearest_indices(data.shape[thick + 1], new_shape[thick])
        else:
            across = interpolation_matrix(data.shape[thick + 1], new_shape[thick], order_z)

    out = np.empty((len(data), *new_shape), data.dtype)
    for channel, result in zip(data, out):
        if slices is not None:
            channel = np.take(channel, slices, axis=thick)
        if is_seg:
            result[:] = _resample_labels(channel, matrices)
            continue
        channel = np.ascontiguousarray(channel, dtype=working_dtype(channel.dtype))
        channel = _resample_image(channel, matrices, thick)
        result[:] = rounded(channel if across is None else apply_along_axis(across, channel, thick), data.dtype)
    return out


def no_resampling_hack(data: np.ndarray | torch.Tensor, new_shape: Sequence[int], current_spacing: Sequence[float],
                       new_spacing: Sequence[float]) -> np.ndarray | torch.Tensor:
    """Leave the grid as it is, for plans that say so."""
    return data


def _resampling_functions() -> dict[str, Callable]:
    from nnunetv2.preprocessing.resampling_torch import resample_torch_fornnunet, resample_torch_simple  # it builds on this module

    return {f.__name__: f for f in (resample_data_or_seg_to_shape, no_resampling_hack, resample_torch_fornnunet, resample_torch_simple)}


def resampling_fn_by_name(name: str, where: object = "plans") -> Callable:
    """The function that a plans file names in `resampling_fn_{data,seg,probabilities}`: ours, or one of a package that the user trusts.

    InputError for others.
    """
    return resolve(name, "resampling function", where, _resampling_functions())


def name_of_resampling_fn(function: Callable) -> str:
    """What plans call it, so that it is found again."""
    return name_of(function, _resampling_functions())
