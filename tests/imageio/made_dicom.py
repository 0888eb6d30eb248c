"""Small DICOM series that tests write and damage. `values` are HU (Z, Y, X); the slices lie along the normal of `orientation`."""

from pathlib import Path

import numpy as np

LYING = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PATIENT = "DOE^JANE"


def dataset_of(values, position, orientation=LYING, spacing=(0.9, 0.8), number=1, series="1.2.3.4", **changed):
    """A CT slice (Y, X) as a pydicom data set; spacing is between rows, between columns. A field given as None is left out."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
    one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = "1.2.3", series, "1.2.3.9"
    one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = PATIENT, "4711", "19600101", "F"
    one.StudyDate, one.StudyTime, one.AccessionNumber, one.StudyID, one.ReferringPhysicianName = "20240101", "120000", "", "1", ""
    one.Modality, one.ImageType, one.SeriesNumber, one.InstanceNumber, one.AcquisitionNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], 2, number, 1
    one.Manufacturer, one.SeriesDescription, one.PatientPosition, one.PositionReferenceIndicator = "made", "abdomen", "HFS", ""
    one.SamplesPerPixel, one.PhotometricInterpretation, one.Rows, one.Columns = 1, "MONOCHROME2", *values.shape
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.PixelSpacing, one.SliceThickness = list(spacing), 2.0
    one.ImageOrientationPatient, one.ImagePositionPatient = list(orientation), [round(float(value), 6) for value in position]
    one.RescaleIntercept, one.RescaleSlope, one.RescaleType = -1024, 1, "HU"
    one.PixelData = (np.asarray(values) + 1024).astype("<u2").tobytes()
    for key, value in changed.items():
        if value is None:
            delattr(one, key)
        else:
            setattr(one, key, value)
    return one


def slices(values, origin=(-10.0, 20.0, 30.0), orientation=LYING, step=2.5, shear=(0.0, 0.0), **changed):
    """Data sets of all slices, from the lowest along the normal. shear: mm along row and column direction for each mm of normal."""
    row, column = np.reshape(orientation, (2, 3))
    normal = np.cross(row, column)
    return [dataset_of(plane, np.array(origin) + z * step * (normal + shear[0] * row + shear[1] * column), orientation, number=z + 1, **changed)
            for z, plane in enumerate(values)]


def save(datasets, folder: Path, order=None) -> list[Path]:
    """Write the data sets as IM0000 and so on, in `order`; the paths in the order of `datasets`."""
    folder.mkdir(parents=True, exist_ok=True)
    order = list(order) if order is not None else list(range(len(datasets)))
    paths = [folder / f"IM{order[i]:04d}" for i in range(len(datasets))]
    for one, path in zip(datasets, paths):
        one.save_as(path, enforce_file_format=True)
    return paths


def hu(shape=(6, 7, 8), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)
