"""The network that looks for the foreground on a coarse grid: the model's own, or a second one that was trained on such a grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nnunetv2.inference.case_classification import VIEWS_AS_IS, fits_whole
from nnunetv2.inference.coarse_roi import coarse_factors
from nnunetv2.inference.engines import Engine
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.inference.sliding_window_prediction import even_tile, predict_windows, whole_volume_tile
from nnunetv2.utilities.label_handling.label_handling import LabelManager

GROWTHS_OF_TRAINED = 1  # boxes of a model that was trained on its grid: it knows better than a finer one what lies around them
COARSE_STEP = 1.0  # windows of the coarse pass only have to find, not to delineate


def foreground_of(logits: Tensor, label_manager: LabelManager) -> np.ndarray:
    """Boolean (D, H, W) of logits (S, D, H, W). With regions any channel above probability 1/2 is foreground, else any above background."""
    threshold = 0 if label_manager.has_regions else logits[0]
    foreground = torch.zeros(logits.shape[1:], dtype=torch.bool)
    for channel in logits if label_manager.has_regions else logits[1:]:
        foreground |= channel > threshold
    return foreground.numpy()


@dataclass(frozen=True)
class CoarseNetwork:
    """An engine and the grid on which it looks: `geometry.spacing` is that of its own training, or coarser.

    growths: how often a box may grow that the fine result touches (`predict_in_roi`).
    """

    engine: Engine
    geometry: NetworkGeometry
    label_manager: LabelManager
    growths: int | None = None

    def foreground(self, data: Tensor, progress: bool = False) -> np.ndarray:
        """Coarse data (C, D, H, W) -> boolean (D, H, W): one unmirrored pass in windows with as little overlap as the volume allows."""
        shape, geometry = data.shape[1:], self.geometry
        whole = fits_whole(shape, geometry.patch_size, geometry.divisor)
        tile = whole_volume_tile(shape, geometry.divisor) if whole else even_tile(shape, geometry.patch_size, geometry.divisor)
        return foreground_of(predict_windows(self.engine, data, tile, COARSE_STEP, VIEWS_AS_IS, gaussian=False, progress=progress), self.label_manager)


def same_network_on_a_coarser_grid(engine: Engine, geometry: NetworkGeometry, label_manager: LabelManager) -> CoarseNetwork:
    spacing: Sequence[float] = [s * factor for s, factor in zip(geometry.spacing, coarse_factors(geometry.spacing))]
    return CoarseNetwork(engine, replace(geometry, spacing=tuple(spacing)), label_manager)
