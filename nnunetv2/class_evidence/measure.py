"""The evidence of one case, for the refit and for prediction alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunetv2.class_evidence.blocks import measure
from nnunetv2.class_evidence.case import EvidenceCase, Intensities, evidence_case

Measured = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Measurement:
    """How to measure the cases of a configuration. lesion_channels: of the segmentation, as its labels; spacing: of the plans, two numbers for a 2D
    configuration, whose slices keep their own distance. axes: the plans' order of the image's axes z, y, x (transpose_forward)."""

    lesion_channels: tuple[int, ...]
    spacing: tuple[float, ...]
    intensities: tuple[Intensities, ...]
    axes: tuple[int, ...] = (0, 1, 2)

    def case(self, data: np.ndarray, labels: np.ndarray, properties: Mapping[str, Any] | None) -> EvidenceCase | None:
        """data (C, D, H, W) as preprocessed, labels (D, H, W) by channel, 0 background; properties: the image's, at least `spacing` -> what the blocks
        look at; None where there is no lesion."""
        properties = properties or {}
        spacing = self.spacing
        if len(spacing) < 3:
            own = properties["spacing"][self.axes[0]] if "spacing" in properties else max(spacing)
            spacing = (float(own), *spacing)
        direction = (properties.get("sitk_stuff") or {}).get("direction")
        return evidence_case(data, labels, self.lesion_channels, spacing, self.intensities, _turned(direction, self.axes), self.axes.index(2))

    def __call__(self, data: np.ndarray, labels: np.ndarray, properties: Mapping[str, Any] | None, blocks: Sequence[str]) -> Measured | None:
        """The features of `blocks` in what `case` gives; None where there is no lesion."""
        case = self.case(data, labels, properties)
        return None if case is None else measure(case, blocks)


def _turned(direction: Sequence[float] | None, axes: Sequence[int]) -> tuple[int, int, int]:
    """-1 for the plans' axes along which the image is stored against superior, posterior, left; direction: SimpleITK's nine numbers, x first."""
    if direction is None or len(direction) != 9:
        return 1, 1, 1
    diagonal = np.asarray(direction, float).reshape(3, 3).diagonal()[::-1]  # z, y, x
    return tuple(-1 if diagonal[axis] < 0 else 1 for axis in axes)
