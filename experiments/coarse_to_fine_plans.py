"""Add three configurations to planned ones that train the same network more cheaply: on coarser grids, and on smaller patches.

    python -m experiments.coarse_to_fine_plans nnUNet_preprocessed/Dataset777_PancreasCT/nnUNetResEncUNetMPlans.json

`3d_coarse` sees CTs of 2 x 4 x 4 times the planned spacing, `3d_middle` parts of CTs of 1 x 2 x 2 times; both are preprocessed by
themselves. `3d_crops` sees parts of the planned patch, of the cases preprocessed for `3d_fullres`. Weights of one start the
next (nnUNetv2_train -pretrained_weights), since the network is that of `3d_fullres` in all of them.
"""

from pathlib import Path

from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import whole_volume_tile
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.file_shapes import Plans
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

# name -> how many times the planned spacing and which part of the planned patch, in voxels, by axis; patches per batch, None as planned:
# on patches as small as these most of a step goes into the weights, so that more of them cost little
CHEAP = {
    "3d_coarse": ((2, 4, 4), (2, 4, 4), 8),
    "3d_middle": ((1, 2, 2), (2, 2, 3), 4),
    "3d_crops": ((1, 1, 1), (2, 4 / 3, 2), None),
}


def with_cheap_configurations(plans: dict) -> dict:
    """A copy of `plans` with those of CHEAP; patches are multiples of what the network's strides divide."""
    full = PlansManager(plans).get_configuration("3d_fullres")
    geometry = network_geometry(full, None)
    configurations = dict(plans["configurations"])
    for name, (coarser, parts, batch) in CHEAP.items():
        patch = [round(size / part) for size, part in zip(geometry.patch_size, parts)]
        configuration = {"inherits_from": "3d_fullres", "patch_size": list(whole_volume_tile(patch, geometry.divisor))}
        if batch is not None:
            configuration["batch_size"] = batch
        if any(factor > 1 for factor in coarser):
            configuration |= {"data_identifier": full.data_identifier.replace("3d_fullres", name),
                              "spacing": [s * c for s, c in zip(geometry.spacing, coarser)]}
        configurations[name] = configuration
    return plans | {"configurations": configurations}


@script
def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("plans", type=Path, help="plans file with 3d_fullres; it is rewritten")
    path = parser.parse_args().plans
    save_json(with_cheap_configurations(load_json(path, Plans)), path)


if __name__ == "__main__":
    main()
