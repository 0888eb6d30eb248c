"""Finding the masks to compare, reading them, and every check that must pass before a number is worth computing."""

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.image_files import case_of, ending_in
from nnunetv2.imageio.checked_file import stored_type
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.label_values import shown_values, unexpected_labels
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.data_description import MAX_LABEL, THE_QUIZ
from nnunetv2.utilities.errors import InputError, name_most
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

    @property
    def digest(self) -> str:
        """sha256 of labels and shape: equal for a copy that was packed or stored otherwise."""
        return hashlib.sha256(str(self.labels.shape).encode() + np.ascontiguousarray(self.labels).tobytes()).hexdigest()


def find_masks(folder: Path, cases: Collection[str] = ()) -> dict[str, Path]:
    """{case: path} of every mask below `folder`, in sub-folders too.

    InputError names all that looks like a mask and is none (see image_listing), and a folder without one. Images that lie beside their mask
    (`case_0000.nii.gz` with `case.nii.gz`, as in the quiz's folders) are left out. A file is taken for one if its number and all
    numbers before it are there, unless `cases` holds its name or it is stored in 8 bits and holds labels alone.
    """
    files = list_images(folder, ending_in(folder), below="list")
    return _by_case(folder, files, {*cases, *(case for case, path in _channels(files).items() if _holds_labels(path, only_8_bit=True))})


def find_pairs(reference: Path, prediction: Path, cases: Collection[str] = ()) -> tuple[dict[str, Path], dict[str, Path]]:
    """`find_masks` of both folders, where what is surely a mask in one is none's image in the other.

    Names that could be an image's in both are decided by what the reference holds, which is read for it.
    """
    files = [list_images(folder, ending_in(folder), below="list") for folder in (reference, prediction)]
    channels = [_channels(listed) for listed in files]
    masks = [{case_of(path.name) for path in listed if path not in of.values()} for listed, of in zip(files, channels)]
    named = {*cases} | (channels[0].keys() & masks[1]) | (channels[1].keys() & masks[0])
    for case in (channels[0].keys() | channels[1].keys()) - named:
        path = channels[0].get(case) or channels[1][case]
        if _holds_labels(path, only_8_bit=not all(case in of for of in channels)):
            named.add(case)
    return _by_case(reference, files[0], named), _by_case(prediction, files[1], named)


def _channels(files: Sequence[Path]) -> dict[str, Path]:
    """{name: path} of what may be the images of a mask beside them: CASE_0000, CASE_0001, ... without a gap, where CASE is there too."""
    stems = {path.with_name(case_of(path.name)): path for path in files}
    found = {}
    for stem, path in stems.items():
        match = re.fullmatch(r"(.+)_([0-9]{4})", stem.name)
        if match and stem.with_name(match[1]) in stems and all(stem.with_name(f"{match[1]}_{number:04d}") in stems for number in range(int(match[2]))):
            found[stem.name] = path
    return found


def _holds_labels(path: Path, only_8_bit: bool) -> bool:
    """Whether a file is a mask by its values. only_8_bit: others are none, unread. A damaged one counts as a mask, so that it is named, where all are read."""
    try:
        if only_8_bit and stored_type(path).itemsize > 1:
            return False
        return not unexpected_labels(SimpleITKIO().read_seg(path)[0], range(MAX_LABEL + 1))
    except (OSError, ValueError):
        return not only_8_bit


def _by_case(folder: Path, files: Sequence[Path], named: Collection[str]) -> dict[str, Path]:
    """{case: path} of `files` but for images that are not `named`."""
    channels = set(_channels(files).values())
    masks = [path for path in files if path not in channels or case_of(path.name) in named]
    found: dict[str, Path] = {}
    doubles = [str(path) for path in masks if found.setdefault(case_of(path.name), path) is not path]
    if doubles:
        raise ValueError(f"{folder}: these cases are there a second time, in another sub-folder: {name_most(doubles)}")
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

