"""A trained model of the quiz's image size on SYNTHETIC CTs, on coarser grids first; train_quiz_size.sh calls it.

    python -m experiments.train_quiz_size     # options: experiments/options.py
"""

import sys
from dataclasses import replace
from math import ceil
from pathlib import Path

from experiments.fold_jobs import run_command
from experiments.options import SEEDS, parse
from experiments.pipeline import Pipeline, Stage
from experiments.preparation import CONFIGURATION, PLANS, Prepared, prepare
from nnunetv2.utilities.commands import script

MOST_EPOCHS = 10
FEW_ITERATIONS = 100  # below, epochs become fewer: each ends with a validation
ON_GPU, ON_CPU = (0, 0, 0, 1000), (60, 100, 40, 12)


def train_after(pipeline: Pipeline, at: Prepared, configuration: str, iterations: int, checkpoint: Path | None) -> Path | None:
    """Train `configuration` from the weights in `checkpoint`; returns the new ones, or `checkpoint` where there is nothing to do."""
    if iterations == 0:
        return checkpoint
    if configuration in ("3d_coarse", "3d_middle"):
        pipeline.run(Stage(f"preprocess_{configuration}", ["nnUNetv2_preprocess", "-d", "777", "-plans_name", PLANS, "-c", configuration],
                           [at.preprocessed / f"nnUNetPlans_{configuration}"]))
    epochs = min(iterations, 2 if configuration == CONFIGURATION and iterations < FEW_ITERATIONS else MOST_EPOCHS)
    fold = at.results / f"{at.trainer}__{PLANS}__{configuration}" / "fold_0"
    pipeline.run(Stage(f"train_{configuration}", ["python", "-m", "experiments.train_from", fold, checkpoint or "", "777", configuration, "0", "-tr", at.trainer, "-p", PLANS,
                                                  "-device", at.device, "--epochs", str(epochs), "--iterations", str(ceil(iterations / epochs)),
                                                  "--val_iterations", "1", "--no_val", "--no_refit"], [fold]))
    return fold / "checkpoint_final.pth"


@script
def main(arguments: list[str] | None = None) -> None:
    args = parse("train_quiz_size", arguments)
    args.data = args.out / "work" / "synthetic_data"
    run_command(["python", "data_prep/make_phantom.py", args.data, "--preset", "quiz", "--seed", str(SEEDS["train_quiz_size"]), "--train", str(args.train), "--validation",
          str(args.validation), "--test", "4"])  # keeps what is there
    pipeline, at = prepare(args)
    if at.device == "cpu":
        at = replace(at, trainer="nnUNetTrainerShort")  # finds masks in as few iterations as a CPU can do
    done = at.work / "coarse_plans.done"
    pipeline.run(Stage("coarse_plans", ["bash", "-c", 'python -m experiments.coarse_to_fine_plans "$1" && touch "$2"', "plans", at.preprocessed / f"{PLANS}.json", done],
                       [done]))
    checkpoint = None
    for configuration, iterations in zip(("3d_coarse", "3d_middle", "3d_crops", CONFIGURATION), args.iterations or (ON_GPU if at.device == "cuda" else ON_CPU)):
        checkpoint = train_after(pipeline, at, configuration, iterations, checkpoint)
    model = ["-c", CONFIGURATION, "-f", "0", "-tr", at.trainer, "-p", PLANS]
    pipeline.run(Stage("refit", ["nnUNetv2_refit_class_head", "-d", "777", *model, "-device", at.device, "-views", "1"],
                       [at.model / "fold_0" / "class_head_refit.json"]))
    if at.device == "cpu":
        pipeline.run(Stage("quantize", ["nnUNetv2_quantize", "-d", "777", *model], [at.model / "fold_0" / "quantization.json"]))
    run_command(["python", "data_prep/split_view.py", "--raw", at.raw, "--out", at.work / "validation"])
    print(f"[quiz size] the model is in {at.model}; now: bash experiments/run_speed.sh --run {args.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
