"""What both programs do before they train: the Decathlon's files laid out, converted, planned and preprocessed, and how far they agree."""

import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.real_compare import compare_preprocessed, compare_structures
from experiments.real_sides import COMPARED, CONFIGURATION, DATASET_ID, PLANNED, TASK, Side
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import AnyObject, DatasetJson, OldDatasetJson, Plans
from nnunetv2.utilities.files import is_there, load_json, save_json
from nnunetv2.utilities.manifest import value_hash
from nnunetv2.utilities.own_folders import overlaps

NETWORKS = {"tiny": (4, 2), "small": (2, 4)}  # what the features are divided by, and the batch; `planned` is neither


def lay_out(source: Path, folder: Path, n: int | None) -> Path:
    """The set as both converters want it: named by its task, with a folder of test images. n: the first so many cases."""
    task = folder / TASK
    content = load_json(source / "dataset.json", OldDatasetJson)
    cases = sorted(path.name for path in (source / "imagesTr").glob("*.nii.gz"))[:n]
    if not cases:
        raise InputError(
            f"{source / 'imagesTr'} holds no .nii.gz. Name the folder of the Decathlon's set with --source."
        )
    if problems := overlaps([task], [source]):
        raise InputError(f"{problems[0]} with --out. It would be laid out anew.")
    shutil.rmtree(task, ignore_errors=True)
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (task / name).mkdir(parents=True)
    for case in cases:
        for name in ("imagesTr", "labelsTr"):
            (task / name / case).symlink_to((source / name / case).resolve())
    listed = [{"image": f"./imagesTr/{case}", "label": f"./labelsTr/{case}"} for case in cases]
    save_json(content | {"numTraining": len(cases), "training": listed}, task / "dataset.json")
    return task


def prepare(side: Side, task: Path, source_key: str) -> None:
    """Conversion, fingerprint and plan by the program itself."""
    np_flag = ["-np", str(side.threads)]
    # neither converter takes a number that is in use, be it by a half-written set
    folders = [str(side.folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")]
    anew = [
        "bash",
        "-c",
        f'rm -rf -- "${{@:1:{len(folders)}}}" && exec "${{@:{len(folders) + 1}}}"',
        "convert",
        *folders,
    ]
    convert = side.command("convert_MSD_dataset", "-i", str(task), *np_flag)
    side.stage("convert", [*anew, *convert], [side.raw], [source_key])
    side.stage(
        "fingerprint",
        side.command("extract_fingerprint", "-d", DATASET_ID, *np_flag),
        [side.preprocessed / "dataset_fingerprint.json"],
    )
    side.stage("plan", side.command("plan_experiment", "-d", DATASET_ID), [side.preprocessed / f"{PLANNED}.json"])


def write_compared_plans(planned: dict[str, Any], network: str, sides: tuple[Side, ...]) -> dict[str, Any]:
    """The plans that both train with, written for both where they are not there yet; returns them."""
    plans = planned | {"plans_name": COMPARED}
    if network != "planned":
        divisor, batch = NETWORKS[network]
        configuration = plans["configurations"][CONFIGURATION]
        configuration["batch_size"] = batch
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments["features_per_stage"] = [features // divisor for features in arguments["features_per_stage"]]
    for side in sides:
        file = side.preprocessed / f"{COMPARED}.json"
        if not is_there(file) or load_json(file, Plans) != plans:
            save_json(plans, file)
    return plans


def preprocess(side: Side) -> None:
    """Arrays, which do not depend on the network that the plans hold."""
    plans = load_json(side.preprocessed / f"{COMPARED}.json", Plans)
    plans["configurations"] = {
        CONFIGURATION: plans["configurations"][CONFIGURATION] | {"architecture": None, "batch_size": None}
    }
    command = side.command(
        "preprocess", "-d", DATASET_ID, "-plans_name", COMPARED, "-c", CONFIGURATION, "-np", str(side.threads)
    )
    side.stage("preprocess", command, [data_folder(side)], [value_hash(plans)])


def data_folder(side: Side) -> Path:
    plans = load_json(side.preprocessed / f"{COMPARED}.json", Plans)
    return side.preprocessed / plans["configurations"][CONFIGURATION]["data_identifier"]


def compare_preparation(ours: Side, upstream: Side) -> dict[str, Any]:
    """What both made before any training, field by field and voxel by voxel."""

    def both(name: str, shape: type) -> dict[str, Any]:
        return compare_structures(*(load_json(side.preprocessed / name, shape) for side in (ours, upstream)))

    raw = [load_json(side.raw / "dataset.json", DatasetJson) for side in (ours, upstream)]
    cases = sorted(path.name.removesuffix(".pkl") for path in data_folder(ours).glob("*.pkl"))
    return {
        "dataset": compare_structures(*raw),
        "fingerprint": both("dataset_fingerprint.json", AnyObject),
        "plans": both(f"{PLANNED}.json", Plans),
        "preprocessed": compare_preprocessed(
            data_folder(ours), data_folder(upstream), tqdm(cases, desc="Comparing arrays", unit="case", disable=None)
        ),
    }
