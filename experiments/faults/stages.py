"""The stages that are disturbed: what each needs of the world, where it writes, and what of its result must be equal."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.campaigns.listing import canonical
from experiments.campaigns.world import CONFIGURATION, DATASET, MODEL, PREPROCESSED, RAW, STAGES, with_value

# written anew each time with times inside, or only there while something runs
NO_RESULT = re.compile(r"training_log_.*\.txt$|\.lock$|debug\.json$|prediction_times\.json$|manifest.*\.json$|\.log$|progress\.png$")


@dataclass(frozen=True)
class Stage:
    name: str
    argv: list[str]
    parts: list[str]  # of the world
    folder: str  # where all that it writes lies, relative to the root
    outputs: tuple[str, ...]  # what is compared, relative to the root
    prepare: Callable[[Path], None] | None = None
    weight: float = 1.0  # of the kills; slow ones get fewer
    once: str = ""  # what it says when its result is there already and it must not be made again
    workers: Sequence[str] = ()  # further arguments that make it use worker processes


def _without(*paths: str) -> Callable[[Path], None]:
    def prepare(root: Path) -> None:
        for pattern in paths:
            for path in root.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return prepare


EVALUATED = ["validation", "predictions/validation"]
DISTURBED = [
    Stage("convert", STAGES["convert"], ["quiz"], "nnUNet_raw", ("nnUNet_raw",), weight=1.5, workers=("-np", "2")),
    Stage("plan", STAGES["plan"], [RAW], "nnUNet_preprocessed", ("nnUNet_preprocessed",)),
    Stage(
        "preprocess",
        STAGES["preprocess"],
        [RAW, PREPROCESSED],
        "nnUNet_preprocessed",
        ("nnUNet_preprocessed",),
        _without(f"{PREPROCESSED}/nnUNetPlans_*", f"{PREPROCESSED}/gt_segmentations"),
        weight=1.5,
        workers=("-np", "2"),
    ),
    Stage("train", STAGES["train"], [RAW, PREPROCESSED], "nnUNet_results", ("nnUNet_results",), weight=0.5),
    Stage(
        "refit",
        STAGES["refit"],
        [RAW, PREPROCESSED, MODEL],
        "nnUNet_results",
        ("nnUNet_results",),
        _without(f"{MODEL}/fold_0/class_head_refit.json"),
    ),
    Stage("predict", STAGES["predict"], [f"{RAW}/imagesTs", MODEL], "predictions", ("predictions/test",), weight=1.5),
    Stage(
        "predict, probabilities",
        STAGES["predict_validation"],
        ["validation/images", MODEL],
        "predictions",
        ("predictions/validation",),
        weight=1.5,
    ),
    Stage("metrics", STAGES["metrics"], [*EVALUATED, f"{RAW}/subtypes.csv"], "run", ("run",), workers=("--jobs", "2")),
    Stage(
        "gallery",
        [*STAGES["gallery"], "--out", "shown/gallery.html"],
        ["run/metrics.json", *EVALUATED],
        "shown",
        ("shown",),
    ),
    Stage(
        "figures",
        STAGES["figures"],
        ["run/metrics.json", *EVALUATED, f"{MODEL}/fold_0/progress.json"],
        "run",
        ("run/figures",),
        weight=0.15,
    ),
    Stage(
        "submission",
        with_value(STAGES["submission"], "--out", "handed"),
        ["predictions/test", f"{RAW}/imagesTs"],
        "handed",
        ("handed",),
        workers=("-np", "2"),
    ),
    Stage(
        "report",
        ["report/build.sh", "--results", "{ROOT}/run", "--shared", "{ROOT}/run", "--name", "TEAM"],
        ["run/metrics.json"],
        "run",
        ("run",),
        weight=0.25,
    ),
    Stage("export", with_value(STAGES["export"], "-o", "packed/model.zip"), [MODEL], "packed", ("packed",)),
    Stage("install", ["nnUNetv2_install_pretrained_model_from_zip", "model.zip"], ["model.zip"], "nnUNet_results", ("nnUNet_results",)),
    Stage(
        "evaluate",
        [
            "nnUNetv2_evaluate_simple",
            "validation/labels",
            "predictions/validation",
            "-l",
            "1",
            "2",
            "-o",
            "scored/summary.json",
            "-np",
            "1",
        ],
        EVALUATED,
        "scored",
        ("scored",),
    ),
    Stage(
        "ensemble",
        ["nnUNetv2_ensemble", "-i", "predictions/validation", "predictions/second", "-o", "ensembled/all", "-np", "1"],
        ["predictions/validation"],
        "ensembled",
        ("ensembled",),
        lambda root: shutil.copytree(root / "predictions" / "validation", root / "predictions" / "second"),
    ),
    Stage(
        "convert Decathlon", ["nnUNetv2_convert_MSD_dataset", "-i", "msd/Task07_Small", "-np", "1"], ["msd"], "nnUNet_raw", ("nnUNet_raw",), once="is taken by"
    ),
    Stage(
        "best configuration",
        ["nnUNetv2_find_best_configuration", "777", "-c", CONFIGURATION, "-f", "0", "-np", "1"],
        [RAW, PREPROCESSED, MODEL],
        "nnUNet_results",
        (f"nnUNet_results/{DATASET}",),
    ),
]


def result(root: Path, stage: Stage) -> dict[str, str]:
    """{path relative to the root: hash of what it says} of all that the stage has to leave."""
    found = {}
    for output in stage.outputs:
        for path in sorted((root / output).rglob("*")):
            if (path.is_file() or path.is_symlink()) and not NO_RESULT.search(path.name):
                found[str(path.relative_to(root))] = canonical(path, root)
    return found


def difference(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """One line for each file that is missing, too much, or says something else."""
    lines = [f"missing: {path}" for path in sorted(expected.keys() - found.keys())] + [
        f"too much: {path}" for path in sorted(found.keys() - expected.keys())
    ]
    return lines + [f"differs: {path}" for path in sorted(expected.keys() & found.keys()) if expected[path] != found[path]]
