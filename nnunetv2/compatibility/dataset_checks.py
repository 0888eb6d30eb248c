"""Checks of one training case with nnU-Net's signatures: what is wrong is printed, and the answer is False."""

from collections.abc import Sequence

import numpy as np

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.label_values import shown_values, unexpected_labels


def verify_labels(label_file: str, readerclass: type[BaseReaderWriter], expected_labels: Sequence[int]) -> bool:
    """Whether the mask holds no other labels than these. A mask that cannot be read is wrong, too."""
    try:
        seg, _ = readerclass().read_seg(label_file)
    except (OSError, ValueError) as error:
        return _all_right([str(error)])
    unexpected = unexpected_labels(seg, expected_labels)
    return _all_right([f"{label_file} holds label(s) {shown_values(unexpected)}, expected are {list(expected_labels)}"] if unexpected else [])


def check_cases(image_files: Sequence[str], label_file: str, expected_num_channels: int, readerclass: type[BaseReaderWriter]) -> bool:
    """Whether image and mask can be read, have as many channels as expected, and one shape and spacing, and hold numbers alone.

    A mask that lies elsewhere or is turned against its image is warned of, and no more.
    """
    reader = readerclass()
    try:
        (images, of_images), (seg, of_seg) = reader.read_images(image_files), reader.read_seg(label_file)
    except (OSError, ValueError) as error:
        return _all_right([str(error)])
    case, problems = ", ".join(map(str, image_files)), []
    if len(images) != expected_num_channels:
        problems.append(f"{case}: {len(images)} channel(s), expected are {expected_num_channels}")
    problems += [f"{name}: NaN among its values" for name, values in ((case, images), (label_file, seg)) if np.isnan(values).any()]
    if images.shape[1:] != seg.shape[1:]:
        problems.append(f"{label_file} has (z, y, x) = {seg.shape[1:]} voxels, its image {images.shape[1:]}")
    if not np.allclose(of_seg["spacing"], of_images["spacing"]):
        problems.append(f"{label_file} has a spacing of {list(of_seg['spacing'])} mm, its image {list(of_images['spacing'])}")
    if not problems and "sitk_stuff" in of_images and "sitk_stuff" in of_seg:
        difference = grid_difference(of_images["sitk_stuff"], of_seg["sitk_stuff"], images.shape[1:], seg.shape[1:])
        if difference is not None:
            print(f"Warning: {label_file} {difference} (its image). Look at it: nnUNetv2_plot_overlay_pngs.")
    return _all_right(problems)


def _all_right(problems: Sequence[str]) -> bool:
    for problem in problems:
        print(f"Error: {problem}.")
    return not problems
