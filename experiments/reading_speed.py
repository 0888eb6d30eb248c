"""What the checks on reading cost: seconds of CPU time of our reader and of plain SimpleITK on the same files.

    python -m experiments.reading_speed imagesTs/case_0000.nii.gz ...      a table on stdout; the least of 15 readings in turn

On 2 cores of a shared CPU, as ratio to SimpleITK: REAL int16 and int32 CTs of two patients in .nii.gz 0.8, one of them stacked to 100 x 512 x 512
voxels 1.0 to 1.15, that as float32 0.4; a mask of its size 0.6. Run it on your files before you rely on a figure.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.commands import Parser

REPEATS = 15


def compare(file: Path, repeats: int = REPEATS) -> tuple[float, float]:
    """CPU seconds of (SimpleITK, ours) from the file to a float32 array, the least of `repeats` taken in turn.

    CPU time and turns, so that other processes on the machine count little.
    """
    readers: tuple[Callable[[], object], ...] = (
        lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(np.float32), lambda: SimpleITKIO().read_images([file]))
    seconds = [float("inf")] * len(readers)
    for _ in range(repeats):
        for i, read in enumerate(readers):
            start = time.process_time()
            read()
            seconds[i] = min(seconds[i], time.process_time() - start)
    return seconds[0], seconds[1]


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    print(f"{'file':<44}{'SimpleITK (s)':>14}{'checked (s)':>14}{'ratio':>8}")
    for file in parser.parse_args(arguments).files:
        plain, ours = compare(file)
        print(f"{file.name:<44}{plain:>14.4f}{ours:>14.4f}{ours / plain:>8.2f}")


if __name__ == "__main__":
    main()
