"""Upstream nnU-Net and this repository side by side on REAL scans, from the Decathlon's files to scores; see run_real.sh.

    python -m experiments.real --upstream .venv-upstream/bin/python --folds 0 --budget 2

Both convert, take the fingerprint, plan, preprocess, train and predict, each in folders of its own and as whole processes; each predicts
with the other's model too. Both train with upstream's plans: `small` and `tiny` have fewer features and a smaller batch, for a CPU;
`planned` leaves them as they are. Stages that are done are kept in OUT/work.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep.msd_to_quiz import DECATHLON, SOURCE
from data_prep.split_view import link_or_copy
from evaluation.files import write_json, write_text
from experiments.fold_jobs import in_parallel
from experiments.real_compare import compare_masks, ranked, score_case, summarise
from experiments.real_preparation import (
    NETWORKS,
    compare_preparation,
    lay_out,
    prepare,
    preprocess,
    write_compared_plans,
)
from experiments.real_report import draw, markdown
from experiments.real_sides import CONFIGURATION, PLANNED, Budget, Side
from experiments.record_run import code_commit, environment, shown_command
from experiments.stage import content_key
from nnunetv2.configuration import available_cores
from nnunetv2.utilities.checkpoint import load_checkpoint
from nnunetv2.utilities.commands import Parser, real_number, script, whole_number
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import AnyObject, DatasetJson, Plans, Splits
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.own_folders import rewritten

EPOCHS, ITERATIONS, VAL_ITERATIONS = 20, 50, 4  # at --budget 1
STAGES = ("convert", "fingerprint", "plan", "preprocess")


def validation_images(side: Side, fold: int, cases: list[str], folder: Path) -> Path:
    """Links to the images that a fold holds out."""
    images = folder / f"images_fold_{fold}"
    sources = {f"{case}_0000.nii.gz": side.raw / "imagesTr" / f"{case}_0000.nii.gz" for case in cases}
    with rewritten({images: sources}, [side.raw]):
        for name, source in sources.items():
            link_or_copy(source, images / name)
    return images


def run_fold(
    fold: int, sides: tuple[Side, Side], budget: Budget, work: Path, at_once: int, most: int | None
) -> dict[str, Any]:
    """Trainings, then both programs with both models; the masks' agreement and the cases' scores.

    at_once: processes side by side, one of each program. most: cases to predict and score, the first in order; None: all that are held out.
    """

    def cores_of_others(place: int, side: Side) -> int:
        return place * side.threads if at_once > 1 else 0

    def train(place: int, side: Side) -> None:
        skip = cores_of_others(place, side)
        side.stage(f"train_{fold}", side.training(fold, budget), [side.model / f"fold_{fold}"], skip_cores=skip)

    def predict(place: int, side: Side, model: Side) -> None:
        name = f"predict_{fold}" if side is model else f"predict_{fold}_other"
        keys = [content_key([model.checkpoint(fold), images])]
        side.stage(
            name,
            side.prediction(images, fold, model),
            [side.predictions(fold, model)],
            keys,
            cores_of_others(place, side),
        )

    in_parallel(at_once, train, enumerate(sides))
    splits = [load_json(side.preprocessed / "splits_final.json", Splits) for side in sides]
    held_out = sorted(splits[0][fold]["val"])[:most]
    images = validation_images(sides[0], fold, held_out, work)
    for model in sides:
        in_parallel(at_once, predict, [(place, side, model) for place, side in enumerate(sides)])
    ours, upstream = sides
    labels = {
        name.lower(): int(value)
        for name, value in load_json(ours.raw / "dataset.json", DatasetJson)["labels"].items()
        if int(value)
    }
    rows = []
    for case in tqdm(held_out, desc=f"Scoring fold {fold}", unit="case", disable=None):
        found = {side.name: side.predictions(fold, side) / f"{case}.nii.gz" for side in sides}
        scores = score_case(ours.raw / "labelsTr" / f"{case}.nii.gz", found, labels)
        rows.append({"case": case, "fold": fold, "labels": scores})
    exchange = {
        model.name: compare_masks(ours.predictions(fold, model), upstream.predictions(fold, model), labels)
        for model in sides
    }
    return {"cases": rows, "exchange": exchange, "splits_equal": splits[0] == splits[1]}


def collect(
    args: argparse.Namespace,
    sides: tuple[Side, Side],
    plans: dict[str, Any],
    budget: Budget,
    folds: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything that the .json holds."""
    cases = [row for fold in folds for row in fold["cases"]]
    configuration = plans["configurations"][CONFIGURATION]
    names = [
        *STAGES,
        *(
            f"{stage}_{fold}{end}"
            for fold in args.folds
            for stage, end in (("train", ""), ("predict", ""), ("predict", "_other"))
        ),
    ]
    return {
        "synthetic": False,
        "source": f"Task 04 Hippocampus (T1 MR), {DECATHLON}; images: Vanderbilt University Medical Center",
        "licence": "CC BY-SA 4.0",
        "command": shown_command("run_real.sh", args.given),
        "commit": code_commit(),
        "environment": environment(args.device),
        "n": len(cases),
        "folds": args.folds,
        "device": args.device,
        "threads": args.threads,
        "quiet_machine": args.quiet_machine,
        "side_by_side": args.side_by_side,
        "network": args.network,
        "budget": vars(budget)
        | {
            "batch_size": configuration["batch_size"],
            "patch_size": configuration["patch_size"],
            "features_per_stage": configuration["architecture"]["arch_kwargs"]["features_per_stage"],
        },
        "preparation": compare_preparation(*sides) | {"splits_equal": all(fold["splits_equal"] for fold in folds)},
        "stages": {
            name: {side.name: kept(side.measured(name), args.quiet_machine) for side in sides} for name in names
        },
        "curves": {str(fold): {side.name: learning_curve(side.checkpoint(fold)) for side in sides} for fold in args.folds},
        "scores": summarise([row["labels"] for row in cases], budget.seed),
        "exchange": [fold["exchange"] for fold in folds],
        "drawn": {which: cases[index]["case"] for which, index in ranked(cases).items()},
        "cases": cases,
    }


def learning_curve(checkpoint: Path) -> list[float | None]:
    """Mean pseudo Dice of the labels after each epoch; None where it is undefined."""
    means = [float(value) for value in load_checkpoint(checkpoint)["logging"]["mean_fg_dice"]]
    return [round(mean, 4) if np.isfinite(mean) else None for mean in means]


def kept(measured: dict[str, Any] | None, quiet: bool) -> dict[str, Any] | None:
    """Memory in GiB always; seconds only of a quiet machine, and of a process that ran in one go."""
    if measured is None:
        return None
    seconds = measured["seconds"] if quiet and measured["starts"] == 1 else None
    return {
        "seconds": seconds,
        "gib": round(measured["peak_memory"] / 2**30, 2),
        "gpu_gib": round(measured["peak_gpu_memory"] / 2**30, 2),
    }


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if arguments is None else arguments)
    if not (args.source / "dataset.json").is_file():
        print(
            f"{args.source} holds no dataset.json, so the REAL scans are left out. Give the folder of the Decathlon's Task 04 with --source."
        )
        return 0
    if not args.upstream.is_file():
        raise InputError(
            f"{args.upstream} does not exist. Build upstream's environment (bash experiments/run_conformance.sh --environment), or name its "
            "python with --upstream."
        )
    work = (args.out / "work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    sides = (
        Side("ours", Path(sys.executable), work / "ours", args.threads, args.device, args.workers),
        Side("upstream", args.upstream.absolute(), work / "upstream", args.threads, args.device, args.workers),
    )
    with folder_lock(work, "real", "a comparison runs"):
        task = lay_out(args.source, work, args.cases)
        source_key = content_key([task])
        for side in sides:
            prepare(side, task, source_key)
        plans = write_compared_plans(load_json(sides[1].preprocessed / f"{PLANNED}.json", Plans), args.network, sides)
        for side in sides:
            preprocess(side)
        budget = Budget(max(1, round(EPOCHS * args.budget)), ITERATIONS, VAL_ITERATIONS, args.seed)
        folds = [
            run_fold(fold, sides, budget, work, 2 if args.side_by_side else 1, args.held_out) for fold in args.folds
        ]
        result = collect(args, sides, plans, budget, folds)
        file = args.out.with_name(f"{args.out.name}.json")
        write_json(result, file)
        text = markdown(load_json(file, AnyObject), f"{args.out.name}.png")  # as a later reader of the file would write it
        write_text(text, file.with_suffix(".md"))
        draw(result, sides, args.out)
    print(text)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--upstream",
        type=Path,
        default=Path(os.environ.get("NNUNET_UPSTREAM_PYTHON", ".venv-upstream/bin/python")),
        help="python of the environment that holds upstream (default: $NNUNET_UPSTREAM_PYTHON or .venv-upstream)",
    )
    parser.add_argument(
        "--source", type=Path, default=SOURCE, help="the Decathlon's folder (default ../shared/hippocampus)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/real"),
        help="path of the .json, .md and .png without ending; work goes below it",
    )
    parser.add_argument(
        "--folds", type=whole_number(0, 4), nargs="+", default=[0], help="of upstream's five (default 0)"
    )
    parser.add_argument(
        "--budget",
        type=real_number(0, above=True),
        default=2.0,
        help=f"times {EPOCHS} epochs of {ITERATIONS} iterations (default 2)",
    )
    parser.add_argument(
        "--network",
        choices=(*NETWORKS, "planned"),
        default="small",
        help="upstream's plans with half the features and batch 4, a quarter and batch 2 (tiny), or as planned",
    )
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0)
    parser.add_argument("--cases", type=whole_number(10), help="the first so many alone, to try it")
    parser.add_argument(
        "--held_out", type=whole_number(6), help="score the first so many held-out cases of a fold (default: all)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--threads", type=whole_number(1), help="cores of each process (default: all; half of them with --side_by_side)"
    )
    parser.add_argument(
        "--workers", type=whole_number(0), help="processes that prepare batches (default: none on a CPU, 8 on a GPU)"
    )
    parser.add_argument(
        "--quiet_machine", action="store_true", help="nothing else runs: seconds count, and go into the table"
    )
    parser.add_argument(
        "--side_by_side",
        action="store_true",
        help="both programs at the same time, for a machine that is busy anyway; gives no times",
    )
    args = parser.parse_args(arguments)
    if args.quiet_machine and args.side_by_side:
        parser.error("--side_by_side gives no times; leave --quiet_machine out")
    most = max(available_cores() // (2 if args.side_by_side else 1), 1)
    args.threads = args.threads or most
    if args.side_by_side and args.threads > most:
        parser.error(f"--threads is {args.threads}; two programs on {available_cores()} cores have at most {most} each")
    args.given, args.folds = arguments, sorted(set(args.folds))
    if args.workers is None:
        args.workers = 0 if args.device == "cpu" else 8
    return args


if __name__ == "__main__":
    main()
