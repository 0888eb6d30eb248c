"""Changes to a copy of the world before a run damages it: what a command needs and the world does not hold."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from experiments.campaigns.world import MODEL, PREPROCESSED, RAW


def formats(ending: str) -> Callable[[Path], None]:
    """Validation images in another format, and a model that expects it."""

    def prepare(root: Path) -> None:
        for file in sorted((root / "validation" / "images").glob("*.nii.gz")):
            image = sitk.ReadImage(str(file))
            for key in image.GetMetaDataKeys():  # else the fields of NIfTI would fill the other header
                image.EraseMetaData(key)
            sitk.WriteImage(image, str(file).removesuffix(".nii.gz") + ending)
            file.unlink()
        description = root / MODEL / "dataset.json"
        description.write_text(json.dumps(json.loads(description.read_text()) | {"file_ending": ending}))

    return prepare


def postprocessing(root: Path) -> None:
    decided = {
        "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
        "postprocessing_kwargs": [{"labels_or_regions": [1, 2]}],
    }
    (root / "postprocessing.json").write_text(json.dumps(decided))


def two_runs(root: Path) -> None:
    shutil.copytree(root / "run", root / "run_b")


def unprepared(root: Path) -> None:
    """Nothing is preprocessed yet, so that all of it is read."""
    for path in (root / PREPROCESSED).glob("nnUNetPlans_*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def second_dataset(root: Path) -> None:
    (root / "nnUNet_raw" / "Dataset778_Other").mkdir(parents=True)
    shutil.copy(root / RAW / "dataset.json", root / "nnUNet_raw" / "Dataset778_Other" / "dataset.json")
    (root / "nnUNet_preprocessed" / "Dataset778_Other").mkdir()


def second_prediction(root: Path) -> None:
    shutil.copytree(root / "predictions" / "validation", root / "predictions" / "second")


def move_checkpoint(root: Path) -> None:
    (root / MODEL / "fold_0" / "checkpoint_final.pth").rename(root / "given.pth")
    shutil.rmtree(root / MODEL)


def phantom(root: Path) -> None:
    (root / "phantom").mkdir()
    (root / "phantom" / "phantom.json").write_text('{"preset": "smoke"}')


def stages(root: Path) -> None:
    (root / "work").mkdir()
    (root / "work" / "stages.json").write_text(
        '[{"stage": "first", "identity": "x", "done": true, "seconds": 1.0, "command": "mkdir made"}]'
    )


def dicom(root: Path) -> None:
    """A CT series of eight slices, and a report, which is skipped."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    (root / "dicom").mkdir()
    for z, plane in enumerate(np.random.default_rng(0).integers(0, 2000, (8, 16, 18)).astype("<u2")):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID, one.StudyInstanceUID, one.SeriesInstanceUID = uid.CTImageStorage, f"1.2.3.{z}", "1.2", "1.2.3"
        one.Modality, one.PatientName, one.SeriesDescription, one.InstanceNumber = "CT", "DOE^JANE", "abdomen", z
        one.SamplesPerPixel, one.PhotometricInterpretation, one.Rows, one.Columns = 1, "MONOCHROME2", *plane.shape
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.PixelSpacing, one.ImageOrientationPatient, one.ImagePositionPatient = [1, 1], [1, 0, 0, 0, 1, 0], [0, 0, 2 * z]
        one.RescaleSlope, one.RescaleIntercept, one.PixelData = 1, -1024, plane.tobytes()
        one.save_as(root / "dicom" / f"IM{z:04d}.dcm", enforce_file_format=True)
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = uid.ComprehensiveSRStorage, "1.2.4", "SR"
    report.save_as(root / "dicom" / "report", enforce_file_format=True)
