"""Settle choices of the training by out-of-fold figures, each against the training as it is; run_training_choices.sh prepares the data.

    python -m experiments.training_choices --out results/training_choices --folds 3 --epochs 12 --iterations 25 --device cpu --synthetic

A choice is a trainer, or another checkpoint of the same one. Per choice and fold: train, predict the held-out cases, refit the
class head, predict them again. Both predictions are compared case by case with those of the first choice. Besides, mirrored views
and folds are averaged in two ways (experiments/class_averaging.py). What is done is kept below OUT/work, so a rerun goes on
where it stopped; other lengths than before are refused.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation import compute_metrics
from evaluation.compare_runs import compare
from evaluation.result_shapes import Metrics
from experiments.class_averaging import averaging_markdown, logits_against_probabilities, p_text, table_logits, view_logits
from experiments.draw_cases import draw_cases
from experiments.fold_jobs import classes_of, held_out_images, in_parallel, run_command, write_inner_folds
from experiments.options import PRESETS, SEEDS, parse
from experiments.out_of_fold import PROBABILITIES, gather, read_table
from experiments.preparation import CONFIGURATION, PLANS, prepare
from experiments.record_run import code_commit, environment
from nnunetv2 import paths
from nnunetv2.training.nnUNetTrainer.training_state import HEAD_BEFORE_REFIT
from nnunetv2.utilities.checkpoint import load_checkpoint
from nnunetv2.utilities.commands import script
from nnunetv2.utilities.file_shapes import AnyObject, DatasetJson
from nnunetv2.utilities.files import load_json, save_json

HEADS = ("trained", "refitted")
RESAMPLES = 2000
NEW_CASES_SEED = SEEDS["training_choices_new_cases"]


@dataclass(frozen=True)
class Choice:
    name: str
    title: str
    trainer: str
    checkpoint: str = "checkpoint_final.pth"


# The first is the training as it is (nnUNetTrainerEMA trains alike and keeps an average besides); the others change one thing.
CHOICES = (
    Choice("default", "as it is: class weights, full augmentation, last weights", "nnUNetTrainerEMA"),
    Choice("sampling", "balanced sampling in place of class weights", "nnUNetTrainerBalancedSampling"),
    Choice("texture_keeping", "without blur, low resolution and gamma", "nnUNetTrainerTextureKeeping"),
    Choice("averaged", "averaged weights in place of the last", "nnUNetTrainerEMA", "checkpoint_ema.pth"),
)
FIGURES = (("subtype", "macro_f1"), ("subtype", "auroc"), ("subtype", "brier"), ("whole_pancreas", "dsc"), ("lesion", "dsc"))


class Study:
    """Paths and settings; `args` as parsed below."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.work, self.folds = args, args.out / "work", args.only_folds or range(1, args.folds + 1)
        self.raw, self.preprocessed = paths.nnUNet_raw / args.dataset, paths.nnUNet_preprocessed / args.dataset
        self.splits = write_inner_folds(self.raw, self.preprocessed, args.folds)
        self._refuse_other_settings()

    def _refuse_other_settings(self) -> None:
        settings = {key: getattr(self.args, key) for key in ("folds", "epochs", "iterations", "seed", "views", "plans")}
        file = self.work / "training_choices_settings.json"
        if file.is_file() and load_json(file, AnyObject) != settings:
            raise ValueError(f"{self.work} holds a study with other settings, {load_json(file, AnyObject)}; now {settings}. "
                             "Give another --out, or delete that folder.")
        save_json(settings, file)

    def model(self, choice: Choice) -> Path:
        return paths.nnUNet_results / self.args.dataset / f"{choice.trainer}__{self.args.plans}__{self.args.configuration}"

    def predictions(self, choice: Choice, head: str) -> Path:
        return self.work / "choices" / choice.name / head

    def log(self, trainer: str, fold: int) -> Path | None:
        return self.work / "logs" / f"{trainer}_{fold}.txt" if self.args.jobs > 1 else None

    def run_all(self) -> None:
        """All trainings, then all predictions and refits, `--jobs` at a time."""
        trainers = dict.fromkeys(choice.trainer for choice in CHOICES)
        in_parallel(self.args.jobs, self.train, [(trainer, fold) for fold in self.folds for trainer in trainers])
        in_parallel(self.args.jobs, self.predict_and_refit, [(choice, fold) for fold in self.folds for choice in CHOICES])

    def train(self, trainer: str, fold: int) -> None:
        """Returns soon when the fold was trained before; a killed training goes on with its checkpoint."""
        print(f"[train] {trainer}, fold {fold}", flush=True)
        lengths = ["--epochs", str(self.args.epochs), "--iterations", str(self.args.iterations), "--val_iterations", "1", "--seed", str(self.args.seed)]
        run_command(["nnUNetv2_train", self.args.dataset, self.args.configuration, str(fold), "-tr", trainer, "-p", self.args.plans,
                     "-device", self.args.device, *lengths, "--no_val", "--no_refit", "--c"], self.log(trainer, fold), self.args.jobs)

    def predict_and_refit(self, choice: Choice, fold: int) -> None:
        """Order matters: the refit replaces the head in the checkpoint."""
        log = self.log(choice.trainer, fold)
        common = ["-d", self.args.dataset, "-c", self.args.configuration, "-p", self.args.plans, "-tr", choice.trainer, "-f", str(fold),
                  "-chk", choice.checkpoint, "-device", self.args.device]
        for head in HEADS:
            folder = self.predictions(choice, head) / f"fold_{fold}"
            if self._complete(folder, fold):
                continue
            print(f"[predict] {choice.name}, fold {fold}, head {head}", flush=True)
            checkpoint = self.model(choice) / f"fold_{fold}" / choice.checkpoint
            if head == "trained" and HEAD_BEFORE_REFIT in load_checkpoint(checkpoint):
                raise ValueError(f"{folder} is not complete, but the head in {checkpoint} is refitted already: what was trained can no longer "
                                 "be predicted. Delete that fold's folder to train it again.")
            if head == "refitted":
                run_command(["nnUNetv2_refit_class_head", *common, "-views", str(self.args.views)], log, self.args.jobs)
            images = held_out_images(self.raw, self.splits[fold]["val"], self.work / "held_out" / f"fold_{fold}")
            run_command(["nnUNetv2_predict", "-i", str(images), "-o", str(folder), *common, "--tta", str(self.args.views), "--continue_prediction"], log, self.args.jobs)

    def _complete(self, folder: Path, fold: int) -> bool:
        table = folder / PROBABILITIES
        return table.is_file() and read_table(table)[1].keys() == {f"{case}.nii.gz" for case in self.splits[fold]["val"]}

    def score(self, choice: Choice, head: str) -> dict:
        """metrics.json of all folds' held-out cases together."""
        folder = self.predictions(choice, head)
        pooled, reference = folder / "out_of_fold", self.work / "reference"
        gather({fold: folder / f"fold_{fold}" for fold in self.folds}, self.splits, self.raw / "labelsTr", pooled, reference)
        arguments = ["--pred", str(pooled), "--ref", str(reference), "--out", str(folder), "--subtypes", str(pooled / "subtype_results.csv"),
                     "--truth", str(self.raw / "subtypes.csv"), "--seed", str(self.args.seed)]
        compute_metrics.main(arguments + ["--synthetic"] * self.args.synthetic)
        return load_json(folder / "metrics.json", Metrics)

    def averaging(self) -> list[dict]:
        """How views and folds of the first choice, refitted, are better averaged: on held-out cases, and on new synthetic ones."""
        choice, device = CHOICES[0], torch.device(self.args.device)
        cases = [case for fold in self.folds for case in self.splits[fold]["val"]]
        class_of, names = classes_of(self.raw, cases), load_json(self.raw / "dataset.json", DatasetJson, partial=True)["classification"]["classes"]
        logits = [view_logits(self.model(choice), fold, choice.checkpoint, self.splits[fold]["val"], device) for fold in self.folds]
        found = [self._averages(f"{len(logits[0])} mirrored views, held-out cases", np.concatenate(logits, axis=1),
                                [names.index(class_of[case]) for case in cases])]
        if self.args.synthetic and self.args.new_cases and len(self.folds) > 1:
            images, new = draw_cases(self.work / "new_cases", self.args.new_cases, NEW_CASES_SEED)
            tables = [self._predict_new_cases(fold, images, len(new)) for fold in self.folds]
            found.append(self._averages(f"{len(tables)} folds, new cases (seed {NEW_CASES_SEED})", table_logits(tables, sorted(new)),
                                        [new[case] for case in sorted(new)]))
        return found

    def _averages(self, what: str, logits: np.ndarray, true: list[int]) -> dict:
        return {"what": what, "figures": logits_against_probabilities(logits, np.array(true), RESAMPLES, self.args.seed)}

    def _predict_new_cases(self, fold: int, images: Path, n: int) -> Path:
        """Folder of the first choice's predictions by one fold's refitted model."""
        folder = self.work / "new_cases" / f"fold_{fold}"
        if not (folder / PROBABILITIES).is_file() or len(read_table(folder / PROBABILITIES)[1]) < n:
            run_command(["nnUNetv2_predict_from_modelfolder", "-i", str(images), "-o", str(folder), "-m", str(self.model(CHOICES[0])), "-f", str(fold),
                         "-device", self.args.device, "--tta", str(self.args.views), "--continue_prediction"], None, 1)
        return folder


def rows_of(scores: dict[tuple[str, str], dict], seed: int) -> list[dict]:
    """One row a choice and head: its figures, and the difference to the first choice with 95 % interval and permutation test."""
    rows = []
    for choice in CHOICES:
        for head in HEADS:
            compared = compare(scores[CHOICES[0].name, head], scores[choice.name, head], RESAMPLES, seed)
            rows.append({"choice": choice.name, "title": choice.title, "head": head, "n": compared["n_cases"],
                         **{f"{block}_{name}": compared[block][name] for block, name in FIGURES}})
    return rows


def _folds_text(settings: dict) -> str:
    only = settings["only_folds"]
    return f"{len(only)} of {settings['folds']} folds" if only else f"{settings['folds']} folds"


def markdown(result: dict) -> str:
    settings = result["settings"]
    lines = ["# Choices of the training", ""]
    if result["synthetic"]:
        lines += ["**SYNTHETIC DATA: these figures say nothing about patients.**", ""]
    lines += [f"`{result['command']}`; {', '.join(f'{key} {value}' for key, value in result['environment'].items())}.", "",
              f"Out-of-fold predictions of {result['rows'][0]['n']} training cases, {_folds_text(settings)}, {settings['epochs']} epochs of "
              f"{settings['iterations']} iterations, seed {settings['seed']}, {settings['views']} mirrored views. Brackets: difference to the "
              "first choice, 95 % bootstrap interval over cases and p of a paired permutation test; nothing is corrected for the number of comparisons.", "",
              "| choice | head | macro-F1 | AUROC | Brier | whole DSC | lesion DSC |", "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        cells = [row["title"], row["head"]]
        for block, name in FIGURES:
            figure = row[f"{block}_{name}"]
            cell = f"{figure['b']:.3f}"
            if row["choice"] != CHOICES[0].name:
                cell += f" [{figure['ci_low']:+.3f}, {figure['ci_high']:+.3f}; {p_text(figure['p'])}]"
            cells.append(cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *averaging_markdown(result["averaging"]), ""])


@script
def main(arguments: list[str] | None = None) -> None:
    args = settings_of(arguments)
    study = Study(args)
    study.run_all()
    scores = {(choice.name, head): study.score(choice, head) for choice in CHOICES for head in HEADS}
    averaging = study.averaging()
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    command = ["bash", "experiments/run_training_choices.sh", *(f"--{key} {settings[key]}" for key in ("folds", "epochs", "iterations", "views", "seed", "jobs", "new_cases"))]
    command += ["--only_folds", *map(str, args.only_folds)] if args.only_folds else []
    result = {"synthetic": args.synthetic, "command": " ".join(command), "commit": code_commit(), "environment": environment(args.device), "settings": settings,
              "rows": rows_of(scores, args.seed), "averaging": averaging}
    save_json(result, args.out.with_suffix(".json"))
    text = markdown(result)
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def settings_of(arguments: list[str] | None) -> argparse.Namespace:
    """Prepare the data; what the study needs to know of them and of its options."""
    args = parse("training_choices", arguments)
    _, at = prepare(args, ("--train", str(args.train)))
    preset = PRESETS["training_choices"]
    jobs = args.jobs or (preset.jobs if at.synthetic else 1)
    return argparse.Namespace(out=args.out.absolute(), dataset=at.raw.name, plans=PLANS, configuration=CONFIGURATION, folds=args.folds, only_folds=args.only_folds, views=args.views or (2 if at.synthetic else 8), device=at.device,
                              seed=args.seed, jobs=jobs, new_cases=args.new_cases, synthetic=at.synthetic, **vars(preset.length(args, at.synthetic)))


if __name__ == "__main__":
    main()
