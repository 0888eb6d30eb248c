"""Where a training's values go besides its own files: TensorBoard and Weights & Biases, as the environment switches them on.

A sink only receives. One that fails in mid training is left out from then on, with one line in the log; the training goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnunetv2.training.log_switches import TENSORBOARD, WANDB, is_switched_on
from nnunetv2.training.tensorboard_sink import TensorBoardSink, load_tensorboard
from nnunetv2.training.wandb_sink import WandbLogger, load_wandb


class Sink(Protocol):
    """What receives a training's values."""

    def update_config(self, config: dict[str, Any]) -> None: ...

    def log_epoch(self, values: dict[str, float], epoch: int) -> None: ...

    def log_picture(self, name: str, picture: np.ndarray, epoch: int) -> None: ...

    def log_summary(self, key: str, value: float) -> None: ...

    def close(self) -> None: ...


def check_switches() -> None:
    """SinkError where a variable has an unknown value, or switches on what is not installed."""
    if is_switched_on(TENSORBOARD):
        load_tensorboard()
    if is_switched_on(WANDB):
        load_wandb()


def open_sinks(folder: Path, epochs_done: int, training: bool = True) -> list[Sink]:
    """Those that are switched on, in `folder`. They go on with what lies there when there are `epochs_done`, or for a validation alone."""
    check_switches()
    sinks: list[Sink] = []
    if is_switched_on(TENSORBOARD):
        sinks.append(TensorBoardSink(folder / "tensorboard", epochs_done, training))
    if is_switched_on(WANDB):
        folder.mkdir(parents=True, exist_ok=True)  # wandb writes elsewhere where the folder is missing
        sinks.append(WandbLogger(folder, resume=epochs_done > 0 or not training))
    return sinks


class Sinks:
    """Several sinks as one that never fails. `warn` gets the line about one that did."""

    def __init__(self, sinks: Sequence[Sink], warn: Callable[[str], None]):
        self._sinks, self._warn = list(sinks), warn

    def update_config(self, config: dict[str, Any]) -> None:
        self._each(lambda sink: sink.update_config(config))

    def log_epoch(self, values: Mapping[str, Any], epoch: int) -> None:
        """Values of an epoch by key: numbers, or a list of one number a class. What is neither is left out."""
        named = {name: number for key, value in values.items() for name, part in by_class(key, value).items() if (number := _number(part)) is not None}
        self._each(lambda sink: sink.log_epoch(named, epoch))

    def log_picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """picture (H, W, 3) uint8."""
        self._each(lambda sink: sink.log_picture(name, picture, epoch))

    def log_summary(self, key: str, value: float) -> None:
        self._each(lambda sink: sink.log_summary(key, value))

    def close(self) -> None:
        self._each(lambda sink: sink.close())
        self._sinks = []

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:  # whatever it is: a picture of the training must not end the training
                self._sinks.remove(sink)
                self._warn(f"WARNING: {type(sink).__name__} failed ({type(error).__name__}: {error}). It gets nothing more; the training goes on.")


def by_class(key: str, value: Any) -> dict[str, Any]:
    """{KEY/class_N: part} of a list, {key: value} of anything else. N counts foreground labels from 1, the class task's classes from 0."""
    if not isinstance(value, list):
        return {key: value}
    return {f"{key}/class_{number}": part for number, part in enumerate(value, start=0 if key.startswith("class_") else 1)}


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
