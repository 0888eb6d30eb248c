"""Pictures of a case: CT with the contours of truth (solid) and prediction (dashed), axial and coronal."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evaluation.figure_style import ORANGE, SKY, YELLOW, figure
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.image_arrays import to_sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, read_volume
from nnunetv2.utilities.errors import InputError, in_one_message

WINDOW_HU = (-160.0, 240.0)  # width 400, level 40: the usual window for the abdomen
SOLID, DASHED = (0, ()), (0, (2.5, 1.5))
LINES = {("pancreas", "truth"): (SKY, SOLID), ("pancreas", "prediction"): ("white", DASHED),
         ("lesion", "truth"): (ORANGE, SOLID), ("lesion", "prediction"): (YELLOW, DASHED)}


@dataclass(frozen=True)
class CaseImages:
    """A case turned to the patient's axes. Arrays (Z, Y, X), z up, y to the back, x to the patient's left; spacing (z, y, x) mm."""

    name: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, float, float]

    @classmethod
    def read(cls, name: str, image: Path, reference: Path | None, prediction: Path | None) -> "CaseImages":
        """Read and orient the files; a mask that is not given is empty. InputError if a file is damaged or lies on another grid."""
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
            masks.append(_oriented(seg[0].astype(np.uint8), properties)[0])
        if problems:
            raise InputError("\n".join(problems))
        return cls(name, values, *masks, spacing)

    def centre(self) -> tuple[int, int, int]:
        """Voxel to cut through: the true lesion's centre, else the predicted one's, else the pancreas', else the middle."""
        for mask in (self.reference == 2, self.prediction == 2, self.reference > 0, self.prediction > 0):
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


def draw_overlay(case: CaseImages, path: Path, title: str, synthetic: bool) -> None:
    """One case: the plain axial slice, the same with contours, and the coronal slice with contours."""
    draw_overlays([(case, title)], path, synthetic)


def draw_overlays(cases: list[tuple[CaseImages, str]], path: Path, synthetic: bool) -> None:
    """One row per case of (plain axial, axial, coronal) with the given titles; panel widths follow the patient's size."""
    widths = np.mean([[case.image.shape[2] * case.spacing[2]] * 3 for case, _ in cases], axis=0)
    heights = [max(case.image.shape[1] * case.spacing[1], case.image.shape[0] * case.spacing[0]) / (3 * widths[0]) for case, _ in cases]
    total = 6.3 * sum(heights) + 0.32 * len(cases) + 0.45
    with figure(path, synthetic, rows=len(cases), columns=3, height=total, height_ratios=heights) as (drawing, axes):
        for row, (case, title) in zip(axes, cases):
            z, y, _ = case.centre()
            dz, dy, dx = case.spacing
            for ax in row[:2]:
                _slice(ax, case.image[z], dy / dx)
            _slice(row[2], case.image[::-1, y], dz / dx)
            _contours(row[1], case.reference[z], case.prediction[z])
            _contours(row[2], case.reference[::-1, y], case.prediction[::-1, y])
            row[0].set_title(title, loc="left", fontsize=8)
            row[1].set_title("axial", loc="right", fontsize=8)
            row[2].set_title("coronal", loc="right", fontsize=8)
        handles = [Line2D([], [], color=colour, linestyle=style, label=", ".join(key)) for key, (colour, style) in LINES.items()]
        drawing.legend(handles=handles, loc="outside lower center", ncols=4, frameon=True, facecolor="#444444", labelcolor="white")


def _slice(ax: Axes, values: np.ndarray, aspect: float) -> None:
    ax.imshow(values, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], aspect=aspect, interpolation="bilinear")
    ax.set_anchor("N")  # titles of one row stand in one line
    ax.autoscale(False)  # contours at the edge must not shrink the picture
    ax.set_axis_off()


def _contours(ax: Axes, reference: np.ndarray, prediction: np.ndarray) -> None:
    """Outlines of the whole pancreas and the lesion; padded, because a mask at the picture's edge is closed too."""
    for source, labels in (("truth", reference), ("prediction", prediction)):
        for structure, mask in (("pancreas", labels > 0), ("lesion", labels == 2)):
            if mask.any():
                colour, style = LINES[structure, source]
                rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
                ax.contour(columns, rows, np.pad(mask, 1).astype(float), [0.5], colors=[colour], linestyles=[style], linewidths=1.1)


def _oriented(values: np.ndarray, properties: dict) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Array (Z, Y, X) and spacing, turned to the patient's axes."""
    image = sitk.DICOMOrient(to_sitk(values, properties), "LPS")
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
