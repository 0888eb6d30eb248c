"""Batches of augmented patches, each a pure function of (seed, fold, split, epoch, iteration).

Nothing is carried from one batch to the next, so a resumed training, one with another number of workers and one spread
over several GPUs (each takes its positions of the same batch) all see the same patches.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from nnunetv2.training.augmentation import PatchAugmentation
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.dataloading.patch_location import Label, draw_foreground_voxels, draw_lower_corner, is_forced_foreground
from nnunetv2.utilities.errors import InputError

SPLIT_WORDS = {"train": 0, "val": 1}  # part of the seed, so that both splits draw differently
FOLD_ALL_WORD = 2**31  # stands for fold "all" in the seed
MIN_LESION_VOXELS = 27  # 3 x 3 x 3; a smaller sliver at the patch's edge shows no texture to classify ...
MIN_LESION_PART = 4  # ... but a quarter of a lesion always counts, or tiny lesions would never be learnt from


class UnreadableCase(InputError):
    """No patch could be made of a case; the message names it."""


@dataclass(frozen=True)
class ClassSampling:
    """How the class task takes part in sampling. Without one: no labels, no lesion, upstream's draw."""

    labels: Mapping[str, int] = field(default_factory=dict)  # case -> class index; a case that is missing is unknown (-1)
    lesion_labels: tuple[int, ...] = ()
    # Share of the forced-foreground patches centred on the lesion when the case holds one; the rest is drawn uniformly
    # among the case's labels. The share of forced patches itself stays nnU-Net's.
    lesion_share: float = 0.0
    balanced: bool = False  # every class drawn equally often; only instead of class weights, never with them

    def case_probabilities(self, cases: Sequence[str]) -> np.ndarray | None:
        """Probability of each case (sums to 1), or None for uniform. Unknown cases count as a class of their own."""
        if not self.balanced:
            return None
        classes = np.array([self.labels.get(case, -1) for case in cases])
        _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
        return 1 / (counts[inverse] * len(counts))


@dataclass(frozen=True)
class PatchBatches:
    """Draws batches from the preprocessed cases of one split. `batch(epoch, iteration)` returns, for B = len(positions),

    data (B, C, *patch) float32, target (B, 1 or regions, *patch) or a list of them, full resolution first, class_target
    (B,) int64 (-1 unknown), has_lesion (B,) bool, keys (B names).
    """

    dataset: nnUNetBaseDataset
    split: str  # "train" or "val"
    seed: int
    fold: int | str
    patch_size: tuple[int, ...]
    batch_size: int  # over all GPUs
    positions: tuple[int, ...]  # which samples of the batch this process makes
    augmentation: PatchAugmentation
    foreground_share: float = 0.33
    probabilistic_foreground: bool = False  # that chance for every patch, instead of the batch's last ones for sure
    ignore_key: Label | None = None  # class_locations key of all annotated voxels, when the dataset has an ignore label
    class_sampling: ClassSampling = ClassSampling()

    def batch(self, epoch: int, iteration: int) -> dict:
        samples = [self._sample(epoch, iteration, position) for position in self.positions]
        targets = [sample["segmentation"] for sample in samples]
        return {
            "data": torch.stack([sample["image"] for sample in samples]),
            "target": [torch.stack(scale) for scale in zip(*targets)] if isinstance(targets[0], list) else torch.stack(targets),
            "class_target": torch.tensor([sample["class"] for sample in samples], dtype=torch.int64),
            "has_lesion": torch.tensor([sample["has_lesion"] for sample in samples]),
            "keys": [sample["key"] for sample in samples],
        }

    @cached_property
    def _case_probabilities(self) -> np.ndarray | None:
        """Asked for once: with thousands of cases it takes longer than to read a small one."""
        return self.class_sampling.case_probabilities(self.dataset.identifiers)

    def _sample(self, epoch: int, iteration: int, position: int) -> dict:
        fold = self.fold if isinstance(self.fold, int) else FOLD_ALL_WORD
        words = np.random.SeedSequence([self.seed, fold, SPLIT_WORDS[self.split], epoch, iteration, position])
        rng = np.random.default_rng(words)
        cases = self.dataset.identifiers
        case = cases[rng.choice(len(cases), p=self._case_probabilities)]
        if self.probabilistic_foreground:
            forced = rng.random() < self.foreground_share
        else:
            forced = is_forced_foreground(position, self.batch_size, self.foreground_share)
        try:
            with seeded_global_generators(int(words.generate_state(1)[0])):
                return self._make_sample(case, rng, forced)
        except Exception as error:
            raise UnreadableCase(f"No patch from case {case!r} in {self.dataset.source_folder} (epoch {epoch}, iteration {iteration}): {error!r}. "
                               "If its files are damaged, delete them and preprocess again.") from error

    def _make_sample(self, case: str, rng: np.random.Generator, forced: bool) -> dict:
        data, segmentation, previous, properties = self.dataset.load_case(case)
        final_size, read_size = np.array(self.patch_size), np.array(self.augmentation.initial_patch_size)
        spatial = self.augmentation.draw_spatial()
        flat = len(final_size) == 2  # a 2D patch is one slice of the volume
        if flat:
            final_size, read_size = np.array([1, *final_size]), np.array([1, *read_size])

        voxels = self._centre_candidates(rng, forced, properties["class_locations"])
        low = draw_lower_corner(rng, data.shape[1:], read_size, final_size, voxels)
        if spatial is None and self.augmentation.knows_spatial:  # the middle of the box is all that is needed
            low, read_size = low + read_size // 2 - final_size // 2, final_size

        image = torch.from_numpy(read_box(data, low, read_size, 0, np.float32))
        if not image.isfinite().all():
            raise ValueError(f"the image holds values that are not finite near voxel {low.tolist()}")
        labels = torch.from_numpy(read_box(segmentation, low, read_size, -1, np.int16))
        if previous is not None:
            labels = torch.cat([labels, torch.from_numpy(read_box(previous, low, read_size, -1, np.int16))[None]])  # the transforms turn it into channels of the image
        patch = {"image": image[:, 0], "segmentation": labels[:, 0]} if flat else {"image": image, "segmentation": labels}
        patch = self.augmentation(patch, spatial)
        finest = patch["segmentation"][0] if isinstance(patch["segmentation"], list) else patch["segmentation"]
        return {**patch, "key": case, "class": self.class_sampling.labels.get(case, -1),
                "has_lesion": self._shows_lesion(finest[0], properties["class_locations"])}

    def _shows_lesion(self, labels: torch.Tensor, class_locations: Mapping) -> bool:
        wanted = self.class_sampling.lesion_labels
        if not wanted:  # no class task; with regions `labels` would be booleans, which isin refuses
            return False
        in_case = sum(len(class_locations.get(label, ())) for label in wanted)  # every voxel up to 10 000, then a sample
        in_patch = int(torch.isin(labels, torch.tensor(wanted, dtype=labels.dtype)).sum())
        return in_patch >= min(MIN_LESION_VOXELS, max(1, in_case // MIN_LESION_PART))

    def _centre_candidates(self, rng: np.random.Generator, forced: bool, class_locations: Mapping) -> np.ndarray | None:
        if forced:
            return draw_foreground_voxels(rng, class_locations, self.ignore_key, self.class_sampling.lesion_labels,
                                          self.class_sampling.lesion_share)
        if self.ignore_key is not None and len(class_locations.get(self.ignore_key, ())) > 0:
            return class_locations[self.ignore_key]  # a patch without any annotation teaches nothing
        return None


def read_box(array, low: np.ndarray, size: np.ndarray, fill: float, dtype: np.typing.DTypeLike = None) -> np.ndarray:
    """Box ([C,] *size) of a lazily sliced array ([C,] Z, Y, X) from lower corner `low`; `fill` outside the array. dtype: the array's unless given."""
    channels, shape = array.shape[:-3], np.array(array.shape[-3:])
    start, stop = np.clip(low, 0, shape), np.clip(low + size, 0, shape)
    box = np.full((*channels, *size), fill, dtype=dtype or array.dtype)
    inside = tuple(slice(a, b) for a, b in zip(start - low, stop - low))
    box[(..., *inside)] = array[(*(slice(None) for _ in channels), *(slice(int(a), int(b)) for a, b in zip(start, stop)))]
    return box


@contextmanager
def seeded_global_generators(seed: int) -> Iterator[None]:
    """Seed numpy's and torch's global generators, which the transforms draw from, and give their old state back after."""
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
