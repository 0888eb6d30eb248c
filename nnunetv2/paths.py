"""The three data folders and the folder of one's own trainers, read from the environment each time they are used.

    from nnunetv2.paths import nnUNet_raw
    nnUNet_raw / "Dataset777_PancreasCT"

Importing them needs no variable to be set; using one that is unset raises ValueError, so commands that do not need it never ask for it.
"""

import os
from pathlib import Path
from typing import Any


class EnvironmentFolder(os.PathLike):
    """The folder that a variable names at the moment of use, with everything that a Path can do. It is false where the variable is unset."""

    def __init__(self, env_var_name: str):
        self.env_var_name = env_var_name

    def get(self) -> str | None:
        """The variable's text, with the home folder for a leading `~`; None when it is unset or empty."""
        return text_if_set(self.env_var_name)

    def is_set(self) -> bool:
        return self.get() is not None

    def require(self) -> str:
        """The variable's text. ValueError when it is unset or empty."""
        value = self.get()
        if value is None:
            raise ValueError(f"The environment variable {self.env_var_name} is not set. Set it first: export {self.env_var_name}=/your/folder/{self.env_var_name}")
        return value

    __fspath__ = __str__ = require
    __bool__ = is_set

    def __repr__(self) -> str:
        return repr(self.get()) if self.is_set() else f"<{self.env_var_name} is not set>"

    def __truediv__(self, other: str | os.PathLike) -> Path:
        return Path(self) / other

    def __eq__(self, other: object) -> bool:
        value = self.get()
        return value is None if other is None else isinstance(other, (str, os.PathLike)) and value is not None and Path(value) == Path(other)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Path, name):  # asking what an object can do needs no variable
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(Path(self), name)


nnUNet_raw = EnvironmentFolder("nnUNet_raw")  # what users supply: imagesTr, labelsTr, imagesTs, dataset.json
nnUNet_preprocessed = EnvironmentFolder("nnUNet_preprocessed")  # fingerprint, plans, resampled cases, splits
nnUNet_results = EnvironmentFolder("nnUNet_results")  # trained models
# trainers of one's own; several folders, separated as PATH is, are for training/nnUNetTrainer/registry.py
nnUNet_extTrainer = EnvironmentFolder("nnUNet_extTrainer")

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINERS = "nnUNet_extTrainer"


def text_if_set(variable: str) -> str | None:
    """What `variable` names, None when it is unset or empty. A shell leaves a `~` in quotes as it is, and so do files of settings: it means the home folder."""
    value = os.environ.get(variable)
    return os.path.expanduser(value) if value else None


def path_if_set(variable: str) -> Path | None:
    """The folder that `variable` names, or None when it is unset or empty."""
    value = text_if_set(variable)
    return Path(value) if value else None
