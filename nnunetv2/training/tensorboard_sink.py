"""A training in TensorBoard, if that is installed.

    export nnUNet_tensorboard_enabled=1
    tensorboard --logdir "$nnUNet_results"
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2.training.log_switches import TENSORBOARD, SinkError

NOT_SHOWN = "_timestamps"  # seconds since 1970 do not fit its float32; `epoch_seconds` says what they are for


class TensorBoardSink:
    """Event files in `folder`.

    epochs_done: what the training has behind it. 0: files of an earlier training are deleted. Otherwise `training` hides what they
    say of later epochs, which are trained once more; without it, for a validation, they stay as they are.
    SinkError where TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike, epochs_done: int, training: bool = True):
        load_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        if training and epochs_done == 0:
            for file in Path(folder).glob("events.out.tfevents.*"):
                file.unlink()
        self._epochs_done = epochs_done
        self._writer = SummaryWriter(str(folder), purge_step=epochs_done if training and epochs_done else None)

    def update_config(self, config: dict[str, Any]) -> None:
        """TensorBoard shows no settings; plans.json has them."""

    def log_epoch(self, values: dict[str, float], epoch: int) -> None:
        for name, value in values.items():
            if not name.endswith(NOT_SHOWN):
                self._writer.add_scalar(name, value, epoch)
        self._epochs_done = epoch + 1
        self._writer.flush()  # a full disk is told here, and readers see the epoch now

    def log_picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """picture (H, W, 3) uint8."""
        self._writer.add_image(name, picture, epoch, dataformats="HWC")
        self._writer.flush()

    def log_summary(self, key: str, value: float) -> None:
        self._writer.add_scalar(key, value, self._epochs_done)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def load_tensorboard() -> None:
    """SinkError if TensorBoard or a package that it needs is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise SinkError(f"TensorBoard is not installed ({error}): pip install tensorboard, or export {TENSORBOARD}=0.") from error
