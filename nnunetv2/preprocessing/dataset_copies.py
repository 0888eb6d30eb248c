"""What training reads beside the preprocessed cases: copies of dataset.json, of the class labels and the split, and a record of what they were."""

import shutil
from pathlib import Path

from nnunetv2 import paths
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.data_manifest import bring_split, raw_description, read_manifest, record
from nnunetv2.utilities.errors import InputError, name_most
from nnunetv2.utilities.file_shapes import RawDatasetJson
from nnunetv2.utilities.files import atomic_write, load_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager


def copy_dataset_files(dataset: str) -> None:
    """From nnUNet_raw/DATASET to nnUNet_preprocessed/DATASET. InputError when the fingerprint there was made from other training cases or a label is wrong."""
    raw_folder, folder = paths.nnUNet_raw / dataset, paths.nnUNet_preprocessed / dataset
    dataset_json = load_json(raw_folder / "dataset.json", RawDatasetJson)
    raw, manifest = raw_description(raw_folder), read_manifest(folder)
    training = set(raw["cases"]) - set(dataset_json.get("holdout", []))
    used = set(manifest.get("fingerprint", training))
    if used != training:
        raise InputError(f"{folder / 'dataset_fingerprint.json'} was made from other training cases; only in one of both: "
                         f"{name_most(sorted(used ^ training))}. Run nnUNetv2_extract_fingerprint -d {dataset} --clean.")
    labels = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    task = ClassificationTask.from_dataset_json(dataset_json, labels.foreground_labels)
    if task is not None:
        task.read_labels(raw_folder, training)  # raises now, while correcting is cheap
        _copy(raw_folder / task.labels_file, folder)
    bring_split(raw_folder, folder, raw["split"], training, manifest)
    record(folder, planned=raw)
    _copy(raw_folder / "dataset.json", folder)  # last: where it is, the others are


def _copy(source: Path, folder: Path) -> None:
    with atomic_write(folder / source.name) as temporary:
        shutil.copyfile(source, temporary)
