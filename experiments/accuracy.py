"""What each inference mode costs the main job's model, on new SYNTHETIC cases; run_accuracy.sh calls it.

    python -m experiments.accuracy --n 36     # options: experiments/options.py
"""

import sys
from pathlib import Path

from experiments.fold_jobs import run_command
from experiments.options import parse
from experiments.pipeline import enter, model_of
from experiments.preparation import CONFIGURATION, PLANS
from nnunetv2.utilities.commands import script

ROWS = ("upstream", "exact", "fast", "fast, whole", "half", "half, whole", "fast, TTA 1", "fast, TTA 2", "fast, TTA 8", "exact, whole", "exact, ROI", "exact, TTA 1", "exact, torch",
        "upstream, no TTA")


def trainer_of(model: Path) -> str:
    return model.name.partition("__")[0]


def newer(file: Path, than: Path) -> bool:
    return file.is_file() and file.stat().st_mtime > than.stat().st_mtime


@script
def main(arguments: list[str] | None = None) -> None:
    args = parse("accuracy", arguments)
    model = model_of(args.run.absolute())
    enter(args.run.absolute() / "work")
    cases = args.out / "work"
    run_command(["python", "-m", "experiments.draw_cases", cases, "--preset", "varied", "--seed", str(args.seed), "--n", str(args.n),
                 "--world", args.world])
    fold = model / "fold_0"
    if not newer(fold / "quantization.json", fold / "checkpoint_final.pth"):
        run_command(["nnUNetv2_quantize", "-d", "777", "-c", CONFIGURATION, "-f", "0", "-tr", trainer_of(model), "-p", PLANS])
    run_command(["bash", "experiments/run_speed.sh", "--model", model, "--images", cases / "images", "--labels", cases / "labels", "--truth", cases / "subtypes.csv",
          "--synthetic", "--cases", str(args.n), "--reference_cases", str(args.n), "--rounds", "1", "--reference_rounds", "1", "--lever_rounds", "1",
          "--data", f"CTs, painter {args.world}, seed {args.seed}", "--out", args.out, "--rows", *ROWS, *args.rest])


if __name__ == "__main__":
    main(sys.argv[1:])
