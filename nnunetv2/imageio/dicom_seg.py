"""A mask as a DICOM segmentation object (SEG) that refers to the slices it was made from, for viewers and archives.

It carries the patient and study of its series, as an archive needs them; its file's name does not.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2.imageio.dicom_header import load_pydicom
from nnunetv2.imageio.dicom_series import Stack
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.manifest import package_version

SCHEME = "99NNUNET"  # of the codes: a label's name is all that is known of what it means
SERIES_NUMBER = 9000  # above a scanner's own
MAX_TEXT = 64  # characters of a DICOM label
UTF_8 = "ISO_IR 192"
# What the standard lets be empty, and anonymised headers often lack as a whole
MAY_BE_EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
                "ReferringPhysicianName", "PositionReferenceIndicator")


def load_highdicom() -> Any:
    """The module; InputError that says how to install it."""
    try:
        import highdicom
    except ModuleNotFoundError as error:
        raise InputError(f'DICOM SEG is written with the package highdicom, which is not installed ({error}): pip install -c constraints.txt -e ".[dicom]" in the repository') from error
    return highdicom


def write_segmentation(mask: np.ndarray, stack: Stack, labels: Mapping[str, Any], path: str | os.PathLike, model: str) -> None:
    """Write `mask` (Z, Y, X), on the grid of `stack`, as one binary segment for each label of dataset.json but background and ignore.

    A region (a list of labels) becomes one segment, which may overlap others. model: named as the algorithm's source.

    Raises:
        InputError: the mask is not on the grid of the slices, or their headers lack what a SEG must repeat.
    """
    highdicom, pydicom = load_highdicom(), load_pydicom()
    if any(stack.shear) or mask.shape != stack.shape:
        raise InputError(f"{path}: the mask has (z, y, x) = {mask.shape} voxels, its slices {stack.shape}{', and they are sheared' if any(stack.shear) else ''}: "
                         "it does not lie on them. Predict the series as it is.")
    segments = {name: value for name, value in labels.items() if name not in ("background", "ignore")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that are not as the standard wants them
        try:
            sources = [_source(pydicom.dcmread(file, stop_before_pixels=True, force=True), stack) for file in dict.fromkeys(plane.path for plane in stack.planes)]
            made = highdicom.seg.Segmentation(
                source_images=sources, pixel_array=_in_file_order(_segment_array(mask, list(segments.values())), stack),
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY, segment_descriptions=_descriptions(list(segments), model),
                series_instance_uid=highdicom.UID(), series_number=SERIES_NUMBER, sop_instance_uid=highdicom.UID(), instance_number=1,
                manufacturer="nnunetv2", manufacturer_model_name="nnU-Net fork", software_versions=package_version("nnunetv2") or "unknown",
                device_serial_number="0", content_label="SEGMENTATION", series_description="nnU-Net segmentation")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: no DICOM SEG can be made for {stack.planes[0].path.parent}: its headers lack or hold what a SEG cannot repeat "
                             f"({type(error).__name__}: {' '.join(str(error).split())[:160]}). The NIfTI mask is there.") from error
    with atomic_write(path) as temporary:
        made.save_as(temporary)


def _source(dataset: Any, stack: Stack) -> Any:
    """The header of a slice as a SEG can repeat it: text in UTF-8, which holds the labels' names too; fields that may be empty are there."""
    dataset.decode()
    dataset.SpecificCharacterSet = UTF_8
    for key in MAY_BE_EMPTY:
        if key not in dataset:
            setattr(dataset, key, "")
    if "PerFrameFunctionalGroupsSequence" not in dataset and not dataset.get("SliceThickness"):
        dataset.SliceThickness = f"{stack.spacing[2]:.6g}"
    return dataset


def _line(name: str) -> str:
    """A name as one value of one line; DICOM parts values at a backslash."""
    return "".join(character if character.isprintable() else " " for character in name.replace("\\", "/"))[:MAX_TEXT]


def _segment_array(mask: np.ndarray, values: list[Any]) -> np.ndarray:
    """Labels as segment numbers 1, 2, ... (Z, Y, X), or, where regions overlap, a layer a segment (Z, Y, X, S)."""
    if any(isinstance(value, (list, tuple)) for value in values):
        return np.stack([np.isin(mask, value) for value in values], axis=-1).astype(np.uint8)
    numbered = np.zeros(mask.shape, np.uint8 if len(values) < 256 else np.uint16)
    for number, value in enumerate(values, 1):
        numbered[mask == value] = number
    return numbered


def _in_file_order(segments: np.ndarray, stack: Stack) -> np.ndarray:
    """Of files with several frames, whose frames may be in another order than the slices."""
    planes = stack.planes
    if planes[0].n_frames == 1:
        return segments
    if len({plane.path for plane in planes}) > 1 or len(planes) != planes[0].n_frames:
        raise InputError(f"{Path(planes[0].path).parent}: a SEG can refer to single slices, or to all frames of one file. Convert the series to single slices.")
    return segments[np.argsort([plane.frame for plane in planes])]


def _descriptions(names: list[str], model: str) -> list[Any]:
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    highdicom = load_highdicom()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="nnU-Net", family=codes.DCM.ArtificialIntelligence, version=package_version("nnunetv2") or "unknown", source=_line(model))
    return [highdicom.seg.SegmentDescription(
        segment_number=number, segment_label=_line(name), segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=CodedConcept(f"label{number}", SCHEME, _line(name)),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm_identification=algorithm) for number, name in enumerate(names, 1)]
