"""Refit of the class head: the end of every training with a class task, and a command for reruns.

    nnUNetv2_refit_class_head -d 777 -c 3d_fullres -f 0 -p nnUNetResEncUNetMPlans

One pass over each of the fold's training cases gives its masks and the head's pooled features, as prediction sees them. The features ->
standardise -> linear discriminant analysis -> the head's last layer, so the network does not change; a temperature from predictions that leave
the case out makes its probabilities honest. The evidence blocks of the plans are measured in the same masks, and all are weighed
(class_evidence/fit.py). Training cases without a lesion in their masks are left out and counted. Validation cases are never read.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from torch import nn
from tqdm import tqdm

from dynamic_network_architectures.building_blocks.class_head import ClassHead
from nnunetv2 import paths
from nnunetv2.class_evidence.calibration import fit_temperature, probability_scores, refit_limits
from nnunetv2.class_evidence.discriminant import fit_views
from nnunetv2.class_evidence.fit import fit_evidence
from nnunetv2.class_evidence.head import EVIDENCE_KEY
from nnunetv2.class_evidence.measure import Measured
from nnunetv2.inference.case_classification import describe_case
from nnunetv2.inference.case_prediction import CLASS_VIEWS
from nnunetv2.inference.engines.winograd.engine import WinogradEngine
from nnunetv2.inference.engines.winograd.layers import UnsupportedNetwork
from nnunetv2.inference.model_loading import TrainedModel, find_model
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import mirror_views
from nnunetv2.preprocessing.case_store import read_image
from nnunetv2.preprocessing.recipe import refuse_other_recipe
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, network_input, nnUNetBaseDataset, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.training_identity import forget_checkpoint, record_checkpoint
from nnunetv2.training.nnUNetTrainer.training_state import HEAD_BEFORE_REFIT
from nnunetv2.utilities.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.data_manifest import moved_in_fold, refuse_changed_data
from nnunetv2.utilities.errors import InputError, list_some, name_most, name_some
from nnunetv2.utilities.files import save_json
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.splits import SPLITS_FILE, trained_split

REPORT_FILE = "class_head_refit.json"  # beside checkpoint_final.pth; of another checkpoint the name says which
LEAVE_ONE_OUT_CASES = 200  # up to so many each is left out by itself, of more a twentieth at a time
FOLDS_OF_MANY = 20


def report_file(checkpoint: Path) -> Path:
    name = checkpoint.stem.removeprefix("checkpoint_")
    return checkpoint.with_name(REPORT_FILE if name == "final" else REPORT_FILE.replace(".json", f"_{name}.json"))


def left_out_logits(features: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """(N, K) logits, averaged over views, of each case from a fit without it; features (N, V, F). NaN for the only case of its class.

    Few cases are left out one at a time, since how sure a fit is of itself depends on how many cases it had.
    """
    counts = np.bincount(labels, minlength=n_classes)
    logits = np.full((len(labels), n_classes), np.nan)
    if len(labels) <= LEAVE_ONE_OUT_CASES:
        groups = [np.array([case]) for case in range(len(labels))]
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")
            groups = [test for _, test in StratifiedKFold(FOLDS_OF_MANY, shuffle=True, random_state=0).split(labels, labels)]
    for group in tqdm(groups, desc="calibrate", leave=False):
        rest = np.setdiff1d(np.arange(len(labels)), group)
        left = np.bincount(labels[rest], minlength=n_classes)
        test = group[counts[labels[group]] > 1]
        if len(test) and left.min() >= 1 and left.max() >= 2:
            logits[test] = fit_views(features[rest], labels[rest], n_classes)(features[test]).mean(1)
    return logits


@torch.no_grad()
def _represented(head: nn.Module, features: torch.Tensor) -> np.ndarray:
    """(N, V, F) as the network gives them -> (N, V, F) float64 as the head's linear layer sees them."""
    head.eval()
    return head.represent(features.flatten(0, 1)).unflatten(0, features.shape[:2]).double().numpy()


@torch.no_grad()
def refit_head(head: nn.Module, features: torch.Tensor, labels: np.ndarray) -> dict:
    """Refit a ClassHead in place on pooled features (N, V, F) as its network gives them; a summary for the report.

    A hidden layer stays as trained, what it makes of the features is refitted. The temperature comes from the cases whose class
    has another one; without any it is 1. ValueError where a class has no case, or each one only.
    """
    represented = _represented(head, features)
    n_classes = head.classifier.out_features
    logits = left_out_logits(represented, labels, n_classes)
    left_out = np.isfinite(logits).all(1)
    logits, true = logits[left_out], labels[left_out]
    temperature = fit_temperature(logits, true) if len(true) else 1.0
    layer = fit_views(represented, labels, n_classes)
    head.classifier.weight.copy_(torch.from_numpy(layer.weight))
    head.classifier.bias.copy_(torch.from_numpy(layer.bias))
    head.temperature.fill_(temperature)
    return {
        "cases_per_class": np.bincount(labels, minlength=n_classes).tolist(),
        "features": represented.shape[2],
        "views": represented.shape[1],
        "temperature": temperature,
        # of training cases that the encoder has seen: too good to be reported as performance
        "leave_one_out": {
            "macro_f1": float(f1_score(true, logits.argmax(1), average="macro")),
            "before_calibration": probability_scores(logits, true),
            "after_calibration": probability_scores(logits / temperature, true),
        } if len(true) else None,
    }


def refit_class_head(model_folder: str | os.PathLike, fold: int | str, checkpoint: str = "checkpoint_final.pth",
                     device: torch.device = torch.device("cpu"), n_views: int = CLASS_VIEWS) -> dict:
    """Refit the class head of one fold of a trained model; returns and writes the report `class_head_refit.json`.

    n_views: of each case, mirrored over the last log2(n_views) axes that training mirrored.

    The checkpoint is replaced atomically and keeps the trained head as `class_head_weights_before_refit`. Labels are read
    of the fold's training cases alone; those without one are left out. Refitting twice changes nothing.
    """
    model = find_model(Path(model_folder), (fold,), checkpoint)
    with folder_lock(Path(model_folder) / f"fold_{fold}", "training", "its class head is refitted"):
        return refit_locked(model, fold, device, n_views)


def refit_trained(model_folder: str | os.PathLike, fold: int | str, device: torch.device, dataset_class: type[nnUNetBaseDataset] | None = None) -> list[dict]:
    """The reports of a refit of every checkpoint of a finished fold that can be predicted with and was not refitted yet. The caller holds the
    fold's lock. Without a class head nothing is done. dataset_class: what the training read its cases with."""
    reports = []
    for name in ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_ema.pth"):
        path = Path(model_folder) / f"fold_{fold}" / name
        if not path.is_file() or load_checkpoint(path, lazy=True).get(HEAD_BEFORE_REFIT) is not None:
            continue
        model = find_model(Path(model_folder), (fold,), name)
        if model.has_class_head:
            reports.append(refit_locked(model, fold, device, dataset_class=dataset_class))
    return reports


@dataclass(frozen=True)
class DescribedCases:
    """What one pass over each of N cases found. features (N, V, F): of the network's head; measured: of the evidence blocks, None for a case
    without a lesion and where the plans name no blocks."""

    features: torch.Tensor
    measured: list[Measured | None]


def refit_locked(model: TrainedModel, fold: int | str, device: torch.device, n_views: int = CLASS_VIEWS,
                 dataset_class: type[nnUNetBaseDataset] | None = None) -> dict:
    """`refit_class_head` of the one checkpoint of `model`, for a caller that holds the fold's lock."""
    path = model.checkpoints[0]
    if not model.has_class_head:
        raise ValueError(f"{path} has no class head to refit. Declare 'classification' in dataset.json, plan and train again.")

    dataset_folder = paths.nnUNet_preprocessed / model.plans_manager.dataset_name
    label_manager = model.plans_manager.get_label_manager(model.dataset_json)
    task = ClassificationTask.from_dataset_json(model.dataset_json, label_manager.foreground_labels)
    content = load_checkpoint(path)
    identity = content.get("identity")
    train_cases, val_cases = trained_split(identity, dataset_folder, fold, path)
    refuse_changed_data(dataset_folder.name, model.configuration_manager.data_identifier, train_cases)
    refuse_other_recipe(dataset_folder.name, model.plans_manager, model.configuration_manager, model.dataset_json)
    split = (identity or {}).get("split")
    if split is not None and (moved := moved_in_fold(split["train"], split["val"], train_cases, val_cases)):
        raise InputError(f"{path} was trained on another split:\n{list_some(moved)}\nBring {dataset_folder / SPLITS_FILE} back, or train anew.")
    label_of = task.read_labels(dataset_folder, train_cases)
    cases = [case for case in train_cases if case in label_of]
    labels = np.array([label_of[case] for case in cases], int)
    n_classes = len(task.classes)
    report = {"checkpoint": path.name, "classes": list(task.classes)}
    if (limits := _warned(path, labels, task.classes)) is not None:
        return _kept(path, report, labels, n_classes, limits)

    network = model.build_network(path).to(device)
    if not can_be_refitted(network):
        limits = (f"{type(network).__name__} has no ClassHead in class_head with describe(x) over it, as this package's networks have: "
                  "the class head cannot be refitted and stays as it was trained, with probabilities that nothing calibrates.")
        warnings.warn(f"{path}: {limits}", stacklevel=2)
        return _kept(path, report, labels, n_classes, limits)
    folder = dataset_folder / model.configuration_manager.data_identifier
    found = describe_cases(model, fastest(network, model, device), cases, folder, device, n_views, dataset_class, previous_stage_folder(model))
    kept = np.array([measured is not None for measured in found.measured]) if model.evidence_blocks else np.ones(len(cases), bool)
    report["without_lesion"] = [case for case, has_lesion in zip(cases, kept) if not has_lesion]
    if report["without_lesion"]:
        print(f"{path}: no lesion is found in {len(report['without_lesion'])} of {len(cases)} training cases, which the refit leaves out: "
              f"{name_some(report['without_lesion'])}")
        if (limits := _warned(path, labels[kept], task.classes)) is not None:
            return _kept(path, report, labels[kept], n_classes, limits)
    head, labels = network.class_head.cpu(), labels[kept]
    report |= refit_head(head, found.features[torch.from_numpy(kept)], labels)
    content.pop(EVIDENCE_KEY, None)
    if model.evidence_blocks:
        represented = _represented(head, found.features[torch.from_numpy(kept)])
        evidence, report["evidence"] = fit_evidence([measured for measured in found.measured if measured is not None], labels, n_classes, represented)
        content[EVIDENCE_KEY] = evidence.to_checkpoint()

    content.setdefault(HEAD_BEFORE_REFIT, content["class_head_weights"])
    content["class_head_weights"] = head.state_dict()
    save_json(report, report_file(path))  # before the checkpoint, which says that the refit is done
    forget_checkpoint(path)  # a process killed between the next two lines leaves no hash rather than a wrong one
    save_checkpoint(content, path)
    record_checkpoint(path)
    print(f"{path}: {_in_words(report, len(labels))}")
    return report


def previous_stage_folder(model: TrainedModel) -> Path | None:
    """Where the previous stage of a cascade left its segmentations for the training of `model`; None where it refines nothing."""
    previous = model.configuration_manager.previous_stage_name
    if previous is None:
        return None
    folder = model.checkpoints[0].parents[1]
    configuration = load_checkpoint(model.checkpoints[0], lazy=True)["init_args"]["configuration"]
    return folder.with_name(f"{folder.name.removesuffix(configuration)}{previous}") / "predicted_next_stage" / configuration


def can_be_refitted(network: nn.Module) -> bool:
    """Whether the refit knows the parts of a network, which may be of another author."""
    return isinstance(getattr(network, "class_head", None), ClassHead) and callable(getattr(network, "describe", None))


def _warned(path: Path, labels: np.ndarray, classes: Sequence[str]) -> str | None:
    """Warns of what few cases cannot give; the warning where they give no refit at all."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    limits = refit_limits(counts, classes)
    if limits is not None:
        warnings.warn(f"{path}: {limits}", stacklevel=3)
    return limits if min(counts) < 1 or max(counts) < 2 else None


def _kept(path: Path, report: dict, labels: np.ndarray, n_classes: int, limits: str) -> dict:
    """A finished training keeps its head, and the stages after this one go on."""
    report = report | {"cases_per_class": np.bincount(labels, minlength=n_classes).tolist(), "temperature": 1.0, "not_refitted": limits}
    save_json(report, report_file(path))
    return report


def _in_words(report: dict, n_cases: int) -> str:
    found, evidence = report["leave_one_out"], report.get("evidence", {}).get("left_out")
    text = f"class head refitted on {n_cases} training cases; "
    if evidence is not None:
        low, high = evidence["chance_95"]
        blocks = sorted(((block["weight"], name) for name, block in report["evidence"]["blocks"].items()), reverse=True)
        rests_on = ", ".join(f"{name} {weight:.2f}" for weight, name in blocks[:4] if weight > 0.02)
        text += f"macro-F1 {evidence['macro_f1']:.3f} on training cases left out, chance {low:.3f} to {high:.3f}, p = {evidence['p']:.4f}; "
        text += f"it rests on {rests_on or 'nothing'}" if evidence["evidence_found"] else "NO EVIDENCE FOUND for the class: do not trust it"
        return text
    return text + (f"macro-F1 {found['macro_f1']:.3f} leaving out, temperature {report['temperature']:.2f}, "
                   f"Brier {found['before_calibration']['brier']:.3f} -> {found['after_calibration']['brier']:.3f}" if found else "too few to calibrate on")


def fastest(network: nn.Module, model: TrainedModel, device: torch.device) -> nn.Module | WinogradEngine:
    """What computes the features of `network`: on a CPU, where it serves, in Winograd convolutions."""
    if device.type != "cpu":
        return network
    geometry = network_geometry(model.configuration_manager, None)
    try:
        return WinogradEngine(lambda: network, model.input_channels, geometry.divisor, geometry.patch_size)
    except UnsupportedNetwork:
        return network
    except RuntimeError as error:
        warnings.warn(f"winograd is not used, torch is: {error}.", stacklevel=2)
        return network


def _read(dataset: nnUNetBaseDataset, case: str, foreground_labels: Sequence[int]) -> tuple[np.ndarray, dict]:
    if type(dataset) is nnUNetDatasetBlosc2 and dataset.folder_with_segs_from_previous_stage is None:
        return read_image(dataset.source_folder, case)
    data, _, previous, properties = dataset.load_case(case)
    return network_input(np.asarray(data[:], np.float32), previous, foreground_labels), properties


def describe_cases(model: TrainedModel, network: nn.Module | WinogradEngine, cases: list[str], folder: Path, device: torch.device,
                   n_views: int, dataset_class: type[nnUNetBaseDataset] | None = None, previous_stage: Path | None = None) -> DescribedCases:
    """One pass over each preprocessed case in V mirrored views. dataset_class: reads them; None: by the files' endings. previous_stage: what a
    cascade refines.

    InputError lists cases whose features are not finite, or that the previous stage did not segment.
    """
    dataset = (dataset_class or infer_dataset_class(folder))(folder, cases, folder_with_segs_from_previous_stage=previous_stage)
    if previous_stage is not None:
        there = [path.name for path in previous_stage.iterdir()] if previous_stage.is_dir() else []
        absent = [case for case in cases if not any(name.startswith(f"{case}.") for name in there)]
        if absent:
            raise InputError(f"{previous_stage} lacks {len(absent)} of {len(cases)} training cases: {name_some(absent)}. Validate the folds of the previous "
                             "stage that hold them (nnUNetv2_train DATASET CONFIGURATION FOLD --val).")
    labels = model.plans_manager.get_label_manager(model.dataset_json).foreground_labels
    geometry = network_geometry(model.configuration_manager, None)
    views = mirror_views(model.mirror_axes, n_views)
    lesion_channels = model.configuration_manager.class_head["lesion_labels"]
    measurement = model.measurement() if model.evidence_blocks else None
    rows, measured = [], []
    damaged: list[str] = []  # from the first on the others are only looked at
    for case in tqdm(cases, desc="class evidence"):
        image, properties = _read(dataset, case, labels)
        if not np.isfinite(image).all():
            damaged.append(case)
        if damaged:
            continue
        data = torch.from_numpy(image)  # (C, D, H, W)
        logits, features = describe_case(network, data, geometry.patch_size, geometry.divisor, lesion_channels, device, views,
                                         batch_size=model.configuration_manager.batch_size)
        rows.append(features)
        measured.append(None if measurement is None else measurement(image, logits.argmax(0).numpy(), properties, model.evidence_blocks))
    if damaged:
        raise InputError(f"{folder}: the preprocessed images of {len(damaged)} case(s) hold NaN or infinite values: {name_most(damaged)}. "
                         "Delete their files and run nnUNetv2_preprocess again.")
    features = torch.stack(rows)
    broken = [case for case, finite in zip(cases, features.isfinite().flatten(1).all(1).tolist()) if not finite]
    if broken:
        raise InputError(f"{folder}: the class features of {len(broken)} case(s) are not finite: {name_most(broken)}. Their preprocessed images are damaged, "
                         "or the network's weights are; preprocess them again, or train anew.")
    return DescribedCases(features, measured)
