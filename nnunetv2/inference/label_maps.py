"""Which channel of the logits a voxel goes to."""

import numpy as np
import torch
from torch import Tensor

ROUNDING = 1e-4  # relative; interpolation in single precision can be off by less


def winning_channels(logits: Tensor) -> np.ndarray:
    """The channel of the largest logit of (S, D, H, W), as (D, H, W) uint16; the first of equal ones.

    A running maximum over channels: torch.argmax over the first axis takes thirty times as long on a CPU.
    """
    winners = np.zeros(logits.shape[1:], np.uint16)
    best = logits[0]
    for channel, values in enumerate(logits[1:], start=1):
        winners[(values > best).numpy()] = channel
        best = torch.maximum(best, values)
    return winners


def channels_that_may_win(logits: Tensor) -> list[int]:
    """Channels of logits (S, D, H, W) that may be largest in some voxel, also after interpolation with convex weights.

    Such values lie between the channel's least and greatest, so a channel whose greatest is below the least of another cannot win.
    """
    by_channel = logits.flatten(1)
    least, greatest = by_channel.amin(1).float(), by_channel.amax(1).float()
    bar = least.max()
    return torch.nonzero(greatest >= bar - ROUNDING * bar.abs())[:, 0].tolist()
