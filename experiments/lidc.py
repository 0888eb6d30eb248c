"""What the class head sees in REAL CTs: nodules of LIDC-IDRI, out of fold by patient; see run_lidc.sh.

    python -m experiments.lidc --lidc ../shared/lidc --out results/lidc --folds 2 --iterations 40     # a quicker look

Malignancy is the readers' rating, not pathology. One training of the segmentation a fold serves five tasks: the class head is fitted to each
task's labels of the fold's training patients and predicts the others. Beside it stand the volume of the true mask, radiomics in the predicted
masks, the network's own head (what the class rested on before evidence blocks), the evidence in true masks, a bound, and what the readers'
other ratings of the nodule tell.
"""

import argparse
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.lidc_to_quiz import CITATION, TASKS, Nodule, read_nodules
from data_prep.lidc_to_quiz import SOURCE as DEFAULT_SOURCE
from evaluation.bootstrap import interval
from evaluation.radiomics_baseline import make_model
from evaluation.tables import with_interval
from experiments.class_study import ROWS, Described, Fold, by_group, describe, draw_rows, mean_weights, parse_study, score, train_command, weights_table
from experiments.fold_jobs import in_parallel, run_command
from experiments.pipeline import enter
from experiments.record_run import code_commit, environment, shown_command
from experiments.small_plans import write_small_plans
from nnunetv2 import paths
from nnunetv2.inference.model_loading import TrainedModel, find_model
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import write_rows
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import load_json, save_json

DATASET = "Dataset811_LIDC"
READERS = {"readers": "True volume and the readers' other ratings"}  # no image: what the ratings say of each other
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
        write_rows(raw / "malignancy.csv", [["case", "malignancy"], *([nodule.name, nodule.label] for nodule in nodules)])
        save_json({"channel_names": {"0": "CT"}, "labels": {"background": 0, "nodule": 1}, "numTraining": len(nodules), "file_ending": ".nii.gz",
                   "classification": {"name": "malignancy", "classes": classes_of("malignancy"), "labels": "malignancy.csv", "lesion_labels": [1]}},
                  raw / "dataset.json")
    save_json(folds_by_patient(nodules, args.folds, args.seed), preprocessed / "splits_final.json")
    if not (preprocessed / f"{args.plans}.json").is_file():
        run_command(["nnUNetv2_plan_and_preprocess", "-d", "811", "-pl", "nnUNetPlannerResEncM", "--no_pp", "-gpu_memory_target", "0.18"], None, 1)
        write_small_plans(preprocessed)
    run_command(["nnUNetv2_preprocess", "-d", "811", "-plans_name", args.plans, "-c", "3d_fullres"], None, 1)


def model_folder(args: argparse.Namespace) -> Path:
    return paths.nnUNet_results / DATASET / f"{args.trainer}__{args.plans}__3d_fullres"


def train(fold: int, args: argparse.Namespace) -> None:
    """Unless it is done; what it prints goes to a log where other folds train at the same time."""
    if not (model_folder(args) / f"fold_{fold}" / "checkpoint_final.pth").is_file():
        run_command(train_command(811, fold, args), None if args.jobs == 1 else args.out / "work" / f"train_fold_{fold}.log", args.jobs)


def describe_fold(fold: int, cases: Sequence[str], args: argparse.Namespace) -> tuple[TrainedModel, Described]:
    model = find_model(model_folder(args), (fold,))
    return model, describe(model, paths.nnUNet_preprocessed / DATASET / model.configuration_manager.data_identifier, cases,
                           args.out / "work" / "segmented", torch.device(args.device))


def markdown(result: dict) -> str:
    lines = ["# REAL CT: nodules of LIDC-IDRI", "", f"{result['n']} nodules of {result['patients']} patients, each held out by one of {len(result['held_out_folds'])} of "
             f"{result['folds']} folds by patient; {SOURCE}. "
             "Classes are the readers' ratings, malignancy included, not pathology. "
             f"Nodule DSC {result['dsc']['mean']:.3f} ({result['dsc']['ci'][0]:.3f} to {result['dsc']['ci'][1]:.3f}), on the network's grid; "
             f"{result['dsc']['of_training_cases']:.3f} for the cases that a network was trained on.", "",
             "Intervals: 95 %, patients drawn with replacement. p: labels shuffled. The last column is evidence minus the row.", "",
             "| task (classes) | row | macro-F1 | p | evidence minus this |", "|---|---|---|---|---|"]
    for task, found in result["tasks"].items():
        for row, value in found["rows"].items():
            name = f"{task} ({', '.join(f'{n} {c}' for n, c in zip(found['n_of_class'], found['classes']))})" if row == "evidence" else ""
            difference = "" if row == "evidence" else with_interval(value["evidence_minus_this"], value["difference_ci"], "+")
            lines.append(f"| {name} | {(ROWS | READERS)[row]} | {with_interval(value['macro_f1'], value['ci'])} | {value['p']:.4f} | {difference} |")
    lines += ["", "What the class rests on, weights of the blocks, mean over folds:", "",
              *weights_table({task: found["weights"] for task, found in result["tasks"].items()}, "task")]
    machine = result["environment"]
    return "\n".join([*lines, "", f"{machine.get('CPU', '')}; `{result['command']}`.", ""])


def by_readers(said: Sequence[Mapping[str, str]], fold: Fold, label_of: Mapping[str, int], cases: Sequence[str]) -> np.ndarray:
    """(n, K) probabilities of `cases` by `said`, {case: class} of each other task, and the volume of the true mask."""
    def rows(cases: Sequence[str]) -> np.ndarray:
        ratings = [[labels[case] == value for case in cases] for labels in said for value in sorted(set(labels.values()))]
        return np.column_stack([[fold.described[case]["log_volume"] for case in cases], *ratings])

    true = np.array([label_of[case] for case in fold.train])
    return make_model(int(np.bincount(true).min())).fit(rows(fold.train), true).predict_proba(rows(cases))


def score_task(task: str, source: Path, folds: dict[int, Fold], splits: Sequence[dict[str, list[str]]], weights: np.ndarray, seed: int) -> dict[str, Any]:
    """Every held-out nodule of `folds` in one task."""
    classes = classes_of(task)
    label_of = {nodule.name: classes.index(nodule.label) for nodule in read_nodules(source, TASKS[task])}
    said = [{nodule.name: nodule.label for nodule in read_nodules(source, other)} for name, other in TASKS.items() if name != task]
    parts = [fold.predict(label_of, len(classes), splits[number]["val"]) for number, fold in folds.items()]
    probabilities = {row: np.concatenate([part[row] for part, _ in parts]) for row in ROWS}
    probabilities["readers"] = np.concatenate([by_readers(said, fold, label_of, splits[number]["val"]) for number, fold in folds.items()])
    true = np.array([label_of[case] for number in folds for case in splits[number]["val"]])
    reports = [report for _, report in parts]
    return {"classes": classes, "n_of_class": np.bincount(true, minlength=len(classes)).tolist(), "rows": score(probabilities, true, weights, len(classes), seed),
            "weights": mean_weights(reports, "weight"), "alone_within_training": mean_weights(reports, "macro_f1_alone")}


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
    chosen = args.only_folds or list(range(args.folds))
    if args.jobs > 1:
        print(f"[lidc] training folds {' '.join(map(str, chosen))}; follow with: tail -f {args.out}/work/train_fold_*.log", flush=True)
    in_parallel(args.jobs, train, [(fold, args) for fold in chosen])
    described = {fold: describe_fold(fold, cases, args) for fold in chosen}
    unseen = {case: described[fold][1][case] for fold in chosen for case in splits[fold]["val"]}
    folds = {fold: Fold(*described[fold], unseen, splits[fold]["train"]) for fold in chosen}
    order = [case for fold in chosen for case in splits[fold]["val"]]
    weights = by_group([patient_of[case] for case in order], args.seed)
    tasks = {}
    for task in TASKS:
        tasks[task] = score_task(task, args.lidc, folds, splits, weights, args.seed)
        print(task, {row: round(value["macro_f1"], 3) for row, value in tasks[task]["rows"].items()}, flush=True)
    dsc = np.array([unseen[case]["dsc"] for case in order])
    drawn = weights @ dsc / weights.sum(1)
    trained_on = [described[fold][1][case]["dsc"] for fold in chosen for case in splits[fold]["train"]]
    result = {"synthetic": False, "source": SOURCE, "command": shown_command("run_lidc.sh", args.given),
              "commit": code_commit(), "environment": environment(args.device), "n": len(order), "patients": len({patient_of[case] for case in order}),
              "folds": args.folds, "held_out_folds": chosen, "seed": args.seed, "dsc": {"mean": float(dsc.mean()), "ci": interval(drawn), "of_training_cases": float(np.mean(trained_on))},
              "no_lesion_found": sum(unseen[case]["evidence"] is None for case in order),
              "tasks": tasks, "seconds_of_this_call": round(time.time() - start)}
    save_json(result, args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(markdown(load_json(args.out.with_suffix(".json"), AnyObject)))
    draw_rows({"nodules": tasks}, f"REAL CT: {result['n']} LIDC-IDRI nodules, out of fold, 95 % intervals by patient", args.out.with_suffix(".png"),
              ROWS | READERS)
    print(markdown(result))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--lidc", type=Path, default=DEFAULT_SOURCE, help="folder with image/, nodule_mask/ and nodules.csv")
    parser.add_argument("--out", type=Path, default=Path("results/lidc"))
    parser.add_argument("--only_folds", type=whole_number(0), nargs="+", help="train these alone, and score what they hold out")
    parser.add_argument("--jobs", type=whole_number(1), default=2, help="folds trained side by side, each with its share of the cores (default 2)")
    return parse_study(parser, arguments, network="small", folds=3, iterations=200, trainer="nnUNetTrainerMuon")


if __name__ == "__main__":
    main()
