"""A training's log beside a logger of another author, which a trainer set as its `logger`."""

import os
from typing import Any

from nnunetv2.training.logging import CLASS_KEYS, SEGMENTATION_KEYS, TrainingLog


class AdoptedLog(TrainingLog):
    """Writes the text log, progress.json and what is switched on; values go to `other` as well, and are read from it.

    other: has `log(key, value, epoch)` as nnU-Net's loggers have it; of their other methods, those that it has are called. What this class
    lacks is looked up there.
    """

    def __init__(self, other: Any, folder: str | os.PathLike | None, has_classes: bool, active: bool) -> None:
        self.other, self._averaging = other, False
        super().__init__(folder, has_classes, active)

    def __getattr__(self, name: str) -> Any:
        if name == "other":  # of a copy that is still empty
            raise AttributeError(name)
        return getattr(self.other, name)

    @property
    def loggers(self) -> list[Any]:
        """What the other one passes values on to by itself."""
        return getattr(self.other, "loggers", self._loggers)

    @loggers.setter
    def loggers(self, loggers: list[Any]) -> None:
        self._loggers = loggers

    def _send(self, key: str, value: Any, epoch: int) -> None:
        if not hasattr(self.other, "loggers"):
            super()._send(key, value, epoch)

    @property
    def my_fantastic_logging(self) -> dict[str, list]:
        return getattr(self.other, "my_fantastic_logging", self.values)

    @property
    def local_logger(self) -> Any:
        return getattr(self.other, "local_logger", self)

    def log(self, key: str, value: Any, epoch: int) -> None:
        series = self.values.setdefault(key, [])
        series += [float("nan")] * (epoch - len(series))  # after a checkpoint that held the other's values alone
        averaging, self._averaging = self._averaging, True  # a moving average that follows a value; the other one has its own
        try:
            super().log(key, value, epoch)
        finally:
            self._averaging = averaging
        if not averaging and key not in CLASS_KEYS:  # which nnU-Net's loggers do not know
            self.other.log(key, value, epoch)

    def get_value(self, key: str, step: int | None) -> Any:
        if hasattr(self.other, "get_value"):
            try:
                return self.other.get_value(key, step)
            except (LookupError, AssertionError):
                pass
        return super().get_value(key, step)

    def update_config(self, config: dict[str, Any]) -> None:
        self.config |= config
        self.sinks.update_config(config)
        self._tell("update_config", config)

    def log_summary(self, key: str, value: Any) -> None:
        self.summary[key] = value
        self.sinks.log_summary(key, value)
        self._tell("log_summary", key, value)

    def _tell(self, method: str, *arguments: Any) -> None:
        if hasattr(self.other, method):
            getattr(self.other, method)(*arguments)

    def _draw(self) -> None:
        self.plot_progress_png(self.folder)

    def plot_progress_png(self, output_folder: str | os.PathLike) -> None:
        if self.active and hasattr(self.other, "plot_progress_png"):
            self.other.plot_progress_png(output_folder)
        else:
            super().plot_progress_png(output_folder)

    def get_checkpoint(self) -> Any:
        return self.other.get_checkpoint() if hasattr(self.other, "get_checkpoint") else super().get_checkpoint()

    def load_checkpoint(self, checkpoint: Any) -> None:
        if isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(key), list) for key in SEGMENTATION_KEYS):
            super().load_checkpoint({key: list(values) for key, values in checkpoint.items() if isinstance(values, list)})
        self._tell("load_checkpoint", checkpoint)
