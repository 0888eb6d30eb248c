"""Checkpoints that upstream nnU-Net reads, and whose class head lives beside the segmentation network's weights.

`network_weights` holds exactly upstream's keys (it loads them strictly); the head is under `class_head_weights`. Files are
read with `weights_only=True`, so a checkpoint from a stranger cannot run code; upstream's own hold numpy scalars, which are
harmless and let through by name.
"""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunetv2.utilities.files import atomic_write

CLASS_HEAD_PREFIX = "class_head."

_scalar = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar
_reconstruct = np._core.multiarray._reconstruct if hasattr(np, "_core") else np.core.multiarray._reconstruct
# numpy 1 and 2 pickle the same functions under different module names; a file from either must load under either
SAFE_NUMPY_GLOBALS: list[Any] = [
    (_scalar, "numpy._core.multiarray.scalar"), (_scalar, "numpy.core.multiarray.scalar"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"), (_reconstruct, "numpy.core.multiarray._reconstruct"),
    np.ndarray, np.dtype, *{type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")},
]


def load_checkpoint(path: str | os.PathLike, map_location: str | torch.device = "cpu", lazy: bool = False) -> dict:
    """Read a checkpoint of ours or upstream's; tensors land on `map_location`.

    lazy: tensors stay in the file until they are read (mapped memory), so that nobody waits for an optimiser's state that nobody needs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}. Train the fold first, or name another checkpoint.")
    try:
        with torch.serialization.safe_globals(SAFE_NUMPY_GLOBALS):
            return torch.load(path, map_location=map_location, weights_only=True, mmap=lazy and zipfile.is_zipfile(path))
    except Exception as error:
        raise RuntimeError(f"{path} is no readable checkpoint ({error}). Copy it anew, or delete it and resume the training "
                           "from an older one.") from error


def stored_tensors(path: str | os.PathLike) -> list[tuple[str, int, int]]:
    """Name, size and checksum of every tensor in a checkpoint, from the archive's directory alone: hundreds of megabytes stay unread.

    The names hold the one under which the file was first written, so equal weights written twice may differ; different ones never look equal.
    ValueError for a file that is no zip archive (torch wrote others before 1.6).
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no zip archive.")
    with zipfile.ZipFile(path) as archive:
        return [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]


def save_checkpoint(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write atomically: a process killed meanwhile leaves the previous checkpoint."""
    with atomic_write(path) as temporary:
        torch.save(checkpoint, temporary)


def split_network_weights(network: nn.Module) -> tuple[dict, dict | None]:
    """(upstream's part of the state dict, the class head's state dict or None)."""
    weights = network.state_dict()
    segmentation = {key: value for key, value in weights.items() if not key.startswith(CLASS_HEAD_PREFIX)}
    head = {key.removeprefix(CLASS_HEAD_PREFIX): value for key, value in weights.items() if key.startswith(CLASS_HEAD_PREFIX)}
    return segmentation, head or None


def load_network_weights(network: nn.Module, checkpoint: dict) -> None:
    """Load both parts strictly. A checkpoint without a class head (upstream's) leaves the network's head as it is."""
    segmentation = {key.removeprefix("module."): value for key, value in checkpoint["network_weights"].items()}
    expected, _ = split_network_weights(network)
    problems = [f"missing {key}" for key in sorted(expected.keys() - segmentation.keys())]
    problems += [f"unexpected {key}" for key in sorted(segmentation.keys() - expected.keys())]
    problems += [f"{key} is {tuple(segmentation[key].shape)} instead of {tuple(value.shape)}"
                 for key, value in expected.items() if key in segmentation and segmentation[key].shape != value.shape]
    if problems:
        raise ValueError(f"The checkpoint does not fit the network of these plans, {len(problems)} differences: "
                         f"{'; '.join(problems[:10])}. Use the plans it was trained with.")
    network.load_state_dict(segmentation, strict=False)  # the only keys left out are the head's
    head = getattr(network, "class_head", None)
    if head is not None and checkpoint.get("class_head_weights") is not None:
        head.load_state_dict(checkpoint["class_head_weights"])


def load_pretrained_weights(network: nn.Module, path: str | os.PathLike) -> None:
    """Take over everything but the segmentation layers and the class head, which belong to a task."""
    pretrained = load_checkpoint(path)["network_weights"]
    expected, _ = split_network_weights(network)
    wanted = {key for key in expected if ".seg_layers." not in key}
    wrong = sorted(key for key in wanted if key not in pretrained or pretrained[key].shape != expected[key].shape)
    if wrong:
        raise ValueError(f"{path} was trained with another architecture; {len(wrong)} weights are missing or of another shape: "
                         f"{wrong[:10]}. Plan with the same planner and channels.")
    network.load_state_dict({key: pretrained[key] for key in wanted}, strict=False)
