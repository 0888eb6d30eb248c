"""Folds 1-5 inside the training cases: out-of-fold figures, radiomics beside them, an ensemble for the test set; run_cv.sh calls it.

    python -m experiments.cross_validation --data data --name MYTEAM     # options: experiments/options.py
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from experiments.fold_jobs import classes_of, refuse_absent_classes, run_command
from experiments.options import PRESETS, parse, run_name
from experiments.pipeline import Pipeline, Stage
from experiments.preparation import CONFIGURATION, PLANS, Prepared, prepare
from nnunetv2.utilities.commands import script
from nnunetv2.utilities.errors import CommandFailed
from nnunetv2.utilities.file_shapes import Splits
from nnunetv2.utilities.files import load_json

FOLDS = (1, 2, 3, 4, 5)


def train_fold(pipeline: Pipeline, at: Prepared, fold: int, length: list[str], variables: dict[str, str] | None = None) -> None:
    """Training and whole-case validation of a fold, with a record of its own, because folds may run side by side."""
    names = ("splits_final.json", "dataset_fingerprint.json", "dataset.json", f"{PLANS}.json", f"nnUNetPlans_{CONFIGURATION}.recipe.json",
             *([at.table] if at.table else []))
    common = ["nnUNetv2_train", "777", CONFIGURATION, str(fold), "-tr", at.trainer, "-p", PLANS, "-device", at.device]
    for stage in (Stage("train", [*common, *length, "--c", "--no_val"], [at.model / f"fold_{fold}"], [at.preprocessed / name for name in names]),
                  Stage("validate", [*common, "--val"], [at.model / f"fold_{fold}" / "validation"])):
        pipeline.run(stage, at.work / f"fold_{fold}", variables)


def train_on_gpus(at: Prepared, args: argparse.Namespace) -> None:
    """Each card takes the next fold that waits; output goes to OUT/logs. CommandFailed when a fold failed, after all have ended."""
    logs = at.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    print(f"[cv] training on GPUs {' '.join(args.gpus)}; follow with: tail -f {logs}/fold_*.log", flush=True)
    cards = list(args.gpus)

    def fails(fold: int) -> bool:
        card = cards.pop()
        command = [sys.executable, "-m", "experiments.cross_validation", "--fold", str(fold), *_again(args, at)]
        try:
            run_command(command, logs / f"fold_{fold}.log", len(args.gpus), {"CUDA_VISIBLE_DEVICES": card})
            return False
        except CommandFailed:
            return True
        finally:
            cards.append(card)

    with ThreadPoolExecutor(len(cards)) as pool:
        failed = [str(fold) for fold, failed in zip(FOLDS, pool.map(fails, FOLDS)) if failed]
    if failed:
        raise CommandFailed(f"fold {', '.join(failed)} failed, see {logs}; rerun to go on")


def _again(args: argparse.Namespace, at: Prepared) -> list[str]:
    """This run's options, for the process of one fold."""
    given = {"--data": args.data, "--out": at.out, "--epochs": args.epochs, "--iterations": args.iterations, "--val_iterations": args.val_iterations,
             "--hours": args.hours, "--device": args.device, "--seed": args.seed, "--trainer": args.trainer}
    return [text for flag, value in given.items() if value is not None for text in (flag, str(value))]


def score(at: Prepared, masks: Path, reference: Path, tables: Path, out: Path) -> None:
    run_command(["python", "evaluation/compute_metrics.py", "--pred", masks, "--ref", reference, *at.described, *at.classes(tables), "--out", out, *at.synthetic_flag])


def beside_radiomics(at: Prepared, masks: Path, reference: Path, test: Path | None, ensemble: Path) -> None:
    """The baseline, and whether the mean of both is worth using: out-of-fold evidence alone decides, and you."""
    radiomics, both = at.out / "radiomics", at.out / "with_radiomics"
    fresh: list[str | Path] = [] if test is None else ["--predict_images", test, "--predict_masks", ensemble]
    run_command(["python", "evaluation/radiomics_baseline.py", "--images", at.raw / "imagesTr", "--masks", masks, "--truth", at.raw / at.table, *at.described,
          "--splits", at.raw / "splits_final.json", "--folds", *map(str, FOLDS), *fresh, "--out", radiomics])
    score(at, masks, reference, radiomics, radiomics)
    average = ["python", "-m", "experiments.out_of_fold", "average"]
    run_command([*average, masks, radiomics, "--out", both, "--task", at.task])
    if test is not None:
        run_command([*average, ensemble, radiomics / "test", "--out", both / "test", "--task", at.task])
    score(at, masks, reference, both, both)
    run_command(["python", "evaluation/compare_runs.py", at.out, both, "--out", both / "comparison.json"])


@script
def main(arguments: list[str] | None = None) -> None:
    args = parse("cross_validation", arguments)
    pipeline, at = prepare(args, alone=args.fold is None)  # folds may be trained by several runs at once
    at = replace(at, trainer=PRESETS["cross_validation"].trainer(args, at.synthetic))
    if at.task:
        splits = load_json(at.raw / "splits_final.json", Splits)
        refuse_absent_classes({fold: splits[fold]["train"] for fold in FOLDS}, classes_of(at.raw, {case for fold in FOLDS for part in splits[fold].values() for case in part}))
    length = [*PRESETS["cross_validation"].flags(args, at.synthetic), "--seed", str(args.seed)]
    if args.fold is not None:
        train_fold(pipeline, at, args.fold, length)
        print(f"[cv] fold {args.fold} done; run without --fold for what needs all of {', '.join(map(str, FOLDS))}")
        return
    if args.gpus:
        train_on_gpus(at, args)
    else:
        for fold in FOLDS:
            train_fold(pipeline, at, fold, length)

    masks, reference, ensemble = at.out / "predictions" / "out_of_fold", at.work / "out_of_fold_reference", at.out / "predictions" / "test"
    run_command(["python", "-m", "experiments.out_of_fold", "gather", "--model", at.model, "--folds", *map(str, FOLDS), "--splits", at.raw / "splits_final.json",
          "--labels", at.raw / "labelsTr", "--out", masks, "--reference", reference, "--task", at.task or "subtype"])
    score(at, masks, reference, masks, at.out)
    test = at.test_images
    if test is not None:
        checkpoints = [at.model / f"fold_{fold}" / "checkpoint_final.pth" for fold in FOLDS]
        pipeline.run(Stage("predict_test", ["nnUNetv2_predict", "-i", test, "-o", ensemble, "-d", "777", "-c", CONFIGURATION, "-f", *map(str, FOLDS), "-tr", at.trainer,
                                            "-p", PLANS, "-device", at.device, "--mode", "fast" if args.fast else "exact", "--continue_prediction"],
                           [ensemble], [at.model / "plans.json", at.model / "dataset.json", *checkpoints]), at.work / "ensemble")
    if test is None:
        print(f"[cv] done: {at.out / 'metrics.json'} (out of fold); the data have no test images")
    else:
        name = run_name(args, at.synthetic)
        run_command(["python", "data_prep/make_submission.py", *at.described, "--pred", ensemble, "--test", test, "--name", name, "--out", at.out])
        print(f"[cv] done: {at.out / 'metrics.json'} (out of fold), {at.out / f'{name}_results.zip'} (ensemble of folds {', '.join(map(str, FOLDS))})")
    if at.task:  # last, and no reason to call the run failed: a class may have too few cases for the baseline
        try:
            beside_radiomics(at, masks, reference, test, ensemble)
        except CommandFailed:
            print("[cv] there is no comparison with radiomics, for the reason above; all else is done")


if __name__ == "__main__":
    main(sys.argv[1:])
