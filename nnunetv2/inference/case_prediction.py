"""One preprocessed case -> logits and class probabilities, by whatever way the mode chooses."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunetv2.class_evidence.head import EvidenceHead
from nnunetv2.class_evidence.measure import Measurement, scale_to_body
from nnunetv2.inference.case_classification import ClassEvidence, background_logits, classify_case, fits_whole
from nnunetv2.inference.coarse_network import (
    CoarseNetwork, channel_names, channels_found, foreground_of, look_for_channels, same_network_on_a_coarser_grid,
)
from nnunetv2.inference.coarse_roi import MARGIN_MM, Box, RoiReport, around, box_shape, predict_in_roi
from nnunetv2.inference.engines import Engine
from nnunetv2.inference.label_maps import winning_channels
from nnunetv2.inference.last_look import EXPECTED_ML, probability_sums, with_channels_of
from nnunetv2.inference.modes import LITTLE_WORK, MODES, InferenceMode
from nnunetv2.inference.network_geometry import NetworkGeometry
from nnunetv2.inference.sliding_window_prediction import mirror_views, odd_windows, predict_windows, whole_volume_tile
from nnunetv2.utilities.default_device import on_cpu_by_default
from nnunetv2.utilities.label_handling.label_handling import LabelManager

CLASS_VIEWS = 2  # of the mirrored views of a whole case that decide its class: most of what 8 bring (docs/lab-notes.md)

Part = tuple[tuple[Tensor, np.ndarray | None], Box]  # ((logits (S, *box), class probabilities), the box)
OnWindow = Callable[[int, int], None]


@dataclass(frozen=True)
class CasePrediction:
    """logits (S, *box) on the CPU, the box they fill in a volume of `shape`, class probabilities (n,) or None; with roi "coarse" its report.

    Without a lesion the probabilities are the classes' shares of the training cases (class_evidence).
    """

    logits: Tensor
    box: Box
    shape: tuple[int, ...]
    class_probabilities: np.ndarray | None
    roi: RoiReport | None = None
    lesion_found: bool | None = None  # None where nobody looked: without evidence blocks
    looked_again_for: tuple[str, ...] = ()  # labels that roi "coarse" found nowhere but expected some of: windows and all views looked for them
    decide: Callable[[], tuple[np.ndarray, bool | None]] | None = None  # gives class_probabilities and lesion_found, where that is left to do

    def decided(self) -> "CasePrediction":
        """With its class. Until then class_probabilities are those of the networks' own heads, (folds, n)."""
        if self.decide is None:
            return self
        class_probabilities, lesion_found = self.decide()
        return replace(self, class_probabilities=class_probabilities, lesion_found=lesion_found, decide=None)

    @on_cpu_by_default
    def full_logits(self, has_regions: bool) -> Tensor:
        """(S, *shape): certain background outside the box."""
        if tuple(self.logits.shape[1:]) == self.shape:
            return self.logits
        full = background_logits(len(self.logits), self.shape, self.logits.dtype, has_regions)
        full[(slice(None), *self.box)] = self.logits
        return full


class CasePredictor:
    """Runs the folds' engines over one case after another; results do not depend on the order of cases.

    evidence: of each engine's fold, the head over all its evidence, or None: then the network's own head decides alone. measurement: how to
    measure that evidence.
    lesion_channels: channels that decide the class; None without a class head. device: the engines'. coarse_network: finds the boxes;
    None is the first engine on a coarser grid. volumes_on_device: image and sums lie on a GPU that has room for them.
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
        evidence: Sequence[EvidenceHead | None] = (),
        measurement: Measurement | None = None,
        volumes_on_device: bool = True,
    ) -> None:
        self.evidence, self.measurement = list(evidence), measurement
        self.engines, self.geometry, self.mode = engines, geometry, mode
        self.to_body = scale_to_body(geometry.spacing)  # margins and volumes were chosen for a body's scans
        self.label_manager, self.lesion_channels = label_manager, lesion_channels
        self.device, self.volumes_on_device = device if device.type == "cuda" else torch.device("cpu"), volumes_on_device
        self.gaussian, self.progress, self.coarse_network = gaussian, progress, coarse_network
        self.views = mirror_views(geometry.mirror_axes, mode.tta)

    @on_cpu_by_default
    def __call__(self, data: Tensor, name: str = "this case", on_window: OnWindow | None = None, properties: Mapping[str, Any] | None = None,
                 decide: bool = True) -> CasePrediction:
        """data (C, D, H, W) float32. A case without any foreground in reduced precision is repeated in fp32, with a warning.

        properties: of the image, where there are any: which way its axes run, and the distance of a 2D network's slices.

        on_window: told (windows done, windows) of the pass that runs; what it raises ends the prediction. decide: False leaves the measuring of
        evidence, which needs no network, to `CasePrediction.decided`, so that the next case need not wait for it.
        """
        prediction = self._predict(self.engines, data, on_window)
        if any(engine.precision != "fp32" for engine in self.engines) and not self._foreground(prediction.logits).any():
            warnings.warn(f"{name}: {self.engines[0].precision} finds no foreground; repeated in fp32.", stacklevel=2)
            prediction = self._predict([engine.in_full_precision() for engine in self.engines], data, on_window)
        if prediction.roi is not None and (note := prediction.roi.in_words()):
            warnings.warn(f"{name}: {note}.", stacklevel=2)
        if prediction.looked_again_for:
            warnings.warn(f"{name}: {', '.join(prediction.looked_again_for)} nearly found at first; windows and mirrored views looked once more, "
                          "which takes longer.", stacklevel=2)
        prediction = self._to_be_decided(prediction, data, properties)
        return prediction.decided() if decide else prediction

    def _to_be_decided(self, prediction: CasePrediction, data: Tensor, properties: Mapping[str, Any] | None) -> CasePrediction:
        if prediction.class_probabilities is None:
            return prediction
        return replace(prediction, decide=partial(self._class_of, prediction, data, properties))

    def _class_of(self, prediction: CasePrediction, data: Tensor, properties: Mapping[str, Any] | None) -> tuple[np.ndarray, bool | None]:
        """What each fold's network says of the class (folds, n), and each fold's evidence -> class probabilities (n,), mean over folds; whether there
        is a lesion."""
        by_fold = prediction.class_probabilities
        blocks = tuple(dict.fromkeys(name for head in self.evidence if head is not None for name in head.features))
        if self.measurement is None or not blocks:
            return by_fold.mean(0), None
        labels = np.zeros(prediction.shape, np.uint16)
        labels[prediction.box] = winning_channels(prediction.logits)
        measured = self.measurement(data.numpy(), labels, properties, blocks)
        decided = [network if head is None else head.probabilities(measured, network) for head, network in zip(self.evidence, by_fold)]
        return np.mean(decided, axis=0), measured is not None

    def _predict(self, engines: Sequence[Engine], data: Tensor, on_window: OnWindow | None) -> CasePrediction:
        shape = tuple(data.shape[1:])
        nothing_to_crop = np.prod(shape) <= np.prod(self.geometry.patch_size)
        if self.mode.roi == "none" or nothing_to_crop:
            parts = [(self._predict_volume(engines, data, on_window), tuple(slice(0, n) for n in shape))]
            whole = self._put_together(parts, shape)
            return whole if self.mode.roi == "none" else self._with_nearly_found(whole, engines, data, {}, on_window)
        coarse_network = self.coarse_network or same_network_on_a_coarser_grid(engines[0], self.geometry, self.label_manager)
        searched_for: set[int] = set()
        sums: dict[int, float] = {}  # of probability outside the boxes, where somebody looked

        def look_for_labels_in_no_box(parts: Sequence[Part]) -> np.ndarray | None:
            searched_for.update(set(channel_names(self.label_manager)) - self._channels_found(parts))
            if not searched_for:
                return None
            return look_for_channels(engines[0], data, self.geometry, self.label_manager, searched_for, [box for _, box in parts], on_window, sums)

        segmented = predict_in_roi(
            coarse_mask=lambda coarse: coarse_network.foreground(coarse, self.progress, on_window, self.device, self.volumes_on_device),
            fine=lambda part: self._predict_volume(engines, part, on_window),
            foreground_of=lambda prediction: self._foreground(prediction[0]),
            data=data,
            spacing=self.geometry.spacing,
            coarse_spacing=coarse_network.geometry.spacing,
            margin_mm=MARGIN_MM / self.to_body,
            fed_size=self._fed_size,
            at_once=self._fits,
            growths=coarse_network.growths,
            look_elsewhere=look_for_labels_in_no_box,
        )
        names = channel_names(self.label_manager)
        found_elsewhere = searched_for & self._channels_found(segmented.parts) if searched_for else set()
        report = RoiReport(tuple(box for _, box in segmented.parts), shape, segmented.whole_because,
                           tuple(names[channel] for channel in sorted(searched_for)), tuple(names[channel] for channel in sorted(found_elsewhere)))
        return self._with_nearly_found(replace(self._put_together(segmented.parts, shape), roi=report), engines, data, sums, on_window)

    def _with_nearly_found(self, prediction: CasePrediction, engines: Sequence[Engine], data: Tensor, sums: Mapping[int, float],
                           on_window: OnWindow | None) -> CasePrediction:
        """Labels that `prediction` lacks, from the look of `exact`, if its single passes expect EXPECTED_ML of them; sums: outside its box."""
        names = channel_names(self.label_manager)
        missing = set(names) - channels_found(prediction.logits, self.label_manager)
        inside = probability_sums(prediction.logits, missing, self.label_manager)
        millilitre = float(np.prod([self.to_body * s for s in self.geometry.spacing])) / 1000
        nearly = {channel for channel in missing if (inside[channel] + sums.get(channel, 0.0)) * millilitre >= EXPECTED_ML}
        if not nearly:
            return prediction
        exact = CasePredictor(engines, self.geometry, replace(MODES["exact"], tile_step_size=self.mode.tile_step_size), self.label_manager,
                              self.lesion_channels, self.device, self.gaussian, self.progress, volumes_on_device=self.volumes_on_device)
        logits, probabilities = exact._predict_volume(engines, data, on_window)
        found = nearly & channels_found(logits, self.label_manager)
        decides = self.lesion_channels is not None and not found.isdisjoint(self.lesion_channels)
        return replace(
            prediction, box=tuple(slice(0, n) for n in prediction.shape), looked_again_for=tuple(names[channel] for channel in sorted(nearly)),
            logits=with_channels_of(prediction.full_logits(self.label_manager.has_regions), logits, found, self.label_manager),
            class_probabilities=probabilities if decides else prediction.class_probabilities)

    def _channels_found(self, parts: Sequence[Part]) -> set[int]:
        return set().union(*(channels_found(logits, self.label_manager) for (logits, _), _ in parts))

    def _put_together(self, parts: Sequence[Part], shape: tuple[int, ...]) -> CasePrediction:
        """((logits, class probabilities by fold) of a box, the box) of each -> the case. Each box has the say in the class that its lesion has."""
        (logits, class_probabilities), box = parts[0]
        if len(parts) == 1:
            return CasePrediction(logits, box, shape, class_probabilities)
        box = around([part_box for _, part_box in parts])
        joined = background_logits(len(logits), box_shape(box), logits.dtype, self.label_manager.has_regions)
        evidence = ClassEvidence(self.lesion_channels) if class_probabilities is not None else None
        by_fold = None if class_probabilities is None else class_probabilities.shape
        for (logits, class_probabilities), part_box in parts:
            joined[(slice(None), *(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part_box, box)))] = logits
            if evidence is not None:
                evidence.add_values(logits, torch.from_numpy(class_probabilities.ravel()))
        return CasePrediction(joined, box, shape, None if evidence is None else evidence.mean().numpy().reshape(by_fold))

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

    def _tta(self, shape: Sequence[int]) -> int:
        """How many views of each window of a volume of `shape` (D, H, W) to average: the mode's, or with `in_turn` up to four, while that is little work."""
        tta, tile = self.mode.tta, self._tile(shape)
        if self.mode.in_turn:
            voxels = len(odd_windows(self._fed_size(shape), tile, self.mode.tile_step_size)) * np.prod(tile)
            while tta < 4 and 2 * tta * voxels <= LITTLE_WORK:
                tta *= 2
        return tta

    def _class_views(self, tta: int) -> list[tuple[int, ...]]:
        """Those that the refit of the head sees, but no more than `tta`."""
        return mirror_views(self.geometry.mirror_axes, min(tta, CLASS_VIEWS))

    @on_cpu_by_default
    def with_class(self, data: Tensor, logits: Tensor, properties: Mapping[str, Any] | None = None) -> CasePrediction:
        """Logits (S, D, H, W) from elsewhere as a prediction; the class from the encoder's look at the whole of `data` (C, D, H, W)."""
        shape = tuple(data.shape[1:])
        probabilities = None
        if self.lesion_channels is not None:
            views = self._class_views(self.mode.tta)
            probabilities = np.stack([classify_case(engine, data, logits, self.geometry.divisor, views) for engine in self.engines])
        return self._to_be_decided(CasePrediction(logits, tuple(slice(0, n) for n in shape), shape, probabilities), data, properties).decided()

    @on_cpu_by_default
    def volume_logits(self, engine: Engine, data: Tensor) -> Tensor:
        """Logits (S, D, H, W) of the whole of `data` (C, D, H, W) from one engine, whatever the mode's roi."""
        return self._predict_volume([engine], data, None)[0]

    def _predict_volume(self, engines: Sequence[Engine], data: Tensor, on_window: OnWindow | None) -> tuple[Tensor, np.ndarray | None]:
        """Logits (S, D, H, W), mean over folds, and the class probabilities (folds, n) of the networks' own heads.

        The class comes from the passes that segment when they see the case whole, or when it is too large to be seen whole;
        otherwise the encoder sees the whole case once more, and the head pools under what the windows found. A case at its exact size is
        classified in CLASS_VIEWS of the mirrored views at most.
        """
        shape = data.shape[1:]
        whole, tile, tta = self._goes_whole(shape), self._tile(shape), self._tta(shape)
        window_is_case = tuple(tile) == whole_volume_tile(shape, self.geometry.divisor)
        segmenting_passes_decide = window_is_case or not self._fits(shape)
        logits: Tensor | None = None
        probabilities = []
        in_turn = (self.geometry.mirror_axes or ()) if self.mode.in_turn else ()
        views, class_views = mirror_views(self.geometry.mirror_axes, tta), self._class_views(tta)
        seen_by_class = class_views if set(class_views) <= set(views) else views[:CLASS_VIEWS]
        for engine in engines:
            evidence = ClassEvidence(self.lesion_channels) if self.lesion_channels is not None and segmenting_passes_decide else None
            fold_logits = predict_windows(engine, data, tile, self.mode.tile_step_size, views, self.gaussian and not whole, device=self.device,
                                          observer=evidence, observed_views=seen_by_class if whole else None, progress=self.progress,
                                          on_window=on_window, volumes_on_device=self.volumes_on_device, in_turn=in_turn)
            if evidence is not None:
                probabilities.append(evidence.mean().numpy())
            elif self.lesion_channels is not None:
                probabilities.append(classify_case(engine, data, fold_logits, self.geometry.divisor, class_views))
            logits = fold_logits if logits is None else logits.add_(fold_logits)
        if len(engines) > 1:
            logits /= len(engines)
        return logits, np.stack(probabilities) if probabilities else None
