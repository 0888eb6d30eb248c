"""A training that ends in time: `nnUNetv2_train ... --hours 3.5`, and `--patience 30` for one that ends when nothing improves any more.

Speed is measured by a few steps before the training. The schedule gets the length that leaves time for the validation of whole cases and,
with a class task, for the refit of the head. After each epoch the rest is estimated anew: a schedule that would not end in time is
shortened, and in its first half one that would end far too early (the machine was busy at first) is made longer. `fold_X/time_budget.json`
keeps what is spent, so that a training that was killed goes on with --c in what is left.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nnunetv2.inference.case_classification import WHOLE_CASE_PATCHES
from nnunetv2.inference.case_prediction import CLASS_VIEWS
from nnunetv2.training.dataloading.batch_stream import ending_workers
from nnunetv2.training.logging import TrainingLog
from nnunetv2.training.lr_scheduler import change_schedule
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

BUDGET_FILE = "time_budget.json"
TIMED_STEPS, TIMED_VALIDATION_STEPS = 3, 2  # after one of each, which compiles and allocates
SAFETY = 0.05  # of the budget, for checkpoints and what else is not measured
FEWEST_EPOCHS = 20  # where iterations an epoch are free, they become fewer rather than the epochs, which steps of the learning rate and checkpoints need
REFITS = 2  # checkpoints whose head is refitted: final and best
LONGER = 1.1  # an epoch counts this much more than the mean of those so far before the schedule's length changes


@dataclass(frozen=True)
class Speed:
    """Seconds of one training step, of one validation step and of a forward pass of one patch; of all that follows the training."""

    train_step: float
    validation_step: float
    patch: float
    afterwards: float

    def epoch(self, iterations: int, validation_iterations: int) -> float:
        return iterations * self.train_step + validation_iterations * self.validation_step


@dataclass(frozen=True)
class Length:
    epochs: int
    iterations: int
    validation_iterations: int


def length_in(seconds: float, speed: Speed, wanted: Length, epochs_free: bool = True, iterations_free: bool = True) -> Length:
    """The longest schedule that ends in `seconds`, all included; `wanted` where something is not free, and at most as many iterations an epoch.

    InputError where not even one epoch fits.
    """
    available = seconds * (1 - SAFETY) - speed.afterwards
    iterations, validations = wanted.iterations, wanted.validation_iterations
    if iterations_free:
        share = validations / iterations
        fitting = available / FEWEST_EPOCHS / (speed.train_step + share * speed.validation_step)
        iterations = max(1, min(iterations, int(fitting)))
        validations = max(1, min(validations, round(iterations * share)))
    epochs = int(available / speed.epoch(iterations, validations)) if available > 0 else 0
    if epochs < 1 or (not epochs_free and epochs < wanted.epochs):
        least = speed.epoch(iterations, validations) * (1 if epochs_free else wanted.epochs) + speed.afterwards
        raise InputError(f"--hours {seconds / 3600:.3g} is too short: {1 if epochs_free else wanted.epochs} epoch(s) of {iterations} iteration(s) with the "
                         f"validation and refit after them take about {least / (1 - SAFETY) / 3600:.3g} hours here. Give more hours or fewer --iterations, or a GPU.")
    return Length(epochs if epochs_free else wanted.epochs, iterations, validations)


def measure_speed(trainer: "nnUNetTrainer") -> Speed:
    """Times a few steps of an untrained `trainer`, which is of no further use. Nothing is written into its folder."""
    trainer.logger = TrainingLog(None, trainer.class_task is not None, active=False)
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    with ending_workers(trainer.dataloader_train, trainer.dataloader_val):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        train_step = _mean_time(trainer, TIMED_STEPS, lambda: trainer.train_step(next(trainer.dataloader_train)))
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            validation_step = _mean_time(trainer, TIMED_VALIDATION_STEPS, lambda: trainer.validation_step(next(trainer.dataloader_val)))
    patch = validation_step / trainer.configuration_manager.batch_size
    return Speed(train_step, validation_step, patch, _seconds_afterwards(trainer, patch))


def _mean_time(trainer: "nnUNetTrainer", n: int, step: Callable[[], object]) -> float:
    step()
    _wait(trainer)
    start = time.perf_counter()
    for _ in range(n):
        step()
    _wait(trainer)
    return (time.perf_counter() - start) / n


def _wait(trainer: "nnUNetTrainer") -> None:
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)


def _seconds_afterwards(trainer: "nnUNetTrainer", patch: float) -> float:
    """Of cases of the median size: windows and mirrored views of the validation's, and, for the refits of the class head, the training's in the few
    views that decide a class, with a look at the whole beside the windows."""
    configuration = trainer.configuration_manager
    size, window = list(configuration.median_image_size_in_voxels), list(configuration.patch_size)
    slices = size[0] if len(window) < len(size) else 1
    windows = prod(max(1, ceil(2 * (n - p) / p) + 1) for n, p in zip(size[len(size) - len(window):], window))
    views = 2 ** len(trainer.inference_allowed_mirroring_axes or ())
    seconds = len(trainer.val_cases) * windows * slices * views * patch
    if trainer.class_task is not None:
        whole = prod(size) / prod(window)
        look = whole if windows > 1 and whole <= WHOLE_CASE_PATCHES else 0
        seconds += REFITS * len(trainer.train_cases) * (windows * slices + look) * min(views, CLASS_VIEWS) * patch
    return seconds


class Pacing:
    """What `nnUNetTrainer.pacing` does after each epoch. `hours` and `patience` may each be None."""

    def __init__(self, hours: float | None, patience: int | None, speed: Speed | None = None, spent: float = 0.0, epochs_free: bool = False) -> None:
        """spent: seconds of the budget that are gone already. epochs_free: there may be more of them than the schedule has."""
        self.epochs_free = epochs_free
        self.hours, self.patience, self.speed, self._spent_before = hours, patience, speed, spent
        self._start = self._epoch_began = time.monotonic()
        self._epoch_seconds: list[float] = []

    @property
    def spent(self) -> float:
        """Seconds of the budget, those of earlier starts included."""
        return self._spent_before + time.monotonic() - self._start

    def save(self, folder: str | Path) -> None:
        if self.hours is not None:
            speed = self.speed
            save_json({"hours": self.hours, "spent_seconds": round(self.spent, 1), "afterwards_seconds": 0.0 if speed is None else round(speed.afterwards, 1)},
                      Path(folder) / BUDGET_FILE)

    def before_first_epoch(self, trainer: "nnUNetTrainer") -> None:
        """Of this start; ends a training at once whose budget earlier starts have spent."""
        self._epoch_began = time.monotonic()
        if self.hours is None:
            return
        if trainer.current_epoch > 0 and self.spent >= self.hours * 3600 > 0:
            trainer.print_to_log_file(f"{self.spent / 3600:.2f} of {self.hours:g} hours were spent before; the training ends with what it has.")
            change_length(trainer, trainer.current_epoch)
        trainer.print_to_log_file(f"{trainer.num_epochs - trainer.current_epoch} epoch(s) of {trainer.num_iterations_per_epoch} iteration(s) fit what is left of "
                                  f"{self.hours:g} hours; done by {time.strftime('%Y-%m-%d %H:%M', time.localtime(time.time() + self.hours * 3600 - self.spent))}.")
        self.save(trainer.output_folder)

    def after_epoch(self, trainer: "nnUNetTrainer") -> None:
        now = time.monotonic()
        self._epoch_seconds.append(now - self._epoch_began)
        self._epoch_began = now
        self._stop_on_plateau(trainer)
        left = trainer.num_epochs - trainer.current_epoch
        mean = sum(self._epoch_seconds[-10:]) / len(self._epoch_seconds[-10:])
        afterwards = 0.0 if self.speed is None else self.speed.afterwards
        if self.hours is not None and left > 0:
            fitting = int((self.hours * 3600 - self.spent - afterwards) / (LONGER * mean))
            early = self.epochs_free and trainer.current_epoch <= trainer.num_epochs / 2 and fitting > LONGER * left
            if fitting < left or early:
                left = max(0, fitting)
                change_length(trainer, trainer.current_epoch + left)
                trainer.print_to_log_file(f"Epochs take {mean:.1f} s; to end within {self.hours:g} hours the schedule now has {trainer.num_epochs} epochs.")
        self.save(trainer.output_folder)
        done = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left * mean + afterwards))
        trainer.print_to_log_file(f"{left} epoch(s) left; done about {done}" + (
            "." if self.hours is None else f", {self.spent / 3600:.2f} of {self.hours:g} hours spent."))

    def _stop_on_plateau(self, trainer: "nnUNetTrainer") -> None:
        values = trainer.logger.get_value("ema_fg_dice", None)
        if self.patience is None or not values or trainer.current_epoch >= trainer.num_epochs:
            return
        best = max(values)
        if len(values) - 1 - values.index(best) >= self.patience:
            trainer.print_to_log_file(f"The pseudo Dice has not improved for {self.patience} epochs (best {best:.4f}); the training ends here.")
            change_length(trainer, trainer.current_epoch)


def change_length(trainer: "nnUNetTrainer", epochs: int) -> None:
    """Let the training end after `epochs`, its learning rates falling to their end until then; a checkpoint says so at once."""
    before, trainer.num_epochs = trainer.num_epochs, max(epochs, trainer.current_epoch)
    for schedule in (trainer.lr_scheduler, trainer.class_lr_scheduler):
        change_schedule(schedule, before, trainer.num_epochs)
    trainer.length_changed()


def spent_before(folder: str | Path) -> tuple[Speed | None, float]:
    """What earlier starts found out about the time after the training, and the seconds of a budget that they spent; (None, 0) without a record."""
    file = Path(folder) / BUDGET_FILE
    if not file.is_file():
        return None, 0.0
    content = load_json(file)
    values = [content.get(key) if isinstance(content, dict) else None for key in ("spent_seconds", "afterwards_seconds")]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9 for value in values):
        raise InputError(f"{file}: spent_seconds and afterwards_seconds are {values}; they must be seconds. Delete the file to start the budget anew.")
    return Speed(0.0, 0.0, 0.0, float(values[1])), float(values[0])
