"""A loader of random patches for trainers that build their own: batchgenerators' interface, this package's sampling.

The trainer itself uses PatchBatches, whose batches can be repeated; this loader draws from numpy's global generator.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from batchgenerators.dataloading.data_loader import DataLoader

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.dataloading.patch_batches import read_box
from nnunetv2.training.dataloading.patch_location import Label, draw_foreground_voxels, draw_lower_corner, is_forced_foreground
from nnunetv2.utilities.label_handling.label_handling import LabelManager


class nnUNetDataLoader(DataLoader):
    """`next(loader)` is {"data" (B, C, *patch) float32, "target" (B, 1, *patch) or a list of them, "keys"}.

    Args:
        patch_size: what is read; final_patch_size: what the transforms make of it.
        sampling_probabilities: one per case; None draws all alike.
        probabilistic_oversampling: every patch shows foreground with the given chance, instead of a batch's last ones for sure.
    """

    def __init__(self, data: nnUNetBaseDataset, batch_size: int, patch_size: Sequence[int], final_patch_size: Sequence[int],
                 label_manager: LabelManager, oversample_foreground_percent: float = 0.0, sampling_probabilities: Sequence[float] | None = None,
                 pad_sides: Sequence[int] | None = None, probabilistic_oversampling: bool = False, transforms: Callable | None = None):
        super().__init__(data, batch_size, 1, None, True, False, True, sampling_probabilities)
        self.indices = data.identifiers
        self.patch_size_was_2d = len(patch_size) == 2
        flat = (1,) if self.patch_size_was_2d else ()
        self.patch_size, self.final_patch_size = np.array([*flat, *patch_size]), np.array([*flat, *final_patch_size])
        self.pad_sides = np.array([*((0,) if flat else ()), *pad_sides]) if pad_sides is not None else np.zeros(len(self.patch_size), int)
        self.need_to_pad = self.patch_size - self.final_patch_size + self.pad_sides  # for who draws boxes in a way of their own
        self.sampling_probabilities, self.num_channels = sampling_probabilities, None
        self.oversample_foreground_percent, self.transforms = oversample_foreground_percent, transforms
        self.annotated_classes_key = (-1, *label_manager.all_labels)
        self.has_ignore = label_manager.has_ignore_label
        self.get_do_oversample = self._probabilistic_oversampling if probabilistic_oversampling else self._oversample_last_XX_percent

    def _oversample_last_XX_percent(self, sample_idx: int) -> bool:  # noqa: N802 (upstream's name)
        return is_forced_foreground(sample_idx, self.batch_size, self.oversample_foreground_percent)

    def _probabilistic_oversampling(self, sample_idx: int) -> bool:
        return np.random.uniform() < self.oversample_foreground_percent

    def get_bbox(self, data_shape: Sequence[int], force_fg: bool, class_locations: dict | None,
                 overwrite_class: Label | None = None, verbose: bool = False) -> tuple[list[int], list[int]]:
        """Lower and upper corner of the box to read from a volume of `data_shape` (Z, Y, X); it may reach over the border.

        overwrite_class: the label or region that a forced patch shows, if the case holds it.
        """
        rng, voxels, locations = np.random.default_rng(np.random.randint(2**31)), None, class_locations or {}
        if force_fg:
            wanted = len(locations.get(overwrite_class, ())) > 0
            voxels = locations[overwrite_class] if wanted else draw_foreground_voxels(rng, locations, self.annotated_classes_key if self.has_ignore else None)
        elif self.has_ignore and len(locations.get(self.annotated_classes_key, ())) > 0:
            voxels = locations[self.annotated_classes_key]
        low = draw_lower_corner(rng, data_shape, self.patch_size, self.final_patch_size - self.pad_sides, voxels)
        return low.tolist(), (low + self.patch_size).tolist()

    def generate_train_batch(self) -> dict:
        """One batch, for batchgenerators' augmenters and for `next`."""
        keys = self.get_indices()
        images, targets = [], []
        for position, key in enumerate(keys):
            data, seg, previous, properties = self._data.load_case(key)
            low = np.array(self.get_bbox(data.shape[1:], self.get_do_oversample(position), properties["class_locations"])[0])
            image, labels = read_box(data, low, self.patch_size, 0, np.float32), read_box(seg, low, self.patch_size, -1, np.int16)
            if previous is not None:
                labels = np.concatenate([labels, read_box(previous, low, self.patch_size, -1, np.int16)[None]])
            sample = {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(labels)}
            if self.patch_size_was_2d:
                sample = {name: value[:, 0] for name, value in sample.items()}
            if self.transforms is not None:
                sample = self.transforms(**sample)
            images.append(sample["image"])
            targets.append(sample["segmentation"])
        target = [torch.stack(scale) for scale in zip(*targets)] if isinstance(targets[0], list) else torch.stack(targets)
        return {"data": torch.stack(images), "target": target, "keys": keys}
