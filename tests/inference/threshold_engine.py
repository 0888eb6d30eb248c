"""A network whose right answer is the image itself."""

from math import prod

import torch


class Threshold:
    """Foreground where the image exceeds `level`; no class. `sizes`: (D, H, W) of each window seen."""

    name, precision, batch_size = "threshold", "fp32", 1

    def __init__(self, level=0.5):
        self.level, self.sizes = level, []

    @property
    def voxels(self):
        return sum(map(prod, self.sizes))

    def __call__(self, x, classify=True):
        self.sizes.append(tuple(x.shape[2:]))
        return torch.stack([torch.full_like(x[:, 0], self.level), x[:, 0]], 1), None
