"""Masks and subtypes that a prediction left in its folder, as the speed table reads them."""

from pathlib import Path

import numpy as np

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2.utilities.csv_files import read_csv, refuse

STRUCTURES = {"whole": lambda mask: mask > 0, "lesion": lambda mask: mask == 2}
PANCREAS = {"whole": "whole", "lesion": "lesion"}  # what tables call them


def folder_of(row: str, masks: Path) -> Path:
    """Where a row's masks lie below `masks`."""
    return masks / row.replace(", ", "_").replace(" ", "_")


def read_mask(path: Path) -> np.ndarray:
    return SimpleITKIO().read_seg(path)[0][0]


def dice(a: np.ndarray, b: np.ndarray) -> float | None:
    """None when both are empty."""
    total = a.sum() + b.sum()
    return float(2 * (a & b).sum() / total) if total else None


def masks_in(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.glob("*.nii.gz"))}


def scores_of(mask: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    """DSC of each structure of two label maps; None where it is absent from both."""
    return {structure: dice(select(mask), select(other)) for structure, select in STRUCTURES.items()}


def structure_titles(labels: dict[str, int | list[int]]) -> dict[str, str]:
    """What tables call the STRUCTURES of a dataset with these labels; without its second one there is no `lesion`."""
    names = {value: name for name, value in labels.items() if isinstance(value, int)}  # regions are lists
    if names.get(2) == "lesion":
        return PANCREAS
    return {"whole": "foreground", "lesion": names[2]} if 2 in names else {"whole": names.get(1, "foreground")}


def subtypes(folder: Path) -> dict[str, str]:
    """Mask name -> class, of the csv that classification writes; {} without one."""
    found = sorted(folder.glob("*_results.csv"))
    if not found:
        return {}
    table = read_csv(found[0], ["Names"])
    refuse(found[0], [] if len(table.columns) == 2 else [f"it has the columns {','.join(table.columns)}, expected Names and the class"])
    return {row["Names"]: row[table.columns[1 - table.columns.index("Names")]] for row in table.rows}
