"""How many windows upstream's default tiling gives to each image, from headers alone."""

from pathlib import Path

import SimpleITK as sitk

from nnunetv2.inference.model_loading import find_model
from nnunetv2.inference.sliding_window_prediction import window_slicers
from nnunetv2.preprocessing.resampling import compute_new_shape


def upstream_tiles(images: Path, model_folder: Path, fold: str, tile_step_size: float = 0.5) -> dict[str, int]:
    """{case: windows} of the first channel of each case in `images`. A CT has no zero border, so no crop is reckoned with."""
    model = find_model(model_folder, (fold,))
    configuration, order = model.configuration_manager, model.plans_manager.transpose_forward
    tiles = {}
    for file in sorted(images.glob("*_0000.nii.gz")):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        reader.ReadImageInformation()
        size, spacing = reader.GetSize()[::-1], reader.GetSpacing()[::-1]  # (z, y, x)
        shape = compute_new_shape([size[i] for i in order], [spacing[i] for i in order], configuration.spacing)
        patch = configuration.patch_size
        tiles[file.name.removesuffix("_0000.nii.gz")] = len(window_slicers([max(n, p) for n, p in zip(shape, patch)], patch, tile_step_size))
    return tiles
