"""Pack trained models of one dataset into a zip file, paths relative to nnUNet_results as upstream has them."""

import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from nnunetv2 import paths
from nnunetv2.model_sharing.archive_checks import name_of_member_problem
from nnunetv2.utilities.dataset_files import get_output_folder
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.safe_names import plain_names

_DECISIONS = ("summary.json", "postprocessing.json", "postprocessing.pkl")  # of a cross-validation


def export_pretrained_model(dataset_name_or_id: int | str, output_file: str | os.PathLike,
                            configurations: Sequence[str] = ("3d_lowres", "3d_fullres", "2d", "3d_cascade_fullres"),
                            trainer: str = "nnUNetTrainer", plans_identifier: str = "nnUNetPlans", folds: Sequence[int | str] = (0, 1, 2, 3, 4),
                            strict: bool = True, save_checkpoints: Sequence[str] = ("checkpoint_final.pth",),
                            export_crossval_predictions: bool = False) -> None:
    """Write `output_file` with plans, checkpoints and scores of the given models.

    Args:
        strict: every configuration, fold and checkpoint must be there; else those that are missing are left out.
        export_crossval_predictions: pack the predicted masks of the cross-validation too.
    Raises:
        FileNotFoundError: lists everything that is missing.
        InputError: `output_file` is one of the files to pack; a file that is needed has a name that no installation takes.
    """
    dataset_name = maybe_convert_to_dataset_name(dataset_name_or_id)
    plain_names(save_checkpoints, "checkpoint", "-chk")
    results = Path(paths.nnUNet_results)
    files: list[Path] = []
    missing: list[Path] = []
    exported = []  # names of the model folders
    required_of_all: list[Path] = []
    for configuration in dict.fromkeys(configurations):
        model = get_output_folder(dataset_name, trainer, plans_identifier, configuration)
        if not model.is_dir():
            missing.append(model)
            continue
        exported.append(model.name)
        required = [model / "plans.json", model / "dataset.json"]
        optional = [model / "dataset_fingerprint.json"]
        for fold_folder in (model / f"fold_{fold}" for fold in dict.fromkeys(map(str, folds))):
            required += [fold_folder / checkpoint for checkpoint in dict.fromkeys(save_checkpoints)]
            optional += [fold_folder / "manifest.json", fold_folder / "progress.png", fold_folder / "debug.json",
                         *_scored_files(fold_folder / "validation", ("summary.json",), export_crossval_predictions)]
        optional += _scored_files(model / f"crossval_results_folds_{'_'.join(map(str, folds))}", _DECISIONS, export_crossval_predictions)
        missing += [file for file in required if not file.is_file()]
        files += [file for file in (*required, *optional) if file.is_file()]
        required_of_all += required
    if missing and strict:
        raise FileNotFoundError("Not exported, these are missing (leave them out with --not_strict):\n" + "\n".join(map(str, missing)))
    if not any(file.name in save_checkpoints for file in files):
        raise FileNotFoundError(f"No checkpoint of {dataset_name} to export:\n" + "\n".join(map(str, missing)))
    for ensemble in sorted((results / dataset_name / "ensembles").glob("ensemble___*")):
        _, *members, _ = ensemble.name.split("___")
        if set(members) <= set(exported):
            files += [file for file in _scored_files(ensemble, _DECISIONS, export_crossval_predictions) if file.is_file()]
    files += [file for name in ("inference_information.json", "inference_instructions.txt") if (file := results / dataset_name / name).is_file()]

    files = _installable(files, required_of_all, results)
    if Path(output_file).resolve() in {file.resolve() for file in files}:
        raise InputError(f"{output_file} is one of the files to pack, and would be written over. Name another zip file.")
    with atomic_write(output_file) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for file in files:
            print(f"Packing {file.relative_to(results)}")
            # Weights hardly shrink; compressing them would take minutes.
            archive.write(file, file.relative_to(results), zipfile.ZIP_STORED if file.suffix == ".pth" else zipfile.ZIP_DEFLATED)


def _installable(files: Sequence[Path], required: Sequence[Path], results: Path) -> list[Path]:
    """Without what no installation would take, which is said; InputError where that is part of the model."""
    problems = {file: problem for file in files if (problem := name_of_member_problem(file.relative_to(results).as_posix())) is not None}
    if needed := [f"{file}: {problem}" for file, problem in problems.items() if file in required]:
        raise InputError(f"{len(needed)} file(s) of the model have names that no installation takes; rename them, or choose others (-chk):\n{list_some(needed)}")
    if problems:
        listed = list_some([f"{file}: {problem}" for file, problem in problems.items()])
        print(f"Left out, because no installation takes them:\n{listed}", file=sys.stderr)
    return [file for file in files if file not in problems]


def _scored_files(folder: Path, names: Sequence[str], with_predictions: bool) -> list[Path]:
    """`names` in `folder`, or all its files but the probabilities, which are large and can be made again."""
    if not with_predictions:
        return [folder / name for name in names]
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
                  and (path.suffix not in (".npz", ".pkl") or path.name in names))
