"""A tiny data set in the quiz's layout that tests may damage: 6 x 7 x 8 voxels a case, pancreas 60 HU in fat."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

SPACING = (0.8, 0.9, 2.0)  # x, y, z
ALMOST_ONE = 1.0000152587890625


def to_image(array: np.ndarray, origin: tuple = (10.0, -20.0, 30.0), direction: tuple = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def tiny_labels() -> np.ndarray:
    """4 x 3 x 4 voxels of pancreas off the centre, the last two slices of it lesion."""
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[1:5, 1:4, 2:6] = 1
    labels[3:5, 1:4, 2:6] = 2
    return labels


def tiny_ct() -> np.ndarray:
    """60 HU in the pancreas, gas elsewhere, so that a displaced mask shows."""
    return np.where(tiny_labels() > 0, 60, -900).astype(np.int16)


class Quiz:
    """Paths of a tiny quiz folder, and ways to replace its files."""

    def __init__(self, root: Path):
        self.root = root
        for split, numbers in (("train", (1, 2, 3)), ("validation", (4,))):
            for subtype in (0, 1, 2):
                for number in numbers:
                    image, mask = self.files(split, subtype, number)
                    image.parent.mkdir(parents=True, exist_ok=True)
                    self.write(tiny_ct(), image)
                    self.write(np.array([0, ALMOST_ONE, 2], np.float32)[tiny_labels()] if number == 1 else tiny_labels(), mask)
        (root / "test").mkdir()
        for number in (5, 6):
            self.write(tiny_ct(), self.test_image(number))

    def files(self, split: str = "train", subtype: int = 0, number: int = 1) -> tuple[Path, Path]:
        folder = self.root / split / f"subtype{subtype}"
        return folder / f"quiz_{subtype}_{number:03d}_0000.nii.gz", folder / f"quiz_{subtype}_{number:03d}.nii.gz"

    def test_image(self, number: int = 5) -> Path:
        return self.root / "test" / f"quiz_{number:03d}_0000.nii.gz"

    def write(self, array: np.ndarray, file: Path, **geometry) -> None:
        sitk.WriteImage(to_image(array, **geometry), str(file), True)


@pytest.fixture
def quiz(tmp_path: Path) -> Quiz:
    return Quiz(tmp_path / "data")


@pytest.fixture
def flipped() -> Callable[[np.ndarray], tuple[np.ndarray, dict]]:
    """The same world content stored with y reversed: array and the geometry that says so."""
    def flip(array: np.ndarray) -> tuple[np.ndarray, dict]:
        y_end = -20.0 + SPACING[1] * (array.shape[1] - 1)
        return np.ascontiguousarray(array[:, ::-1]), {"origin": (10.0, y_end, 30.0), "direction": (1, 0, 0, 0, -1, 0, 0, 0, 1)}
    return flip
