"""Train and score the variants of the classifier over the same folds; see run_ablation.sh, which prepares the data.

    python -m experiments.ablation --out results/ablation --folds 3 --epochs 12 --iterations 50 --val_iterations 4 --device cpu --synthetic

A variant is an edit of the plans' `class_head`, a trainer, and whether the head is refitted. Each variant and fold leaves
OUT/work/variants/VARIANT/fold_K/done.json, so a rerun goes on where it stopped; other settings start it over.
"""

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import compute_metrics, radiomics_baseline
from evaluation.result_shapes import Metrics
from experiments.ablation_table import ablation_row, conclusions, markdown
from experiments.draw_cases import draw_cases
from experiments.file_shapes import Done, Identity, Refit
from experiments.fold_jobs import in_parallel, run_command, write_inner_folds
from experiments.new_cases import SEED, calibration_on_new_cases
from experiments.options import PRESETS, parse
from experiments.out_of_fold import gather
from experiments.preparation import CONFIGURATION, PLANS, prepare
from experiments.record_run import code_commit, environment
from nnunetv2 import paths
from nnunetv2.utilities.checkpoint import load_checkpoint
from nnunetv2.utilities.commands import script
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import Plans
from nnunetv2.utilities.files import load_json, save_json

NAIVE_HEAD = {"regions": {"patch": None}, "stages": [-1], "statistics": ["mean"], "descriptors": False, "texture_of_channels": 0, "focus": False, "evidence": []}


@dataclass(frozen=True)
class Variant:
    name: str
    title: str
    head: dict[str, Any] | None  # replaces these keys of the planned class_head; None: no head at all
    trainer: str = "nnUNetTrainer"
    refit_of: str | None = None  # take this variant's model and refit its head


VARIANTS = (
    Variant("segmentation", "Segmentation only", None),
    Variant("naive", "Bottleneck, global pooling, joint SGD", NAIVE_HEAD, "nnUNetTrainerNaiveClassHead"),
    Variant("chosen", "Chosen head", {}),
    Variant("chosen_refit", "Chosen head + refit", {}, refit_of="chosen"),
)
RADIOMICS_MASKS = "chosen"  # the baseline reads the masks that this variant predicted out of fold


@dataclass(frozen=True)
class Baseline:
    """Hand-made features and a linear model. true_masks: a bound, for no program has them when it predicts."""

    name: str
    title: str
    true_masks: bool
    features: tuple[str, ...] = ()  # () = all


BASELINES = (
    Baseline("radiomics", "Radiomics in the masks of the chosen head", False),
    Baseline("radiomics_true_masks", "Radiomics in true masks", True),
    Baseline("volume_and_mean", "Volume and mean HU in true masks", True, ("volume_ml", "mean")),
)


class Ablation:
    """All paths and settings of one ablation. `args` as parsed below."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.work = args, args.out / "work"
        self.raw, self.preprocessed = paths.nnUNet_raw / args.dataset, paths.nnUNet_preprocessed / args.dataset
        self.folds = range(1, args.folds + 1)
        self.splits = write_inner_folds(self.raw, self.preprocessed, args.folds)

    def plans_of(self, variant: Variant) -> str:
        """Write the variant's plans beside the planned ones; they share the preprocessed cases. Returns their name."""
        plans = load_json(self.preprocessed / f"{self.args.plans}.json", Plans, partial=True)
        name = f"{self.args.plans}_{variant.refit_of or variant.name}"
        architecture = plans["configurations"][self.args.configuration]["architecture"]
        if variant.head is None:
            del architecture["class_head"]
        else:
            architecture["class_head"] |= variant.head
        save_json(plans | {"plans_name": name}, self.preprocessed / f"{name}.json")
        return name

    def model(self, variant: Variant) -> Path:
        return paths.nnUNet_results / self.args.dataset / f"{variant.trainer}__{self.plans_of(variant)}__{self.args.configuration}"

    def folder(self, variant: str) -> Path:
        return self.work / "variants" / variant

    def run_fold(self, variant: Variant, fold: int) -> None:
        """Train (or refit) one fold and keep its validation predictions, unless that has been done with these settings."""
        kept, model = self.folder(variant.name) / f"fold_{fold}", self.model(variant) / f"fold_{fold}"
        plans = load_json(self.preprocessed / f"{self.plans_of(variant)}.json", Plans, partial=True)
        lengths = [f"--{key}={getattr(self.args, key)}" for key in ("epochs", "iterations", "val_iterations", "seed")]
        settings = json.dumps([plans, variant.trainer, variant.refit_of, self.splits[fold], lengths], sort_keys=True)
        identity = hashlib.sha256(settings.encode()).hexdigest()[:16]
        done, begun = kept / "done.json", kept / "begun.json"
        if done.is_file() and load_json(done, Done)["identity"] == identity:
            print(f"[{variant.name} fold {fold}] done before, skipped", flush=True)
            return
        if not (begun.is_file() and load_json(begun, Identity)["identity"] == identity):  # never begun, or with other settings
            shutil.rmtree(kept, ignore_errors=True)
            if variant.refit_of is None:
                shutil.rmtree(model, ignore_errors=True)
            save_json({"identity": identity}, begun)
        log = kept / "log.txt" if self.args.jobs > 1 else None
        print(f"[{variant.name} fold {fold}] begins" + (f", log: {log}" if log else ""), flush=True)
        common = ["-tr", variant.trainer, "-p", self.plans_of(variant), "-device", self.args.device]
        train = ["nnUNetv2_train", self.args.dataset, self.args.configuration, str(fold), *common]
        start = time.time()
        if variant.refit_of is None:
            self._command([*train, *lengths, "--c", "--no_refit"], log)
            seconds = _training_seconds(model)
        else:
            self._command(["nnUNetv2_refit_class_head", "-d", self.args.dataset, "-c", self.args.configuration, "-f", str(fold), *common], log)
            seconds = load_json(self.folder(variant.refit_of) / f"fold_{fold}" / "done.json", Done)["seconds"] + time.time() - start
            self._command([*train, "--val"], log)
        for file in [*(model / "validation").iterdir(), *model.glob("class_*.json")]:
            shutil.copy2(file, kept / file.name)
        save_json({"identity": identity, "seconds": seconds}, done)
        print(f"[{variant.name} fold {fold}] done in {(time.time() - start) / 60:.1f} min", flush=True)

    def _command(self, command: list[str], log: Path | None) -> None:
        run_command(command, log, self.args.jobs)

    def run_all(self, variants: list[Variant]) -> None:
        """Train all folds of all variants, `--jobs` at a time, then refit those that build on another's training."""
        for refits in (False, True):
            of_kind = [variant for variant in variants if (variant.refit_of is not None) == refits]
            in_parallel(self.args.jobs, self.run_fold, [(variant, fold) for variant in of_kind for fold in self.folds])

    def score(self, name: str, tables: Path | None, masks: Path) -> dict:
        """metrics.json of a variant: its out-of-fold `masks`, and the subtype tables in the folder `tables`."""
        out = self.folder(name)
        arguments = ["--pred", str(masks), "--ref", str(self.work / "reference"), "--out", str(out), "--seed", str(self.args.seed)]
        if tables is not None:
            arguments += ["--subtypes", str(tables / "subtype_results.csv"), "--truth", str(self.raw / "subtypes.csv")]
        compute_metrics.main(arguments + ["--synthetic"] * self.args.synthetic)
        return load_json(out / "metrics.json", Metrics)

    def finish(self, variant: Variant) -> dict:
        """Score a variant whose folds are all done; its row of the table."""
        parts = {fold: self.folder(variant.name) / f"fold_{fold}" for fold in self.folds}
        pooled = self.folder(variant.name) / "out_of_fold"
        gather(parts, self.splits, self.raw / "labelsTr", pooled, self.work / "reference")
        metrics = self.score(variant.name, None if variant.head is None else pooled, pooled)
        minutes = sum(load_json(part / "done.json", Done)["seconds"] for part in parts.values()) / 60 / len(parts)
        temperatures = _temperatures(parts) if variant.refit_of else None
        alarms = None if variant.head is None else sum((part / "class_alarm.json").is_file() for part in parts.values())
        return ablation_row(variant.name, variant.title, metrics, self.splits, self.folds, minutes, alarms, temperatures)

    def on_new_cases(self, variant: Variant) -> dict:
        """How well calibrated a refitted variant is on synthetic cases of another seed."""
        images, classes = draw_cases(self.work / "new_cases", self.args.new_cases, SEED)
        parts = {fold: self.folder(variant.name) / f"fold_{fold}" for fold in self.folds}
        return calibration_on_new_cases(self.model(variant), {fold: part / "new_cases" for fold, part in parts.items()}, images, classes,
                                        _temperatures(parts), lambda command: self._command(command, None), self.args.device)

    def baseline(self, baseline: Baseline) -> dict:
        """A baseline's row; folds as for the variants. Its DSC is that of the masks it reads."""
        masks = self.work / "reference" if baseline.true_masks else self.folder(RADIOMICS_MASKS) / "out_of_fold"
        out, start = self.folder(baseline.name), time.time()
        splits_file = self.preprocessed / "splits_final.json"
        features = ["--features", *baseline.features] if baseline.features else []
        if radiomics_baseline.main([
                "--images", str(self.raw / "imagesTr"), "--masks", str(masks), "--truth", str(self.raw / "subtypes.csv"),
                "--splits", str(splits_file), "--folds", *map(str, self.folds), "--out", str(out), "--seed", str(self.args.seed), *features]):
            sys.exit(f"error: the baseline {baseline.name} failed")
        minutes = (time.time() - start) / 60 / len(self.folds)
        return ablation_row(baseline.name, baseline.title, self.score(baseline.name, out, masks), self.splits, self.folds, minutes, None, None)


def _temperatures(parts: dict[int, Path]) -> dict[int, float]:
    """Of each fold's refitted head."""
    return {fold: load_json(part / "class_head_refit.json", Refit)["temperature"] for fold, part in parts.items()}


def _training_seconds(model: Path) -> float:
    """Time spent in epochs, over all the runs that it took."""
    log = load_checkpoint(model / "checkpoint_final.pth")["logging"]
    return float(sum(end - start for start, end in zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"])))


@script
def main(arguments: list[str] | None = None) -> None:
    args = parse("ablation", arguments)
    chosen, baselines = rows_of(args)
    args = prepared_settings(args)
    ablation = Ablation(args)
    ablation.run_all(chosen)
    steps: list[Callable[[], dict]] = [lambda variant=variant: ablation.finish(variant) for variant in chosen]
    steps += [lambda baseline=baseline: ablation.baseline(baseline) for baseline in baselines]
    rows = [step() for step in steps]
    refitted = next((variant for variant in chosen if variant.refit_of), None)
    new_cases = ablation.on_new_cases(refitted) if refitted and args.synthetic and args.new_cases else None
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "variants")}
    command = ["bash", "experiments/run_ablation.sh", *(f"--{key} {settings[key]}" for key in ("folds", "epochs", "iterations", "seed", "jobs", "new_cases"))]
    result = {"synthetic": args.synthetic, "command": " ".join(command), "commit": code_commit(), "environment": environment(args.device), "settings": settings,
              "rows": rows, "new_cases": new_cases, "conclusions": conclusions(rows, new_cases)}
    save_json(result, args.out.with_suffix(".json"))
    text = markdown(result)
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def rows_of(args: argparse.Namespace) -> tuple[list[Variant], list[Baseline]]:
    """The rows that --variants names, all by default; InputError for unknown ones and for those that rest on rows which are not named."""
    names = [row.name for row in (*VARIANTS, *BASELINES)]
    if unknown := set(args.variants or ()) - set(names):
        raise InputError(f"--variants {' '.join(sorted(unknown))}: choose among {', '.join(names)}.")
    args.variants = args.variants or names
    chosen = [variant for variant in VARIANTS if variant.name in args.variants]
    baselines = [baseline for baseline in BASELINES if baseline.name in args.variants]
    needed = {variant.refit_of for variant in chosen} | ({RADIOMICS_MASKS} if baselines else set())
    if missing := sorted(needed - {None} - {variant.name for variant in chosen}):
        raise InputError(f"--variants {' '.join(args.variants)} also needs {' '.join(missing)}.")
    return chosen, baselines


def prepared_settings(args: argparse.Namespace) -> argparse.Namespace:
    """Prepare the data; what the study needs to know of them and of its options."""
    _, at = prepare(args, ("--train", str(args.train)))
    preset = PRESETS["ablation"]
    jobs = args.jobs or (preset.jobs if at.synthetic else 1)
    return argparse.Namespace(out=args.out.absolute(), dataset=at.raw.name, plans=PLANS, configuration=CONFIGURATION, folds=args.folds, variants=args.variants, device=at.device,
                              seed=args.seed, jobs=jobs, new_cases=args.new_cases, synthetic=at.synthetic, **vars(preset.length(args, at.synthetic)))


if __name__ == "__main__":
    main()
