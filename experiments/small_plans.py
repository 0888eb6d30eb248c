"""Planned networks made small enough for a study on CPU cores: an eighth of the work, the same depth and grid."""

from pathlib import Path

from nnunetv2.utilities.file_shapes import Plans
from nnunetv2.utilities.files import load_json, save_json

PLANS, SMALL = "nnUNetResEncUNetMPlans", "nnUNetResEncUNetMPlans_small"
NETWORKS = {"small": SMALL, "planned": PLANS}  # --network of a study -> name of its plans


def write_small_plans(preprocessed: Path) -> None:
    """SMALL beside PLANS: 16 features in the first stage, doubled in each, and two blocks per stage."""
    plans = load_json(preprocessed / f"{PLANS}.json", Plans, partial=True) | {"plans_name": SMALL}
    network = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    stages = network["n_stages"]
    network["features_per_stage"] = [16 * 2**stage for stage in range(stages)]
    network["n_blocks_per_stage"] = [1, *[2] * (stages - 1)]
    save_json(plans, preprocessed / f"{SMALL}.json")
