"""What a reader is, for readers of one's own; nnU-Net's name and methods."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np


class BaseReaderWriter(ABC):
    """Reads images and label maps of some formats. Properties have `spacing`, mm in array order (z, y, x), and whatever write_seg needs.

    Where they have `sitk_stuff` as SimpleITKIO's do, images and masks are checked to share a voxel grid.
    """

    supported_file_endings: Sequence[str] = ()

    @staticmethod
    def _check_all_same(input_list: Sequence) -> bool:
        """Whether the entries, numbers or lists of them, are the same but for rounding; what readers ask of their channels' shapes and spacings."""
        return all(np.shape(entry) == np.shape(input_list[0]) and np.allclose(entry, input_list[0]) for entry in input_list[1:])

    _check_all_same_array = _check_all_same  # upstream's second name, of arrays

    @abstractmethod
    def read_images(self, image_fnames: Sequence[str | os.PathLike]) -> tuple[np.ndarray, dict[str, Any]]:
        """Channels of one case -> (C, Z, Y, X) float32 and properties."""

    @abstractmethod
    def read_seg(self, seg_fname: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        """(1, Z, Y, X) and properties."""

    @abstractmethod
    def write_seg(self, seg: np.ndarray, output_fname: str | os.PathLike, properties: dict[str, Any]) -> None:
        """(Z, Y, X) on the grid of `properties`."""
