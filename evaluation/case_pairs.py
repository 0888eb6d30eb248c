"""Finding the masks to compare, reading them, and every check that must pass before a number is worth computing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.subtype_tables import case_of
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.label_values import shown_values, unexpected_labels
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.data_description import THE_QUIZ
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import Splits
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.image_listing import list_images
from nnunetv2.utilities.safe_names import plain_names

MARKER = "SYNTHETIC.txt"


@dataclass(frozen=True)
class Mask:
    """A label map: labels (Z, Y, X) uint8, spacing (z, y, x) mm, geometry as the reader gives it, to compare grids."""

    labels: np.ndarray
    spacing: tuple[float, float, float]
    geometry: dict[str, Any]


def find_masks(folder: Path) -> dict[str, Path]:
    """{case: path} of every mask below `folder`, in sub-folders too.

    InputError names all that looks like a mask and is none (see image_listing), and a folder without one. An image that lies beside its mask (`case_0000.nii.gz` with `case.nii.gz`, as in the quiz's folders) is not a mask.
    """
    files = list_images(folder, ".nii.gz", below="list")
    paths = {path.with_name(case_of(path.name)): path for path in files}
    masks = [path for stem, path in paths.items()
             if not re.search(r"_\d{4}$", stem.name) or stem.with_name(stem.name[:-5]) not in paths]
    found: dict[str, Path] = {}
    doubles = [str(path) for path in masks if found.setdefault(case_of(path.name), path) is not path]
    if doubles:
        raise ValueError(f"{folder}: these cases are there a second time, in another sub-folder: {', '.join(doubles)}")
    return found


def validation_cases(splits: Path, fold: int) -> list[str]:
    """Cases that fold `fold` of an nnU-Net `splits_final.json` validates on."""
    folds = load_json(splits, Splits)
    if not 0 <= fold < len(folds):
        raise ValueError(f"{splits} has folds 0 to {len(folds) - 1}, not {fold}")
    return sorted(plain_names(folds[fold]["val"], "case", f"{splits}, fold {fold}", portable=False))


def read_mask(path: Path, labels: Sequence[int] = THE_QUIZ.label_values) -> Mask:
    """Read a label map; InputError names the file if it is damaged, not 3D or holds other values than `labels`."""
    seg, properties = SimpleITKIO().read_seg(path)
    geometry = properties["sitk_stuff"]
    if len(geometry["spacing"]) != 3:
        raise InputError(f"{path} is {len(geometry['spacing'])}-dimensional, a mask has 3 dimensions; export the whole volume")
    if unexpected := unexpected_labels(seg, labels):
        raise InputError(f"{path} holds {shown_values(unexpected)}, labels must be {list(labels)}")
    return Mask(seg[0].astype(np.uint8), tuple(properties["spacing"]), geometry)


def read_pair(reference: Path, prediction: Path | None, labels: Sequence[int] = THE_QUIZ.label_values) -> tuple[Mask, Mask]:
    """Reference and prediction on one grid, or InputError with every problem of the pair; no prediction: an empty mask."""
    masks, errors = [], []
    for path in [reference, prediction] if prediction else [reference]:
        try:
            masks.append(read_mask(path, labels))
        except (OSError, ValueError) as error:
            errors.append(str(error))
    if len(masks) == 2:
        difference = grid_difference(masks[0].geometry, masks[1].geometry, masks[0].labels.shape, masks[1].labels.shape)
        errors += [f"{prediction} {difference} (its reference)"] if difference else []
    if errors:
        raise InputError("\n".join(errors))
    return masks[0], masks[1] if prediction else replace(masks[0], labels=np.zeros_like(masks[0].labels))


def is_synthetic(folder: Path) -> bool:
    """Whether a marker of made-up data stands in `folder` or in one of the two folders above it."""
    places = [folder.resolve(), *folder.resolve().parents[:2]]
    return any((place / MARKER).exists() for place in places)

