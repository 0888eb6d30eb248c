"""Changes to a copy of the world before a run damages it: what a command needs and the world does not hold."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import SimpleITK as sitk

from experiments.campaigns.world import MODEL, PREPROCESSED, RAW


def formats(ending: str) -> Callable[[Path], None]:
    """Validation images in another format, and a model that expects it."""

    def prepare(root: Path) -> None:
        for file in sorted((root / "validation" / "images").glob("*.nii.gz")):
            image = sitk.ReadImage(str(file))
            for key in image.GetMetaDataKeys():  # else the fields of NIfTI would fill the other header
                image.EraseMetaData(key)
            sitk.WriteImage(image, str(file).removesuffix(".nii.gz") + ending)
            file.unlink()
        description = root / MODEL / "dataset.json"
        description.write_text(json.dumps(json.loads(description.read_text()) | {"file_ending": ending}))

    return prepare


def postprocessing(root: Path) -> None:
    decided = {
        "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
        "postprocessing_kwargs": [{"labels_or_regions": [1, 2]}],
    }
    (root / "postprocessing.json").write_text(json.dumps(decided))


def two_runs(root: Path) -> None:
    shutil.copytree(root / "run", root / "run_b")


def unprepared(root: Path) -> None:
    """Nothing is preprocessed yet, so that all of it is read."""
    for path in (root / PREPROCESSED).glob("nnUNetPlans_*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def second_dataset(root: Path) -> None:
    (root / "nnUNet_raw" / "Dataset778_Other").mkdir(parents=True)
    shutil.copy(root / RAW / "dataset.json", root / "nnUNet_raw" / "Dataset778_Other" / "dataset.json")
    (root / "nnUNet_preprocessed" / "Dataset778_Other").mkdir()


def second_prediction(root: Path) -> None:
    shutil.copytree(root / "predictions" / "validation", root / "predictions" / "second")


def move_checkpoint(root: Path) -> None:
    (root / MODEL / "fold_0" / "checkpoint_final.pth").rename(root / "given.pth")
    shutil.rmtree(root / MODEL)


def phantom(root: Path) -> None:
    (root / "phantom").mkdir()
    (root / "phantom" / "phantom.json").write_text('{"preset": "smoke"}')


def stages(root: Path) -> None:
    (root / "work").mkdir()
    (root / "work" / "stages.json").write_text(
        '[{"stage": "first", "identity": "x", "done": true, "seconds": 1.0, "command": "mkdir made"}]'
    )
