"""One PNG a case: the slice with most foreground, labels in colour over the image."""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.image import imsave

from nnunetv2 import paths
from nnunetv2.imageio.geometry import off_its_image
from nnunetv2.imageio.label_values import undeclared_labels
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.case_store import list_cases, load_case
from nnunetv2.utilities.parallel import in_threads
from nnunetv2.utilities.dataset_files import example_image, get_filenames_of_train_images_and_targets, undeclared_channels
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.errors import InputError, name_some
from nnunetv2.utilities.files import atomic_write, load_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.own_output import refuse_overlap
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

COLORS = np.array(matplotlib.color_sequences["tab10"], np.float32)  # (10, 3); labels beyond take them again from the start
GREY_RANGE = (0.5, 99.5)  # percentiles of the slice shown as black and white


def select_slice(seg: np.ndarray) -> int:
    """Index of the slice of (Z, Y, X) that shows most foreground.

    Each label counts by the share of its voxels that lie in the slice, so that a small lesion weighs as much as the organ.
    Without foreground: the middle slice.
    """
    labels = [label for label in np.unique(seg) if label > 0]
    if not labels:
        return seg.shape[0] // 2
    counts = np.array([(seg == label).sum(axis=(1, 2)) for label in labels])  # (n_labels, Z)
    return int(np.argmax((counts / counts.sum(axis=1, keepdims=True)).sum(axis=0)))


def overlay(image: np.ndarray, seg: np.ndarray, intensity: float = 0.6) -> np.ndarray:
    """(Y, X, 3) uint8: `image` (Y, X) in grey, mixed with a colour a label of `seg` (Y, X) at `intensity` 0..1."""
    black, white = np.percentile(image, GREY_RANGE)
    grey = np.clip((image - black) / max(white - black, 1e-8), 0, 1)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    foreground = seg > 0
    colors = COLORS[(seg[foreground].astype(int) - 1) % len(COLORS)]
    rgb[foreground] = (1 - intensity) * rgb[foreground] + intensity * colors
    return (rgb * 255).round().astype(np.uint8)


def generate_overlays_from_raw(dataset_name_or_id: int | str, output_folder: str | os.PathLike, num_processes: int | None = None,
                               channel_idx: int = 0, overlay_intensity: float = 0.6) -> None:
    """Draw the training cases of nnUNet_raw. InputError where the output would write over images or masks, which may be PNGs of the same names."""
    folder = paths.nnUNet_raw / maybe_convert_to_dataset_name(dataset_name_or_id)
    dataset_json = load_json(folder / "dataset.json", DatasetJson)
    cases = get_filenames_of_train_images_and_targets(folder, dataset_json)
    refuse_overlap(output_folder, sorted({Path(file).parent for files in cases.values() for file in (*files["images"], files["label"])}))
    reader = determine_reader_writer_from_dataset_json(dataset_json, example_image(cases))()
    labels = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order")).labels_of_masks
    in_threads(_draw_raw, {case: (reader, files, len(dataset_json["channel_names"]), labels, channel_idx, overlay_intensity, Path(output_folder) / f"{case}.png")
                           for case, files in cases.items()}, num_processes, "Drawing")


def generate_overlays_from_preprocessed(dataset_name_or_id: int | str, output_folder: str | os.PathLike, num_processes: int | None = None,
                                        channel_idx: int = 0, configuration: str | None = None, plans_identifier: str = "nnUNetPlans",
                                        overlay_intensity: float = 0.6) -> None:
    """Draw the preprocessed cases of a configuration; by default 3d_fullres, else 2d."""
    folder = paths.nnUNet_preprocessed / maybe_convert_to_dataset_name(dataset_name_or_id)
    plans_manager = PlansManager(folder / f"{plans_identifier}.json")
    if configuration is None:
        configuration = "3d_fullres" if "3d_fullres" in plans_manager.available_configurations else "2d"
    cases_folder = folder / plans_manager.get_configuration(configuration).data_identifier
    if not cases_folder.is_dir():
        raise FileNotFoundError(f"{cases_folder} does not exist. Run nnUNetv2_preprocess for configuration {configuration} first.")
    in_threads(_draw_preprocessed, {case: (cases_folder, case, channel_idx, overlay_intensity, Path(output_folder) / f"{case}.png")
                                    for case in list_cases(cases_folder)}, num_processes, "Drawing")


def _draw_raw(reader: SimpleITKIO, files: dict, n_channels: int, labels: Sequence[int], channel_idx: int, intensity: float, output: Path) -> None:
    (data, properties), (seg, on_grid) = reader.read_images(files["images"]), reader.read_seg(files["label"])
    if problem := undeclared_channels(len(data), n_channels):
        raise InputError(f"{name_some(files['images'])}: {problem}.")
    if problem := off_its_image(files["label"], properties, on_grid, data.shape[1:], seg.shape[1:]):
        raise InputError(problem)
    if problem := undeclared_labels(seg, labels, files["label"]):
        raise InputError(problem)
    _draw(data, seg, channel_idx, intensity, output)


def _draw_preprocessed(folder: Path, case: str, channel_idx: int, intensity: float, output: Path) -> None:
    data, seg, _ = load_case(folder, case)
    _draw(data, seg[:], channel_idx, intensity, output)


def _draw(data: np.ndarray, seg: np.ndarray, channel_idx: int, intensity: float, output: Path) -> None:
    """`data` (C, Z, Y, X), an array or a stored one of which only a slice is read; `seg` (1, Z, Y, X)."""
    if channel_idx >= data.shape[0]:
        raise InputError(f"There is no channel {channel_idx}; the image has {data.shape[0]}. Choose another with -channel_idx.")
    if data.shape[1:] != seg.shape[1:]:
        raise ValueError(f"Image and segmentation differ in shape: {data.shape[1:]} and {seg.shape[1:]}.")
    z = select_slice(seg[0])
    with atomic_write(output) as temporary:
        imsave(temporary, overlay(data[channel_idx, z], seg[0, z], intensity))
