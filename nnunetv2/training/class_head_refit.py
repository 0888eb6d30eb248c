"""Closed-form refit of the class head after training.

    nnUNetv2_refit_class_head -d 777 -c 3d_fullres -f 0 -p nnUNetResEncUNetMPlans

The head's features of the fold's training cases, pooled over whole cases in all mirrored views as in prediction ->
standardise -> linear discriminant analysis -> written into the head's last layer, so prediction does not change. With a few
hundred cases this finds the classes where gradient descent on small batches may not. A temperature from predictions that
leave one case out makes the probabilities honest. Validation cases are never read.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score
from torch import nn
from tqdm import tqdm

from nnunetv2 import paths
from nnunetv2.inference.case_classification import case_class_features
from nnunetv2.inference.engines.winograd_engine import UnsupportedNetwork, WinogradEngine
from nnunetv2.inference.model_loading import TrainedModel, find_model
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import mirror_views
from nnunetv2.preprocessing.case_store import read_image
from nnunetv2.training.class_calibration import fit_temperature, probability_scores, refit_limits
from nnunetv2.training.nnUNetTrainer.training_identity import record_checkpoint
from nnunetv2.training.nnUNetTrainer.training_state import HEAD_BEFORE_REFIT
from nnunetv2.utilities.splits import SPLITS_FILE, load_split
from nnunetv2.utilities.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.data_manifest import moved_in_fold, refuse_changed_data
from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.files import save_json
from nnunetv2.utilities.folder_lock import folder_lock

REPORT_FILE = "class_head_refit.json"  # beside the checkpoint


@dataclass(frozen=True)
class LinearLayer:
    """logits = features @ weight.T + bias."""

    weight: np.ndarray  # (K, F)
    bias: np.ndarray  # (K,)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight.T + self.bias


def fit_lda(features: np.ndarray, labels: np.ndarray, n_classes: int) -> LinearLayer:
    """Standardise features (N, F), fit shrinkage LDA to labels (N,) in 0..K-1, and fold both into one linear layer.

    The covariance is shrunk by Ledoit and Wolf's (2004) formula, for F > N. Priors are uniform: the task's macro-F1 counts
    every class alike, and the training cases' frequencies would cost the rare classes recall. A constant feature gets
    weight 0. Every class needs a case, and one of them two.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if counts.min() < 1 or counts.max() < 2:
        raise ValueError(f"Every class needs a training case with a label, and one class two; there are {counts.tolist()} of classes 0, 1, ...")
    features = features.astype(np.float64)
    mean, std = features.mean(0), features.std(0)
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 1e-6 * np.maximum(1.0, np.abs(mean)))
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(n_classes, 1 / n_classes))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample available")  # a class of one case adds its mean and no covariance
        lda.fit((features - mean) * scale, labels)
    weight, bias = lda.coef_, lda.intercept_
    if n_classes == 2:  # scikit-learn gives the difference of the two logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return LinearLayer(weight * scale, bias - (weight * scale) @ mean)


def fit_views(features: np.ndarray, labels: np.ndarray, n_classes: int) -> LinearLayer:
    """`fit_lda` on features (N, V, F) of V mirrored views a case, each a sample of its own.

    What mirroring changes in a case then counts as spread within its class, and the directions it moves features in lose
    weight.
    """
    return fit_lda(features.reshape(-1, features.shape[2]), np.repeat(labels, features.shape[1]), n_classes)


def left_out_logits(features: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """(N, K) logits, averaged over views, of each case from a fit to all others; features (N, V, F). NaN for the only case of its class.

    One case at a time, since how sure a fit is of itself depends on how many cases it had: fits to fewer would ask for a
    higher temperature than the one that is kept.
    """
    counts = np.bincount(labels, minlength=n_classes)
    logits = np.full((len(labels), n_classes), np.nan)
    for case in tqdm(range(len(labels)), desc="calibrate"):
        rest = np.arange(len(labels)) != case
        if counts[labels[case]] < 2 or np.bincount(labels[rest]).max() < 2:
            continue
        logits[case] = fit_views(features[rest], labels[rest], n_classes)(features[case]).mean(0)
    return logits


@torch.no_grad()
def refit_head(head: nn.Module, features: torch.Tensor, labels: np.ndarray) -> dict:
    """Refit a ClassHead in place on pooled features (N, V, F) as its network gives them; a summary for the report.

    A hidden layer stays as trained, what it makes of the features is refitted. The temperature comes from the cases whose class
    has another one; without any it is 1. ValueError where a class has no case, or each one only.
    """
    head.eval()
    represented = head.represent(features.flatten(0, 1)).unflatten(0, features.shape[:2]).double().numpy()
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
                     device: torch.device = torch.device("cpu"), n_views: int = 8) -> dict:
    """Refit the class head of one fold of a trained model; returns and writes the report `class_head_refit.json`.

    n_views: of each case, mirrored over the last log2(n_views) axes that training mirrored.

    The checkpoint is replaced atomically and keeps the trained head as `class_head_weights_before_refit`. Labels are read
    of the fold's training cases alone; those without one are left out. Refitting twice changes nothing.
    """
    model = find_model(Path(model_folder), (fold,), checkpoint)
    with folder_lock(Path(model_folder) / f"fold_{fold}", "training", "its class head is refitted"):
        return _refit(model, fold, checkpoint, device, n_views)


def _refit(model: TrainedModel, fold: int | str, checkpoint: str, device: torch.device, n_views: int) -> dict:
    path = model.checkpoints[0]
    if not model.has_class_head:
        raise ValueError(f"{path} has no class head to refit. Declare 'classification' in dataset.json, plan and train again.")
    if model.configuration_manager.previous_stage_name is not None:
        raise ValueError(f"{path} belongs to a cascade, whose input needs the previous stage's masks; refit the head of that stage.")

    dataset_folder = paths.nnUNet_preprocessed / model.plans_manager.dataset_name
    label_manager = model.plans_manager.get_label_manager(model.dataset_json)
    task = ClassificationTask.from_dataset_json(model.dataset_json, label_manager.foreground_labels)
    train_cases, val_cases = load_split(dataset_folder, fold)
    refuse_changed_data(dataset_folder.name, model.configuration_manager.data_identifier, train_cases)
    content = load_checkpoint(path)
    split = content.get("identity", {}).get("split")
    if split is not None and (moved := moved_in_fold(split["train"], split["val"], train_cases, val_cases)):
        raise InputError(f"{path} was trained on another split:\n{list_some(moved)}\nBring {dataset_folder / SPLITS_FILE} back, or train anew.")
    label_of = task.read_labels(dataset_folder, train_cases)
    cases = [case for case in train_cases if case in label_of]
    labels = np.array([label_of[case] for case in cases], int)
    counts = np.bincount(labels, minlength=len(task.classes)).tolist()
    limits = refit_limits(counts, task.classes)
    if limits is not None:
        warnings.warn(f"{path}: {limits}", stacklevel=2)
    if min(counts) < 1 or max(counts) < 2:  # a finished training keeps its head, and the stages after this one go on
        report = {"checkpoint": checkpoint, "classes": list(task.classes), "cases_per_class": counts, "temperature": 1.0, "not_refitted": limits}
        save_json(report, path.with_name(REPORT_FILE))
        return report

    network = model.build_network(path).to(device)
    features = features_of_cases(model, _fastest(network, model, device), cases, dataset_folder / model.configuration_manager.data_identifier, device, n_views)
    head = network.class_head.cpu()
    report = {"checkpoint": checkpoint, "classes": list(task.classes), **refit_head(head, features, labels)}

    content.setdefault(HEAD_BEFORE_REFIT, content["class_head_weights"])
    content["class_head_weights"] = head.state_dict()
    save_checkpoint(content, path)
    record_checkpoint(path)
    save_json(report, path.with_name(REPORT_FILE))
    found = report["leave_one_out"]
    print(f"{path}: class head refitted on {len(labels)} training cases; " + (
        f"macro-F1 {found['macro_f1']:.3f} leaving one out, temperature {report['temperature']:.2f}, "
        f"Brier {found['before_calibration']['brier']:.3f} -> {found['after_calibration']['brier']:.3f}" if found else "too few to calibrate on"))
    return report


def _fastest(network: nn.Module, model: TrainedModel, device: torch.device) -> nn.Module | WinogradEngine:
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


def features_of_cases(model: TrainedModel, network: nn.Module | WinogradEngine, cases: list[str], folder: Path,
                       device: torch.device, n_views: int) -> torch.Tensor:
    """Pooled features (N, V, F) float32 of preprocessed cases in V mirrored views, on the CPU."""
    geometry = network_geometry(model.configuration_manager, None)
    views = mirror_views(model.mirror_axes, n_views)
    lesion_channels = model.configuration_manager.class_head["lesion_labels"]
    rows = []
    for case in tqdm(cases, desc="class features"):
        data = torch.from_numpy(read_image(folder, case))  # (C, D, H, W)
        with torch.autocast(device.type, enabled=device.type == "cuda"):  # as prediction does
            rows.append(case_class_features(network, data, geometry.patch_size, geometry.divisor, lesion_channels, device, views,
                                            batch_size=model.configuration_manager.batch_size))
    features = torch.stack(rows)
    broken = [case for case, finite in zip(cases, features.isfinite().flatten(1).all(1).tolist()) if not finite]
    if broken:
        raise InputError(f"{folder}: the class features of {len(broken)} case(s) are not finite: {', '.join(broken)}. Their preprocessed images are damaged, "
                         "or the network's weights are; preprocess them again, or train anew.")
    return features
