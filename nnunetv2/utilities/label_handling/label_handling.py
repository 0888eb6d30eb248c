"""What dataset.json's `labels` mean: classes or overlapping regions, the ignore label, and how outputs become a label map."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from nnunetv2.utilities.file_shapes import with_channel_names

Region = int | tuple[int, ...]
Array = np.ndarray | torch.Tensor


class LabelManager:
    """Labels of one dataset.

    `label_dict` maps names to an integer label or, for region-based training, to a list of labels; `background` must be
    0 and `ignore`, optional, the highest label. With regions the network has one sigmoid channel a region, and
    `regions_class_order[i]` is the label that region i paints into the label map, later regions over earlier ones.
    Without regions it has one softmax channel a label.
    """

    def __init__(self, label_dict: dict[str, int | Sequence[int]], regions_class_order: Sequence[int] | None,
                 force_use_labels: bool = False, inference_nonlin: Callable[[torch.Tensor], torch.Tensor] | None = None):
        if label_dict.get("background") not in (0, "0"):
            raise ValueError(f"dataset.json, labels: 'background' must be 0, found {label_dict.get('background')!r}.")
        self.label_dict = label_dict
        self.regions_class_order = regions_class_order
        self._force_use_labels = force_use_labels
        self._has_regions = not force_use_labels and any(isinstance(value, tuple) and len(value) > 1 for value in self._definitions())
        self._ignore_label = self._determine_ignore_label()
        self._all_labels = self._get_all_labels()
        self._regions = self._get_regions()
        if self.ignore_label not in (None, self.all_labels[-1] + 1):
            raise ValueError(f"dataset.json, labels: 'ignore' is {self.ignore_label!r}; it must be the highest label, "
                             f"{self.all_labels[-1] + 1} here.")
        if self.has_regions and len(regions_class_order or ()) != len(self.all_regions or ()):
            raise ValueError(f"dataset.json has {len(self.all_regions or ())} foreground regions but regions_class_order "
                             f"{regions_class_order}; it needs one label a region.")
        self.inference_nonlin = inference_nonlin or (torch.sigmoid if self.has_regions else partial(torch.softmax, dim=0))

    def _definitions(self) -> list[Region]:
        """What the names of `label_dict` stand for, without the ignore label."""
        return [tuple(value) if isinstance(value, (list, tuple)) else int(value) for name, value in self.label_dict.items() if name != "ignore"]

    # a subclass may override these three and the properties below, as upstream's

    def _get_all_labels(self) -> list[int]:
        return sorted({int(label) for value in self._definitions() for label in np.atleast_1d(value)})

    def _get_regions(self) -> list[Region] | None:
        return self.filter_background(self._definitions()) if self.has_regions else None

    def _determine_ignore_label(self) -> int | None:
        return self.label_dict.get("ignore")

    @property
    def has_regions(self) -> bool:
        return self._has_regions

    @property
    def all_labels(self) -> list[int]:
        """Background included, the ignore label not."""
        return self._all_labels

    @property
    def all_regions(self) -> list[Region] | None:
        """Without the background; None without regions."""
        return self._regions

    @property
    def ignore_label(self) -> int | None:
        return self._ignore_label

    @property
    def has_ignore_label(self) -> bool:
        return self.ignore_label is not None

    @property
    def labels_of_masks(self) -> list[int]:
        """Every value that a mask of the data set may hold, the ignore label included."""
        return self.all_labels if self.ignore_label is None else [*self.all_labels, self.ignore_label]

    @property
    def foreground_labels(self) -> list[int]:
        return self.filter_background(self.all_labels)

    @property
    def foreground_regions(self) -> list[Region]:
        return self.filter_background(self.all_regions or [])

    @property
    def num_segmentation_heads(self) -> int:
        """Channels of the network's segmentation output."""
        return len(self.foreground_regions) if self.has_regions else len(self.all_labels)

    @staticmethod
    def filter_background(classes_or_regions: Sequence[Region]) -> list[Region]:
        """Leaves out label 0 and regions made of 0 alone."""
        return [item for item in classes_or_regions if (set(item) != {0} if isinstance(item, (tuple, list)) else item != 0)]

    def apply_inference_nonlin(self, logits: Array) -> torch.Tensor:
        """(C, Z, Y, X) logits -> float32 probabilities; computed in float32 whatever comes in."""
        with torch.no_grad():
            return self.inference_nonlin(torch.as_tensor(logits).float())

    @torch.inference_mode()
    def convert_probabilities_to_segmentation(self, predicted_probabilities: Array) -> Array:
        """(C, Z, Y, X) -> (Z, Y, X) label map of the same kind, array or tensor.

        Without regions the first of equal maxima wins, and logits serve as well as probabilities. The label map is uint8
        up to label 255, else int16.
        """
        if len(predicted_probabilities) != self.num_segmentation_heads:
            raise ValueError(f"Got {len(predicted_probabilities)} channels for {self.num_segmentation_heads} segmentation heads "
                             f"(shape {tuple(predicted_probabilities.shape)}; expected channels first).")
        tensor = torch.as_tensor(predicted_probabilities)
        painted = self.regions_class_order if self.has_regions else self.all_labels
        dtype = torch.uint8 if max(painted) < 256 else torch.int16
        if self.has_regions:
            segmentation = torch.zeros(tensor.shape[1:], dtype=dtype, device=tensor.device)
            for probability, label in zip(tensor, self.regions_class_order):
                segmentation[probability > 0.5] = label
        else:
            segmentation = tensor.max(0).indices.to(dtype)  # torch.argmax(0) gives the same, far slower on CPU
        return segmentation.numpy() if isinstance(predicted_probabilities, np.ndarray) else segmentation

    def convert_logits_to_segmentation(self, predicted_logits: Array) -> Array:
        """As convert_probabilities_to_segmentation, from logits."""
        if not self.has_regions:
            return self.convert_probabilities_to_segmentation(predicted_logits)
        probabilities = self.apply_inference_nonlin(predicted_logits)
        return self.convert_probabilities_to_segmentation(probabilities.numpy() if isinstance(predicted_logits, np.ndarray) else probabilities)

    def revert_cropping_on_probabilities(self, predicted_probabilities: Array, bbox: Sequence[Sequence[int]], original_shape: Sequence[int]) -> Array:
        """Paste (C, *crop) probabilities into (C, *original_shape) at `bbox` ([[from, to) per axis]); outside is background.

        For probabilities only: the fill, 1 for background and 0 elsewhere, means nothing to logits.
        """
        shape = (len(predicted_probabilities), *original_shape)
        if isinstance(predicted_probabilities, np.ndarray):
            full = np.zeros(shape, dtype=predicted_probabilities.dtype)
        else:
            full = predicted_probabilities.new_zeros(shape)
        if not self.has_regions:
            full[0] = 1
        full[(slice(None), *(slice(start, end) for start, end in bbox))] = predicted_probabilities
        return full


def determine_num_input_channels(plans_manager, configuration_or_config_manager, dataset_json: dict) -> int:
    """Image channels, plus one a foreground label when the configuration, or that of this name, refines a previous stage's segmentation."""
    by_name = isinstance(configuration_or_config_manager, str)
    configuration_manager = plans_manager.get_configuration(configuration_or_config_manager) if by_name else configuration_or_config_manager
    n_channels = len(with_channel_names(dataset_json)["channel_names"])
    if configuration_manager.previous_stage_name is None:
        return n_channels
    return n_channels + len(plans_manager.get_label_manager(dataset_json).foreground_labels)
