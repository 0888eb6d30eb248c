"""One call of a predictor over some cases: what it wants of each, and what it notes of them."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnunetv2.inference.output_folders import OutputFolders
from nnunetv2.inference.pipeline import CasesFailed, StageTimes
from nnunetv2.inference.watch import Watch


@dataclass(frozen=True)
class PredictionRun:
    probabilities: bool
    classification: bool
    watch: Watch
    folders: OutputFolders
    from_files: bool = False  # results are given as their files lie, which a reader may have turned
    times: StageTimes = field(default_factory=StageTimes)
    roi: dict[str, dict] = field(default_factory=dict)  # reports of roi "coarse" by case
    intensities: dict[str, list[str]] = field(default_factory=dict)  # what is odd about a case's, by case
    single_slices: dict[str, str] = field(default_factory=dict)  # cases of one slice for a network of volumes
    no_lesion: list[str] = field(default_factory=list)  # cases whose class is the training's shares alone

    def report(self, wall: float, failed: CasesFailed | None) -> dict[str, Any]:
        """For prediction_times.json: seconds by case and stage, which overlap; what is odd about intensities, and single slices; boxes of roi
        "coarse"; why cases failed."""
        report: dict[str, Any] = {"cases_wall": round(wall, 4), "cases": self.times.seconds}
        if self.intensities:
            report["intensity_warnings"] = self.intensities
        if self.single_slices:
            report["single_slices"] = self.single_slices
        if self.no_lesion:
            report["no_lesion_found"] = sorted(self.no_lesion)
        if self.roi:
            report["roi_reports"] = self.roi
        if failed is not None:
            report["failed"] = {label: str(reason) for label, reason in failed.failures.items()}
        return report

    def note_intensities(self, label: str, oddities: list[str]) -> None:
        """Warn now, and tell it in prediction_times.json."""
        if oddities:
            self.intensities[label] = oddities
            warnings.warn(f"{label}: {' '.join(oddities)}", stacklevel=2)

    def note_single_slice(self, label: str, oddity: str | None) -> None:
        """Warn now, and tell it in prediction_times.json."""
        if oddity is not None:
            self.single_slices[label] = oddity
            warnings.warn(f"{label}: {oddity}", stacklevel=2)

    def note_no_lesion(self, label: str) -> None:
        """Warn now, and tell it in prediction_times.json."""
        self.no_lesion.append(label)
        warnings.warn(f"{label}: no lesion found; its class probabilities are the classes' shares of the training cases.", stacklevel=2)

    def say_what_was_left_out(self) -> None:
        """A warning about boxes, whose surroundings nobody looked at; none about results that are returned, which say so themselves."""
        left_out = [report["not_segmented"] for report in self.roi.values() if report["not_segmented"] > 0]
        if left_out and self.folders.cases:
            warnings.warn(f"In {len(left_out)} of {len(self.times.seconds)} case(s) boxes were segmented and the rest of the volume was not, "
                          f"{np.mean(left_out):.0%} of it on average: a structure far from all that the coarse pass sees is missing there. "
                          "prediction_times.json lists the boxes (roi_reports); --roi none looks everywhere.", stacklevel=2)
