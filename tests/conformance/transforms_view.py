"""Look into a batchgeneratorsv2 pipeline: settings of its transforms, and what they draw. Used in both environments."""

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.random import RandomTransform


def describe(transforms: list) -> list[dict[str, Any]]:
    """Name, probability and settings of every transform, in order."""
    found = []
    for transform in transforms:
        inner, probability = _unpack(transform)
        # `benchmark` chooses between convolution and FFT by timing them: speed, not meaning
        settings = {k: _plain(v) for k, v in sorted(vars(inner).items()) if k != "benchmark" and not k.startswith("_")}
        found.append({"name": type(inner).__name__, "probability": probability, "settings": settings})
    return found


def statistics(transforms: list, shape: tuple[int, ...], draws: int, seed: int) -> dict[str, dict[str, Any]]:
    """For each transform that draws: how often it is applied, and mean, smallest and largest of each number it draws.

    shape: (C, *spatial) of the image the transforms are told of.
    """
    image = torch.zeros(shape)
    found = {}
    for i, transform in enumerate(transforms):
        inner, _ = _unpack(transform)
        np.random.seed(seed + i)
        torch.manual_seed(seed + i)
        applied = sum(bool(transform.get_parameters(image=image).get("apply_transform", True)) for _ in range(draws))
        numbers: dict[str, list[float]] = {}
        for _ in range(draws):
            for name, values in _numbers(inner.get_parameters(image=image)):
                numbers.setdefault(name, []).extend(values)
        ranges = {name: [float(np.mean(v)), float(np.min(v)), float(np.max(v)), len(v)] for name, v in numbers.items()}
        found[f"{i} {type(inner).__name__}"] = {"applied": applied / draws, "drawn": ranges}
    return found


def _unpack(transform: Any) -> tuple[Any, float]:
    if isinstance(transform, RandomTransform):
        return transform.transform, transform.apply_probability
    return transform, 1.0


def _numbers(parameters: dict[str, Any]) -> list[tuple[str, list[float]]]:
    found = []
    for name, value in parameters.items():
        if isinstance(value, torch.Tensor) and value.numel() > 64:
            continue  # a grid, not a draw
        try:
            flat = np.asarray(value, dtype=float).ravel()
        except (TypeError, ValueError):  # None, functions, ragged lists
            continue
        if np.isfinite(flat).all():
            found.append((name, flat.tolist()))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (int, float, str, bool)) or value is None:
        return value
    if hasattr(value, "contrast_range"):
        return [type(value).__name__, _plain(value.contrast_range)]
    return type(value).__name__
