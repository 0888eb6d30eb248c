"""What CUDA does once in a process, begun while the checkpoint is read."""

import threading
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn import functional as F

from dynamic_network_architectures.building_blocks.norm_nonlin import CHANNELS_LAST


def begin_cuda(device: torch.device) -> threading.Thread | None:
    """Make the context on `device` and load the libraries of convolutions, in a thread that is returned; None on other devices."""
    if device.type != "cuda":
        return None
    if device.index is None and torch.cuda.is_initialized():  # the caller may have chosen a GPU, and a new thread begins with the first one
        device = torch.device("cuda", torch.cuda.current_device())
    # no daemon: an interpreter that ends (say, there is no such model) while CUDA starts would be aborted, so it waits
    thread = threading.Thread(target=_begin, args=(device,), name="CUDA's start")
    thread.start()
    return thread


def _begin(device: torch.device) -> None:
    with suppress(RuntimeError):  # the first pass meets it again, where somebody is told
        first_convolution(device)


@torch.no_grad()
def first_convolution(device: torch.device) -> Tensor:
    x, weight = (torch.ones(shape, device=device, dtype=torch.float16).contiguous(memory_format=CHANNELS_LAST[5])
                 for shape in ((1, 8, 8, 8, 8), (8, 8, 3, 3, 3)))
    return F.batch_norm(F.conv3d(x, weight, padding=1), None, None, training=True)
