"""A training in Weights & Biases, if that is installed: nnU-Net's logger of this name, with the same variables.

    export nnUNet_wandb_enabled=1 nnUNet_wandb_project=pancreas nnUNet_wandb_mode=offline
"""

import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nnunetv2.training.log_switches import WANDB, SinkError


def get_cluster_job_id() -> str | None:
    """Number of the SLURM or LSF job that this process belongs to; None outside a job."""
    return os.environ.get("SLURM_JOB_ID", os.environ.get("LSB_JOBID"))


class WandbLogger:
    """A run of Weights & Biases in `output_folder`. Project and mode: nnUNet_wandb_project ("nnunet"), nnUNet_wandb_mode ("online").

    resume: go on with the run that lies in the folder; otherwise that one is deleted. SinkError where wandb is not installed.
    """

    def __init__(self, output_folder: str | os.PathLike, resume: bool):
        self._wandb = load_wandb()
        self.output_folder, self.resume = Path(output_folder), resume
        self.project = os.environ.get("nnUNet_wandb_project", "nnunet")
        self.mode = os.environ.get("nnUNet_wandb_mode", "online")
        run_id = self._earlier_run() if resume else None
        if not resume and (self.output_folder / "wandb").is_dir():
            shutil.rmtree(self.output_folder / "wandb")
        self.run = self._wandb.init(project=self.project, dir=str(self.output_folder), id=run_id, mode=self.mode, resume="allow" if resume else "never")
        self.update_config({"JobID": get_cluster_job_id()})
        self.wandb_init_step = self.run.step

    def _earlier_run(self) -> str | None:
        """ID of the latest run, which its file run-ID.wandb tells."""
        latest = self.output_folder / "wandb" / "latest-run"
        return next((file.stem.removeprefix("run-") for file in latest.glob("*.wandb")), None)

    def update_config(self, config: dict[str, Any]) -> None:
        """Settings of the run. A resumed run may have others, its job's number for one, which wandb would refuse by itself."""
        self.run.config.update(config, allow_val_change=True)

    def log(self, key: str, value: Any, step: int) -> None:
        """Send the value of an epoch, unless the resumed run has it already."""
        self.log_epoch({key: value}, step)

    def log_epoch(self, values: dict[str, Any], epoch: int) -> None:
        """Send the values of an epoch, unless the resumed run has it already."""
        self.log_summary("current_epoch", epoch)
        if not (self.resume and epoch < self.wandb_init_step):
            self.run.log(values, step=epoch)

    def log_picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """picture (H, W, 3) uint8."""
        self.log_epoch({name: self._wandb.Image(picture)}, epoch)

    def log_summary(self, key: str, value: Any) -> None:
        self.run.summary[key] = value

    def close(self) -> None:
        self.run.finish()


def load_wandb() -> ModuleType:
    """The package. SinkError if it is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise SinkError(f"Weights & Biases is not installed: pip install wandb, or export {WANDB}=0.") from error
    return wandb
