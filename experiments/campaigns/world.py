"""A small good world for the campaigns: data, a trained model, predictions, a scored run, zips, all made by the commands themselves.

    root/quiz                       quiz folder: 11 training, 3 validation, 2 test cases of 10 x 24 x 20 voxels
    root/nnUNet_{raw,preprocessed,results}      the dataset and a network of 4 to 8 channels, trained for an epoch
    root/validation                 images and labels of the validation cases
    root/predictions/{validation,test}          masks, class tables; probabilities beside those of validation
    root/run                        metrics.json, per_case.csv, figures, run.json
    root/{model,TEAM_results}.zip   the packed model, the submission
    root/msd/Task07_Small, root/v1/Task005_Old  datasets of other formats

SYNTHETIC. Everything depends on the constants here alone.
"""

import json
import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from experiments.campaigns.forked import Outcome, run_forked

DATASET, PLANS, CONFIGURATION = "Dataset777_PancreasCT", "nnUNetPlans", "3d_fullres"
MODEL = f"nnUNet_results/{DATASET}/nnUNetTrainer__{PLANS}__{CONFIGURATION}"
RAW, PREPROCESSED = f"nnUNet_raw/{DATASET}", f"nnUNet_preprocessed/{DATASET}"
SHAPE, SPACING = (10, 24, 20), (1.25, 1.25, 2.5)  # (Z, Y, X); mm, x first
SUBTYPES = {"train": (0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2), "validation": (0, 1, 2)}
TEST_CASES = ("quiz_101", "quiz_102")
WIDTHS = {
    "features_per_stage": [4, 8, 8],
    "n_stages": 3,
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
}

PREDICTION = ("-f", "0", "-device", "cpu", "--engine", "torch", "--disable_tta", "--continue_prediction")

# name -> command in the order in which they build on each other; {MODEL} and the like stand for the constants above
STAGES: dict[str, list[str]] = {
    "convert": ["data_prep/convert_quiz.py", "--data", "quiz", "--out", "nnUNet_raw", "-np", "1"],
    "plan": ["nnUNetv2_plan_and_preprocess", "-d", "777", "--no_pp", "--verify_dataset_integrity", "-npfp", "1"],
    "preprocess": ["nnUNetv2_preprocess", "-d", "777", "-c", CONFIGURATION, "-np", "1"],
    "train": [
        "nnUNetv2_train",
        "777",
        CONFIGURATION,
        "0",
        "-device",
        "cpu",
        "--epochs",
        "2",
        "--iterations",
        "2",
        "--val_iterations",
        "1",
        "--c",
    ],
    "refit": ["nnUNetv2_refit_class_head", "-d", "777", "-c", CONFIGURATION, "-f", "0", "-views", "1", "-device", "cpu"],
    "view": ["data_prep/split_view.py", "--raw", RAW, "--out", "validation"],
    "predict": [
        "nnUNetv2_predict",
        "-i",
        f"{RAW}/imagesTs",
        "-o",
        "predictions/test",
        "-d",
        "777",
        "-c",
        CONFIGURATION,
        *PREDICTION,
    ],
    "predict_validation": [
        "nnUNetv2_predict_from_modelfolder",
        "-i",
        "validation/images",
        "-o",
        "predictions/validation",
        "-m",
        MODEL,
        *PREDICTION,
        "--save_probabilities",
    ],
    "metrics": [
        "evaluation/compute_metrics.py",
        "--pred",
        "predictions/validation",
        "--ref",
        "validation/labels",
        "--subtypes",
        "predictions/validation/subtype_results.csv",
        "--truth",
        f"{RAW}/subtypes.csv",
        "--out",
        "run",
        "--bootstrap",
        "20",
        "--jobs",
        "1",
        "--synthetic",
    ],
    "figures": [
        "evaluation/make_figures.py",
        "--results",
        "run",
        "--images",
        "validation/images",
        "--ref",
        "validation/labels",
        "--pred",
        "predictions/validation",
        "--training",
        f"{MODEL}/fold_0",
    ],
    "gallery": [
        "evaluation/make_gallery.py",
        "--results",
        "run",
        "--images",
        "validation/images",
        "--ref",
        "validation/labels",
        "--pred",
        "predictions/validation",
    ],
    "submission": [
        "data_prep/make_submission.py",
        "--pred",
        "predictions/test",
        "--test",
        f"{RAW}/imagesTs",
        "--name",
        "TEAM",
        "--out",
        ".",
        "-np",
        "1",
    ],
    "export": ["nnUNetv2_export_model_to_zip", "-d", "777", "-o", "model.zip", "-c", CONFIGURATION, "-f", "0"],
}


def with_value(command: Sequence[str], flag: str, value: str) -> list[str]:
    """`command` with another value behind `flag`. ValueError where it has no such flag."""
    at = command.index(flag) + 1
    return [*command[:at], value, *command[at + 1 :]]


def environment(root: Path) -> dict[str, str]:
    """Variables of a command that works in `root`. Empty ones are unset."""
    return {
        **{name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "XDG_CACHE_HOME": "",
        "nnUNet_trust": "",
        "nnUNet_debug": "",
    }


def build_world(root: Path, until: str = "export", skip: Sequence[str] = ()) -> Path:
    """Fill `root` by running the stages in turn, up to and with `until`, without `skip`. RuntimeError with the output of a stage that failed."""
    for folder in ("home", "tmp"):
        (root / folder).mkdir(parents=True)
    write_quiz(root / "quiz")
    write_other_formats(root)
    for name, command in STAGES.items():
        if name in skip:
            continue
        run_stage(root, name, command)
        if name == "plan":
            shrink_plans(root / PREPROCESSED / f"{PLANS}.json")
        if name == until:
            break
    return root


def run_stage(root: Path, name: str, command: Sequence[str]) -> Outcome:
    outcome = run_forked(command, root, environment(root), seconds=120)
    if outcome.status != 0:
        raise RuntimeError(
            f"The campaign's own world cannot be made: {name} ended with {outcome.status} {outcome.reason}\n"
            f"{outcome.stdout[-2000:]}\n{outcome.stderr[-4000:]}"
        )
    return outcome


def copy_world(template: Path, root: Path, parts: Sequence[str]) -> Path:
    """A copy of `parts` of a world, which a run may damage as it likes."""
    for folder in ("home", "tmp"):
        (root / folder).mkdir(parents=True)
    for part in parts:
        source, target = template / part, root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=False, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
    return root


def abdomen(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """HU, int16, and labels, uint8, (Z, Y, X): a bright organ in fat with a darker lesion, whose texture tells its class."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:8, 5:19, 4:16] = 1
    labels[4:7, 8:13, 6 + seed % 3 : 11 + seed % 3] = 2
    clean = np.array([-90.0, 95.0, 45.0])[labels]
    clean[:, :2] = -1000
    return (clean + generator.normal(0, 8 + 6 * (seed % 3), SHAPE)).astype(np.int16), labels


def write_volume(array: np.ndarray, path: Path, spacing: Sequence[float] = SPACING) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing([*spacing, 1.0][: image.GetDimension()])
    image.SetOrigin([-12.0, 8.0, 30.0, 0.0][: image.GetDimension()])
    sitk.WriteImage(image, str(path))


def write_quiz(folder: Path) -> None:
    number = 0
    for split, subtypes in SUBTYPES.items():
        for subtype in subtypes:
            number += 1
            image, labels = abdomen(3 * number + subtype)
            name = f"quiz_{subtype}_{number:03d}"
            write_volume(image, folder / split / f"subtype{subtype}" / f"{name}_0000.nii.gz")
            write_volume(labels, folder / split / f"subtype{subtype}" / f"{name}.nii.gz")
    for index, name in enumerate(TEST_CASES):
        write_volume(abdomen(100 + index)[0], folder / "test" / f"{name}_0000.nii.gz")
    (folder / "SYNTHETIC.txt").write_text("Computer-generated, not patients.\n", encoding="utf-8")


def write_other_formats(root: Path) -> None:
    """Two cases in the Decathlon's format and in nnU-Net v1's."""
    description = {
        "name": "Small",
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "modality": {"0": "CT"},
        "numTraining": 2,
        "numTest": 0,
        "tensorImageSize": "3D",
        "training": [],
        "test": [],
    }
    for folder, channel in ((root / "msd" / "Task07_Small", ""), (root / "v1" / "Task005_Old", "_0000")):
        for index in range(2):
            image, labels = abdomen(50 + index)
            write_volume(image, folder / "imagesTr" / f"case_{index}{channel}.nii.gz")
            write_volume(labels, folder / "labelsTr" / f"case_{index}.nii.gz")
        (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def shrink_plans(plans_file: Path) -> None:
    """The planned network, patch and batch made so small that an epoch takes a tenth of a second."""
    plans = json.loads(plans_file.read_text(encoding="utf-8"))
    configuration = deepcopy(plans["configurations"][CONFIGURATION])
    configuration |= {"patch_size": [8, 16, 16], "batch_size": 2, "spacing": [2.5, 1.25, 1.25]}
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments |= {key: value for key, value in WIDTHS.items() if key in arguments}
    head = configuration["architecture"].get("class_head")
    if head is not None:
        head["stages"] = [0, 1, 2][: len(head["stages"])]
    plans["configurations"] = {CONFIGURATION: configuration}
    plans_file.write_text(json.dumps(plans, indent=4) + "\n", encoding="utf-8")
