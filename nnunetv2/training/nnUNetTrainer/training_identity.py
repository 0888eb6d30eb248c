"""What a training depends on: two of equal identity end with the same weights, and only such may continue one another.

Kept in every checkpoint (key "identity") and in `fold_X/manifest.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2.training.nnUNetTrainer.trainer_data import TrainingData
from nnunetv2.utilities.data_manifest import moved_in_fold, read_manifest
from nnunetv2.utilities.file_shapes import Manifest
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.manifest import MANIFEST_FILE, changes, dataset_identity, file_hash, origin, plans_identity, value_hash, weights_hash
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.splits import OWN_SPLIT

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

# Attributes of a trainer that its weights do not depend on: where and how it runs, how far it is.
OUTSIDE = {"configuration_name", "fold", "is_ddp", "local_rank", "world_size", "save_every", "picture_every", "disable_checkpointing", "to_validate", "num_workers",
           "bf16_on_cpu", "current_epoch", "was_initialized", "start_weights", "output_folder", "output_folder_base", "preprocessed_dataset_folder", "preprocessed_dataset_folder_base",
           "folder_with_segs_from_previous_stage", "inference_allowed_mirroring_axes", "dataloader_train", "dataloader_val"}
CLASS_OF = "class of "


def training_identity(trainer: "nnUNetTrainer") -> dict[str, Any]:
    """Plain data: settings, plans, dataset.json, split, class labels and the hash of every preprocessed case. Call it when initialised."""
    task = trainer.class_task
    own_split = type(trainer).do_split is not TrainingData.do_split
    return json.loads(json.dumps({
        "trainer": type(trainer).__name__,
        "settings": _settings(trainer),
        "plans": plans_identity(trainer.plans_manager.plans, trainer.configuration_manager.configuration),
        "dataset": dataset_identity(trainer.dataset_json),
        "split": {"train": sorted(trainer.train_cases), "val": sorted(trainer.val_cases)},
        **({OWN_SPLIT: True} if own_split else {}),  # left out otherwise, so that identities of before compare
        "class_labels": {case: task.classes[k] for case, k in sorted(trainer.class_labels.items())} if task is not None else {},
        "cases": _case_hashes(Path(trainer.preprocessed_dataset_folder), sorted({*trainer.train_cases, *trainer.val_cases})),
        "start_weights": None if trainer.start_weights is None else weights_hash(trainer.start_weights),
    }))


def identity_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two trainings, a line each. The trainer's name and the weights of the start are not looked at.

    Nor are settings that the new one lacks: a trainer of another author may set them in the course of a training, which has only begun.
    """
    settings = {name: value for name, value in old["settings"].items() if name in new["settings"]}
    lines = [line for before, part in ((settings, "settings"), (old["plans"], "plans"), (old["dataset"], "dataset")) for line in changes(before, new[part])]
    lines += moved_in_fold(old["split"]["train"], old["split"]["val"], new["split"]["train"], new["split"]["val"])
    lines += [CLASS_OF + line for line in changes(_common(old["class_labels"], new), _common(new["class_labels"], old))]
    both = old["cases"].keys() & new["cases"].keys()
    return lines + [f"image or label of {case} changed" for case in sorted(both) if old["cases"][case] != new["cases"][case]]


def validation_problems(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why a trained model must not be validated on the present split and plans. Corrected labels are no reason."""
    unlike = [{key: value for key, value in identity["plans"].items() if key != "batch_size"} for identity in (old, new)]
    trained_on = sorted(set(old["split"]["train"]) & set(new["split"]["val"]) - set(old["split"]["val"]))
    return changes(*unlike) + changes(old["dataset"], new["dataset"]) + [f"{case} is a validation case now, and it was trained on" for case in trained_on]


def differences_without_identity(checkpoint: Mapping[str, Any], trainer: "nnUNetTrainer") -> list[str]:
    """For checkpoints that hold no identity (upstream's): what their plans and schedule tell."""
    old = PlansManager(checkpoint["init_args"]["plans"])
    lines = changes(plans_identity(old.plans, old.get_configuration(checkpoint["init_args"]["configuration"]).configuration),
                    plans_identity(trainer.plans_manager.plans, trainer.configuration_manager.configuration))
    return lines + [f"{name} was {value}, is {getattr(trainer, name)}" for name, value in checkpoint.get("schedule", {}).items()
                    if getattr(trainer, name) != value]


def write_fold_manifest(trainer: "nnUNetTrainer") -> None:
    """`fold_X/manifest.json`, at the training's start. Checkpoints are added by `record_checkpoint`."""
    planned = read_manifest(Path(trainer.preprocessed_dataset_folder_base)).get("planned")
    save_json({**origin(), "training": trainer.identity, "plan_of_data": None if planned is None else value_hash(planned), "checkpoints": {}},
              Path(trainer.output_folder) / MANIFEST_FILE)


def record_checkpoint(path: Path, unless_known: bool = False) -> None:
    """Put the hash of a finished checkpoint into the manifest beside it, if there is one. unless_known: a hash that is there stays."""
    manifest = path.with_name(MANIFEST_FILE)
    if manifest.is_file() and path.is_file():
        content = load_json(manifest, Manifest)
        if unless_known and path.name in content["checkpoints"]:
            return
        save_json(content | {"checkpoints": content["checkpoints"] | {path.name: weights_hash(path)}}, manifest)


def forget_checkpoint(path: Path) -> None:
    """Take the hash of a checkpoint that is about to be replaced out of the manifest beside it, if there is one."""
    manifest = path.with_name(MANIFEST_FILE)
    if manifest.is_file():
        content = load_json(manifest, Manifest)
        save_json(content | {"checkpoints": {name: value for name, value in content["checkpoints"].items() if name != path.name}}, manifest)


def _settings(trainer: "nnUNetTrainer") -> dict[str, Any]:
    """Public attributes of plain values, those that variants add included."""
    settings = {}
    for name, value in vars(trainer).items():
        if name.startswith("_") or name in OUTSIDE:
            continue
        if is_dataclass(value) and not isinstance(value, type):
            settings[name] = asdict(value)
        elif value is None or isinstance(value, (bool, int, float, str)) or isinstance(value, (tuple, list)) and all(
                isinstance(part, (bool, int, float, str)) for part in value):
            settings[name] = value
    if settings.get("batch_size") == len(trainer._positions()):  # the process's share of the plans' batch, which tells how many processes there are
        del settings["batch_size"]
    return settings


def _case_hashes(folder: Path, cases: list[str]) -> dict[str, str]:
    """Of the raw files that a case was made from, where preprocessing recorded it; else of the preprocessed segmentation and the image's size."""
    recorded = read_manifest(folder.parent).get("preprocessed", {}).get(folder.name, {})
    hashes = {}
    for case in cases:
        image, labels = folder / f"{case}.b2nd", folder / f"{case}_seg.b2nd"
        if case in recorded:
            hashes[case] = recorded[case]
        elif image.is_file() and labels.is_file():  # a missing one is refused where the batches are made
            hashes[case] = value_hash([image.stat().st_size, file_hash(labels)])
    return hashes


def _common(labels: Mapping[str, str], other: Mapping[str, Any]) -> dict[str, str]:
    """Labels of cases that the other training has too; moved ones are named already."""
    return {case: name for case, name in labels.items() if case in other["split"]["train"]}
