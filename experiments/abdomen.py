"""Whole SYNTHETIC abdomens: a model that knows them, one on a coarse grid that finds the boxes, and what the modes take; run_abdomen.sh calls it.

    python -m experiments.abdomen --iterations 480     # options: experiments/options.py
"""

import sys
from math import ceil
from pathlib import Path

from experiments.accuracy import trainer_of
from experiments.fold_jobs import run_command
from experiments.options import SEEDS, parse
from experiments.pipeline import Pipeline, Stage, enter, model_of
from experiments.preparation import CONFIGURATION, PLANS
from nnunetv2.utilities.commands import script
from nnunetv2.utilities.file_shapes import Plans
from nnunetv2.utilities.files import load_json, save_json

TORSOS, COARSE = "Dataset778_Torso", "3d_lowres"
EPOCHS = 8


def write_plans(source: Path, target: Path) -> None:
    """The plans of the model that is trained on, for the torsos, with a configuration of twice the spacing."""
    plans = load_json(source, Plans)
    spacing = [2 * mm for mm in plans["configurations"][CONFIGURATION]["spacing"]]
    plans["configurations"][COARSE] = {"inherits_from": CONFIGURATION, "data_identifier": f"nnUNetPlans_{COARSE}", "spacing": spacing}
    save_json(plans | {"dataset_name": TORSOS}, target)


def train(pipeline: Pipeline, at: dict[str, Path], configuration: str, model: Path, iterations: int, device: str) -> None:
    """Train `model` on, by its own trainer."""
    trainer, start = trainer_of(model), model / "fold_0" / "checkpoint_final.pth"
    fold = at["nnUNet_results"] / TORSOS / f"{trainer}__{PLANS}__{configuration}" / "fold_0"
    pipeline.run(Stage(f"preprocess_{configuration}", ["nnUNetv2_preprocess", "-d", "778", "-plans_name", PLANS, "-c", configuration],
                       [at["nnUNet_preprocessed"] / TORSOS / f"nnUNetPlans_{configuration}"]))
    pipeline.run(Stage(f"train_{configuration}", ["python", "-m", "experiments.train_from", fold, start, "778", configuration, "0", "-tr", trainer, "-p", PLANS, "-device", device,
                                                  "--epochs", str(EPOCHS), "--iterations", str(ceil(iterations / EPOCHS)), "--val_iterations", "4", "--no_val"], [fold]))
    if device == "cpu":
        pipeline.run(Stage(f"quantize_{configuration}", ["nnUNetv2_quantize", "-d", "778", "-c", configuration, "-f", "0", "-tr", trainer, "-p", PLANS],
                           [fold / "quantization.json"]))


@script
def main(arguments: list[str] | None = None) -> None:
    args = parse("abdomen", arguments)
    main_model, out = model_of(args.run.absolute()), args.out.absolute()
    pipeline = Pipeline(out / "work")
    at = enter(pipeline.work)
    torsos, planned = pipeline.work / "torsos", at["nnUNet_preprocessed"] / TORSOS
    for stage in (
        Stage("data", ["python", "data_prep/make_phantom.py", torsos, "--preset", "torso", "--seed", str(SEEDS["abdomen_training"])], [torsos]),
        Stage("convert", ["python", "data_prep/convert_quiz.py", "--data", torsos, "--out", at["nnUNet_raw"], "--dataset", TORSOS], [at["nnUNet_raw"] / TORSOS]),
        Stage("plan", ["nnUNetv2_plan_and_preprocess", "-d", "778", "-pl", "nnUNetPlannerResEncM", "-overwrite_plans_name", "own_plans", "--no_pp"],
              [planned / "dataset.json"]),
    ):
        pipeline.run(stage)
    write_plans(main_model / "plans.json", planned / f"{PLANS}.json")
    models = at["nnUNet_results"] / TORSOS / f"{trainer_of(main_model)}__{PLANS}__"
    model = main_model if args.keep_model else Path(f"{models}{CONFIGURATION}")
    for configuration in (COARSE,) if args.keep_model else (COARSE, CONFIGURATION):
        train(pipeline, at, configuration, main_model, args.iterations, args.device)
    cases = pipeline.work / "abdomen"
    run_command(["python", "-m", "experiments.draw_cases", cases, "--preset", "abdomen", "--seed", str(SEEDS["abdomen"]), "--n", "1"])
    if args.device == "cpu":  # there upstream with TTA would take hours
        rows = ["--rows", "fast, ROI model", "fast", "upstream, no TTA", "--tta_from", args.seconds_from]
    else:
        rows = ["--rows", "fast, ROI model", "fast", "exact", "upstream", "upstream, no TTA"]
    run_command(["bash", "experiments/run_speed.sh", "--model", model, "--roi_model", f"{models}{COARSE}", "--images", cases / "images", "--labels", cases / "labels",
          "--truth", cases / "subtypes.csv", "--synthetic", "--cases", "1", "--rounds", "1", "--device", args.device, "--reference_cases", "1",
          "--reference_rounds", "1", "--out", out, *rows, *args.rest])


if __name__ == "__main__":
    main(sys.argv[1:])
