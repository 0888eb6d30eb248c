"""What a command of the campaign is, and the damages that each kind of file can bear."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.fuzz import array_damage, dicom_damage, image_damage, json_damage, plans_damage, table_damage
from experiments.fuzz.archive_damage import MODEL_ZIP, SUBMISSION_ZIP
from experiments.fuzz.damage import Damage

KINDS: dict[str, list[Damage]] = {
    "image": image_damage.IMAGE,
    "mask": image_damage.MASK,
    "mask of chosen labels": image_damage.MASK_OF_CHOSEN_LABELS,
    "mask alone": image_damage.MASK_ALONE,
    "image.nrrd": image_damage.NRRD,
    "image.mha": image_damage.MHA,
    "image.nii": image_damage.NIFTI,
    "DICOM slice": dicom_damage.SLICE,
    "json": json_damage.ANY,
    "dataset.json": json_damage.DATASET,
    "raw dataset.json": json_damage.RAW_DATASET,
    "dataset.json to plan": json_damage.DATASET_TO_PLAN,
    "splits": json_damage.SPLITS,
    "plans of a model": plans_damage.MODEL_PLANS,
    "plans of a network": plans_damage.NETWORK_PLANS,
    "plans to train": plans_damage.TRAINING_PLANS,
    "plans to preprocess": plans_damage.PREPROCESSING_PLANS,
    "fingerprint": plans_damage.FINGERPRINT,
    "table": table_damage.TABLE,
    "class table": table_damage.CLASS_TABLE,
    "model zip": MODEL_ZIP,
    "submission zip": SUBMISSION_ZIP,
    "checkpoint": array_damage.CHECKPOINT,
    "pretrained weights": array_damage.PRETRAINED,
    "pickle": array_damage.PICKLE,
    "case properties": array_damage.CASE_PROPERTIES,
    "probabilities": array_damage.PROBABILITIES,
    "preprocessed image": array_damage.PREPROCESSED_IMAGE,
    "preprocessed mask": array_damage.PREPROCESSED,
}


@dataclass(frozen=True)
class Role:
    """Files that a command reads: the sorted matches of `pattern`, of which a run damages one or two."""

    kind: str
    pattern: str
    several: bool = True  # two damaged ones are listed at once
    every: bool = False  # all are damaged, because a command draws which ones it reads; it names the first that it meets


@dataclass(frozen=True)
class Command:
    name: str
    argv: list[str]
    parts: list[str]  # of the world, relative to its root
    roles: list[Role]
    writes: tuple[str, ...]  # files and folders that it may change or make, relative to the root
    prepare: Callable[[Path], None] | None = None  # changes to the copy before it is damaged
    names: tuple[str, ...] = ()  # flags whose value becomes part of a path
    survivors: str | None = None  # "out/{case}.nii.gz": a case that was not damaged is there afterwards


def one(kind: str, pattern: str) -> Role:
    return Role(kind, pattern, several=False)
