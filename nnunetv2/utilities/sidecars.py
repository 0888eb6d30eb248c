"""Volumes in TIFF files hold no spacing: it is in CASE.json beside CASE.tif and CASE_0000.tif, and goes where they go."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

TIFF_ENDINGS = (".tif", ".tiff")


def sidecars_of_masks(names: Iterable[str]) -> set[str]:
    """What may lie beside masks of these names.

    >>> sidecars_of_masks(["a.tif", "b.nii.gz"])
    {'a.json'}
    """
    return {str(Path(name).with_suffix(".json")) for name in names if name.lower().endswith(TIFF_ENDINGS)}


def sidecars(files: Iterable[str | os.PathLike]) -> list[Path]:
    """The files beside images and masks that are there, sorted."""
    tiffs = [path for path in map(Path, files) if path.suffix.lower() in TIFF_ENDINGS]
    found = {path.with_name(f"{stem}.json") for path in tiffs for stem in (path.stem, re.sub(r"_\d{4}$", "", path.stem))}
    return sorted(path for path in found if path.is_file())
