"""What a training says about itself: a text log, one value a key and epoch, progress.json and progress.png.

The keys and file names are upstream's, so its tools read them; the `class_*` keys are added when there is a class task.
"""

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunetv2.training.log_sinks import Sinks, by_class, open_sinks
from nnunetv2.utilities.files import atomic_write, save_json

SEGMENTATION_KEYS = ("mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region", "train_losses", "val_losses", "lrs",
                     "epoch_start_timestamps", "epoch_end_timestamps")
# class_ce: unweighted cross-entropy (nats); class_predicted, class_true: patches a class; class_alarm: 1 while it rings
CLASS_KEYS = ("class_ce", "class_macro_f1", "class_predicted", "class_true", "class_alarm")
EMA_DECAY = 0.9
PLOT_INTERVAL = 15.0  # seconds; drawing takes a quarter of one, which short epochs would feel


class TrainingLog:
    """`values[key][epoch]`, plain numbers and lists, so that checkpoints stay loadable without running code.

    Only the process with `active` writes files and prints. `file`: the text log, `training_log_*.txt` in `folder`, a new one per start.
    """

    def __init__(self, folder: str | os.PathLike | None, has_classes: bool, active: bool = True):
        self.active = active
        self.values: dict[str, list] = {key: [] for key in SEGMENTATION_KEYS + (CLASS_KEYS if has_classes else ())}
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.sinks = Sinks([], self.print)  # see open_sinks
        self.loggers: list[Any] = []  # of other authors: each gets `log(key, value, epoch)`, of a list one value a class
        self._start = datetime.now()
        self.file: Path | None = None
        self.move_to(folder)
        self._last_plot = time.monotonic()

    def move_to(self, folder: str | os.PathLike | None) -> None:
        """Write to `folder` from now on; None: print only. A text log that was given a place of its own stays there."""
        now, old = self._start, getattr(self, "folder", None)
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and (self.file is None or Path(self.file).parent == old):
            self.file = self.folder / f"training_log_{now.year}_{now.month}_{now.day}_{now:%H_%M_%S}.txt"

    def print(self, *parts: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Into the text log, with the time, and to the console."""
        if not self.active:
            return
        text = " ".join(str(part) for part in parts)
        if also_print_to_console:
            print(text, flush=True)
        if self.file is None:
            return
        try:
            Path(self.file).parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(f"{datetime.now()}: {text}\n" if add_timestamp else f"{text}\n")
        except OSError as error:  # a full disk, or a network drive that is away for a moment: a line is no reason to lose a training
            print(f"{self.file} lacks this line: {error}", flush=True)

    # ---- nnU-Net's names, for trainers that read or write the log -----------------------------------------------------

    @property
    def my_fantastic_logging(self) -> dict[str, list]:
        return self.values

    @property
    def local_logger(self) -> "TrainingLog":
        return self

    def get_value(self, key: str, step: int | None) -> Any:
        """The value of an epoch (-1: the last), or with None the list of all."""
        return self.values[key] if step is None else self.values[key][step]

    def update_config(self, config: dict[str, Any]) -> None:
        self.config |= config
        self.sinks.update_config(config)
        for logger in self.loggers:
            if hasattr(logger, "update_config"):
                logger.update_config(config)

    def log_summary(self, key: str, value: Any) -> None:
        """What a training has one value of."""
        self.summary[key] = value
        self.sinks.log_summary(key, value)
        for logger in self.loggers:
            if hasattr(logger, "log_summary"):
                logger.log_summary(key, value)

    def plot_progress_png(self, output_folder: str | os.PathLike) -> None:
        if self.active:
            draw_progress(self.values, Path(output_folder) / "progress.png")

    def get_checkpoint(self) -> dict[str, list]:
        return self._plain_values()

    def _plain_values(self) -> dict[str, list]:
        """Those that somebody put into `my_fantastic_logging` without `log` included."""
        return {key: plain_value(series, key) for key, series in self.values.items()}

    def load_checkpoint(self, checkpoint: dict[str, list]) -> None:
        self.values |= checkpoint

    # ---- values -------------------------------------------------------------------------------------------------------

    def log(self, key: str, value: Any, epoch: int) -> None:
        """Set the value of `epoch`: a number, text, array, tensor, or lists and dictionaries of them.

        Epochs without a value before it are NaN for a trainer's own keys; of the keys that every training has, none may be left out.
        """
        value, values = plain_value(value, key), self.values.setdefault(key, [])
        if key not in SEGMENTATION_KEYS + CLASS_KEYS:  # one that is logged now and then, or only since the training goes on
            values += [float("nan")] * (epoch - len(values))
        if not 0 <= epoch <= len(values):
            raise ValueError(f"{key!r} has values of {len(values)} epochs; epoch {epoch} cannot be logged next.")
        values[epoch:epoch + 1] = [value]
        self._send(key, value, epoch)
        if key == "mean_fg_dice":
            ema = self.values["ema_fg_dice"][epoch - 1] * EMA_DECAY + value * (1 - EMA_DECAY) if epoch else value
            self.log("ema_fg_dice", ema, epoch)

    def _send(self, key: str, value: Any, epoch: int) -> None:
        for name, part in by_class(key, value).items():
            for logger in self.loggers:
                logger.log(name, part, epoch)

    # ---- TensorBoard and Weights & Biases -----------------------------------------------------------------------------

    def open_sinks(self, epochs_done: int, training: bool = True) -> None:
        """Send to the programs that the environment switches on, from now to `close_sinks`; see log_sinks.py.

        SinkError where one cannot be used; a validation (training False) goes on without it.
        """
        if not self.active or self.folder is None:
            return
        try:
            self.sinks = Sinks(open_sinks(self.folder, epochs_done, training), self.print)
        except Exception as error:
            if training:
                raise
            self.print(f"WARNING: the validation's result goes to its files alone: {error}")
        self.sinks.update_config(self.config)

    def send_epoch(self, epoch: int) -> None:
        """All values of a finished epoch, and its seconds."""
        values = {key: series[epoch] for key, series in self.values.items() if epoch < len(series)}
        if {"epoch_start_timestamps", "epoch_end_timestamps"} <= values.keys():
            values["epoch_seconds"] = values["epoch_end_timestamps"] - values["epoch_start_timestamps"]
        self.sinks.log_epoch(values, epoch)

    def close_sinks(self) -> None:
        self.sinks.close()

    # ---- files --------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all values so far as progress.json, which figures and reports read."""
        if self.active:
            save_json(self._plain_values(), self.folder / "progress.json")

    def plot(self, force: bool = False) -> None:
        """Draw progress.png, unless the last one is younger than PLOT_INTERVAL."""
        if self.active and (force or time.monotonic() - self._last_plot > PLOT_INTERVAL):
            self._draw()
            self._last_plot = time.monotonic()

    def _draw(self) -> None:
        draw_progress(self.values, self.folder / "progress.png")


def plain_value(value: Any, key: str) -> Any:
    """numpy's and torch's numbers, arrays and tensors as Python's, which JSON and checkpoints hold; TypeError names what cannot be logged."""
    if value is None or isinstance(value, (bool, int, str)) or type(value) is float:
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain_value(part, key) for part in value]
    if isinstance(value, dict):
        return {str(name): plain_value(part, key) for name, part in value.items()}
    raise TypeError(f"{key!r}: {type(value).__name__} cannot be logged. Log numbers, texts, arrays or tensors, or lists and dictionaries of them.")


def draw_progress(values: dict[str, list], path: Path) -> None:
    """Losses with pseudo Dice, epoch times, learning rate and, when logged, the class task, over finished epochs."""
    epochs = min(len(values[key]) for key in SEGMENTATION_KEYS)
    has_classes = len(values.get("class_ce", ())) >= epochs > 0
    rows = 4 if has_classes else 3
    figure = Figure(figsize=(12, 5 * rows))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows)
    figure.subplots_adjust(left=0.08, right=0.92, top=0.98, bottom=0.04)  # a layout engine would draw everything twice
    x = np.arange(epochs)

    def line(axis, key, label, colour, style="-"):
        axis.plot(x, values[key][:epochs], style, color=colour, label=label)

    line(axes[0], "train_losses", "training loss", "b")
    line(axes[0], "val_losses", "validation loss", "r")
    axes[0].set_ylabel("loss")
    dice = axes[0].twinx()
    line(dice, "mean_fg_dice", "pseudo Dice", "g", ":")
    line(dice, "ema_fg_dice", "pseudo Dice (moving average)", "g")
    dice.set_ylabel("pseudo Dice")
    dice.legend(loc="lower right")
    seconds = np.subtract(values["epoch_end_timestamps"][:epochs], values["epoch_start_timestamps"][:epochs])
    axes[1].plot(x, seconds, "b", label="epoch duration")
    axes[1].set(ylabel="time [s]", ylim=(0, None))
    line(axes[2], "lrs", "learning rate", "b")
    axes[2].set_ylabel("learning rate")
    if has_classes:
        line(axes[3], "class_ce", "class cross-entropy (training patches)", "b")
        line(axes[3], "class_macro_f1", "macro-F1 (training patches)", "g")
        counts = np.array(values["class_predicted"][:epochs], dtype=float)
        axes[3].plot(x, counts.max(1) / np.maximum(counts.sum(1), 1), "r:", label="share of the most predicted class")
        axes[3].set_ylabel("class task")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.legend(loc="upper left")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=80)
