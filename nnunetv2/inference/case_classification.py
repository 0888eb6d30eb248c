"""One class decision per case, the same for validation during training, the refit of the head and prediction.

A case that fits is seen whole, at its exact size padded only to what the strides divide, because the head pools over whole
lesions and was calibrated on whole cases. Where windows have segmented it, the head pools under what they found. A larger case
is seen in windows, and each window counts as much as the lesion in it. Over mirrored views logits are averaged, which for a
linear head averages the features; over windows and folds, whose heads or contents differ, probabilities.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.unet import finest_and_class
from nnunetv2.inference.engines import Engine
from nnunetv2.inference.sliding_window_prediction import pad_centred, predict_windows, whole_volume_tile

OUTSIDE_LOGIT = 20.0  # certainty of background where nothing was computed: softmax and sigmoid give 0 and 1 to fp16 accuracy
WHOLE_CASE_PATCHES = 3  # a case of up to this many training patches of voxels goes through whole; ResEnc M in fp16: < 6 GiB
VIEWS_AS_IS: tuple[tuple[int, ...], ...] = ((),)


def background_logits(channels: int, shape: Sequence[int], dtype: torch.dtype, has_regions: bool = False) -> Tensor:
    """(channels, *shape): certain background. With regions each channel is one, else channel 0 is the background."""
    logits = torch.full((channels, *shape), -OUTSIDE_LOGIT, dtype=dtype)
    if not has_regions:
        logits[0] = OUTSIDE_LOGIT
    return logits


@dataclass
class ClassEvidence:
    """Collects what windows say about the class; a `WindowObserver`.

    lesion_channels: channels of the segmentation whose softmax adds up to the lesion; channel 0 is background.
    """

    lesion_channels: Sequence[int]
    _values: list[Tensor] = field(default_factory=list)  # (n,) a window
    _masses: list[Tensor] = field(default_factory=list)  # (S,) a window: voxels of each channel

    def reset(self) -> None:
        self._values.clear()
        self._masses.clear()

    def add(self, seg_logits: Tensor, class_logits: Tensor) -> None:
        """seg_logits (S, *spatial) of one window and class_logits (V, n) of its V views."""
        self.add_values(seg_logits, class_logits.float().mean(0).softmax(0))

    def add_values(self, seg_logits: Tensor, values: Tensor) -> None:
        """Values (n,) to be averaged, weighted by the lesion in seg_logits (S, *spatial)."""
        self._masses.append(seg_logits.float().softmax(0).flatten(1).sum(1))  # both stay where they are: a GPU is not waited for
        self._values.append(values)

    def mean(self) -> Tensor | None:
        """(n,), weighted by lesion mass; by foreground where there is less than a voxel of lesion; evenly without either.

        None if no window gave anything.
        """
        if not self._values:
            return None
        masses = torch.stack(self._masses).cpu().double()  # (windows, S)
        lesion, foreground = masses[:, list(self.lesion_channels)].sum(1), masses[:, 1:].sum(1)
        weights = next((w for w in (lesion, foreground) if w.sum() >= 1), torch.ones_like(lesion))
        return (torch.stack(self._values).cpu().double() * weights[:, None]).sum(0) / weights.sum()


def fits_whole(shape: Sequence[int], patch_size: Sequence[int], divisor: Sequence[int]) -> bool:
    """Whether a case of `shape` (D, H, W) may go through a network trained on `patch_size` at once.

    A 2D network sees slices, never a case.
    """
    if len(patch_size) < len(shape):
        return False
    return prod(whole_volume_tile(shape, divisor)) <= WHOLE_CASE_PATCHES * prod(patch_size)


@torch.no_grad()
def classify_case(
    engine: Engine,
    data: Tensor,
    seg_logits: Tensor,
    divisor: Sequence[int],
    views: Sequence[tuple[int, ...]] = VIEWS_AS_IS,
) -> np.ndarray | None:
    """Class probabilities (n,) float64 of preprocessed `data` (C, D, H, W) with known seg_logits (S, D, H, W), seen whole.

    None if the network has no class head.
    """
    logits = []
    for view, view_logits in _whole_views(data, seg_logits, divisor, views):
        class_logits = engine.classify(view, view_logits)
        if class_logits is None:
            return None
        logits.append(class_logits[0].cpu())
    return torch.stack(logits).mean(0).softmax(0).double().numpy()


def _whole_views(data: Tensor, seg_logits: Tensor, divisor: Sequence[int], views: Sequence[tuple[int, ...]]) -> Iterator[tuple[Tensor, Tensor]]:
    """(1, C, *size) and (1, S, *size) float32 of a case and its segmentation in each view, padded to what the strides divide."""
    padded, inner = pad_centred(data, whole_volume_tile(data.shape, divisor))
    padded_logits = background_logits(len(seg_logits), padded.shape[1:], torch.float32)
    padded_logits[inner] = seg_logits
    for axes in views:
        flips = [axis + 1 for axis in axes]
        yield padded.flip(flips)[None], padded_logits.flip(flips)[None]


@torch.no_grad()
def describe_case(
    network: nn.Module,
    data: Tensor,
    patch_size: Sequence[int],
    divisor: Sequence[int],
    lesion_channels: Sequence[int],
    device: torch.device,
    views: Sequence[tuple[int, ...]] = VIEWS_AS_IS,
    tile_step_size: float = 0.5,
    batch_size: int = 1,
) -> tuple[Tensor, Tensor]:
    """What the refit of the head learns of a case: segmentation logits (S, D, H, W), mean over the V mirrored views, and the head's pooled
    features (V, F) float32 in each view; both as prediction comes by them.

    `network` is in eval mode and on `device`; `network.describe(x)` gives both for x (B, C, *spatial), and `features_under(x, seg_logits)`, where
    it has that, the features alone. Of a case that fits, windows make the segmentation, and the features are those of the whole under it. Of a
    larger one each window goes through once a view, and features are averaged by lesion mass, which is what pooling over the whole lesion would
    do for means. `batch_size`: patches a batch in training; as many views of a small case go through at once.
    """
    whole = fits_whole(data.shape[1:], patch_size, divisor)
    tile = whole_volume_tile(data.shape, divisor) if whole else tuple(patch_size)
    if whole and tile != tuple(patch_size) and hasattr(network, "features_under"):
        logits = predict_windows(_Describing(network, device, batch_size), data, patch_size, tile_step_size, views, device=device)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            features = [network.features_under(image.to(device), seg_logits.to(device)) for image, seg_logits in _whole_views(data, logits, divisor, views)]
        return logits, torch.cat(features).float().cpu()
    at_once = max(1, batch_size * prod(patch_size) // prod(tile))
    evidence = _FeatureEvidence(lesion_channels)
    logits = predict_windows(_Describing(network, device, at_once), data, tile, tile_step_size, views, gaussian=not whole, device=device, observer=evidence)
    return logits, evidence.mean().float().view(len(views), -1)


class _Describing:
    """An engine whose class logits are the head's features. Without `classify` the head rests where the network lets it."""

    name, precision = "torch", "fp32"

    def __init__(self, network: nn.Module, device: torch.device, batch_size: int) -> None:
        self.network, self.device, self.batch_size = network, device, batch_size

    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):  # as prediction does
            if not classify and hasattr(self.network, "features_under"):
                return finest_and_class(self.network(x.to(self.device), classify=False))[0].float(), None
            seg_logits, features = self.network.describe(x.to(self.device))
        return seg_logits.float(), features.float()


class _FeatureEvidence(ClassEvidence):
    def add(self, seg_logits: Tensor, class_logits: Tensor) -> None:
        self.add_values(seg_logits, class_logits.flatten())
