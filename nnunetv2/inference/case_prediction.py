"""One preprocessed case -> logits and class probabilities, by whatever way the mode chooses."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunetv2.inference.case_classification import ClassEvidence, background_logits, classify_case, fits_whole
from nnunetv2.inference.coarse_network import CoarseNetwork, foreground_of, same_network_on_a_coarser_grid
from nnunetv2.inference.coarse_roi import Box, around, box_shape, predict_in_roi
from nnunetv2.inference.engines import Engine
from nnunetv2.inference.modes import InferenceMode
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.inference.sliding_window_prediction import mirror_views, predict_windows, whole_volume_tile
from nnunetv2.utilities.label_handling.label_handling import LabelManager

CLASS_VIEWS = 2  # of the mirrored views of a whole case that decide its class: most of what 8 bring (docs/lab-notes.md)


@dataclass(frozen=True)
class CasePrediction:
    """logits (S, *box) on the CPU, the box they fill in a volume of `shape`, class probabilities (n,) or None."""

    logits: Tensor
    box: Box
    shape: tuple[int, ...]
    class_probabilities: np.ndarray | None

    def full_logits(self, has_regions: bool) -> Tensor:
        """(S, *shape): certain background outside the box."""
        if tuple(self.logits.shape[1:]) == self.shape:
            return self.logits
        full = background_logits(len(self.logits), self.shape, self.logits.dtype, has_regions)
        full[(slice(None), *self.box)] = self.logits
        return full


class CasePredictor:
    """Runs the folds' engines over one case after another; results do not depend on the order of cases.

    lesion_channels: channels that decide the class; None without a class head. device: the engines'. coarse_network: finds the boxes;
    None is the first engine on a coarser grid.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        geometry: NetworkGeometry,
        mode: InferenceMode,
        label_manager: LabelManager,
        lesion_channels: Sequence[int] | None,
        device: torch.device = torch.device("cpu"),
        gaussian: bool = True,
        progress: bool = False,
        coarse_network: CoarseNetwork | None = None,
    ) -> None:
        self.engines, self.geometry, self.mode = engines, geometry, mode
        self.label_manager, self.lesion_channels = label_manager, lesion_channels
        self.device = device if device.type == "cuda" else torch.device("cpu")
        self.gaussian, self.progress, self.coarse_network = gaussian, progress, coarse_network
        self.views = mirror_views(geometry.mirror_axes, mode.tta)

    def __call__(self, data: Tensor, name: str = "this case") -> CasePrediction:
        """data (C, D, H, W) float32. A case without any foreground in reduced precision is repeated in fp32, with a warning."""
        prediction = self._predict(self.engines, data)
        if any(engine.precision != "fp32" for engine in self.engines) and not self._foreground(prediction.logits).any():
            warnings.warn(f"{name}: {self.engines[0].precision} finds no foreground; repeated in fp32.", stacklevel=2)
            prediction = self._predict([engine.in_full_precision() for engine in self.engines], data)
        return prediction

    def _predict(self, engines: Sequence[Engine], data: Tensor) -> CasePrediction:
        shape = tuple(data.shape[1:])
        nothing_to_crop = np.prod(shape) <= np.prod(self.geometry.patch_size)
        if self.mode.roi == "none" or nothing_to_crop:
            parts = [(self._predict_volume(engines, data), tuple(slice(0, n) for n in shape))]
        else:
            coarse_network = self.coarse_network or same_network_on_a_coarser_grid(engines[0], self.geometry, self.label_manager)
            parts = predict_in_roi(
                coarse_mask=lambda coarse: coarse_network.foreground(coarse, self.progress),
                fine=lambda part: self._predict_volume(engines, part),
                foreground_of=lambda prediction: self._foreground(prediction[0]),
                data=data,
                spacing=self.geometry.spacing,
                coarse_spacing=coarse_network.geometry.spacing,
                fed_size=self._fed_size,
                at_once=self._fits,
                growths=coarse_network.growths,
            )
        return self._put_together(parts, shape)

    def _put_together(self, parts: Sequence[tuple[tuple[Tensor, np.ndarray | None], Box]], shape: tuple[int, ...]) -> CasePrediction:
        """((logits, class probabilities) of a box, the box) of each -> the case. Each box has the say in the class that its lesion has."""
        (logits, class_probabilities), box = parts[0]
        if len(parts) == 1:
            return CasePrediction(logits, box, shape, class_probabilities)
        box = around([part_box for _, part_box in parts])
        joined = background_logits(len(logits), box_shape(box), logits.dtype, self.label_manager.has_regions)
        evidence = ClassEvidence(self.lesion_channels) if class_probabilities is not None else None
        for (logits, class_probabilities), part_box in parts:
            joined[(slice(None), *(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part_box, box)))] = logits
            if evidence is not None:
                evidence.add_values(logits, torch.from_numpy(class_probabilities))
        return CasePrediction(joined, box, shape, None if evidence is None else evidence.mean().numpy())

    def _foreground(self, logits: Tensor) -> np.ndarray:
        return foreground_of(logits, self.label_manager)

    def _fits(self, shape: Sequence[int]) -> bool:
        return fits_whole(shape, self.geometry.patch_size, self.geometry.divisor)

    def _goes_whole(self, shape: Sequence[int]) -> bool:
        return self.mode.tiling == "whole" and self._fits(shape)

    def _tile(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The window in which a volume of `shape` (D, H, W) is segmented; with a 2D network (H, W)."""
        return whole_volume_tile(shape, self.geometry.divisor) if self._goes_whole(shape) else self.geometry.patch_size

    def _fed_size(self, shape: Sequence[int]) -> tuple[int, ...]:
        """`shape` (D, H, W), or the zero-padded one in which a volume smaller than its window is segmented."""
        tile = self._tile(shape)
        return tuple(map(max, shape, (*shape[: len(shape) - len(tile)], *tile)))

    def _predict_volume(self, engines: Sequence[Engine], data: Tensor) -> tuple[Tensor, np.ndarray | None]:
        """Mean over folds: logits (S, D, H, W) and class probabilities.

        The class comes from the passes that segment when they see the case whole, or when it is too large to be seen whole;
        otherwise the encoder sees the whole case once more, and the head pools under what the windows found. A case at its exact size is
        classified in CLASS_VIEWS of the mirrored views at most.
        """
        shape = data.shape[1:]
        whole, tile = self._goes_whole(shape), self._tile(shape)
        window_is_case = tuple(tile) == whole_volume_tile(shape, self.geometry.divisor)
        segmenting_passes_decide = window_is_case or not self._fits(shape)
        logits: Tensor | None = None
        probabilities = []
        for engine in engines:
            evidence = ClassEvidence(self.lesion_channels) if self.lesion_channels is not None and segmenting_passes_decide else None
            fold_logits = predict_windows(engine, data, tile, self.mode.tile_step_size, self.views, self.gaussian and not whole, device=self.device,
                                          observer=evidence, observed_views=CLASS_VIEWS if whole else None, progress=self.progress)
            if evidence is not None:
                probabilities.append(evidence.mean().numpy())
            elif self.lesion_channels is not None:
                probabilities.append(classify_case(engine, data, fold_logits, self.geometry.divisor, self.views[:CLASS_VIEWS]))
            logits = fold_logits if logits is None else logits.add_(fold_logits)
        if len(engines) > 1:
            logits /= len(engines)
        return logits, np.mean(probabilities, axis=0) if probabilities else None
