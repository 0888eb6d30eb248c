"""Finding the masks to compare, reading them, and every check that must pass before a number is worth computing."""

import gzip
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from evaluation.subtype_tables import case_of
from nnunetv2.utilities.file_shapes import Splits
from nnunetv2.utilities.files import load_json

LABELS = (0, 1, 2)  # background, normal pancreas, lesion
SNAP = 1e-3  # stored labels such as 1.0000152587890625 mean 1
CORNER_TOLERANCE_MM = 1e-2  # float32 headers round positions by up to a few micrometres
MARKER = "SYNTHETIC.txt"


@dataclass(frozen=True)
class Mask:
    """A label map: labels (Z, Y, X) uint8, spacing (z, y, x) mm, corners (8, 3) = world positions (x, y, z) mm of its corners."""

    labels: np.ndarray
    spacing: tuple[float, float, float]
    corners: np.ndarray


def find_masks(folder: Path) -> dict[str, Path]:
    """{case: path} of every mask below `folder`, in sub-folders too.

    An image that lies beside its mask (`case_0000.nii.gz` with `case.nii.gz`, as in the quiz's folders) is not a mask.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*.nii.gz") if not path.name.startswith("."))  # hidden: half-written, of a killed process
    paths = {path.with_name(case_of(path.name)): path for path in files}
    masks = [path for stem, path in paths.items()
             if not re.search(r"_\d{4}$", stem.name) or stem.with_name(stem.name[:-5]) not in paths]
    found: dict[str, Path] = {}
    doubles = [str(path) for path in masks if found.setdefault(case_of(path.name), path) is not path]
    if doubles:
        raise ValueError(f"{folder}: these cases are there a second time, in another sub-folder: {', '.join(doubles)}")
    if not found:
        raise ValueError(f"{folder} holds no .nii.gz mask")
    return found


def validation_cases(splits: Path, fold: int) -> list[str]:
    """Cases that fold `fold` of an nnU-Net `splits_final.json` validates on."""
    folds = load_json(splits, Splits)
    if not 0 <= fold < len(folds):
        raise ValueError(f"{splits} has folds 0 to {len(folds) - 1}, not {fold}")
    return sorted(folds[fold]["val"])


def read_mask(path: Path) -> Mask:
    """Read a label map; ValueError names the file if it is unreadable, not 3D or holds other values than LABELS."""
    try:
        with gzip.open(path) as stream:  # ITK takes the lost end of a truncated file for zeros; the checksum does not
            while stream.read(2**20):
                pass
        image = sitk.ReadImage(str(path))
    except (OSError, EOFError, zlib.error, RuntimeError) as error:
        raise ValueError(f"{path}: cannot be read ({str(error).strip().splitlines()[-1]})") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"{path}: is {image.GetDimension()}-dimensional with {image.GetNumberOfComponentsPerPixel()} "
                         "components, a mask has 3 dimensions and one")
    values = sitk.GetArrayViewFromImage(image)
    labels = np.rint(values) if values.dtype.kind == "f" else values
    wrong = ~np.isin(labels, LABELS)
    if values.dtype.kind == "f":
        wrong |= ~(np.abs(values - labels) <= SNAP)
    if wrong.any():
        raise ValueError(f"{path}: holds {np.unique(values[wrong])[:5].tolist()}, labels must be {list(LABELS)}")
    size = np.array(image.GetSize()) - 1
    corners = [image.TransformContinuousIndexToPhysicalPoint((size * [i & 1, i >> 1 & 1, i >> 2]).tolist()) for i in range(8)]
    return Mask(labels.astype(np.uint8), image.GetSpacing()[::-1], np.array(corners))


def read_pair(reference: Path, prediction: Path | None) -> tuple[Mask, Mask]:
    """Reference and prediction on one grid, or ValueError with every problem of the pair; no prediction: an empty mask."""
    masks, errors = [], []
    for path in [reference, prediction] if prediction else [reference]:
        try:
            masks.append(read_mask(path))
        except ValueError as error:
            errors.append(str(error))
    if len(masks) == 2 and (difference := _grid_difference(*masks)):
        errors.append(f"{prediction}: {difference}")
    if errors:
        raise ValueError("\n".join(errors))
    return masks[0], masks[1] if prediction else replace(masks[0], labels=np.zeros_like(masks[0].labels))


def _grid_difference(reference: Mask, prediction: Mask) -> str:
    """How the prediction's grid differs from the reference's, in words; empty if it does not."""
    if reference.labels.shape != prediction.labels.shape:
        return f"has (z, y, x) = {prediction.labels.shape} voxels, its reference {reference.labels.shape}"
    shift = np.linalg.norm(reference.corners - prediction.corners, axis=1).max()
    if shift > CORNER_TOLERANCE_MM:
        return (f"lies up to {shift:.3g} mm off its reference (spacing {_mm(prediction.spacing)} against "
                f"{_mm(reference.spacing)} mm, or another origin or direction)")
    return ""


def is_synthetic(folder: Path) -> bool:
    """Whether a marker of made-up data stands in `folder` or in one of the two folders above it."""
    places = [folder.resolve(), *folder.resolve().parents[:2]]
    return any((place / MARKER).exists() for place in places)


def _mm(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in spacing)
