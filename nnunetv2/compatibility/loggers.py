"""nnU-Net's loggers: values an epoch kept here, and sent to Weights & Biases where the user asks for it."""

import os
from pathlib import Path
from typing import Any

from nnunetv2.training.log_sinks import by_class
from nnunetv2.training.log_switches import WANDB, is_switched_on
from nnunetv2.training.logging import EMA_DECAY, SEGMENTATION_KEYS, draw_progress
from nnunetv2.training.wandb_sink import WandbLogger, get_cluster_job_id

__all__ = ["LocalLogger", "MetaLogger", "WandbLogger", "get_cluster_job_id"]


class LocalLogger:
    """`my_fantastic_logging[key][epoch]`: one value a key and epoch. It checkpoints and draws progress.png."""

    def __init__(self, verbose: bool = False):
        self.my_fantastic_logging: dict[str, list] = {key: [] for key in SEGMENTATION_KEYS}
        self.verbose = verbose

    def log(self, key: str, value: Any, epoch: int) -> None:
        """Set the value of the epoch after the last, or of the last once more. ValueError for another key or an earlier epoch."""
        values = self.my_fantastic_logging.get(key)
        if not isinstance(values, list):
            raise ValueError(f"{key!r} is not logged. Known: {', '.join(self.my_fantastic_logging)}.")
        if self.verbose:
            print(f"epoch {epoch}: {key} = {value}")
        if epoch >= len(values):
            values.append(value)
        elif epoch == len(values) - 1:
            print(f"{key} of epoch {epoch} is replaced by {value}.")
            values[epoch] = value
        else:
            raise ValueError(f"{key!r} has values of {len(values)} epochs; epoch {epoch} cannot be logged again.")

    def get_value(self, key: str, step: int | None) -> Any:
        """The value of an epoch (-1: the last), or with None the list of all."""
        values = self.my_fantastic_logging[key]
        return values if step is None else values[step]

    def plot_progress_png(self, output_folder: str | os.PathLike) -> None:
        """Draw the finished epochs into OUTPUT_FOLDER/progress.png."""
        draw_progress(self.my_fantastic_logging, Path(output_folder) / "progress.png")

    def get_checkpoint(self) -> dict[str, list]:
        return self.my_fantastic_logging

    def load_checkpoint(self, checkpoint: dict[str, list]) -> None:
        self.my_fantastic_logging = checkpoint


class MetaLogger:
    """A LocalLogger, which is read from, and the loggers that the environment switches on: nnUNet_wandb_enabled=1 is Weights & Biases."""

    def __init__(self, output_folder: str | os.PathLike, resume: bool, verbose: bool = False):
        self.output_folder, self.resume = output_folder, resume
        self.local_logger = LocalLogger(verbose)
        self.loggers: list[Any] = []
        if self._is_logger_enabled(WANDB):
            self.loggers.append(WandbLogger(output_folder, resume))

    def log(self, key: str, value: Any, step: int) -> None:
        """Log a value of an epoch everywhere; of a list the loggers get one value a class. `mean_fg_dice` brings its moving average along."""
        self.local_logger.log(key, value, step)
        for name, part in by_class(key, value).items():
            for logger in self.loggers:
                logger.log(name, part, step)
        if key == "mean_fg_dice":
            averages = self.get_value("ema_fg_dice", None)
            self.log("ema_fg_dice", averages[step - 1] * EMA_DECAY + value * (1 - EMA_DECAY) if averages else value, step)

    def update_config(self, config: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.update_config(config)

    def log_summary(self, key: str, value: Any) -> None:
        """Send what a training has one value of."""
        for logger in self.loggers:
            logger.log_summary(key, value)

    def get_value(self, key: str, step: int | None) -> Any:
        return self.local_logger.get_value(key, step)

    def plot_progress_png(self, output_folder: str | os.PathLike) -> None:
        self.local_logger.plot_progress_png(output_folder)

    def get_checkpoint(self) -> dict[str, list]:
        return self.local_logger.get_checkpoint()

    def load_checkpoint(self, checkpoint: dict[str, list]) -> None:
        self.local_logger.load_checkpoint(checkpoint)

    def _is_logger_enabled(self, env_var: str) -> bool:
        return is_switched_on(env_var)
