"""How long does each training take to segment as well as nnU-Net does at the end of its schedule? run_time_to_quality.sh calls it.

    python -m experiments.time_to_quality --sets hippocampus nodules --seeds 0 1 --epochs 12 --iterations 40
    python -m experiments.time_to_quality --sets hippocampus --recipes upstream short_quarter --out results/time_to_quality

Data: REAL hippocampus (Decathlon Task 04) and REAL lung nodules (LIDC-IDRI) from ../shared, and SYNTHETIC pancreas CTs. All recipes train
on the same preprocessed cases by the same plans, one after the other. After each epoch the weights are kept; one program then segments the
same held-out cases with all of them, so that a curve shows Dice over wall time and over steps. These cases are reported nowhere else.
What is done is kept below OUT/work, so a rerun goes on where it stopped.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.fold_jobs import run_command
from experiments.options import SEEDS
from experiments.pipeline import nnunet_folders
from experiments.record_run import code_commit, environment
from experiments.small_plans import SMALL, write_small_plans
from experiments.speed_masks import dice as dice_of
from experiments.time_to_quality_report import write_report
from nnunetv2.training.nnUNetTrainer.cpu_training import PRECISION
from nnunetv2.utilities.checkpoint import load_checkpoint
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import DatasetJson, Splits
from nnunetv2.utilities.files import load_json, save_json

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT_OUT = REPOSITORY / "results" / "time_to_quality"
SHARED = REPOSITORY.parent / "shared"
KEPT_TRAINERS = str(REPOSITORY / "experiments" / "kept_trainers")


@dataclass(frozen=True)
class Data:
    """Cases in the quiz's layout. source: what must be there; script and options: what lays them out."""

    title: str
    source: Path | None
    script: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """steps: its share of --iterations in each epoch. precision: of a training on the CPU, what nnUNet_cpu_training is set to."""

    title: str
    trainer: str
    steps: float = 1.0
    upstream: bool = False
    precision: str = "auto"


SETS = {
    "hippocampus": Data("REAL MR, hippocampus", SHARED / "hippocampus", "msd_to_quiz.py", ("--n", "120")),
    "nodules": Data("REAL CT, lung nodules", SHARED / "lidc", "lidc_to_quiz.py", ("--n", "240")),
    "phantom": Data("SYNTHETIC CT, pancreas and lesion", None, "make_phantom.py", ("--preset", "demo")),
}
RECIPES = {
    "upstream": Recipe("nnU-Net 2.8.1", "nnUNetTrainer", upstream=True),
    "default": Recipe("nnUNetTrainer", "KeptDefault"),
    "short": Recipe("nnUNetTrainerShort", "KeptShort"),
    "short_fp32": Recipe("nnUNetTrainerShort in fp32", "KeptShort", precision="fp32"),
    "short_bf16": Recipe("nnUNetTrainerShort in bf16", "KeptShort", precision="bf16"),
    "short_half": Recipe("nnUNetTrainerShort, half the steps", "KeptShort", 1 / 2),
    "short_quarter": Recipe("nnUNetTrainerShort, a quarter of the steps", "KeptShort", 1 / 4),
    "short_3e-3": Recipe("nnUNetTrainerShort, rate .003", "KeptShort3en3"),
    "short_1e-2": Recipe("nnUNetTrainerShort, rate .01", "KeptShort1en2"),
    "muon": Recipe("nnUNetTrainerMuon", "KeptMuon"),
    "muon_half": Recipe("nnUNetTrainerMuon, half the steps", "KeptMuon", 1 / 2),
    "muon_quarter": Recipe("nnUNetTrainerMuon, a quarter of the steps", "KeptMuon", 1 / 4),
    "muon_1e-3": Recipe("nnUNetTrainerMuon, rate .001", "KeptMuon1en3"),
    "muon_3e-3": Recipe("nnUNetTrainerMuon, rate .003", "KeptMuon3en3"),
    "muon_1e-2": Recipe("nnUNetTrainerMuon, rate .01", "KeptMuon1en2"),
    "muon_3e-2": Recipe("nnUNetTrainerMuon, rate .03", "KeptMuon3en2"),
}


def seed_of(data: Data, draw: int) -> int:
    """What cases are drawn and split by. Made-up cases: none that another study has."""
    return draw if data.source is not None else SEEDS["time_to_quality"] + 1000 * draw


def prepare(name: str, work: Path, draw: int) -> str:
    """Cases laid out, converted without a class task, planned and preprocessed, unless they are; returns the dataset's name."""
    data, done = SETS[name], work / "prepared.json"
    if done.is_file():
        return json.loads(done.read_text())
    work.mkdir(parents=True, exist_ok=True)
    variables = {variable: str(folder) for variable, folder in nnunet_folders(work).items()}
    quiz, log = work / "quiz", work / "prepare.log"
    out = [str(quiz)] if data.source is None else ["--out", str(quiz), "--source", str(data.source)]
    run_command([sys.executable, str(REPOSITORY / "data_prep" / data.script), *out, *data.options, "--seed", str(seed_of(data, draw))], log, 1)
    run_command([sys.executable, str(REPOSITORY / "data_prep" / "convert_quiz.py"), "--data", str(quiz), "--out", str(work / "nnUNet_raw")], log, 1)
    raw = next((work / "nnUNet_raw").glob("Dataset777_*"))
    save_json({key: value for key, value in load_json(raw / "dataset.json", DatasetJson).items() if key != "classification"}, raw / "dataset.json")
    run_command(["nnUNetv2_plan_and_preprocess", "-d", "777", "-pl", "nnUNetPlannerResEncM", "--no_pp", "-gpu_memory_target", "0.18"], log, 1, variables)
    write_small_plans(work / "nnUNet_preprocessed" / raw.name)
    run_command(["nnUNetv2_preprocess", "-d", "777", "-plans_name", SMALL, "-c", "3d_fullres"], log, 1, variables)
    done.write_text(json.dumps(raw.name))
    return raw.name


def train(recipe: Recipe, work: Path, dataset: str, seed: int, args: argparse.Namespace) -> tuple[Path, float]:
    """Model folder, and seconds of the whole process. Each training has a results folder of its own, so that seeds do not meet."""
    iterations = max(1, round(args.iterations * recipe.steps))
    results = work / f"{'upstream' if recipe.upstream else 'ours'}_{recipe.trainer}_{args.epochs}x{iterations}_seed{seed}"
    results = results if recipe.precision == "auto" else results.with_name(f"{results.name}_{recipe.precision}")
    model, done = results / dataset / f"{recipe.trainer}__{SMALL}__3d_fullres", results / "seconds.json"
    if not done.is_file():
        flags = ["777", "3d_fullres", "0", "-p", SMALL, "-device", args.device, "--epochs", str(args.epochs), "--iterations", str(iterations),
                 "--val_iterations", "1", "--seed", str(seed)]
        if recipe.upstream:
            command = [args.upstream, "-I", REPOSITORY / "experiments" / "upstream_train.py", *flags, "--keep_epochs"]
        else:
            command = [sys.executable, "-m", "nnunetv2.run.run_training", *flags, "-tr", recipe.trainer, "--no_val"]
        variables = {variable: str(folder) for variable, folder in nnunet_folders(work).items()} | {
            "nnUNet_results": str(results), "nnUNet_extTrainer": KEPT_TRAINERS, "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f",
            PRECISION: recipe.precision}
        start = time.monotonic()
        run_command(command, results / "train.log", 1, variables)
        done.write_text(json.dumps(time.monotonic() - start))
    return model, json.loads(done.read_text())


def curve(model: Path, work: Path, dataset: str, args: argparse.Namespace) -> list[dict]:
    """Per epoch: seconds since the first began, and the Dice of every held-out case by label, on the network's grid."""
    import torch

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.case_store import load_case

    file = model.parents[1] / "curve.json"
    if file.is_file():
        return json.loads(file.read_text())
    os.environ["nnUNet_extTrainer"] = KEPT_TRAINERS
    preprocessed = work / "nnUNet_preprocessed" / dataset
    labels = sorted(value for value in load_json(preprocessed / "dataset.json", DatasetJson)["labels"].values() if value)
    cases = sorted(load_json(preprocessed / "splits_final.json", Splits)[0]["val"])[:args.cases]
    points = []
    for epoch in range(1, args.epochs + 1):
        name = f"checkpoint_epoch_{epoch:03d}.pth"
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(args.device), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,), checkpoint_name=name)
        log = load_checkpoint(model / "fold_0" / name)["logging"]
        dice = []
        for case in cases:
            data, seg, _ = load_case(preprocessed / predictor.configuration_manager.data_identifier, case)
            found = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data[:])).argmax(0).numpy()
            true = np.asarray(seg[0])
            dice.append([dice_of(found == label, true == label) for label in labels])
        spent = sum(end - begin for begin, end in zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"]))
        points.append({"epoch": epoch, "seconds": spent, "dice": dice, "cases": cases, "labels": labels})
    file.write_text(json.dumps(points))
    return points


def study(args: argparse.Namespace) -> dict:
    sets = {}
    for name in args.sets:
        data, work = SETS[name], args.out / "work" / (f"{name}_draw_{args.draw}" if args.draw else name)
        if data.source is not None and not data.source.is_dir():
            print(f"{data.source} is not there, so {data.title} is left out.")
            continue
        dataset = prepare(name, work, args.draw)
        runs = []
        for seed in args.seeds:  # recipes in turn within a seed: what else the machine does meets all of them
            for recipe in args.recipes:
                model, seconds = train(RECIPES[recipe], work, dataset, seed, args)
                points = curve(model, work, dataset, args)
                mean = np.nanmean(np.array(points[-1]["dice"], float))
                print(f"{name}, seed {seed}, {recipe}: {seconds:.0f} s, Dice {mean:.3f}", flush=True)
                runs.append({"recipe": recipe, "seed": seed, "iterations": max(1, round(args.iterations * RECIPES[recipe].steps)), "process_seconds": seconds,
                             "points": points})
        sets[name] = {"title": data.title, "runs": runs}
    if not sets:
        raise InputError("None of the sets is there. Put the data into ../shared, or take --sets phantom.")
    return sets


@script
def main(arguments: list[str] | None = None) -> None:
    args = _parse(arguments)
    if any(RECIPES[name].upstream for name in args.recipes) and not args.upstream.is_file():
        raise InputError(f"{args.upstream} is missing: run `bash experiments/run_conformance.sh --environment`, or leave upstream out of --recipes.")
    (args.out / "work").mkdir(parents=True, exist_ok=True)
    sets = study(args)
    command = f"bash experiments/run_time_to_quality.sh --sets {' '.join(sets)} --recipes {' '.join(args.recipes)} --seeds {' '.join(map(str, args.seeds))}"
    draw = f" --draw {args.draw}" if args.draw else ""
    out = "" if args.out == DEFAULT_OUT else f" --out {os.path.relpath(args.out, REPOSITORY)}"
    write_report({"synthetic": set(sets) == {"phantom"}, "command": f"{command} --epochs {args.epochs} --iterations {args.iterations}{draw}{out}", "commit": code_commit(), "note": args.note,
                  "environment": environment(args.device), "threads": os.environ.get("OMP_NUM_THREADS", ""), "epochs": args.epochs,
                  "n": max(len(run["points"][0]["cases"]) for each in sets.values() for run in each["runs"]),
                  "recipes": {name: RECIPES[name].title for name in args.recipes}, "sets": sets}, args.out)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["upstream", "default", "short", "muon", "muon_half", "muon_quarter"], help="the first is what the others are measured by")
    parser.add_argument("--seeds", nargs="+", type=whole_number(0), default=[0, 1])
    parser.add_argument("--epochs", type=whole_number(1), default=12)
    parser.add_argument("--iterations", type=whole_number(1), default=40, help="steps an epoch of recipes at full length (default 40)")
    parser.add_argument("--cases", type=whole_number(2), default=24, help="held-out cases at most (default 24)")
    parser.add_argument("--draw", type=whole_number(0), default=0, help="which cases are taken and held out; choose recipes on other draws than you report; two draws may have some cases in common (default 0)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--note", default="", help="what else must be known of the run, such as a busy machine; stands in the report")
    parser.add_argument("--upstream", type=Path, default=Path(os.environ.get("NNUNET_UPSTREAM_PYTHON", REPOSITORY / ".venv-upstream/bin/python")),
                        help="Python of the environment with nnU-Net 2.8.1 (default .venv-upstream)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args(arguments)
    args.out = args.out.resolve()
    return args


if __name__ == "__main__":
    main()
