"""Settings and measurements of the class task: what keeps its head from collapsing to one class.

A head at the bottleneck, trained by the segmentation's SGD (lr .01), mostly ends at cross-entropy ln(n) and one predicted
class. Here the head has an optimiser of its own, sees true masks first and more and more its own, its loss fades in, and
its gradient does not reach the encoder unless a trainer asks for it, so that it cannot spoil the features it lives on.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.unet import seg_and_class
from nnunetv2.class_evidence.calibration import refit_limits
from nnunetv2.training.dataloading.patch_batches import MIN_LESION_VOXELS, ClassSampling
from nnunetv2.training.loss.compound_losses import DC_and_CE_and_weighted_CE_loss
from nnunetv2.utilities.classification import ClassificationTask


@dataclass(frozen=True)
class ClassTraining:
    """Shares are of the whole training (epochs)."""

    loss_weight: float = 0.5  # lambda: weight of the class cross-entropy beside Dice + CE
    label_smoothing: float = 0.05
    warm_up: float = 0.1  # share over which lambda rises from 0; a head that sees random features learns nothing useful
    teacher_start: float = 1.0  # weight of the true mask in pooling, at the start ...
    teacher_end: float = 0.5  # ... and at the end, where the head must cope with predicted masks
    # factor on the class gradient into the encoder. 0: its features of a training case must not know the case's class, or the refit, which
    # weighs the network's features against what is measured, would trust them more than new cases bear out
    encoder_gradient: float = 0.0
    encoder_release: float = 0.2  # share during which that factor is 0
    optimiser: Literal["adamw", "sgd"] = "adamw"  # of the head; the rest always uses the trainer's SGD
    lr: float = 3e-4  # over a thousand pooled features and two patches a batch: at 1e-3 and above the cross-entropy rises over ln 3
    weight_decay: float = 1e-2
    balance: Literal["weights", "sampling", "none"] = "weights"  # inverse frequency in the loss or in sampling, never both
    lesion_share: float = 0.75  # of the forced-foreground patches, centred on the lesion (nnU-Net's own draw: .5 with 2 labels)

    def teacher_weight(self, progress: float) -> float:
        """Linear from teacher_start to teacher_end; `progress` 0..1."""
        return self.teacher_start + (self.teacher_end - self.teacher_start) * progress

    def encoder_gradient_at(self, progress: float) -> float:
        return self.encoder_gradient if progress >= self.encoder_release else 0.0

    def make_sampling(self, labels: Mapping[str, int], lesion_labels: Sequence[int]) -> ClassSampling:
        return ClassSampling(labels, tuple(lesion_labels), self.lesion_share, self.balance == "sampling")

    def make_loss(self, segmentation_loss: nn.Module, labels: Sequence[int], n_classes: int, n_steps: int,
                  ddp: bool = False) -> DC_and_CE_and_weighted_CE_loss:
        """labels: class indices of the training cases, which weigh the classes; n_steps: of the whole training; ddp: over processes."""
        weights = inverse_frequency_weights(labels, n_classes) if self.balance == "weights" else torch.ones(n_classes)
        return DC_and_CE_and_weighted_CE_loss(segmentation_loss, weights, self.loss_weight, self.label_smoothing, round(self.warm_up * n_steps), ddp)

    def make_optimiser(self, head: nn.Module) -> torch.optim.Optimizer:
        if self.optimiser == "sgd":
            return torch.optim.SGD(head.parameters(), self.lr, momentum=0.99, nesterov=True, weight_decay=self.weight_decay)
        return torch.optim.AdamW(head.parameters(), self.lr, weight_decay=self.weight_decay)


def read_training_labels(task: ClassificationTask, folder: Path, train_cases: Sequence[str]) -> dict[str, int]:
    """Class index of every training case that has one; all classes must occur, the loss cannot weigh one it never sees."""
    labels = task.read_labels(folder, train_cases)
    absent = [name for index, name in enumerate(task.classes) if index not in labels.values()]
    if absent:
        raise ValueError(f"{folder / task.labels_file}: none of the {len(train_cases)} training cases has {task.name} "
                         f"{', '.join(absent)}. Add labels, or stratify the split.")
    limits = refit_limits([list(labels.values()).count(index) for index in range(len(task.classes))], task.classes)
    if limits is not None:  # said before the hours of training, not after them
        warnings.warn(f"{folder / task.labels_file}, training cases of this fold: {limits} Add labels where there are any.", stacklevel=2)
    return labels


def classes_of_batch(batch: Mapping[str, Any], labels: Mapping[str, int], lesion_labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """class_target (B,), -1 unknown, and has_lesion (B,) of a batch; of one from another author's loader by its "keys" and its target."""
    if "class_target" in batch:
        return batch["class_target"], batch["has_lesion"]
    finest = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]  # (B, 1, ...)
    voxels = torch.isin(finest, torch.tensor(lesion_labels, dtype=finest.dtype, device=finest.device)).flatten(1).sum(1)
    keys = batch.get("keys", [None] * len(finest))
    return torch.tensor([labels.get(key, -1) for key in keys]), voxels >= MIN_LESION_VOXELS


def refuse_classes(loss: nn.Module, args: tuple) -> None:
    """A forward pre-hook of losses of the segmentation. TypeError with what to write instead, for steps that hand them all that the network returns."""
    if args and seg_and_class(args[0])[1] is not None:
        raise TypeError(f"{type(loss).__name__} is a loss of the segmentation and got (seg_logits, class_logits), which the network returns where cases have "
                        "a class. In train_step and validation_step write: seg_logits, class_logits = seg_and_class(self.network(data))")


def inverse_frequency_weights(labels: Sequence[int], n_classes: int) -> Tensor:
    """(n_classes,) weights n / (n_classes * n_c): their mean over the cases is 1, so lambda keeps its meaning."""
    counts = torch.bincount(torch.as_tensor(labels, dtype=torch.int64), minlength=n_classes)
    return counts.sum() / (n_classes * counts.float())


def class_epoch_metrics(logits: Tensor, targets: Tensor, n_classes: int) -> dict[str, float | list[int]]:
    """Over an epoch's training patches with lesion and known class: logits (N, n_classes), targets (N,).

    Patches are no cases and the true mask helps, so these figures serve to watch the optimisation, not to report.
    Unweighted cross-entropy in nats; macro-F1 over the classes that occur. N = 0: NaN and zero counts.
    """
    predicted = logits.argmax(1)
    confusion = torch.bincount(targets * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)
    true, guessed, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    occurs = (true + guessed) > 0
    return {
        "class_ce": nn.functional.cross_entropy(logits.float(), targets).item(),
        "class_macro_f1": (2 * hits[occurs] / (true + guessed)[occurs]).mean().item(),
        "class_predicted": guessed.tolist(),
        "class_true": true.tolist(),
    }
