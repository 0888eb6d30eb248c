"""The main job, from a folder of CTs to masks, classes, scores, figures, submission and report; run_fold0.sh calls it.

    python -m experiments.main_job --data data --name MYTEAM     # options: experiments/options.py
"""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from experiments.fold_jobs import run_command
from experiments.options import PRESETS, parse, run_name
from experiments.pipeline import Pipeline, Stage
from experiments.preparation import CONFIGURATION, PLANS, Prepared, prepare
from nnunetv2.utilities.commands import script
from nnunetv2.utilities.data_description import THE_QUIZ


def train(pipeline: Pipeline, at: Prepared, length: list[str]) -> None:
    files = [at.preprocessed / name for name in ("splits_final.json", "dataset.json", f"{PLANS}.json", *([at.table] if at.table else []))]
    pipeline.run(Stage("train", ["nnUNetv2_train", "777", CONFIGURATION, "0", "-tr", at.trainer, "-p", PLANS, "-device", at.device, "--c", *length, "--no_val"],
                       [at.model / "fold_0"], files))


def predict(pipeline: Pipeline, at: Prepared, name: str, images: Path, mode: str) -> Path:
    masks = at.out / "predictions" / name
    pipeline.run(Stage(f"predict_{name}", ["nnUNetv2_predict", "-i", images, "-o", masks, "-d", "777", "-c", CONFIGURATION, "-f", "0", "-tr", at.trainer, "-p", PLANS,
                                           "-device", at.device, "--mode", mode, "--continue_prediction"], [masks]))
    return masks


def evaluate(pipeline: Pipeline, at: Prepared, masks: Path) -> None:
    images, labels = at.work / "validation" / "images", at.work / "validation" / "labels"
    pipeline.run(Stage("metrics", ["python", "evaluation/compute_metrics.py", "--pred", masks, "--ref", labels, *at.described, *at.classes(masks), "--out", at.out,
                                   *at.synthetic_flag], [at.out / "metrics.json", at.out / "per_case.csv"]))
    # measured on phantoms of the quiz: beside other data the figure would show another organ
    speed = ["--speed", "results/speed.json"] if Path("results/speed.json").is_file() and at.raw.name == THE_QUIZ.dataset else []
    pipeline.run(Stage("figures", ["python", "evaluation/make_figures.py", "--results", at.out, "--images", images, "--ref", labels, "--pred", masks, "--training",
                                   at.model / "fold_0", *speed], [at.out / "figures"], ["results/speed.jso[n]"]))  # a pattern may match nothing
    pipeline.run(Stage("gallery", ["python", "evaluation/make_gallery.py", "--results", at.out, "--images", images, "--ref", labels, "--pred", masks],
                       [at.out / "gallery.html"]))


def hand_over(pipeline: Pipeline, at: Prepared, name: str, mode: str, test: Path | None) -> None:
    """Submission, protocol and report."""
    if test is not None:
        pipeline.run(Stage("submission", ["python", "data_prep/make_submission.py", *at.described, "--pred", at.out / "predictions" / "test", "--test", test, "--name",
                                          name, "--out", at.out], [at.out / f"{name}_results.zip"]))
    record = ["python", "-m", "experiments.record_run", "--out", str(at.out)]
    run_command([*record, "--raw", str(at.raw), "--name", name, "--device", at.device, "--mode", mode, "--plans", str(at.preprocessed / f"{PLANS}.json"), "--configuration",
          CONFIGURATION, "--fold", str(at.model / "fold_0"), *at.synthetic_flag, *(["--phantom"] if at.phantom else [])])
    if subprocess.run(["bash", "report/build.sh", "--check"]).returncode == 0:
        pipeline.run(Stage("report", ["bash", "report/build.sh", "--results", at.out, "--name", name], [at.out / f"{name}_results.pdf"]))
    else:
        print("[report] left out: install the packages above and give the command again; everything else is done", flush=True)
    run_command([*record, "--summary"])


@script
def main(arguments: list[str] | None = None) -> None:
    args, start = parse("main_job", arguments), time.monotonic()
    pipeline, at = prepare(args)
    at = replace(at, trainer=PRESETS["main_job"].trainer(args, at.synthetic))
    name, mode, test = run_name(args, at.synthetic), "fast" if args.fast else "exact", at.test_images
    train(pipeline, at, PRESETS["main_job"].flags(args, at.synthetic))
    run_command(["python", "data_prep/split_view.py", "--raw", at.raw, "--out", at.work / "validation"])
    masks = predict(pipeline, at, "validation", at.work / "validation" / "images", mode)
    if test is not None:
        predict(pipeline, at, "test", test, mode)
    evaluate(pipeline, at, masks)
    hand_over(pipeline, at, name, mode, test)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f"[fold 0] done in {minutes} min {seconds} s; everything is in {at.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
