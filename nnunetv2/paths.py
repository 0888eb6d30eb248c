"""The three data folders and the folder of one's own trainers, read from the environment each time they are used.

    from nnunetv2 import paths
    paths.nnUNet_raw / "Dataset777_PancreasCT"

`from nnunetv2.paths import nnUNet_raw` works too and freezes the value of that moment. A folder whose variable is unset
raises ValueError on use, so commands that do not need it never ask for it.
"""

import os
from pathlib import Path

nnUNet_raw: Path  # what users supply: imagesTr, labelsTr, imagesTs, dataset.json
nnUNet_preprocessed: Path  # fingerprint, plans, resampled cases, splits
nnUNet_results: Path  # trained models
nnUNet_extTrainer: Path  # trainers of one's own; several folders, separated as PATH is, are for training/nnUNetTrainer/registry.py

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINERS = "nnUNet_extTrainer"


def path_if_set(variable: str) -> Path | None:
    """The folder that `variable` names, or None when it is unset or empty."""
    value = os.environ.get(variable)
    return Path(value) if value else None


def __getattr__(name: str) -> Path:
    if name not in (*VARIABLES, TRAINERS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    path = path_if_set(name)
    if path is None:
        raise ValueError(f"The environment variable {name} is not set. Set it first: export {name}=/your/folder/{name}")
    return path
