"""Add two configurations to planned ones that train the same network more cheaply: on a coarser grid, and on smaller patches.

    python experiments/coarse_to_fine_plans.py nnUNet_preprocessed/Dataset777_PancreasCT/nnUNetResEncUNetMPlans.json

`3d_coarse` sees CTs of 2 x 3 x 3 times the planned spacing and is preprocessed by itself; `3d_crops` sees parts of the planned
patch, of the cases preprocessed for `3d_fullres`. Weights of one start the next (nnUNetv2_train -pretrained_weights), since
the network is that of `3d_fullres` in all three.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nnunetv2.inference.model_loading import network_geometry  # noqa: E402
from nnunetv2.inference.sliding_window_prediction import whole_volume_tile  # noqa: E402
from nnunetv2.utilities.files import load_json, save_json  # noqa: E402
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: E402

COARSER = (2, 3, 3)  # times the spacing, by axis
CROPS = (2, 4 / 3, 2)  # parts of the patch, by axis


def with_cheap_configurations(plans: dict) -> dict:
    """A copy of `plans` with `3d_coarse` and `3d_crops`; patches are multiples of what the network's strides divide."""
    full = PlansManager(plans).get_configuration("3d_fullres")
    geometry = network_geometry(full, None)

    def part(divide_by: tuple[float, ...]) -> list[int]:
        return list(whole_volume_tile([round(size / d) for size, d in zip(geometry.patch_size, divide_by)], geometry.divisor))

    coarse = {"inherits_from": "3d_fullres", "data_identifier": full.data_identifier.replace("fullres", "coarse"),
              "spacing": [s * c for s, c in zip(geometry.spacing, COARSER)], "patch_size": part(COARSER)}
    crops = {"inherits_from": "3d_fullres", "patch_size": part(CROPS)}
    return plans | {"configurations": plans["configurations"] | {"3d_coarse": coarse, "3d_crops": crops}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", type=Path, help="plans file with 3d_fullres; it is rewritten")
    path = parser.parse_args().plans
    save_json(with_cheap_configurations(load_json(path)), path)


if __name__ == "__main__":
    main()
