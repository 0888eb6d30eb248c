"""A scored run small enough to read: four cases of 6 x 8 x 8 voxels at 2 x 1 x 1 mm."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

SPACING = (2.0, 1.0, 1.0)  # z, y, x
CASES = ["quiz_0_001", "quiz_1_002", "quiz_1_003", "quiz_2_004"]


@pytest.fixture
def save_mask() -> Callable[..., Path]:
    def save(labels: np.ndarray, path: Path, spacing: tuple[float, ...] = SPACING, origin: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing(spacing[::-1])
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(path))
        return path
    return save


def labels(lesion: bool = True) -> np.ndarray:
    """A pancreas of 4 x 4 x 6 voxels, one half of it lesion if asked."""
    volume = np.zeros((6, 8, 8), np.uint8)
    volume[1:5, 2:6, 1:7] = 1
    if lesion:
        volume[1:5, 2:6, 4:7] = 2
    return volume


@pytest.fixture
def run_folder(tmp_path: Path, save_mask: Callable[..., Path]) -> Path:
    """reference/, prediction/ with both tables, truth.csv. Perfect but for case 003 (no lesion found, wrong subtype)."""
    for case in CASES:
        save_mask(labels(), tmp_path / "reference" / f"{case}.nii.gz")
        save_mask(labels(lesion=case != "quiz_1_003"), tmp_path / "prediction" / f"{case}.nii.gz")
    (tmp_path / "truth.csv").write_text("case,subtype\nquiz_0_001,0\nquiz_1_002,1\nquiz_1_003,1\nquiz_2_004,2\n")
    (tmp_path / "prediction" / "subtype_results.csv").write_text(
        "Names,Subtype\nquiz_0_001.nii.gz,0\nquiz_1_002.nii.gz,1\nquiz_1_003.nii.gz,0\nquiz_2_004.nii.gz,2\n")
    (tmp_path / "prediction" / "subtype_probabilities.csv").write_text(
        "Names,p_0,p_1,p_2\nquiz_0_001.nii.gz,.7,.2,.1\nquiz_1_002.nii.gz,.1,.8,.1\nquiz_1_003.nii.gz,.5,.3,.2\nquiz_2_004.nii.gz,.1,.3,.6\n")
    return tmp_path
