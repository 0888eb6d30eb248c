"""The network that looks for the foreground on a coarse grid: the model's own, or a second one that was trained on such a grid."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nnunetv2.inference.case_classification import VIEWS_AS_IS, fits_whole
from nnunetv2.inference.coarse_roi import Box, coarse_factors
from nnunetv2.inference.engines import Engine
from nnunetv2.inference.label_maps import winning_channels
from nnunetv2.inference.last_look import probability_sums
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.inference.sliding_window_prediction import even_tile, pad_centred, predict_windows, whole_volume_tile, window_slicers
from nnunetv2.utilities.label_handling.label_handling import LabelManager

GROWTHS_OF_TRAINED = 1  # boxes of a model that was trained on its grid: it knows better than a finer one what lies around them
COARSE_STEP = 1.0  # windows of the coarse pass only have to find, not to delineate


def foreground_of(logits: Tensor, label_manager: LabelManager) -> np.ndarray:
    """Boolean (D, H, W) of logits (S, D, H, W). With regions any channel above probability 1/2 is foreground, else any above background."""
    if not label_manager.has_regions:
        return winning_channels(logits) > 0
    foreground = torch.zeros(logits.shape[1:], dtype=torch.bool)
    for channel in logits:
        foreground |= channel > 0
    return foreground.numpy()


def channels_found(logits: Tensor, label_manager: LabelManager) -> set[int]:
    """Channels of logits (S, D, H, W) that some voxel is given to; without regions the background, channel 0, is left out."""
    if label_manager.has_regions:
        return {channel for channel, values in enumerate(logits) if bool((values > 0).any())}
    return set(np.unique(winning_channels(logits)).tolist()) - {0}


def channel_names(label_manager: LabelManager) -> dict[int, str]:
    """The name in dataset.json of each foreground channel."""
    foreground = [name for name, value in label_manager.label_dict.items() if name != "ignore" and value not in (0, "0")]
    if label_manager.has_regions:
        return dict(enumerate(foreground))
    return {int(np.atleast_1d(label_manager.label_dict[name])[0]): name for name in foreground}


@dataclass(frozen=True)
class CoarseNetwork:
    """An engine and the grid on which it looks: `geometry.spacing` is that of its own training, or coarser.

    growths: how often a box may grow that the fine result touches (`predict_in_roi`). weights: hash of the checkpoint that it comes from, "" without.
    """

    engine: Engine
    geometry: NetworkGeometry
    label_manager: LabelManager
    growths: int | None = None
    weights: str = ""

    def foreground(self, data: Tensor, progress: bool = False, on_window: Callable[[int, int], None] | None = None,
                   device: torch.device = torch.device("cpu"), volumes_on_device: bool = True) -> np.ndarray:
        """Coarse data (C, D, H, W) -> boolean (D, H, W): one unmirrored pass in windows with as little overlap as the volume allows.

        device, volumes_on_device: as for `predict_windows`.
        """
        shape, geometry = data.shape[1:], self.geometry
        whole = fits_whole(shape, geometry.patch_size, geometry.divisor)
        tile = whole_volume_tile(shape, geometry.divisor) if whole else even_tile(shape, geometry.patch_size, geometry.divisor)
        logits = predict_windows(self.engine, data, tile, COARSE_STEP, VIEWS_AS_IS, gaussian=False, device=device, progress=progress, on_window=on_window,
                                 volumes_on_device=volumes_on_device)
        return foreground_of(logits, self.label_manager)


@torch.no_grad()
def look_for_channels(engine: Engine, data: Tensor, geometry: NetworkGeometry, label_manager: LabelManager, channels: Collection[int],
                      known: Sequence[Box], on_window: Callable[[int, int], None] | None = None, sums: dict[int, float] | None = None) -> np.ndarray:
    """Where in `data` (C, D, H, W), outside the boxes `known`, one pass finds `channels`: boolean (D, H, W).

    sums: gets added what each channel's probability sums up to there; voxels in several windows count in each.

    At the network's own resolution, unmirrored, in windows with as little overlap as the volume allows; windows inside a known box are
    left out. Memory holds one window of logits, however many channels there are.
    """
    shape = data.shape[1:]
    whole = fits_whole(shape, geometry.patch_size, geometry.divisor)
    tile = whole_volume_tile(shape, geometry.divisor) if whole else even_tile(shape, geometry.patch_size, geometry.divisor)
    padded, inner = pad_centred(data.cpu(), tile)
    found = np.zeros(padded.shape[1:], bool)
    unknown = np.zeros(padded.shape[1:], bool)
    unknown[inner[1:]] = True
    for box in known:
        unknown[inner[1:]][box] = False
    slicers = [slicer for slicer in window_slicers(padded.shape[1:], tile, COARSE_STEP) if unknown[slicer[1:]].any()]
    for done, slicer in enumerate(slicers, start=1):
        logits = engine(padded[slicer][None], classify=False)[0][0].cpu()
        if sums is not None:
            for channel, value in probability_sums(logits, channels, label_manager, torch.from_numpy(unknown[slicer[1:]])).items():
                sums[channel] = sums.get(channel, 0.0) + value
        if label_manager.has_regions:
            for channel in channels:
                found[slicer[1:]] |= (logits[channel] > 0).numpy()
        else:
            found[slicer[1:]] |= np.isin(winning_channels(logits), list(channels))
        if on_window is not None:
            on_window(done, len(slicers))
    return (found & unknown)[inner[1:]]


def same_network_on_a_coarser_grid(engine: Engine, geometry: NetworkGeometry, label_manager: LabelManager) -> CoarseNetwork:
    spacing: Sequence[float] = [s * factor for s, factor in zip(geometry.spacing, coarse_factors(geometry.spacing))]
    return CoarseNetwork(engine, replace(geometry, spacing=tuple(spacing)), label_manager)
