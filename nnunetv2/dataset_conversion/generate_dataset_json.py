"""Write the dataset.json of a raw dataset from Python."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import save_json


def generate_dataset_json(output_folder: str | os.PathLike, channel_names: Mapping[Any, str], labels: Mapping[str, Any], num_training_cases: int,
                          file_ending: str, citation: Sequence[str] | str | None = None, regions_class_order: Sequence[int] | None = None,
                          dataset_name: str | None = None, reference: str | None = None, release: str | None = None,
                          description: str | None = None, overwrite_image_reader_writer: str | None = None,
                          license: str = "not stated", converted_by: str = "not stated", **kwargs: Any) -> None:
    """Write `output_folder`/dataset.json.

    Args:
        channel_names: channel number -> name; "CT" chooses CT normalisation, see nnunetv2/preprocessing/normalization.py.
        labels: name -> label value, or several values for a region: {"background": 0, "whole": (1, 2), "lesion": 2}.
        regions_class_order: with regions, the label that each region writes into a mask, in the order of `labels`.
        file_ending: of images and label maps, with its dot.
        kwargs: further keys, e.g. `classification` for a class head.
    Raises:
        InputError: regions without their class order.
    """
    values = {name: [int(v) for v in value] if isinstance(value, (list, tuple)) else int(value) for name, value in labels.items()}
    if any(isinstance(value, list) and len(value) > 1 for value in values.values()) and regions_class_order is None:
        raise InputError("labels hold regions of several values, so regions_class_order must say which label each region writes.")
    content: dict[str, Any] = {
        "channel_names": {str(number): name for number, name in channel_names.items()}, "labels": values, "numTraining": num_training_cases,
        "file_ending": file_ending, "licence": license, "converted_by": converted_by,
    }
    optional = {"name": dataset_name, "reference": reference, "release": release, "citation": citation, "description": description,
                "overwrite_image_reader_writer": overwrite_image_reader_writer,
                "regions_class_order": None if regions_class_order is None else list(regions_class_order)}
    content |= {key: value for key, value in optional.items() if value is not None}
    save_json(content | kwargs, Path(output_folder) / "dataset.json")
