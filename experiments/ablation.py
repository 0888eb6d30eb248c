"""Train and score the variants of the classifier over the same folds; see run_ablation.sh, which prepares the data.

    python -m experiments.ablation --out results/ablation --folds 3 --epochs 12 --iterations 20 --device cpu

A variant is an edit of the plans' `class_head`, a trainer, and whether the head is refitted. Each variant and fold leaves
OUT/work/variants/VARIANT/fold_K/done.json, so a rerun goes on where it stopped; other settings start it over. The single blocks of
evidence (ablation_blocks.py) are fitted to what the chosen head's networks make of the cases.
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
from experiments.ablation_blocks import block_rows
from experiments.ablation_table import ablation_row, conclusions, markdown, minus
from experiments.draw_cases import draw_cases
from experiments.file_shapes import Done, Identity
from experiments.fold_jobs import classes_of, held_out_images, in_parallel, run_command, write_inner_folds
from experiments.new_cases import SEED, on_new_cases
from experiments.options import PRESETS, TRAINER, parse
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
    training: str = ""  # what the trainer's name has behind that of the recipe
    refit_of: str | None = None  # take this variant's model and refit its head
    shown: bool = True  # False: it is trained for its refit alone


VARIANTS = (
    Variant("segmentation", "Segmentation only", None),
    Variant("naive", "Bottleneck, global pooling, joint training", NAIVE_HEAD, "NaiveClassHead"),
    Variant("naive_refit", "Bottleneck head + refit", NAIVE_HEAD, "NaiveClassHead", refit_of="naive"),
    Variant("chosen", "Chosen head as it was trained", {}),
    Variant("chosen_refit", "Chosen head + refit with evidence", {}, refit_of="chosen"),
    Variant("no_loss", "", {}, "NoClassLoss", shown=False),
    Variant("no_loss_refit", "Segmentation only + refit with evidence (no class loss)", {}, "NoClassLoss", refit_of="no_loss"),
    Variant("gradient", "", {}, "ClassGradient", shown=False),
    Variant("gradient_refit", "Class gradient into the encoder + refit with evidence", {}, "ClassGradient", refit_of="gradient"),
    Variant("gradient_no_teacher", "", {}, "ClassGradientNoTeacher", shown=False),
    Variant("gradient_no_teacher_refit", "The same without a teacher", {}, "ClassGradientNoTeacher", refit_of="gradient_no_teacher"),
)
BEST = "chosen_refit"  # what the other rows are compared with
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
        return paths.nnUNet_results / self.args.dataset / f"{self.trainer(variant)}__{self.plans_of(variant)}__{self.args.configuration}"

    def trainer(self, variant: Variant) -> str:
        return f"{self.args.recipe}{variant.training}"

    def folder(self, variant: str) -> Path:
        return self.work / "variants" / variant

    def run_fold(self, variant: Variant, fold: int) -> None:
        """Train (or refit) one fold and keep its validation predictions, unless that has been done with these settings."""
        kept, model = self.folder(variant.name) / f"fold_{fold}", self.model(variant) / f"fold_{fold}"
        plans = load_json(self.preprocessed / f"{self.plans_of(variant)}.json", Plans, partial=True)
        lengths = [f"--{key}={getattr(self.args, key)}" for key in ("epochs", "iterations", "val_iterations", "seed")]
        settings = json.dumps([plans, self.trainer(variant), variant.refit_of, self.splits[fold], lengths, self.args.views], sort_keys=True)
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
        common = ["-tr", self.trainer(variant), "-p", self.plans_of(variant), "-device", self.args.device]
        of_model = ["-d", self.args.dataset, "-c", self.args.configuration, "-f", str(fold), *common]
        start = time.time()
        if variant.refit_of is None:
            self._command(["nnUNetv2_train", self.args.dataset, self.args.configuration, str(fold), *common, *lengths, "--c", "--no_val", "--no_refit"], log)
            seconds = _training_seconds(model)
        else:
            self._command(["nnUNetv2_refit_class_head", *of_model, "-views", str(self.args.views)], log)
            seconds = load_json(self.folder(variant.refit_of) / f"fold_{fold}" / "done.json", Done)["seconds"] + time.time() - start
        if variant.shown:
            images = held_out_images(self.raw, self.splits[fold]["val"], self.work / "held_out" / f"fold_{fold}")
            self._command(["nnUNetv2_predict", "-i", str(images), "-o", str(kept), *of_model, "--tta", str(self.args.views), "--continue_prediction"], log)
        for file in model.glob("class_*.json"):
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
        alarms = None if variant.head is None or variant.refit_of else sum((part / "class_alarm.json").is_file() for part in parts.values())
        return ablation_row(variant.name, variant.title, metrics, len(self.folds), minutes, alarms)

    def blocks(self, variant: Variant) -> dict:
        """What each block of evidence is worth with the networks of a variant that has a head."""
        class_of = classes_of(self.raw, self.splits[0]["train"])
        names = sorted(set(class_of.values()))
        splits = {fold: {part: [case for case in self.splits[fold][part] if case in class_of] for part in ("train", "val")} for fold in self.folds}
        return block_rows(self.model(variant), splits, self._preprocessed_cases(), {case: names.index(name) for case, name in class_of.items()},
                          len(names), self.work / "segmented", self.args.device, self.args.seed)

    def _preprocessed_cases(self) -> Path:
        plans = load_json(self.preprocessed / f"{self.args.plans}.json", Plans, partial=True)
        return self.preprocessed / plans["configurations"][self.args.configuration]["data_identifier"]

    def on_new_cases(self, variant: Variant) -> dict:
        """Of a refitted variant's networks together, on synthetic cases of another seed."""
        images, classes = draw_cases(self.work / "new_cases", self.args.new_cases, SEED)
        return on_new_cases(self.model(variant), self.folds, self.folder(variant.name) / "new_cases", images, classes, lambda command: self._command(command, None), self.args.device)

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
        return ablation_row(baseline.name, baseline.title, self.score(baseline.name, out, masks), len(self.folds), minutes, None)

    def compare(self, rows: list[dict]) -> None:
        """Add to each row `minus_best`, its figures minus those of BEST on the same cases."""
        if BEST in (row["variant"] for row in rows):
            differences = minus({row["variant"]: load_json(self.folder(row["variant"]) / "metrics.json", Metrics) for row in rows}, BEST, self.args.seed)
            for row in rows:
                row["minus_best"] = differences.get(row["variant"], {})


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
    steps: list[Callable[[], dict]] = [lambda variant=variant: ablation.finish(variant) for variant in chosen if variant.shown]
    steps += [lambda baseline=baseline: ablation.baseline(baseline) for baseline in baselines]
    rows = [step() for step in steps]
    ablation.compare(rows)
    best = next((variant for variant in chosen if variant.name == BEST), None)
    blocks = ablation.blocks(best) if best else None
    new_cases = ablation.on_new_cases(best) if best and args.synthetic and args.new_cases else None
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "variants")}
    command = ["bash", "experiments/run_ablation.sh", *(f"--{key} {settings[key]}" for key in ("folds", "epochs", "iterations", "seed", "jobs", "new_cases")),
               *(["--variants", *args.variants] if len(args.variants) < len(VARIANTS) + len(BASELINES) else [])]
    result = {"synthetic": args.synthetic, "command": " ".join(command), "commit": code_commit(), "environment": environment(args.device), "settings": settings,
              "rows": rows, "blocks": blocks, "new_cases": new_cases, "conclusions": conclusions(rows, BEST)}
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
                              recipe=preset.short_recipe if at.synthetic else TRAINER, seed=args.seed, jobs=jobs, views=args.views or (2 if at.synthetic else 8), new_cases=args.new_cases, synthetic=at.synthetic,
                              **vars(preset.length(args, at.synthetic)))


if __name__ == "__main__":
    main()
