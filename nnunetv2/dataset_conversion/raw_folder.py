"""A new dataset in nnUNet_raw: built beside its place and moved there whole, under a number that nothing else has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2 import paths
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id, folders_with_id
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.leftovers import sweep, temporary_folder
from nnunetv2.utilities.safe_names import plain_name

MAX_DATASET_ID = 999


@contextmanager
def new_raw_dataset(name: str) -> Iterator[Path]:
    """Yield an empty folder that becomes nnUNet_raw/`name` when the block ends without an error.

    InputError when the name is no dataset name, when its number is taken in any of nnU-Net's three folders, or when another
    run makes a dataset of this number. What a killed run left is deleted first.
    """
    number = convert_dataset_name_to_id(plain_name(name, "dataset", "the new dataset"))
    raw = Path(paths.nnUNet_raw)
    with folder_lock(raw, f"dataset_{number:03d}", f"dataset {number} is made"):
        sweep(raw)
        taken = [str(folder) for folder in folders_with_id(number)]
        if taken:
            raise InputError(f"Dataset number {number} is taken by {', '.join(taken)}. Choose another number, or move that away.")
        with temporary_folder(raw, "convert") as temporary:
            folder = temporary / name
            folder.mkdir()
            yield folder
            os.rename(folder, raw / name)


def updated_description(old: dict[str, Any], where: Path) -> dict[str, Any]:
    """dataset.json of nnU-Net v2 from that of the Decathlon or of nnU-Net v1.

    There labels go value -> name and channels are called `modality`; file lists, which the folders tell, are left out.
    """
    problems = [f"key {key!r} is missing" for key in ("labels", "modality") if not isinstance(old.get(key), dict)]
    wrong = [value for value in old.get("labels", {}) if not str(value).isdecimal()] if not problems else []
    problems += [f"labels: {value!r} is no whole number" for value in wrong]
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}. The labels of this format go from value to name, {{\"0\": \"background\"}}.")
    kept = {key: value for key, value in old.items() if key not in ("labels", "modality", "training", "test", "numTest", "tensorImageSize")}
    return kept | {"labels": {name: int(value) for value, name in old["labels"].items()}, "channel_names": old["modality"], "file_ending": ".nii.gz"}
