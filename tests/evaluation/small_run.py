"""A run small enough to read: four cases of 6 x 8 x 8 voxels at 2 x 1 x 1 mm, with images, masks and subtype tables."""

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SPACING = (2.0, 1.0, 1.0)  # z, y, x
CASES = ["quiz_0_001", "quiz_1_002", "quiz_1_003", "quiz_2_004"]


def save_image(array: np.ndarray, path: Path, spacing: tuple[float, ...] = SPACING, origin: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    return path


def labels(lesion: bool = True) -> np.ndarray:
    """A pancreas of 4 x 4 x 6 voxels, one half of it lesion if asked."""
    volume = np.zeros((6, 8, 8), np.uint8)
    volume[1:5, 2:6, 1:7] = 1
    if lesion:
        volume[1:5, 2:6, 4:7] = 2
    return volume


def write_run(folder: Path) -> Path:
    """images/, reference/, prediction/ with both tables, truth.csv. Perfect but for case 003 (no lesion found, wrong subtype)."""
    for case in CASES:
        save_image(labels().astype(np.float32) * 60 - 20, folder / "images" / f"{case}_0000.nii.gz")
        save_image(labels(), folder / "reference" / f"{case}.nii.gz")
        save_image(labels(lesion=case != "quiz_1_003"), folder / "prediction" / f"{case}.nii.gz")
    (folder / "truth.csv").write_text("case,subtype\nquiz_0_001,0\nquiz_1_002,1\nquiz_1_003,1\nquiz_2_004,2\n")
    (folder / "prediction" / "subtype_results.csv").write_text(
        "Names,Subtype\nquiz_0_001.nii.gz,0\nquiz_1_002.nii.gz,1\nquiz_1_003.nii.gz,0\nquiz_2_004.nii.gz,2\n")
    (folder / "prediction" / "subtype_probabilities.csv").write_text(
        "Names,p_0,p_1,p_2\nquiz_0_001.nii.gz,.7,.2,.1\nquiz_1_002.nii.gz,.1,.8,.1\nquiz_1_003.nii.gz,.5,.3,.2\nquiz_2_004.nii.gz,.1,.3,.6\n")
    return folder


def table_options(folder: Path) -> list[str]:
    return ["--subtypes", str(folder / "prediction" / "subtype_results.csv"), "--truth", str(folder / "truth.csv")]


def status_of(main, arguments: list[str]) -> int:
    """Exit status of a script's main function; its message goes to the error output, as at the interpreter's end."""
    try:
        return main(arguments) or 0
    except SystemExit as end:
        if isinstance(end.code, int):
            return end.code
        print(end.code, file=sys.stderr)
        return 1


def image_options(folder: Path) -> list[str]:
    return ["--images", str(folder / "images"), "--ref", str(folder / "reference"), "--pred", str(folder / "prediction")]
