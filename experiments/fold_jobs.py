"""What experiments over folds inside the training cases share: the folds, and commands that run beside each other."""

import glob
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.convert_quiz import stratified_folds
from data_prep.split_view import link_or_copy
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.errors import CommandFailed, InputError
from nnunetv2.utilities.file_shapes import DatasetJson, Splits
from nnunetv2.utilities.files import load_json, save_json


def write_inner_folds(raw: Path, preprocessed: Path, n: int) -> list[dict]:
    """Fold 0 of splits_final.json stays; folds 1 to n become a stratified n-fold of its training cases, so that every one is predicted."""
    path = preprocessed / "splits_final.json"
    outer = load_json(path, Splits)[0]
    class_of = classes_of(raw, outer["train"])
    splits = [outer, *stratified_folds(class_of, n)]
    refuse_absent_classes({fold: splits[fold]["train"] for fold in range(1, n + 1)}, class_of)
    save_json(splits, path)
    return splits


def refuse_absent_classes(training: Mapping[int, Iterable[str]], class_of: Mapping[str, str]) -> None:
    """InputError that lists the folds whose training cases lack a class that other cases have; before any of them is trained."""
    classes = sorted(set(class_of.values()))
    found = {fold: {class_of[case] for case in cases if case in class_of} for fold, cases in training.items()}
    absent = [f"fold {fold}: none of class {', '.join(lacking)}" for fold, there in found.items() if (lacking := [name for name in classes if name not in there])]
    if absent:
        raise InputError("Training cases of a class are missing where a fold holds all of them out:\n" + "\n".join(absent) +
                         "\nAdd cases of that class, join it with another one, or train without cross-validation (run_fold0.sh).")


def held_out_images(raw: Path, cases: Iterable[str], folder: Path) -> Path:
    """`folder` with the images of the cases, as links: what nnUNetv2_predict takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        for image in sorted((raw / "imagesTr").glob(f"{glob.escape(case)}_[0-9][0-9][0-9][0-9].*")):
            if not (folder / image.name).exists():
                link_or_copy(image.resolve(), folder / image.name)
    return folder


def classes_of(raw: Path, cases: Iterable[str]) -> dict[str, str]:
    """case -> class name of those of `cases` that have one; other rows of the table are not read."""
    description = load_json(raw / "dataset.json", DatasetJson, partial=True)
    task = ClassificationTask.from_dataset_json(description, sorted(v for v in description["labels"].values() if v))
    if task is None:
        raise InputError(f"{raw / 'dataset.json'} declares no 'classification', which this experiment is about.")
    return {case: task.classes[k] for case, k in task.read_labels(raw, cases).items()}


def in_parallel(jobs: int, function: Callable[..., None], arguments: Iterable[tuple]) -> None:
    """Call `function` with each of `arguments`, `jobs` at a time. After a failure, which is raised, what runs ends and what waits does not begin."""
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(function, *each) for each in arguments]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_command(command: Sequence[str | os.PathLike], log: Path | None = None, jobs: int = 1, variables: dict[str, str] | None = None) -> None:
    """Run a command to its end. With a log, one of `jobs` at a time: it gets its share of the cores and appends its output there.

    variables: of the environment, besides this process's own.

    Raises CommandFailed, with the log's last lines if there is one, when the command fails.
    """
    text = " ".join(map(str, command))
    if log is None:
        try:
            subprocess.run(command, check=True, env=None if variables is None else os.environ | variables)
        except subprocess.CalledProcessError as error:
            raise CommandFailed(f"{text}\nended with {error.returncode}; its own message is above.") from error
        return
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": threads} | (variables or {})).returncode
    if code:
        raise CommandFailed(f"{text}\nended with {code}; the last lines of {log}:\n"
                            + "\n".join(log.read_text(errors="replace", encoding="utf-8").splitlines()[-15:]))
