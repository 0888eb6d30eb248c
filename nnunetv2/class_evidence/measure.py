"""The evidence of one case, for the refit and for prediction alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from nnunetv2.class_evidence.blocks import measure
from nnunetv2.class_evidence.case import EvidenceCase, Intensities, evidence_case

FINEST_MM, COARSEST_MM = 0.25, 5.0  # finest voxel sizes of the bodies for which the blocks' lengths were chosen

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
        scale = scale_to_body(self.spacing)
        order, backward = body_axes((properties.get("sitk_stuff") or {}).get("direction"), self.axes)
        data, labels = np.transpose(data, (0, *(1 + axis for axis in order))), np.transpose(labels, order)
        data, labels = np.flip(data, [1 + axis for axis in backward]), np.flip(labels, backward)
        return evidence_case(data, labels, self.lesion_channels, tuple(scale * spacing[axis] for axis in order), self.intensities)

    def __call__(self, data: np.ndarray, labels: np.ndarray, properties: Mapping[str, Any] | None, blocks: Sequence[str]) -> Measured | None:
        """The features of `blocks` in what `case` gives; None where there is no lesion."""
        case = self.case(data, labels, properties)
        return None if case is None else measure(case, blocks)


def scale_to_body(spacing: Sequence[float]) -> float:
    """What lengths of a data set whose voxels are finer or coarser than a body's scans are multiplied with: 1 for those of a body.

    spacing: the plans', so that all cases are measured alike. Of a mouse or a section under a microscope the 22 mm around a lesion would be all of
    the image many times over, and of one whose header counts in micrometres less than a voxel.

    >>> scale_to_body((2.0, 0.8, 0.8)), scale_to_body((0.002, 0.001, 0.001)), scale_to_body((80, 50, 50))
    (1.0, 250.0, 0.1)
    """
    finest = min(spacing)
    return min(max(finest, FINEST_MM), COARSEST_MM) / finest


def body_axes(direction: Sequence[float] | None, axes: Sequence[int]) -> tuple[tuple[int, ...], list[int]]:
    """How an array is turned until its axes grow towards superior, posterior and left.

    direction: SimpleITK's nine numbers, x first; None: the image lies as most CTs do. axes: of the image, z, y, x, in the array's order
    (transpose_forward). Returns the order of the array's axes, and which of them, in that order, run backward. Oblique axes go to the nearest of
    the body's.
    """
    matrix = np.eye(3) if direction is None or len(direction) != 9 else np.asarray(direction, float).reshape(3, 3)
    along = matrix[::-1, [2 - axis for axis in axes]]  # rows: superior, posterior, left; columns: the array's axes
    order = linear_sum_assignment(-np.abs(along))[1]
    return tuple(int(axis) for axis in order), [row for row, axis in enumerate(order) if along[row, axis] < 0]
