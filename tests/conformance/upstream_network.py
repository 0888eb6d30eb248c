"""Upstream's networks. Weights travel as torch files, because some hold 100 million parameters."""

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans


def _build(architecture, channels, heads, initialise=False, deep_supervision=True):
    return get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"],
                                  architecture["_kw_requires_import"], channels, heads, allow_init=initialise,
                                  deep_supervision=deep_supervision)


def initialise(architecture, channels, heads, seed, file):
    """Save freshly initialised weights to `file`; returns every key with its shape."""
    torch.manual_seed(seed)
    network = _build(architecture, channels, heads, initialise=True)
    torch.save(network.state_dict(), file)
    return {key: list(value.shape) for key, value in network.state_dict().items()}


def logits(architecture, channels, heads, file, x, deep_supervision=True):
    """Load `file` strictly and return the outputs for `x` (B, C, D, H, W), highest resolution first."""
    network = _build(architecture, channels, heads, deep_supervision=deep_supervision).eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        outputs = network(torch.from_numpy(x))
    return [o.numpy() for o in (outputs if deep_supervision else [outputs])]


def feature_map_size(architecture, channels, heads, patch):
    return int(np.int64(_build(architecture, channels, heads).compute_conv_feature_map_size(patch)))
