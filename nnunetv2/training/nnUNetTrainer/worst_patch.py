"""A picture of the validation patch that an epoch's network segments worst: image, truth, prediction.

The validation step hands over what it has computed. Nothing of it is computed twice, and nothing waits for the GPU before the epoch ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.label_handling.label_handling import LabelManager

COLOURS = ("#e6194b", "#4363d8", "#3cb44b", "#ffe119", "#f58231", "#911eb4", "#46f0f0", "#f032e6")  # of labels, again from the start after the last


@dataclass(frozen=True)
class Patch:
    """image, truth, prediction ([D,] H, W); the latter two hold labels, or the number of the region, 0 being background and ignored voxels."""

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    dice: float
    case: str  # "" where the loader names none


class WorstPatch:
    """The patch with the lowest pseudo Dice of those that hold foreground and were offered since the last `take`; the first of equals."""

    def __init__(self) -> None:
        self._worst: list[Tensor] | None = None  # Dice, number among the offered, image, truth, prediction; on the network's device
        self._cases: list[str] = []
        self._error: Exception | None = None

    def offer(self, data: Tensor, logits: Tensor, target: Tensor, counts: Tensor, labels: LabelManager, cases: Sequence[str] = ()) -> None:
        """A validation step's batch; counts (3, B, n_foreground) are its `counts_by_patch`. An error waits for `take`: the step needs no picture."""
        if self._error is None:
            try:
                self._keep_worse(data, logits, target, counts, labels, cases)
            except Exception as error:
                self._error = error.with_traceback(None)  # which would hold the batch, and the logits, until the epoch's end

    def take(self) -> Patch | None:
        """The worst, and forget it; None where no patch held foreground. Raises what went wrong in `offer`."""
        worst, cases, error = self._worst, self._cases, self._error
        self._worst, self._cases, self._error = None, [], None
        if error is not None:
            raise error
        if worst is None or not torch.isfinite(worst[0]):
            return None
        dice, number, image, truth, prediction = (part.float().cpu().numpy() for part in worst)
        return Patch(image, truth.astype(int), prediction.astype(int), float(dice), cases[int(number)])

    def _keep_worse(self, data: Tensor, logits: Tensor, target: Tensor, counts: Tensor, labels: LabelManager, cases: Sequence[str]) -> None:
        dice = dice_of_patches(counts)
        index = dice.argmin().reshape(1)  # index_select: a plain index would fetch it from the GPU
        image, one_logits, one_target = (part.index_select(0, index) for part in (data, logits, target))
        candidate = [dice.index_select(0, index)[0], index[0] + len(self._cases), image[0, 0], *label_maps(one_logits, one_target, labels)]
        if self._worst is not None:
            worse = candidate[0] < self._worst[0]
            candidate = [torch.where(worse, new, old) for new, old in zip(candidate, self._worst)]
        self._worst = candidate
        self._cases += [str(case) for case in cases] if len(cases) == len(data) else [""] * len(data)


def dice_of_patches(counts: Tensor) -> Tensor:
    """(B,) mean Dice over the labels that are there or predicted; infinite for a patch whose truth holds no foreground. counts (3, B, n_foreground)."""
    tp, fp, fn = counts.float()
    dice = torch.nanmean(2 * tp / (2 * tp + fp + fn), dim=1)
    return torch.where((tp + fn).sum(1) > 0, dice, torch.inf)


def label_maps(logits: Tensor, target: Tensor, labels: LabelManager) -> tuple[Tensor, Tensor]:
    """Truth and prediction of one patch as ([D,] H, W) int16; of regions the last that holds the voxel, counted from 1. Ignored voxels are 0.

    logits (1, C, [D,] H, W); target (1, 1, [D,] H, W) labels or (1, regions [+ ignore], [D,] H, W) booleans.
    """
    if labels.has_regions:
        n = logits.shape[1]
        truth, prediction = _painted(target[0, :n].bool()), _painted(logits[0] > 0)
        ignored = target[0, -1].bool() if labels.has_ignore_label else None
    else:
        truth, prediction = target[0, 0].to(torch.int16), logits[0].max(0).indices.to(torch.int16)
        ignored = target[0, 0] == labels.ignore_label if labels.has_ignore_label else None
    if ignored is not None:
        truth, prediction = truth.masked_fill(ignored, 0), prediction.masked_fill(ignored, 0)
    return truth, prediction


def _painted(regions: Tensor) -> Tensor:
    """(R, ...) booleans -> (...) int16, later regions over earlier ones."""
    painted = torch.zeros(regions.shape[1:], dtype=torch.int16, device=regions.device)
    for number, region in enumerate(regions, start=1):
        painted = painted.masked_fill(region, number)
    return painted


def most_wrong_slice(truth: np.ndarray, prediction: np.ndarray) -> int:
    """Of (D, H, W): the slice with most wrong voxels; of equals the one with most foreground."""
    wrong, foreground = (truth != prediction).sum((1, 2)), (truth > 0).sum((1, 2))
    return int(np.lexsort((foreground, wrong))[-1])


def draw_patch(patch: Patch, epoch: int, path: Path) -> np.ndarray:
    """Write the picture of the patch's most wrong slice to `path` and return it, (H, W, 3) uint8."""
    image, truth, prediction = (part if part.ndim == 3 else part[None] for part in (patch.image, patch.truth, patch.prediction))
    index = most_wrong_slice(truth, prediction)
    figure = Figure(figsize=(12, 4.6))
    canvas = FigureCanvasAgg(figure)
    low, high = np.percentile(image[index], (0.5, 99.5))
    for axis, title, overlay in zip(figure.subplots(1, 3), ("image", "truth", "prediction"), (None, truth[index], prediction[index])):
        axis.imshow(image[index], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        if overlay is not None:
            shown = np.ma.masked_equal(overlay, 0)
            axis.imshow((shown - 1) % len(COLOURS), cmap=ListedColormap(COLOURS), vmin=0, vmax=len(COLOURS) - 1, alpha=0.5, interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    figure.suptitle(f"Worst validation patch of epoch {epoch}: Dice {patch.dice:.3f}" + (f" ({patch.case}, slice {index})" if patch.case else ""))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.86, bottom=0.01, wspace=0.03)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    with atomic_write(path) as temporary:
        matplotlib.image.imsave(temporary, picture)
    return picture
