"""Labels that boxes and single passes found nowhere, though they gave them some probability: what a look with all views adds of them.

`fast` sees each place in one unmirrored pass. A label that this pass just fails to choose may be a lesion of millilitres to the mean of all
views. Whether to look again goes by the volume that the passes expect of the label, the sum of its probability over the voxels that may
well show it: where a label is truly absent there are next to none, and the time is saved.
"""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from nnunetv2.inference.label_maps import winning_channels
from nnunetv2.utilities.label_handling.label_handling import LabelManager

EXPECTED_ML = 0.1  # a tenth of the millilitre that nobody should lose
PLAUSIBLE = 0.1  # probability below which a voxel does not count: traces of it in a whole abdomen would add up to millilitres


def probability_sums(logits: Tensor, channels: Collection[int], label_manager: LabelManager, where: Tensor | None = None) -> dict[int, float]:
    """Of each of `channels` the sum of its probability, where it is PLAUSIBLE, over voxels of logits (S, D, H, W), or those of `where` (D, H, W)."""
    sums = dict.fromkeys(channels, 0.0)
    for z in range(logits.shape[1] if sums else 0):  # a plane at a time, for memory's sake
        plane = logits[:, z].float()
        probabilities = torch.sigmoid(plane) if label_manager.has_regions else torch.softmax(plane, 0)
        for channel in sums:
            seen = probabilities[channel] if where is None else probabilities[channel][where[z]]
            sums[channel] += float(seen[seen >= PLAUSIBLE].sum())
    return sums


def with_channels_of(logits: Tensor, other: Tensor, channels: Collection[int], label_manager: LabelManager) -> Tensor:
    """logits (S, D, H, W), changed where `other`, of the same shape, gives a voxel to one of `channels`: the voxel is as in `other` there."""
    if label_manager.has_regions:
        for channel in channels:
            logits[channel] = other[channel]
        return logits
    given = torch.from_numpy(np.isin(winning_channels(other), sorted(channels)))
    logits[:, given] = other[:, given].to(logits.dtype)
    return logits
