"""A model of this repository under a trainer's name that nnU-Net has: nnU-Net looks the trainer up before it predicts."""

import shutil
from pathlib import Path

from nnunetv2.utilities.checkpoint import load_checkpoint, save_checkpoint

UPSTREAMS = "nnUNetTrainer"


def for_upstream(model: Path, fold: str, folder: Path) -> Path:
    """A copy of `model` in `folder` whose fold names nnUNetTrainer, for trainers that make the same network; weights and plans as they are."""
    (folder / f"fold_{fold}").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        shutil.copyfile(model / name, folder / name)
    checkpoint = load_checkpoint(model / f"fold_{fold}" / "checkpoint_final.pth")
    save_checkpoint(checkpoint | {"trainer_name": UPSTREAMS}, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder
