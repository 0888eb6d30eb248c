"""Labels out of stored numbers: tools that resample or scale leave 1.0000152587890625 where they mean 1."""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from nnunetv2.utilities.errors import InputError, name_some

SNAP = 1e-3  # further from a whole number is no rounding


def snap_labels(values: np.ndarray, where: str | os.PathLike) -> np.ndarray:
    """`values` with each within SNAP of a whole number set to it (in place for floats). InputError, with values, if one is not or is below 0."""
    if values.dtype.kind in "if" and values.size and values.min() < -SNAP:
        raise InputError(f"{where} holds values that are no labels: {shown_values(np.unique(values[values < -SNAP]))}; labels are whole numbers from 0. "
                         "Correct the mask.")
    if values.dtype.kind in "iu":
        return values
    nearest = np.rint(values)
    if np.array_equal(nearest, values):
        return values
    wrong = ~(np.abs(values - nearest) <= SNAP)
    if wrong.any():
        shown = np.unique(values[wrong])
        raise InputError(f"{where} holds values that are no labels: {shown_values(shown)} in {np.count_nonzero(wrong)} voxel(s); labels are whole "
                         f"numbers, within {SNAP:g}. Resample masks with nearest neighbour and save them as integers.")
    values[...] = nearest
    return values


def unexpected_labels(labels: np.ndarray, expected: Iterable[int]) -> list[int]:
    """The labels that are none of `expected`, ascending. `labels` hold whole numbers, of any type."""
    found: set[int] = set()
    rest = labels.reshape(-1)
    for first in range(0, rest.size, 2**20):
        part = rest[first:first + 2**20].astype(np.int64)
        low = int(part.min())
        counted = int(part.max()) - low < 2**16  # counting is far cheaper than sorting
        found.update((np.flatnonzero(np.bincount(part - low)) + low if counted else np.unique(part)).tolist())
    return sorted(found - set(expected))


def undeclared_labels(labels: np.ndarray, declared: Sequence[int], file: str | os.PathLike) -> str | None:
    """What to say of a mask of the raw dataset that holds other labels than dataset.json declares; None of a sound one."""
    if unexpected := unexpected_labels(labels, declared):
        return f"{file} holds label(s) {shown_values(unexpected)}, dataset.json declares {list(declared)}; correct the mask or dataset.json"
    return None


def shown_values(values: Iterable[float]) -> str:
    """Some values as text, a few of many."""
    return name_some([f"{value:.7g}" for value in values])
