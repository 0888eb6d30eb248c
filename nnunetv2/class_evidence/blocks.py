"""The blocks by name, and all features of a case."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nnunetv2.class_evidence.case import EvidenceCase
from nnunetv2.class_evidence.context_blocks import duct, organ, parenchyma, place, shell
from nnunetv2.class_evidence.lesion_blocks import attenuation, calcification, inner_parts, margin, shape, size, texture

Block = Callable[[EvidenceCase], dict[str, float]]
BLOCKS: Mapping[str, Block] = {function.__name__: function for function in (
    texture, inner_parts, attenuation, calcification, margin, size, shape, shell, parenchyma, organ, duct, place)}
NETWORK = "network"  # the block that the network's own head gives


def measure(case: EvidenceCase, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """{block: {feature: value}} of the blocks `names`; NaN for what this case does not have."""
    with np.errstate(all="ignore"):
        return {name: BLOCKS[name](case) for name in names}
