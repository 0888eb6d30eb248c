"""Does a mask lie on what it should? No header tells when its content is flipped, but the voxels below it do, seen beside the other cases.

A flipped mask covers fat, gut and bone: its intensities spread more than an organ's, and differ from its surroundings in
another way. How much an organ's may spread depends on the data, so each case is compared with the median of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MIN_CASES = 5  # fewer have no median worth comparing with
MAX_Z = 5.0  # robust z: distance from the median in SDs, estimated by the median absolute deviation
LEAST_SD = 0.08  # of the median, at least this counts as one SD: in alike cases small differences are none
LEAST_SD_HU = 3.0
SHELL_VOXELS = 2
MAD_TO_SD = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class MaskStatistics:
    """Mean and SD of the intensities inside a mask, and its mean minus that of the shell around it."""

    mean: float
    sd: float
    step: float


def mask_statistics(image: np.ndarray, mask: np.ndarray) -> MaskStatistics | None:
    """Of an image (Z, Y, X) and a mask (Z, Y, X) bool; None for an empty mask or one that fills its image."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return None
    box = tuple(slice(max(0, side.start - SHELL_VOXELS), side.stop + SHELL_VOXELS) for side in boxes[0])
    image, mask = image[box], mask[box]
    shell = ndimage.binary_dilation(mask, iterations=SHELL_VOXELS) & ~mask
    if not shell.any():
        return None
    inside = image[mask].astype(np.float64)
    return MaskStatistics(float(inside.mean()), float(inside.std()), float(inside.mean() - image[shell].mean(dtype=np.float64)))


def outliers(statistics: Mapping[str, MaskStatistics | None]) -> list[str]:
    """A line for each case whose mask differs from the others', in words with numbers; [] with fewer than MIN_CASES."""
    known = {case: value for case, value in statistics.items() if value is not None}
    if len(known) < MIN_CASES:
        return []
    lines = []
    medians = {name: float(np.median([getattr(value, name) for value in known.values()])) for name in ("mean", "sd", "step")}
    for name, words in (("sd", "intensities inside the mask spread by"), ("mean", "the mean intensity inside the mask is"),
                        ("step", "the mask differs from its surroundings by")):
        values = np.array([getattr(value, name) for value in known.values()])
        sd = max(MAD_TO_SD * float(np.median(np.abs(values - medians[name]))), LEAST_SD * max(abs(medians["sd"]), abs(medians[name])), LEAST_SD_HU)
        for case, value in zip(known, values):
            z = (value - medians[name]) / sd
            if z > MAX_Z or (z < -MAX_Z and name != "sd"):
                lines.append(f"{case}: {words} {value:.0f}, in most cases {medians[name]:.0f} (robust z {z:+.0f}). "
                             "Look at it: the mask may be flipped or another patient's.")
    return sorted(lines)
