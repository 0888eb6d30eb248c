"""Checkpoints that upstream nnU-Net reads, and whose class head lives beside the segmentation network's weights.

`network_weights` holds exactly upstream's keys (it loads them strictly); the head is under `class_head_weights`. Files are
read with `weights_only=True`, so a checkpoint from a stranger cannot run code; upstream's own hold numpy scalars, which are
harmless and let through by name.
"""

import contextlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunetv2.utilities.errors import InputError
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

    InputError says whether it holds code, or no dict, or is damaged, and then which other checkpoints are beside it.

    lazy: tensors stay in the file until they are read (mapped memory), so that nobody waits for an optimiser's state that nobody needs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}. Train the fold first, or name another checkpoint.")
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _refuse_bombs(path)
        with torch.serialization.safe_globals(SAFE_NUMPY_GLOBALS):
            content = torch.load(path, map_location=map_location, weights_only=True, mmap=lazy and is_archive)
    except InputError:
        raise
    except Exception as error:  # torch raises what its formats' readers do: UnpicklingError, RuntimeError, EOFError, KeyError, ...
        raise InputError(_why_unreadable(path, error)) from error
    _refuse_other_content(content, path)
    return content


def _refuse_other_content(content: Any, path: str | os.PathLike) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__} and not the parts of a checkpoint. Name another file.")


def _refuse_bombs(path: Path) -> None:
    """InputError for an archive that promises more than it holds; torch stores its tensors as they are."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or sum(member.file_size for member in members) > path.stat().st_size:
        raise InputError(f"{path} is no checkpoint of PyTorch: its members are compressed or overlap. Get it anew from where it came.")


def _why_unreadable(path: Path, error: Exception) -> str:
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"Unsupported class[^\n]*", text)
    if isinstance(error, pickle.UnpicklingError) and found:
        return (f"{path} holds code ({found[0].removeprefix('GLOBAL ')}) besides weights, which loading would run. Do not trust it: nothing was run, and a checkpoint "
                "needs none. Ask its author for the plain weights.")
    # torch's text on pickles advises to load them with code, which nobody should
    reason = "its list of contents cannot be read" if isinstance(error, pickle.UnpicklingError) else (text.strip() or type(error).__name__).splitlines()[0].split(". ")[0][:160]
    others = [other.name for other in sorted(path.parent.glob("checkpoint_*.pth")) if other.name != path.name and zipfile.is_zipfile(other)]
    remedy = f"or move it away and go on from {' or '.join(others)}, which nnUNetv2_train --c then takes" if others else \
        "or delete it; there is no other checkpoint beside it, so the training starts anew"
    return f"{path} is no readable checkpoint: it is cut short, damaged or of another kind ({reason}). Copy it anew, {remedy}."


def check_contents(content: Any, path: str | os.PathLike, also: Sequence[str] = ()) -> None:
    """InputError that lists what a checkpoint lacks, or holds of another type, of what prediction needs; `also`: further keys."""
    _refuse_other_content(content, path)
    arguments = content.get("init_args")
    checks = {
        "network_weights, tensors by name": _are_tensors(content.get("network_weights")) and bool(content["network_weights"]),
        "class_head_weights, tensors by name or nothing": content.get("class_head_weights") is None or _are_tensors(content["class_head_weights"]),
        "trainer_name, text": isinstance(content.get("trainer_name"), str),
        "init_args with the configuration's name": isinstance(arguments, dict) and isinstance(arguments.get("configuration"), str),
        "inference_allowed_mirroring_axes, numbers from 0 to 2 or nothing": _are_axes(content.get("inference_allowed_mirroring_axes")),
    }
    missing = [what for what, fits in checks.items() if not fits] + [key for key in also if key not in content]
    if missing:
        raise InputError(f"{path} is no checkpoint of nnU-Net; it needs {'; '.join(missing)}. Name another file.")


def _are_tensors(weights: Any) -> bool:
    return isinstance(weights, dict) and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items())


def _are_axes(axes: Any) -> bool:
    return axes is None or isinstance(axes, (tuple, list)) and all(axis in (0, 1, 2) for axis in axes)


def refuse_non_finite(weights: Mapping[str, torch.Tensor], path: str | os.PathLike) -> None:
    """InputError that lists the weights with NaN or infinite values: every prediction with them would be nonsense."""
    broken = [name for name, value in weights.items() if value.is_floating_point() and not bool(value.sum(dtype=torch.float32).isfinite())
              and not bool(value.isfinite().all())]  # the sum is quick, and a large one may overflow
    if broken:
        raise InputError(f"{path}: {len(broken)} of {len(weights)} weights are not finite ({', '.join(broken[:5])}{', ...' if len(broken) > 5 else ''}). "
                         "The training diverged or the file is damaged; predict with another checkpoint, such as -chk checkpoint_best.pth, or train again.")


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
    """Write atomically: a process killed meanwhile, or a full disk, leaves the previous checkpoint. OSError names the path."""
    with atomic_write(path) as temporary:
        write_checkpoint(checkpoint, temporary)


def write_checkpoint(checkpoint: dict, path: str | os.PathLike) -> None:
    """torch.save, except that the system's refusal to write stays the OSError that it was; torch makes "unexpected pos" of it."""
    refusals: list[OSError] = []

    class Recording(io.BufferedWriter):
        def write(self, data: Any) -> int:
            try:
                return super().write(data)
            except OSError as error:
                refusals.append(error)
                raise

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(Recording(open(path, "wb", buffering=0)))
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if not refusals:
                raise
            file.raw.close()  # what is left in the buffer cannot be written either
            stack.pop_all()
            raise refusals[0] from error


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
        try:
            head.load_state_dict(checkpoint["class_head_weights"])
        except RuntimeError as error:
            raise ValueError(f"The checkpoint's class head does not fit these plans: {error}. Use the plans it was trained with.") from error


def load_pretrained_weights(network: nn.Module, path: str | os.PathLike) -> None:
    """Take over everything but the segmentation layers and the class head, which belong to a task."""
    content = load_checkpoint(path)
    if not isinstance(content, dict) or not _are_tensors(content.get("network_weights")):
        raise InputError(f"{path} holds no network_weights, tensors by name. Name a checkpoint of nnU-Net.")
    pretrained = content["network_weights"]
    refuse_non_finite(pretrained, path)
    expected, _ = split_network_weights(network)
    wanted = {key for key in expected if ".seg_layers." not in key}
    wrong = sorted(key for key in wanted if key not in pretrained or pretrained[key].shape != expected[key].shape)
    if wrong:
        raise ValueError(f"{path} was trained with another architecture; {len(wrong)} weights are missing or of another shape: "
                         f"{wrong[:10]}. Plan with the same planner and channels.")
    network.load_state_dict({key: pretrained[key] for key in wanted}, strict=False)
