"""Small raw datasets written on the spot."""

import copy

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.utilities.files import save_json

SPACING = (0.75, 0.875, 2.5)  # x y z, as SimpleITK; exact in float32, as NIfTI stores it


def write_image(array, path, spacing=SPACING, origin=(0.0, 0.0, 0.0), direction=None):
    image = sitk.GetImageFromArray(np.asarray(array))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def data_folders(tmp_path, monkeypatch):
    """nnUNet_raw, nnUNet_preprocessed and nnUNet_results, empty, below the folder returned."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


class RawDataset:
    """Dataset555_Small: cases a, b, c with one channel, labels 0 1 2, a class each."""

    name = "Dataset555_Small"

    def __init__(self, root):
        self.root = root
        self.raw = root / "nnUNet_raw" / self.name
        self.preprocessed = root / "nnUNet_preprocessed" / self.name
        self.preprocessed.mkdir()
        self.json = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "lesion": 2}, "numTraining": 3,
                     "file_ending": ".nii.gz"}
        for i, case in enumerate("abc"):
            image = np.random.default_rng(i).integers(-50, 150, (8, 12, 10)).astype(np.int16)
            image[0] = 0
            seg = np.zeros(image.shape, np.uint8)
            seg[2:6, 3:9, 3:8] = 1
            seg[3:5, 4:6, 4:6] = 2
            self.write(case, image, seg)
        self.save_json()

    def moved_to(self, root):
        """The same dataset in a folder that its files were copied to."""
        moved = copy.copy(self)
        moved.root, moved.json = root, dict(self.json)
        moved.raw, moved.preprocessed = (root / folder.relative_to(self.root) for folder in (self.raw, self.preprocessed))
        return moved

    def write(self, case, image=None, seg=None, **geometry):
        if image is not None:
            write_image(image, self.raw / "imagesTr" / f"{case}_0000.nii.gz", **geometry)
        if seg is not None:
            write_image(seg, self.raw / "labelsTr" / f"{case}.nii.gz", **geometry)

    def save_json(self, **changes):
        self.json |= changes
        save_json(self.json, self.raw / "dataset.json")

    def classify(self, rows="a,0\nb,1\nc,2\n", **more):
        (self.raw / "subtypes.csv").write_text("case,subtype\n" + rows)
        self.save_json(classification={"name": "subtype", "classes": ["0", "1", "2"], "labels": "subtypes.csv", **more})

    def write_fingerprint(self, spacing, shape, n=10, relative_size=1.0):
        """The fingerprint of `n` equal cases; the planner looks at no image."""
        intensities = {"mean": 75.0, "std": 44.0, "median": 77.0, "min": -900.0, "max": 1200.0,
                       "percentile_00_5": -56.0, "percentile_99_5": 180.0}
        save_json({"spacings": [list(spacing)] * n, "shapes_after_crop": [list(shape)] * n,
                   "foreground_intensity_properties_per_channel": {c: intensities for c in self.json["channel_names"]},
                   "median_relative_size_after_cropping": relative_size}, self.preprocessed / "dataset_fingerprint.json")
        self.save_json(numTraining=n)


@pytest.fixture
def dataset(data_folders):
    return RawDataset(data_folders)


@pytest.fixture(name="write_image")
def write_image_fixture():
    return write_image
