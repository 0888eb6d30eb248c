"""What the class head sees in REAL CTs: nodules of LIDC-IDRI, out of fold by patient; see run_lidc.sh.

    python experiments/lidc.py --lidc ../shared/lidc --out results/lidc --folds 2 --epochs 12 --iterations 40

Malignancy is the readers' rating, not pathology. One training of the segmentation a fold serves five tasks: the class head is fitted to each
task's labels of the fold's training patients and predicts the others. Beside it stand the volume of the true mask, radiomics in the predicted
masks, the network's own head (what the class rested on before evidence blocks), and the evidence in true masks, a bound.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from data_prep.lidc_to_quiz import CITATION, TASKS, Nodule, read_nodules
from data_prep.lidc_to_quiz import SOURCE as DEFAULT_SOURCE
from evaluation.bootstrap import interval, resample_counts
from evaluation.lesion_features import lesion_features
from evaluation.radiomics_baseline import make_model
from experiments.fold_jobs import run_command
from experiments.pipeline import enter
from experiments.record_run import code_commit, environment
from experiments.small_plans import SMALL, write_small_plans
from nnunetv2 import paths
from nnunetv2.class_evidence.blocks import BLOCKS
from nnunetv2.class_evidence.discriminant import fit_lda
from nnunetv2.class_evidence.fit import fit_evidence, macro_f1, permutation_test
from nnunetv2.inference.case_classification import describe_case
from nnunetv2.inference.case_prediction import CLASS_VIEWS
from nnunetv2.inference.model_loading import TrainedModel, find_model
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import mirror_views
from nnunetv2.preprocessing.case_store import load_case
from nnunetv2.training.class_head_refit import fastest, refit_head
from nnunetv2.utilities.commands import script, whole_number
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import load_json, save_json

DATASET = "Dataset811_LIDC"
RESAMPLES = 2000
ROWS = {"evidence": "Evidence blocks and network", "network": "Network's own head (before evidence blocks)", "radiomics": "Radiomics in predicted masks",
        "volume": "Volume of the true mask", "true_masks": "Evidence blocks in true masks (bound)",
        "blocks": "Evidence blocks alone, training cases in masks of the network they trained",
        "honest_blocks": "The same, training cases in masks of a network that never saw them"}
SOURCE = f"{CITATION}, CC BY 3.0"


def classes_of(task: str) -> list[str]:
    return list(TASKS[task].classes)


def folds_by_patient(nodules: Sequence[Nodule], n_folds: int, seed: int) -> list[dict[str, list[str]]]:
    patients = sorted({nodule.patient for nodule in nodules})
    random.Random(seed).shuffle(patients)
    folds = []
    for k in range(n_folds):
        held_out = set(patients[k::n_folds])
        folds.append({"train": sorted(nodule.name for nodule in nodules if nodule.patient not in held_out),
                      "val": sorted(nodule.name for nodule in nodules if nodule.patient in held_out)})
    return folds


def prepare(lidc: Path, nodules: Sequence[Nodule], args: argparse.Namespace) -> None:
    """Raw data, plans and preprocessed cases below OUT/work, unless they are there."""
    raw, preprocessed = paths.nnUNet_raw / DATASET, paths.nnUNet_preprocessed / DATASET
    if not (raw / "dataset.json").is_file():
        for name in ("imagesTr", "labelsTr"):
            (raw / name).mkdir(parents=True, exist_ok=True)
        for case in (nodule.name for nodule in nodules):
            shutil.copyfile(lidc / "image" / f"{case}.nii.gz", raw / "imagesTr" / f"{case}_0000.nii.gz")
            shutil.copyfile(lidc / "nodule_mask" / f"{case}.nii.gz", raw / "labelsTr" / f"{case}.nii.gz")
        (raw / "malignancy.csv").write_text("case,malignancy\n" + "".join(f"{nodule.name},{nodule.label}\n" for nodule in nodules))
        save_json({"channel_names": {"0": "CT"}, "labels": {"background": 0, "nodule": 1}, "numTraining": len(nodules), "file_ending": ".nii.gz",
                   "classification": {"name": "malignancy", "classes": classes_of("malignancy"), "labels": "malignancy.csv", "lesion_labels": [1]}},
                  raw / "dataset.json")
    save_json(folds_by_patient(nodules, args.folds, args.seed), preprocessed / "splits_final.json")
    if not (preprocessed / f"{SMALL}.json").is_file():
        run_command(["nnUNetv2_plan_and_preprocess", "-d", "811", "-pl", "nnUNetPlannerResEncM", "--no_pp", "-gpu_memory_target", "0.18"], None, 1)
        write_small_plans(preprocessed)
    run_command(["nnUNetv2_preprocess", "-d", "811", "-plans_name", SMALL, "-c", "3d_fullres"], None, 1)


def model_folder(trainer: str) -> Path:
    return paths.nnUNet_results / DATASET / f"{trainer}__{SMALL}__3d_fullres"


def train(fold: int, args: argparse.Namespace) -> None:
    if not (model_folder(args.trainer) / f"fold_{fold}" / "checkpoint_final.pth").is_file():
        run_command(["nnUNetv2_train", "811", "3d_fullres", str(fold), "-p", SMALL, "-tr", args.trainer, "-device", args.device, "--epochs", str(args.epochs), "--iterations",
                     str(args.iterations), "--val_iterations", "2", "--no_val", "--no_refit", "--c"], None, 1)


def describe(fold: int, cases: Sequence[str], args: argparse.Namespace) -> tuple[TrainedModel, list[dict]]:
    """Of every case, training and held out: the head's features, the evidence in the network's masks and in the true ones, radiomics and DSC."""
    file = args.out / "work" / f"described_{args.trainer}_{fold}.jsonl"
    model = find_model(model_folder(args.trainer), (fold,))
    done = {}
    if file.is_file():
        done = {row["case"]: row for row in map(json.loads, file.read_text().splitlines())}
    device = torch.device(args.device)
    geometry = network_geometry(model.configuration_manager, None)
    network = fastest(model.build_network(model.checkpoints[0]).to(device), model, device)
    measurement, views = model.measurement(), mirror_views(model.mirror_axes, CLASS_VIEWS)
    folder = paths.nnUNet_preprocessed / DATASET / model.configuration_manager.data_identifier
    scale = measurement.intensities[0]
    with open(file, "a") as out:
        for case in cases:
            if case in done:
                continue
            data, reference, properties = load_case(folder, case)
            data, true = data[:], np.maximum(reference[0], 0)
            logits, features = describe_case(network, torch.from_numpy(data), geometry.patch_size, geometry.divisor, [1], device, views,
                                             batch_size=model.configuration_manager.batch_size)
            labels = logits.argmax(0).numpy()
            radiomics = lesion_features(data[0] * scale.scale + scale.offset, labels == 1, tuple(geometry.spacing)) if labels.any() else None
            row = {"case": case, "features": features.tolist(), "evidence": measurement(data, labels, properties, tuple(BLOCKS)),
                   "true": measurement(data, true, properties, tuple(BLOCKS)), "radiomics": None if radiomics is None else [float(v) for v in radiomics],
                   "dsc": float(2 * ((labels == 1) & (true == 1)).sum() / max((labels == 1).sum() + (true == 1).sum(), 1)),
                   "log_volume": float(np.log(max((true == 1).sum(), 1)))}
            out.write(json.dumps(row) + "\n")
            out.flush()
            done[case] = row
    return model, [done[case] for case in cases]


def predict_task(model: TrainedModel, described: dict[str, dict], unseen: dict[str, dict], split: dict[str, list[str]], label_of: dict[str, int],
                 n_classes: int) -> tuple[dict, dict]:
    """{row: (n, K) probabilities of the held-out cases}, and the report of the evidence's fit.

    described: every case by the fold's network. unseen: every case by the network that did not train on it; without some of them the row
    that needs them is NaN.
    """
    train = [case for case in split["train"] if described[case]["evidence"] is not None]
    held_out = split["val"]
    labels = np.array([label_of[case] for case in train])
    shares = np.bincount(labels, minlength=n_classes) / len(labels)
    head = deepcopy(model.build_network(model.checkpoints[0]).class_head)
    if n_classes != head.classifier.out_features:
        head.classifier = torch.nn.Linear(head.classifier.in_features, n_classes)
    features = {case: torch.tensor(described[case]["features"]) for case in (*train, *held_out)}
    stacked = torch.stack([features[case] for case in train])
    refit_head(head, stacked, labels)
    with torch.no_grad():
        represented = head.represent(stacked.flatten(0, 1)).unflatten(0, stacked.shape[:2]).double().numpy()
        network = np.stack([softmax(head.classify(features[case]).mean(0).double().numpy()) for case in held_out])
    evidence, report = fit_evidence([described[case]["evidence"] for case in train], labels, n_classes, represented)
    even = np.full(n_classes, 1 / n_classes)
    blocks, _ = fit_evidence([described[case]["evidence"] for case in train], labels, n_classes)
    honest = None
    if all(case in unseen for case in train):
        with_lesion = [case for case in train if unseen[case]["evidence"] is not None]
        honest, _ = fit_evidence([unseen[case]["evidence"] for case in with_lesion], np.array([label_of[case] for case in with_lesion]), n_classes)
    bound, _ = fit_evidence([described[case]["true"] for case in train], labels, n_classes)
    with_radiomics = np.array([described[case]["radiomics"] is not None for case in train])
    radiomics = make_model(int(np.bincount(labels[with_radiomics]).min())).fit(
        np.array([described[case]["radiomics"] for case, has in zip(train, with_radiomics) if has]), labels[with_radiomics])
    volume = fit_lda(np.array([[described[case]["log_volume"]] for case in train]), labels, n_classes)
    rows = {
        "evidence": np.stack([evidence.probabilities(described[case]["evidence"], p) for case, p in zip(held_out, network)]),
        "network": network,
        "radiomics": np.stack([shares if described[case]["radiomics"] is None else radiomics.predict_proba([described[case]["radiomics"]])[0]
                               for case in held_out]),
        "volume": softmax(volume(np.array([[described[case]["log_volume"]] for case in held_out])), axis=1),
        "true_masks": np.stack([bound.probabilities(described[case]["true"], even) for case in held_out]),
        "blocks": np.stack([blocks.probabilities(described[case]["evidence"], even) for case in held_out]),
        "honest_blocks": np.full((len(held_out), n_classes), np.nan) if honest is None else np.stack(
            [honest.probabilities(described[case]["evidence"], even) for case in held_out]),
    }
    return rows, report


def by_patient(patients: np.ndarray, seed: int) -> np.ndarray:
    """(RESAMPLES, n) weights of the cases: patients drawn with replacement."""
    names, index = np.unique(patients, return_inverse=True)
    return resample_counts(len(names), RESAMPLES, seed)[:, index]


def weighted_f1(true: np.ndarray, guess: np.ndarray, weights: np.ndarray, n_classes: int) -> np.ndarray:
    """(resamples,) macro-F1 of resampled cases."""
    scores = []
    for k in range(n_classes):
        hits = weights @ ((true == k) & (guess == k))
        scores.append(2 * hits / np.maximum(weights @ (true == k) + weights @ (guess == k), 1))
    return np.mean(scores, axis=0)


def score(task: str, probabilities: dict[str, np.ndarray], true: np.ndarray, weights: np.ndarray, seed: int) -> dict:
    n_classes = len(classes_of(task))
    guesses = {row: p.argmax(1) for row, p in probabilities.items() if np.isfinite(p).all()}
    resampled = {row: weighted_f1(true, guess, weights, n_classes) for row, guess in guesses.items()}
    table = {}
    for row, guess in guesses.items():
        found, p, chance = permutation_test(true, guess, n_classes, seed)
        gain = resampled["evidence"] - resampled[row]
        table[row] = {"macro_f1": found, "ci": interval(resampled[row]), "p": p, "chance_95": chance,
                      "evidence_minus_this": macro_f1(true, guesses["evidence"], n_classes) - found, "difference_ci": interval(gain)}
    return {"classes": classes_of(task), "n_of_class": np.bincount(true, minlength=n_classes).tolist(), "rows": table}


def markdown(result: dict) -> str:
    lines = ["# REAL CT: nodules of LIDC-IDRI", "", f"{result['n']} nodules of {result['patients']} patients, each held out by one of {len(result['held_out_folds'])} of "
             f"{result['folds']} folds by patient; {SOURCE}. "
             "Classes are the readers' ratings, malignancy included, not pathology. "
             f"Nodule DSC {result['dsc']['mean']:.3f} ({result['dsc']['ci'][0]:.3f} to {result['dsc']['ci'][1]:.3f}), on the network's grid.", "",
             "Intervals: 95 %, patients drawn with replacement. p: labels shuffled. The last column is evidence minus the row.", "",
             "| task (classes) | row | macro-F1 | p | evidence minus this |", "|---|---|---|---|---|"]
    for task, found in result["tasks"].items():
        for row, value in found["rows"].items():
            name = f"{task} ({', '.join(f'{n} {c}' for n, c in zip(found['n_of_class'], found['classes']))})" if row == "evidence" else ""
            difference = "" if row == "evidence" else f"{value['evidence_minus_this']:+.3f} ({value['difference_ci'][0]:+.3f} to {value['difference_ci'][1]:+.3f})"
            lines.append(f"| {name} | {ROWS[row]} | {value['macro_f1']:.3f} ({value['ci'][0]:.3f} to {value['ci'][1]:.3f}) | {value['p']:.4f} | {difference} |")
    lines += ["", "What the class rests on, weights of the blocks, mean over folds:", "", "| task | " + " | ".join(result["blocks"]) + " |",
              "|" + "---|" * (1 + len(result["blocks"]))]
    lines += [f"| {task} | " + " | ".join(f"{found['weights'].get(block, 0):.2f}" for block in result["blocks"]) + " |" for task, found in result["tasks"].items()]
    machine = result["environment"]
    return "\n".join([*lines, "", f"{machine.get('CPU', '')}; `{result['command']}`.", ""])


def draw(result: dict, file: Path) -> None:
    """Macro-F1 of every row by task."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks, rows = list(result["tasks"]), list(next(iter(result["tasks"].values()))["rows"])
    figure, axes = plt.subplots(figsize=(9, 4))
    for i, row in enumerate(rows):
        values = [result["tasks"][task]["rows"][row] for task in tasks]
        middle = np.array([value["macro_f1"] for value in values])
        reach = np.array([[m - v["ci"][0], v["ci"][1] - m] for m, v in zip(middle, values)]).T
        axes.errorbar(np.arange(len(tasks)) + (i - (len(rows) - 1) / 2) * 0.11, middle, yerr=np.maximum(reach, 0), fmt="o", capsize=2, label=ROWS[row])
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("macro-F1, out of fold")
    axes.set_title(f"REAL CT: {result['n']} LIDC-IDRI nodules, 95 % intervals by patient")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=130)


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    if not (args.lidc / "nodules.csv").is_file():
        print(f"{args.lidc} holds no nodules.csv, so the REAL nodules are left out. Give their folder with --lidc.")
        return 0
    start = time.time()
    (args.out / "work").mkdir(parents=True, exist_ok=True)
    enter(args.out.absolute() / "work")
    nodules = read_nodules(args.lidc, TASKS["malignancy"])
    patient_of = {nodule.name: nodule.patient for nodule in nodules}
    prepare(args.lidc, nodules, args)
    splits = folds_by_patient(nodules, args.folds, args.seed)
    cases = sorted(patient_of)
    folds = []
    chosen = args.only_folds or list(range(args.folds))
    for fold in chosen:
        train(fold, args)
        model, rows = describe(fold, cases, args)
        folds.append((model, {row["case"]: row for row in rows}, splits[fold]))
    order = [case for fold in chosen for case in splits[fold]["val"]]
    unseen = {case: described[case] for _, described, split in folds for case in split["val"]}
    weights = by_patient(np.array([patient_of[case] for case in order]), args.seed)
    tasks = {}
    for task in TASKS:
        n_classes = len(classes_of(task))
        label_of = {nodule.name: classes_of(task).index(nodule.label) for nodule in read_nodules(args.lidc, TASKS[task])}
        parts = [predict_task(model, described, unseen, split, label_of, n_classes) for model, described, split in folds]
        probabilities = {row: np.concatenate([part[row] for part, _ in parts]) for row in ROWS}
        found = score(task, probabilities, np.array([label_of[case] for case in order]), weights, args.seed)
        found["weights"] = {block: float(np.mean([report["blocks"][block]["weight"] for _, report in parts])) for block in parts[0][1]["blocks"]}
        found["alone_within_training"] = {block: float(np.mean([report["blocks"][block]["macro_f1_alone"] for _, report in parts]))
                                          for block in parts[0][1]["blocks"]}
        tasks[task] = found
        print(task, {row: round(value["macro_f1"], 3) for row, value in found["rows"].items()}, flush=True)
    dsc = np.concatenate([[described[case]["dsc"] for case in split["val"]] for _, described, split in folds])
    drawn = weights @ dsc / weights.sum(1)
    result = {"synthetic": False, "source": SOURCE, "command": f"bash experiments/run_lidc.sh --folds {args.folds} --epochs {args.epochs} --iterations {args.iterations} --trainer {args.trainer}"
              + (f" --only_folds {' '.join(map(str, args.only_folds))}" if args.only_folds else ""),
              "commit": code_commit(), "environment": environment(args.device), "n": len(order), "patients": len({patient_of[case] for case in order}),
              "folds": args.folds, "held_out_folds": chosen, "seed": args.seed, "dsc": {"mean": float(dsc.mean()), "ci": interval(drawn)},
              "no_lesion_found": int(sum(described[case]["evidence"] is None for _, described, split in folds for case in split["val"])),
              "blocks": list(tasks["malignancy"]["weights"]), "tasks": tasks, "seconds_of_this_call": round(time.time() - start)}
    save_json(result, args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(markdown(load_json(args.out.with_suffix(".json"), AnyObject)))
    draw(result, args.out.with_suffix(".png"))
    print(markdown(result))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lidc", type=Path, default=DEFAULT_SOURCE, help="folder with image/, nodule_mask/ and nodules.csv")
    parser.add_argument("--out", type=Path, default=Path("results/lidc"))
    parser.add_argument("--folds", type=whole_number(2), default=2)
    parser.add_argument("--only_folds", type=whole_number(0), nargs="+", help="train these alone, and score what they hold out")
    parser.add_argument("--epochs", type=whole_number(1), default=12)
    parser.add_argument("--iterations", type=whole_number(1), default=40)
    parser.add_argument("--trainer", default="nnUNetTrainerShort", help="default nnUNetTrainerShort")
    parser.add_argument("--seed", type=whole_number(0), default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
