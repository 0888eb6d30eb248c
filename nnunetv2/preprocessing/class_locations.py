"""Voxels from which training draws patch centres, so that rare labels are seen often enough."""

from collections.abc import Sequence

import numpy as np

SEED = 1234
MIN_SAMPLES = 10_000  # a class, or all its voxels if it has fewer
MIN_SHARE = 0.01  # of the voxels of a class


def sample_class_locations(seg: np.ndarray, classes_or_regions: Sequence[int | Sequence[int]], seed: int | None = SEED,
                           min_samples: int = MIN_SAMPLES, min_share: float = MIN_SHARE) -> dict[int | tuple[int, ...], np.ndarray | list]:
    """Random voxels of each class (a label) or region (several labels), without replacement.

    Args:
        seg: (1, Z, Y, X).
        seed: None draws anew with each call.
    Returns:
        {label or tuple of labels: (n, 4) int64 indices into `seg`}; [] for a class without a voxel. The draws are those of
        upstream for the same segmentation, so training on either side sees the same candidates.
    """
    rng = np.random.RandomState(seed)
    flat = seg.ravel()
    locations = {}
    for entry in classes_or_regions:
        key = int(entry) if np.isscalar(entry) else tuple(int(label) for label in entry)
        labels = (key,) if isinstance(key, int) else key
        voxels = np.concatenate([np.flatnonzero(flat == label) for label in labels])
        if voxels.size == 0:
            locations[key] = []
            continue
        n = max(min(min_samples, voxels.size), int(np.ceil(voxels.size * min_share)))
        chosen = voxels[rng.choice(voxels.size, n, replace=False)]
        locations[key] = np.stack(np.unravel_index(chosen, seg.shape), axis=1)
    return locations
