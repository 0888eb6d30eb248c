"""The cases of a preprocessed folder as training asks for them.

A dataset of one's own derives from nnUNetBaseDataset and is set as a trainer's `dataset_class`; batches ask nothing of it but
`identifiers` and `load_case`.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2.preprocessing import case_store
from nnunetv2.preprocessing.safe_pickle import load_properties, save_pickle
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.npz_files import read_npz

Case = tuple[Any, Any, Any, dict]  # image (C, Z, Y, X), segmentation (1, Z, Y, X), previous stage's (Z, Y, X) or None, properties


class nnUNetBaseDataset(ABC):
    """Cases of `folder`, all or those named by `identifiers`, sorted; with a cascade also what the previous stage found."""

    def __init__(self, folder: str | os.PathLike, identifiers: Sequence[str] | None = None,
                 folder_with_segs_from_previous_stage: str | os.PathLike | None = None):
        self.source_folder = os.fspath(folder)
        self.folder_with_segs_from_previous_stage = folder_with_segs_from_previous_stage
        self.identifiers = sorted(self.get_identifiers(folder) if identifiers is None else identifiers)

    def __getitem__(self, identifier: str) -> Case:
        return self.load_case(identifier)

    @abstractmethod
    def load_case(self, identifier: str) -> Case:
        """Arrays may be opened lazily; slicing must read them."""

    @staticmethod
    @abstractmethod
    def save_case(data: np.ndarray, seg: np.ndarray, properties: dict, output_filename_truncated: str) -> None:
        """Store a case under `output_filename_truncated` plus an ending."""

    @staticmethod
    @abstractmethod
    def get_identifiers(folder: str | os.PathLike) -> list[str]:
        """Names of all cases in `folder`."""

    @staticmethod  # noqa: B027 (optional)
    def unpack_dataset(folder: str, overwrite_existing: bool = False, num_processes: int = 1, verify: bool = True) -> None:
        """Make cases quick to read before a training; nothing to do by default."""


class nnUNetDatasetBlosc2(nnUNetBaseDataset):
    """What the preprocessor writes: CASE.b2nd, CASE_seg.b2nd, CASE.pkl."""

    mmap_kwargs = {} if os.name == "nt" else {"mmap_mode": "r"}  # for `blosc2.open` in a `load_case` of one's own

    def load_case(self, identifier: str) -> Case:
        data, seg, properties = case_store.load_case(self.source_folder, identifier)
        previous = None
        if self.folder_with_segs_from_previous_stage is not None:
            previous = case_store.load_seg(self.folder_with_segs_from_previous_stage, identifier)
        return data, seg, previous, properties

    @staticmethod
    def save_case(data: np.ndarray, seg: np.ndarray, properties: dict, output_filename_truncated: str, chunks: Any = None, blocks: Any = None,
                  chunks_seg: Any = None, blocks_seg: Any = None, clevel: int = 5, codec: Any = None, filters: Any = None, filters_seg: Any = None,
                  *, patch_size: Sequence[int] | None = None) -> None:
        """patch_size: of the training, so that reading a patch touches little else. Upstream's arguments, `chunks` to `filters_seg`, have no effect."""
        folder, case = os.path.split(output_filename_truncated)
        case_store.save_case(data, seg, properties, folder, case, patch_size)

    @staticmethod
    def save_seg(seg: np.ndarray, output_filename_truncated: str, chunks_seg: Any = None, blocks_seg: Any = None) -> None:
        """Store a segmentation (Z, Y, X) for the next stage of a cascade. Upstream's last arguments have no effect."""
        folder, case = os.path.split(output_filename_truncated)
        case_store.save_seg(seg, folder, case)

    @staticmethod
    def get_identifiers(folder: str | os.PathLike) -> list[str]:
        return case_store.list_cases(folder)


class nnUNetDatasetNumpy(nnUNetBaseDataset):
    """CASE.npz with `data` and `seg`, or CASE.npy and CASE_seg.npy unpacked from it, and CASE.pkl."""

    def load_case(self, identifier: str) -> Case:
        properties = load_properties(os.path.join(self.source_folder, f"{identifier}.pkl"))
        data, seg = (_array(self.source_folder, identifier, key) for key in ("data", "seg"))
        folder, previous = self.folder_with_segs_from_previous_stage, None
        if folder is not None:
            unpacked = Path(folder, f"{identifier}.npy")
            previous = np.load(unpacked, mmap_mode="r") if unpacked.is_file() else read_npz(Path(folder, f"{identifier}.npz"), "seg")
        return data, seg, previous, properties

    @staticmethod
    def save_case(data: np.ndarray, seg: np.ndarray, properties: dict, output_filename_truncated: str) -> None:
        with atomic_write(f"{output_filename_truncated}.npz") as temporary:
            np.savez_compressed(temporary, data=data, seg=seg)
        save_pickle(properties, f"{output_filename_truncated}.pkl")

    @staticmethod
    def save_seg(seg: np.ndarray, output_filename_truncated: str) -> None:
        with atomic_write(f"{output_filename_truncated}.npz") as temporary:
            np.savez_compressed(temporary, seg=seg)

    @staticmethod
    def get_identifiers(folder: str | os.PathLike) -> list[str]:
        return sorted(path.stem for path in Path(folder).glob("*.npz") if not path.name.startswith("."))

    @staticmethod
    def unpack_dataset(folder: str, overwrite_existing: bool = False, num_processes: int = 1, verify: bool = True) -> None:  # noqa: B027 (optional)
        """Write CASE.npy and CASE_seg.npy, which can be mapped into memory. `num_processes` and `verify` have no effect."""
        for path in (Path(folder, f"{case}.npz") for case in nnUNetDatasetNumpy.get_identifiers(folder)):
            for key, suffix in (("data", ""), ("seg", "_seg")):
                target = path.with_name(f"{path.stem}{suffix}.npy")
                if overwrite_existing or not target.is_file():
                    with atomic_write(target) as temporary:
                        np.save(temporary, read_npz(path, key))


def _array(folder: str, identifier: str, key: str) -> np.ndarray:
    unpacked = Path(folder, f"{identifier}{'_seg' if key == 'seg' else ''}.npy")
    return np.load(unpacked, mmap_mode="r") if unpacked.is_file() else read_npz(Path(folder, f"{identifier}.npz"), key)


def network_input(image: np.ndarray, previous: Any, foreground_labels: Sequence[int]) -> np.ndarray:
    """What the network is fed: image (C, Z, Y, X), and in a cascade the labels of the previous stage's (Z, Y, X), one channel each, on top of it."""
    if previous is None:
        return image
    found = np.asarray(previous[:])
    return np.concatenate([image, np.stack([found == label for label in foreground_labels]).astype(image.dtype)])


file_ending_dataset_mapping = {"npz": nnUNetDatasetNumpy, "b2nd": nnUNetDatasetBlosc2}


def infer_dataset_class(folder: str | os.PathLike) -> type[nnUNetBaseDataset]:
    """The class that reads `folder`, by the endings of its files; blosc2 for an empty one. ValueError when both kinds lie in it."""
    endings = {path.suffix[1:] for path in Path(folder).iterdir() if not path.name.startswith(".")} & set(file_ending_dataset_mapping)
    if len(endings) > 1:
        raise ValueError(f"{folder} holds cases of two kinds, {' and '.join(sorted(endings))}. Delete one of them.")
    return file_ending_dataset_mapping[endings.pop()] if endings else nnUNetDatasetBlosc2
