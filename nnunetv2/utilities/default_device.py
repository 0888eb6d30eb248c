"""Programs that set torch's default device to a GPU, for code that keeps its tensors in main memory unless it says otherwise."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def on_cpu_by_default(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: tensors that `function` makes without naming a device lie in main memory, whatever `torch.set_default_device` was told."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.empty(0).device.type == "cpu":
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return call
