"""A raw dataset of nnU-Net v1 (TaskXXX_Name) -> nnUNet_raw of v2. Files keep their names, dataset.json is brought up to date."""

import os
import shutil
from pathlib import Path

from nnunetv2.dataset_conversion.raw_folder import new_raw_dataset, updated_description
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import OldDatasetJson
from nnunetv2.utilities.files import load_json, save_json

REQUIRED, OPTIONAL = ("imagesTr", "labelsTr"), ("imagesTs", "labelsTs", "imagesVal", "labelsVal")


def convert(source_folder: str | os.PathLike, target_dataset_name: str) -> None:
    """Copy `source_folder` to nnUNet_raw/`target_dataset_name`. InputError lists everything that the source lacks."""
    source = Path(source_folder)
    description = source / "dataset.json"
    missing = [str(path) for path in (description, *(source / part for part in REQUIRED)) if not path.exists()]
    if missing:
        raise InputError(f"{source} is no raw dataset of nnU-Net v1; missing: {', '.join(missing)}. Check the path.")
    updated = updated_description(load_json(description, OldDatasetJson), description)
    with new_raw_dataset(target_dataset_name) as target:
        for part in (*REQUIRED, *OPTIONAL):
            if (source / part).is_dir():
                shutil.copytree(source / part, target / part)
        save_json(updated, target / "dataset.json")
