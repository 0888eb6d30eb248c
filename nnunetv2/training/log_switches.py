"""Variables of the environment that send a training's values to other programs."""

import os

from nnunetv2.utilities.errors import InputError

TENSORBOARD, WANDB = "nnUNet_tensorboard_enabled", "nnUNet_wandb_enabled"
SWITCH = {"0": False, "false": False, "False": False, "1": True, "true": True, "True": True}


class SinkError(InputError, RuntimeError):
    """What the user switched on cannot be used. A RuntimeError as well, which nnU-Net's loggers raise."""


def is_switched_on(variable: str) -> bool:
    """Value of one of the variables, off where it is unset. SinkError where it is neither on nor off."""
    value = os.environ.get(variable, "0")
    if value not in SWITCH:
        raise SinkError(f"{variable} is {value!r}. export {variable}=1 switches the logger on, 0 off.")
    return SWITCH[value]
