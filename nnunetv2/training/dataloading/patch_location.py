"""Where the patch of a case lies (Isensee et al. 2021: every batch's last third shows foreground for sure)."""

from collections.abc import Mapping, Sequence

import numpy as np

Label = int | tuple[int, ...]


def is_forced_foreground(position: int, batch_size: int, foreground_share: float) -> bool:
    """True for the last round(share) samples of a batch; position counts from 0 in the whole (all-GPU) batch."""
    return position >= round(batch_size * (1 - foreground_share))


def lower_corner_range(shape: Sequence[int], read_size: Sequence[int], patch_size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest (inclusive) lower corner of a box of `read_size` in a volume of `shape`, per axis.

    The box may reach over the border by half of what it is larger than the patch, so that the patch in its middle gets to
    the border. A volume smaller than the box ends up in its middle, to within a voxel.
    """
    shape, read_size = np.asarray(shape), np.asarray(read_size)
    overhang = np.maximum(read_size - np.asarray(patch_size), read_size - shape)
    half = -(-overhang // 2)  # rounded up
    return -half, shape - read_size + half


def draw_lower_corner(rng: np.random.Generator, shape: Sequence[int], read_size: Sequence[int], patch_size: Sequence[int],
                      voxels: np.ndarray | None) -> np.ndarray:
    """Lower corner of the box to read: uniform, or around one of `voxels` (N, 1 + axes; channel first) when given."""
    low, high = lower_corner_range(shape, read_size, patch_size)
    if voxels is None:
        return rng.integers(low, high + 1)
    voxel = voxels[rng.integers(len(voxels))][1:]
    return np.maximum(low, voxel - np.asarray(read_size) // 2)


def draw_foreground_voxels(rng: np.random.Generator, class_locations: Mapping[Label, np.ndarray], annotated: Label | None,
                           preferred: Sequence[Label] = (), preferred_share: float = 0.0) -> np.ndarray | None:
    """Candidate centre voxels of a forced-foreground patch, or None when the case has no foreground.

    A label (or region) is drawn uniformly among those the case holds. `annotated` (the key that collects every labelled
    voxel of a dataset with ignore label) counts only when nothing else is there. With probability `preferred_share` the
    draw is among the `preferred` labels instead, if the case holds any.
    """
    present = [label for label, voxels in class_locations.items() if len(voxels) > 0]
    candidates = [label for label in present if label != annotated] or present
    wanted = [label for label in candidates if label in preferred]
    if wanted and rng.random() < preferred_share:
        candidates = wanted
    return class_locations[candidates[rng.integers(len(candidates))]] if candidates else None
