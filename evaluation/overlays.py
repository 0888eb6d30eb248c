"""Pictures of a case: CT with the contours of truth (solid) and prediction (dashed), axial and coronal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evaluation.figure_style import GREEN, ORANGE, PURPLE, SKY, YELLOW, figure
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.image_arrays import to_sitk
from nnunetv2.imageio.label_values import shown_values, unexpected_labels
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, read_volume
from nnunetv2.utilities.data_description import QUIZ, THE_QUIZ, DataDescription
from nnunetv2.utilities.errors import InputError, in_one_message

WINDOW_HU = tuple(QUIZ["window"])
SOLID, DASHED = (0, ()), (0, (2.5, 1.5))
COLOURS = ((SKY, "white"), (ORANGE, YELLOW), (GREEN, "#9FE8CF"), (PURPLE, "#F2CFE1"))  # (truth, prediction) of the structures in turn


@dataclass(frozen=True)
class CaseImages:
    """A case turned to the patient's axes. Arrays (Z, Y, X), z up, y to the back, x to the patient's left; spacing (z, y, x) mm."""

    name: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, float, float]

    @classmethod
    def read(cls, name: str, image: Path, reference: Path | None, prediction: Path | None, labels: Sequence[int] | None = None) -> "CaseImages":
        """Read and orient the files; a mask that is not given is empty.

        labels: what masks may hold; None: anything. InputError if a file is damaged, lies on another grid or holds other labels.
        """
        problems: list[str] = []
        (volume, properties), *segs = (_read(read_volume, image, problems), *(_read(SimpleITKIO().read_seg, path, problems) for path in (reference, prediction)))
        if problems:
            raise InputError("\n".join(problems))
        values, spacing = _oriented(volume, properties)
        masks = []
        for path, (seg, on_grid) in zip((reference, prediction), segs):
            if path is None:
                masks.append(np.zeros(values.shape, np.uint8))
                continue
            difference = grid_difference(properties["sitk_stuff"], on_grid["sitk_stuff"], volume.shape, seg.shape[1:])
            if difference:
                problems.append(f"{path} {difference} (its image {image})")
            if labels is not None and (unexpected := unexpected_labels(seg, labels)):
                problems.append(f"{path} holds {shown_values(unexpected)}, labels must be {list(labels)}")
            masks.append(_oriented(seg[0].astype(np.uint8), properties)[0])
        if problems:
            raise InputError("\n".join(problems))
        return cls(name, values, *masks, spacing)

    def centre(self, description: DataDescription = THE_QUIZ) -> tuple[int, int, int]:
        """Voxel to cut through: the true lesion's centre, else the predicted one's, else the organ's, else the middle."""
        lesion = [np.isin(mask, description.lesion.labels) for mask in (self.reference, self.prediction)] if description.lesion else []
        for mask in (*lesion, self.reference > 0, self.prediction > 0):
            if mask.any():
                return tuple(int(round(index.mean())) for index in np.nonzero(mask))
        return tuple(size // 2 for size in self.image.shape)


def _read(read: Callable, path: Path | None, problems: list[str]) -> tuple:
    """What `read` gives for `path`; two times None where there is no path, or where it cannot be read, which goes to `problems`."""
    if path is None:
        return None, None
    try:
        return read(path)
    except (OSError, ValueError) as error:
        problems.append(in_one_message(error))
        return None, None


def window_of(image: np.ndarray, description: DataDescription) -> tuple[float, float]:
    """Intensities shown as black and white: the data's window; without one, of CT the abdomen's, of other images percentiles 1 and 99.5."""
    if window := description.content.get("window"):
        return tuple(window)
    if description.is_ct:
        return WINDOW_HU
    low, high = np.percentile(image, (1, 99.5))
    return float(low), float(high) if high > low else float(low) + 1


def draw_overlay(case: CaseImages, path: Path, title: str, banner: str, description: DataDescription = THE_QUIZ) -> None:
    """One case: the plain axial slice, the same with contours, and the coronal slice with contours."""
    draw_overlays([(case, title)], path, banner, description)


def draw_overlays(cases: list[tuple[CaseImages, str]], path: Path, banner: str, description: DataDescription = THE_QUIZ) -> None:
    """One row per case of (plain axial, axial, coronal) with the given titles; panel widths follow the patient's size."""
    widths = np.mean([[case.image.shape[2] * case.spacing[2]] * 3 for case, _ in cases], axis=0)
    heights = [max(case.image.shape[1] * case.spacing[1], case.image.shape[0] * case.spacing[0]) / (3 * widths[0]) for case, _ in cases]
    total = 6.3 * sum(heights) + 0.32 * len(cases) + 0.45
    with figure(path, banner, rows=len(cases), columns=3, height=total, height_ratios=heights) as (drawing, axes):
        for row, (case, title) in zip(axes, cases):
            z, y, _ = case.centre(description)
            window = window_of(case.image, description)
            dz, dy, dx = case.spacing
            for ax in row[:2]:
                _slice(ax, case.image[z], dy / dx, window)
            _slice(row[2], case.image[::-1, y], dz / dx, window)
            _contours(row[1], case.reference[z], case.prediction[z], description)
            _contours(row[2], case.reference[::-1, y], case.prediction[::-1, y], description)
            row[0].set_title(title, loc="left", fontsize=8)
            row[1].set_title("axial", loc="right", fontsize=8)
            row[2].set_title("coronal", loc="right", fontsize=8)
        handles = [Line2D([], [], color=colour, linestyle=style, label=f"{word}, {source}")
                   for word, _, source, colour, style in _lines(description)]
        drawing.legend(handles=handles, loc="outside lower center", ncols=4, frameon=True, facecolor="#444444", labelcolor="white")


def _lines(description: DataDescription) -> list[tuple[str, tuple[int, ...], str, str, tuple]]:
    """(word, labels, truth or prediction, colour, style) of every outline."""
    return [(structure.word, structure.labels, source, colour, style)
            for structure, colours in zip(description.drawn, cycle(COLOURS))
            for source, colour, style in zip(("truth", "prediction"), colours, (SOLID, DASHED))]


def _slice(ax: Axes, values: np.ndarray, aspect: float, window: tuple[float, float]) -> None:
    ax.imshow(values, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="bilinear")
    ax.set_anchor("N")  # titles of one row stand in one line
    ax.autoscale(False)  # contours at the edge must not shrink the picture
    ax.set_axis_off()


def _contours(ax: Axes, reference: np.ndarray, prediction: np.ndarray, description: DataDescription) -> None:
    """Outlines of what the data have drawn, truth below prediction; padded, because a mask at the picture's edge is closed too."""
    for _, labels, source, colour, style in sorted(_lines(description), key=lambda line: line[2] == "prediction"):
        mask = np.isin(reference if source == "truth" else prediction, labels)
        if mask.any():
            rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
            ax.contour(columns, rows, np.pad(mask, 1).astype(float), [0.5], colors=[colour], linestyles=[style], linewidths=1.1)


def _oriented(values: np.ndarray, properties: dict) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Array (Z, Y, X) and spacing, turned to the patient's axes."""
    image = sitk.DICOMOrient(to_sitk(values, properties), "LPS")
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
