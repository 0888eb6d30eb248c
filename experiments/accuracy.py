"""What each inference mode costs the main job's model, on new SYNTHETIC cases; run_accuracy.sh calls it.

    python -m experiments.accuracy --n 36     # options: experiments/options.py
"""

import sys
from pathlib import Path

from experiments.fold_jobs import run_command
from experiments.options import parse
from experiments.pipeline import enter
from experiments.preparation import CONFIGURATION, PLANS, TRAINER
from nnunetv2.utilities.commands import script
from nnunetv2.utilities.errors import InputError

DATASET = "Dataset777_PancreasCT"
ROWS = ("upstream", "exact", "fast", "half", "half, whole", "fast, TTA 2", "fast, TTA 8", "exact, whole", "exact, ROI", "exact, TTA 1", "exact, torch",
        "upstream, no TTA")


def trained_model(run: Path) -> Path:
    """The model folder of a finished run; InputError where there is none."""
    model = run.absolute() / "work" / "nnUNet_results" / DATASET / f"{TRAINER}__{PLANS}__{CONFIGURATION}"
    if not (model / "fold_0" / "class_head_refit.json").is_file():
        raise InputError(f"{model} holds no finished model; run experiments/run_fold0.sh first, or name a run with --run.")
    return model


def newer(file: Path, than: Path) -> bool:
    return file.is_file() and file.stat().st_mtime > than.stat().st_mtime


@script
def main(arguments: list[str] | None = None) -> None:
    args = parse("accuracy", arguments)
    model = trained_model(args.run)
    enter(args.run.absolute() / "work")
    cases = args.out / "work"
    run_command(["python", "experiments/draw_cases.py", cases, "--preset", "varied", "--seed", str(args.seed), "--n", str(args.n)])
    fold = model / "fold_0"
    if not newer(fold / "quantization.json", fold / "checkpoint_final.pth"):
        run_command(["nnUNetv2_quantize", "-d", "777", "-c", CONFIGURATION, "-f", "0", "-tr", TRAINER, "-p", PLANS])
    run_command(["bash", "experiments/run_speed.sh", "--model", model, "--images", cases / "images", "--labels", cases / "labels", "--truth", cases / "subtypes.csv",
          "--synthetic", "--cases", str(args.n), "--reference_cases", str(args.n), "--rounds", "1", "--reference_rounds", "1", "--lever_rounds", "1",
          "--out", args.out, "--rows", *ROWS, *args.rest])


if __name__ == "__main__":
    main(sys.argv[1:])
