"""Pictures of masks over images, one slice a case, with nnU-Net's functions. The command draws with utilities/overlay_plots.py."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.overlay_plots import select_slice
from nnunetv2.utilities.parallel import in_threads

# Black, which adds nothing, for the background, then colours that are told apart easily (S. Trubetskoy, sashamaps.net/docs/resources/20-colors)
color_cycle = ("000000", "4363d8", "f58231", "3cb44b", "e6194B", "911eb4", "ffe119", "bfef45", "42d4f4", "f032e6", "000075", "9A6324", "808000", "800000", "469990")


def hex_to_rgb(hex: str) -> tuple[int, ...]:
    """"ff8000" -> (255, 128, 0)."""
    if len(hex) != 6:
        raise ValueError(f"{hex!r} is no colour; six hexadecimal digits are.")
    return tuple(bytes.fromhex(hex))


def generate_overlay(input_image: np.ndarray, segmentation: np.ndarray, mapping: Mapping[int, int] | None = None,
                     color_cycle: Sequence[str] = color_cycle, overlay_intensity: float = 0.6) -> np.ndarray:
    """(Y, X, 3) uint8: the image (Y, X), (Y, X, 1) or (Y, X, 3) from black to white, plus `overlay_intensity` times a colour a label.

    mapping: label -> position in `color_cycle`, which starts anew after its end; by default the labels in ascending order, so that 0
    comes first. Labels that it lacks get no colour. RuntimeError for images of another shape.
    """
    image = np.array(input_image, np.float64)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise RuntimeError(f"The image is {input_image.shape}; expected (Y, X), (Y, X, 1) or (Y, X, 3).")
    image = _up_to_255(np.repeat(image, 3 // image.shape[2], axis=2) - image.min())
    if mapping is None:
        mapping = {label: position for position, label in enumerate(np.unique(segmentation))}
    for label, position in mapping.items():
        image[segmentation == label] += overlay_intensity * np.array(hex_to_rgb(color_cycle[position % len(color_cycle)]))
    return _up_to_255(image).astype(np.uint8)


def _up_to_255(image: np.ndarray) -> np.ndarray:
    """Scaled so that the largest value is 255; an image of zeros stays black."""
    return image / (image.max() or 1) * 255


def select_slice_to_plot(image: np.ndarray, segmentation: np.ndarray) -> int:
    """Index of the slice of `segmentation` (Z, Y, X) with most voxels that are not 0; the first of equals."""
    return int(np.argmax(np.count_nonzero(segmentation, axis=(1, 2))))


def select_slice_to_plot2(image: np.ndarray, segmentation: np.ndarray) -> int:
    """Index of the slice of (Z, Y, X) with the largest share of its labels, each label counting alike; the middle one without labels."""
    return select_slice(segmentation)


def plot_overlay(image_file: str, segmentation_file: str, image_reader_writer: BaseReaderWriter, output_file: str, overlay_intensity: float = 0.6) -> None:
    """Draw one case's first channel. ValueError when image and mask differ in shape."""
    (image, *_), _ = image_reader_writer.read_images((image_file,))
    (seg, *_), _ = image_reader_writer.read_seg(segmentation_file)
    if image.shape != seg.shape:
        raise ValueError(f"{image_file} has (z, y, x) = {image.shape} voxels and {segmentation_file} {seg.shape}.")
    _draw(image, seg, Path(output_file), overlay_intensity)


def plot_overlay_preprocessed(dataset: nnUNetBaseDataset, k: str, output_folder: str, overlay_intensity: float = 0.6, channel_idx: int = 0) -> None:
    """Draw channel `channel_idx` of the preprocessed case `k` into OUTPUT_FOLDER/K.png. ValueError for a channel that it lacks."""
    data, seg, _, _ = dataset.load_case(k)
    if channel_idx >= data.shape[0]:
        raise ValueError(f"{k} has {data.shape[0]} channel(s), so channel_idx {channel_idx} is none of them.")
    _draw(data[channel_idx], np.maximum(seg[0], 0), Path(output_folder, f"{k}.png"), overlay_intensity)  # -1 is outside the image


def _draw(image: np.ndarray, seg: np.ndarray, output: Path, intensity: float) -> None:
    z = select_slice_to_plot2(image, seg)
    with atomic_write(output) as temporary:
        imsave(temporary, generate_overlay(image[z], seg[z], overlay_intensity=intensity))


def multiprocessing_plot_overlay(list_of_image_files: Sequence[str], list_of_seg_files: Sequence[str], image_reader_writer: BaseReaderWriter,
                                 list_of_output_files: Sequence[str], overlay_intensity: float, num_processes: int = 8) -> None:
    """Draw cases on disk, in threads. CasesFailed names those that could not be drawn."""
    jobs = {os.fspath(output): (image, seg, image_reader_writer, output, overlay_intensity)
            for image, seg, output in zip(list_of_image_files, list_of_seg_files, list_of_output_files, strict=True)}
    in_threads(plot_overlay, jobs, num_processes, "Drawing")


def multiprocessing_plot_overlay_preprocessed(dataset: nnUNetBaseDataset, output_folder: str, overlay_intensity: float, num_processes: int = 8,
                                              channel_idx: int = 0) -> None:
    """Draw all cases of a preprocessed dataset, in threads. CasesFailed names those that could not be drawn."""
    in_threads(plot_overlay_preprocessed, {case: (dataset, case, output_folder, overlay_intensity, channel_idx) for case in dataset.identifiers},
               num_processes, "Drawing")
