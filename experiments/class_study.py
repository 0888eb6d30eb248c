"""What class heads see in the cases of a study: described once by a trained segmentation, then fitted to as many class tasks as wanted.

Shared by lidc.py (REAL nodules) and cues.py (SYNTHETIC cues). The rows that stand beside each other are ROWS.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from tqdm import tqdm

from evaluation.bootstrap import interval, resample_counts
from evaluation.lesion_features import lesion_features
from evaluation.radiomics_baseline import make_model
from experiments.small_plans import NETWORKS
from nnunetv2.class_evidence.blocks import BLOCKS
from nnunetv2.class_evidence.discriminant import fit_lda
from nnunetv2.class_evidence.fit import fit_evidence, macro_f1, permutation_test
from nnunetv2.class_evidence.head import EvidenceHead
from nnunetv2.inference.case_classification import describe_case
from nnunetv2.inference.case_prediction import CLASS_VIEWS
from nnunetv2.inference.model_loading import TrainedModel
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import mirror_views
from nnunetv2.preprocessing.case_store import load_case
from nnunetv2.training.class_head_refit import fastest, refit_head
from nnunetv2.utilities.commands import whole_number
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.manifest import weights_hash
from nnunetv2.utilities.parallel import in_processes

RESAMPLES = 2000
MARKERS = "osD^v<>Pd"  # of the rows in a picture
ROWS = {"evidence": "Evidence blocks and network", "no_forest": "The same without the forest",
        "network": "Network's own head (before evidence blocks)", "radiomics": "Radiomics in predicted masks",
        "volume": "Volume of the true mask", "true_masks": "Evidence blocks in true masks (bound)",
        "blocks": "Evidence blocks alone, training cases in masks of the network they trained",
        "honest_blocks": "The same, training cases in masks of a network that never saw them"}
Described = dict[str, dict[str, Any]]  # case -> what describe() found


def parse_study(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, network: str = "small", folds: int = 2, iterations: int = 40,
                trainer: str = "nnUNetTrainerShort") -> argparse.Namespace:
    """Options of training and intervals besides the study's own, which may have other defaults; `given` are the arguments as they were given."""
    parser.add_argument("--folds", type=whole_number(2), default=folds, help=f"default {folds}")
    parser.add_argument("--epochs", type=whole_number(1), default=12, help="default 12")
    parser.add_argument("--iterations", type=whole_number(1), default=iterations, help=f"per epoch, default {iterations}")
    parser.add_argument("--network", choices=NETWORKS, default=network,
                        help=f"small: an eighth of the planned network's work; planned: as the planner made it (default {network})")
    parser.add_argument("--trainer", default=trainer, help=f"default {trainer}")
    parser.add_argument("--seed", type=whole_number(0), default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    args.plans = NETWORKS[args.network]
    args.given = sys.argv[1:] if arguments is None else arguments
    return args


def train_command(dataset: int, fold: int, args: Any) -> list[str]:
    """Of one fold's segmentation; args: plans, trainer, device, epochs, iterations. The heads are fitted later."""
    return ["nnUNetv2_train", str(dataset), "3d_fullres", str(fold), "-p", args.plans, "-tr", args.trainer, "-device", args.device, "--epochs", str(args.epochs),
            "--iterations", str(args.iterations), "--val_iterations", "2", "--no_val", "--no_refit", "--c"]


def segment(model: TrainedModel, folder: Path, cases: Sequence[str], work: Path, device: torch.device) -> Path:
    """What the network makes of the preprocessed cases in `folder`: CASE.npz with labels (Z, Y, X) and the class head's features, below `work` in a folder
    of these weights, which is returned. Cases that are there are not segmented again."""
    out = work / f"segmented_{weights_hash(model.checkpoints[0])[:12]}"
    todo = [case for case in cases if not (out / f"{case}.npz").is_file()]
    if not todo:
        return out
    out.mkdir(parents=True, exist_ok=True)
    geometry = network_geometry(model.configuration_manager, None)
    network = fastest(model.build_network(model.checkpoints[0]).to(device), model, device)
    views, lesion = mirror_views(model.mirror_axes, CLASS_VIEWS), list(model.measurement().lesion_channels)
    for case in tqdm(todo, desc="segmenting cases"):
        logits, features = describe_case(network, torch.from_numpy(load_case(folder, case)[0][:]), geometry.patch_size, geometry.divisor, lesion, device, views,
                                         batch_size=model.configuration_manager.batch_size)
        labels = logits.argmax(0).numpy().astype(np.uint8)
        with atomic_write(out / f"{case}.npz") as file:
            np.savez_compressed(file, labels=labels, features=features)
    return out


def _measure(model: TrainedModel, folder: Path, segmented: Path, case: str) -> dict[str, Any]:
    geometry, measurement = network_geometry(model.configuration_manager, None), model.measurement()
    lesion, scale = list(measurement.lesion_channels), measurement.intensities[0]
    data, reference, properties = load_case(folder, case)
    data, truth = data[:], np.maximum(reference[0], 0)
    with np.load(segmented / f"{case}.npz") as file:
        labels, features = file["labels"], file["features"]
    found, true = np.isin(labels, lesion), np.isin(truth, lesion)
    radiomics = lesion_features(data[0] * scale.scale + scale.offset, found, tuple(geometry.spacing)) if found.any() else None
    return {"features": features, "evidence": measurement(data, labels, properties, tuple(BLOCKS)), "true": measurement(data, truth, properties, tuple(BLOCKS)),
            "radiomics": radiomics, "dsc": float(2 * (found & true).sum() / max(found.sum() + true.sum(), 1)), "log_volume": float(np.log(max(true.sum(), 1)))}


def describe(model: TrainedModel, folder: Path, cases: Sequence[str], work: Path, device: torch.device) -> Described:
    """Of each case among the preprocessed ones in `folder`: the head's features, the evidence in the network's masks and in the true ones,
    radiomics in predicted masks, and the lesion's DSC and log volume (voxels). Segmented cases are kept below `work`; what is measured in them is not."""
    segmented = segment(model, folder, cases, work, device)
    return in_processes(_measure, {case: (model, folder, segmented, case) for case in cases}, None, "measuring cases")


@dataclass(frozen=True)
class Fold:
    """A trained model, what it made of every case, and the cases it was trained on. unseen: every case of the study as described by the network that did not
    train on it; without some of them the row that needs them is NaN."""

    model: TrainedModel
    described: Described
    unseen: Described
    train: Sequence[str]

    def predict(self, label_of: Mapping[str, int], n_classes: int, cases: Sequence[str], rows: Sequence[str] = tuple(ROWS)) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """{row: (n, K) probabilities of `cases`} by heads fitted to the fold's training cases, and the report of the evidence's fit.

        rows: of ROWS, and `alone:BLOCK` and `without:BLOCK`.
        """
        task = _Task(self, label_of, n_classes, cases)
        return {row: task.row(row) for row in rows}, task.evidence_fit[1]


@dataclass(frozen=True)
class _Task:
    """One class task on one fold; each row of ROWS is a method, with a block's name behind a colon where it takes one."""

    fold: Fold
    label_of: Mapping[str, int]
    n_classes: int
    cases: Sequence[str]

    def row(self, name: str) -> np.ndarray:
        method, _, block = name.partition(":")
        return getattr(self, method)(*[block] * bool(block))

    @cached_property
    def with_lesion(self) -> list[str]:
        return [case for case in self.fold.train if self.fold.described[case]["evidence"] is not None]

    @cached_property
    def even(self) -> np.ndarray:
        return np.full(self.n_classes, 1 / self.n_classes)

    def labels(self, cases: Sequence[str]) -> np.ndarray:
        return np.array([self.label_of[case] for case in cases])

    @cached_property
    def network_fit(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, V, F) represented features of the training cases; (n, K) probabilities of the others."""
        head = deepcopy(self.fold.model.build_network(self.fold.model.checkpoints[0]).class_head)
        if self.n_classes != head.classifier.out_features:
            head.classifier = torch.nn.Linear(head.classifier.in_features, self.n_classes)
        features = {case: torch.tensor(self.fold.described[case]["features"]) for case in (*self.with_lesion, *self.cases)}
        stacked = torch.stack([features[case] for case in self.with_lesion])
        refit_head(head, stacked, self.labels(self.with_lesion))
        with torch.no_grad():
            represented = head.represent(stacked.flatten(0, 1)).unflatten(0, stacked.shape[:2]).double().numpy()
            return represented, np.stack([softmax(head.classify(features[case]).mean(0).double().numpy()) for case in self.cases])

    @cached_property
    def evidence_fit(self) -> tuple[EvidenceHead, dict[str, Any]]:
        return self._fit_with_network()

    def _fit_with_network(self, with_forest: bool = True) -> tuple[EvidenceHead, dict[str, Any]]:
        return fit_evidence([self.fold.described[case]["evidence"] for case in self.with_lesion], self.labels(self.with_lesion), self.n_classes, self.network_fit[0],
                            with_forest=with_forest)

    def _with_network(self, head: EvidenceHead) -> np.ndarray:
        return np.stack([head.probabilities(self.fold.described[case]["evidence"], p) for case, p in zip(self.cases, self.network_fit[1])])

    def _by_blocks(self, head: EvidenceHead, key: str = "evidence") -> np.ndarray:
        return np.stack([head.probabilities(self.fold.described[case][key], self.even) for case in self.cases])

    def evidence(self) -> np.ndarray:
        return self._with_network(self.evidence_fit[0])

    def no_forest(self) -> np.ndarray:
        return self._with_network(self._fit_with_network(with_forest=False)[0])

    def network(self) -> np.ndarray:
        return self.network_fit[1]

    def radiomics(self) -> np.ndarray:
        found = {case: self.fold.described[case]["radiomics"] for case in (*self.fold.train, *self.cases)}
        usable = [case for case in self.with_lesion if found[case] is not None]
        labels = self.labels(usable)
        model = make_model(int(np.bincount(labels, minlength=self.n_classes).min())).fit(np.array([found[case] for case in usable]), labels)
        shares = np.bincount(self.labels(self.with_lesion), minlength=self.n_classes) / len(self.with_lesion)
        return np.stack([shares if found[case] is None else model.predict_proba([found[case]])[0] for case in self.cases])

    def volume(self) -> np.ndarray:
        def rows(cases: Sequence[str]) -> np.ndarray:
            return np.array([[self.fold.described[case]["log_volume"]] for case in cases])

        return softmax(fit_lda(rows(self.with_lesion), self.labels(self.with_lesion), self.n_classes)(rows(self.cases)), axis=1)

    def true_masks(self) -> np.ndarray:
        head, _ = fit_evidence([self.fold.described[case]["true"] for case in self.with_lesion], self.labels(self.with_lesion), self.n_classes)
        return self._by_blocks(head, "true")

    def alone(self, block: str) -> np.ndarray:
        measured = [{block: self.fold.described[case]["evidence"][block]} for case in self.with_lesion]
        return self._by_blocks(fit_evidence(measured, self.labels(self.with_lesion), self.n_classes)[0])

    def without(self, block: str) -> np.ndarray:
        """With the network's own head."""
        measured = [{name: found for name, found in self.fold.described[case]["evidence"].items() if name != block} for case in self.with_lesion]
        return self._with_network(fit_evidence(measured, self.labels(self.with_lesion), self.n_classes, self.network_fit[0])[0])

    def blocks(self) -> np.ndarray:
        head, _ = fit_evidence([self.fold.described[case]["evidence"] for case in self.with_lesion], self.labels(self.with_lesion), self.n_classes)
        return self._by_blocks(head)

    def honest_blocks(self) -> np.ndarray:
        if not all(case in self.fold.unseen for case in self.with_lesion):
            return np.full((len(self.cases), self.n_classes), np.nan)
        usable = [case for case in self.with_lesion if self.fold.unseen[case]["evidence"] is not None]
        head, _ = fit_evidence([self.fold.unseen[case]["evidence"] for case in usable], self.labels(usable), self.n_classes)
        return self._by_blocks(head)


def by_group(groups: Sequence[str], seed: int) -> np.ndarray:
    """(RESAMPLES, n) weights of the cases: groups, such as patients, drawn with replacement."""
    names, index = np.unique(groups, return_inverse=True)
    return resample_counts(len(names), RESAMPLES, seed)[:, index]


def weighted_f1(true: np.ndarray, guess: np.ndarray, weights: np.ndarray, n_classes: int) -> np.ndarray:
    """(resamples,) macro-F1 of resampled cases."""
    scores = []
    for k in range(n_classes):
        hits = weights @ ((true == k) & (guess == k))
        scores.append(2 * hits / np.maximum(weights @ (true == k) + weights @ (guess == k), 1))
    return np.mean(scores, axis=0)


def score(probabilities: Mapping[str, np.ndarray], true: np.ndarray, weights: np.ndarray, n_classes: int, seed: int) -> dict[str, dict[str, Any]]:
    """Of each row that has probabilities for all cases: macro-F1, its interval, a permutation p, and evidence minus it, with the paired interval."""
    guesses = {row: p.argmax(1) for row, p in probabilities.items() if np.isfinite(p).all()}
    resampled = {row: weighted_f1(true, guess, weights, n_classes) for row, guess in guesses.items()}
    table = {}
    for row, guess in guesses.items():
        found, p, chance = permutation_test(true, guess, n_classes, seed)
        table[row] = {"macro_f1": found, "ci": interval(resampled[row]), "p": p, "chance_95": chance,
                      "evidence_minus_this": macro_f1(true, guesses["evidence"], n_classes) - found, "difference_ci": interval(resampled["evidence"] - resampled[row])}
    return table


def mean_weights(reports: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """Of the blocks, over folds; key: weight or macro_f1_alone."""
    return {block: float(np.mean([report["blocks"][block][key] for report in reports])) for block in reports[0]["blocks"]}


def weights_table(weights: Mapping[str, Mapping[str, float]], first: str) -> list[str]:
    """Markdown: a task per line, a block per column."""
    blocks = list(next(iter(weights.values())))
    return [f"| {first} | " + " | ".join(blocks) + " |", "|" + "---|" * (1 + len(blocks)),
            *(f"| {task} | " + " | ".join(f"{found.get(block, 0):.2f}" for block in blocks) + " |" for task, found in weights.items())]


def draw_rows(groups: Mapping[str, Mapping[str, Any]], title: str, file: Path, names: Mapping[str, str] = ROWS) -> None:
    """Macro-F1 of every row by task, one panel per group of tasks, named where there are several. names: of the rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = list(next(iter(next(iter(groups.values())).values()))["rows"])
    widest = max(map(len, groups.values()))
    figure, panels = plt.subplots(len(groups), 1, figsize=(max(9, 0.8 * widest), 1.6 + 3.6 * len(groups)), squeeze=False)
    for axes, (group, tasks) in zip(panels[:, 0], groups.items()):
        for i, row in enumerate(rows):
            values = [task["rows"][row] for task in tasks.values()]
            middle = np.array([value["macro_f1"] for value in values])
            reach = np.array([[m - v["ci"][0], v["ci"][1] - m] for m, v in zip(middle, values)]).T
            axes.errorbar(np.arange(len(tasks)) + (i - (len(rows) - 1) / 2) * 0.1, middle, yerr=np.maximum(reach, 0), fmt=MARKERS[i], capsize=2,
                          label=names[row] if axes is panels[0, 0] else None)
        axes.set_xticks(range(len(tasks)), list(tasks), rotation=30 if len(tasks) > 6 else 0, ha="right" if len(tasks) > 6 else "center")
        axes.set_ylabel(f"macro-F1, {group}" if len(groups) > 1 else "macro-F1")
        axes.set_ylim(0, 1.03)
    figure.suptitle(title)
    figure.legend(fontsize=8, loc="lower center", ncols=2)
    figure.tight_layout(rect=(0, (0.3 + 0.2 * ((len(rows) + 1) // 2)) / figure.get_figheight(), 1, 1))
    figure.savefig(file, dpi=130)
    plt.close(figure)
