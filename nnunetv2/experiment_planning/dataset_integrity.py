"""Is a raw dataset fit for planning? Every defect of every case is reported at once."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nnunetv2.imageio.geometry import off_its_image
from nnunetv2.imageio.label_values import undeclared_labels
from nnunetv2.imageio.mask_statistics import MaskStatistics, mask_statistics, outliers
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.intensity_check import constant_image
from nnunetv2.utilities.parallel import in_threads
from nnunetv2.utilities.classification import ClassificationTask, classes_of_regions
from nnunetv2.utilities.dataset_files import example_image, get_filenames_of_train_images_and_targets, undeclared_channels
from nnunetv2.utilities.errors import name_some
from nnunetv2.utilities.file_shapes import RawDatasetJson
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager



def verify_dataset_integrity(folder: str | os.PathLike, num_processes: int | None = None) -> None:
    """Check dataset.json and every training case of an nnUNet_raw dataset; ValueError lists all that is wrong.

    A case is bad when a file is absent or unreadable, when image and label do not share a voxel grid, when values are NaN or
    infinite, when the channels are not as many as declared, or when the label map holds fractions or undeclared labels. Constant
    images, masks without an image, and in CT masks that lie on other tissue than the other cases' do (see mask_statistics), are warned of.
    """
    folder = Path(folder)
    if not (folder / "dataset.json").is_file():
        raise FileNotFoundError(f"{folder / 'dataset.json'} does not exist. Check the dataset's folder.")
    dataset_json = load_json(folder / "dataset.json", RawDatasetJson)
    cases = get_filenames_of_train_images_and_targets(folder, dataset_json)
    labels = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    expected = labels.labels_of_masks

    problems = _dataset_problems(folder, dataset_json, cases, labels)
    reader = determine_reader_writer_from_dataset_json(dataset_json, example_image(cases))()
    check = partial(inspect_case, reader, n_channels=len(dataset_json["channel_names"]), expected_labels=expected)
    jobs = {case: (files["images"], files["label"]) for case, files in cases.items()}
    statistics, oddities = {}, _labels_without_image(folder, dataset_json, cases)
    for case, (found, oddity, statistics[case]) in in_threads(check, jobs, num_processes, "checking cases", anywhere=True).items():
        problems += [f"{case}: {problem}" for problem in found]
        oddities += [f"{case}: {oddity}"] if oddity else []
    if dataset_json["channel_names"].get("0", "").lower() == "ct":  # other intensities have another scale in every case
        oddities += outliers(statistics)
    for line in oddities:
        print(f"Warning: {line}")
    if problems:
        raise ValueError(f"{folder} has {len(problems)} defect(s):\n" + "\n".join(f"  {problem}" for problem in problems))
    print(f"{folder.name}: {len(cases)} cases checked, no defect found.")


def inspect_case(reader, image_files: Sequence[str], label_file: str, n_channels: int,
                 expected_labels: Sequence[int]) -> tuple[list[str], str | None, MaskStatistics | None]:
    """What is wrong with one case, in words; what is odd; and of a sound one the intensities of its first channel below the foreground."""
    read, problems = [], []
    for function, files in ((reader.read_images, image_files), (reader.read_seg, label_file)):
        try:
            read.append(function(files))
        except (OSError, ValueError) as error:
            problems += str(error).splitlines()
    if problems:
        return problems, None, None
    (images, geometry), (seg, seg_geometry) = read
    if problem := undeclared_channels(len(images), n_channels):
        problems.append(problem)
    if problem := off_its_image(label_file, geometry, seg_geometry, images.shape[1:], seg.shape[1:]):
        problems.append(problem)
    if problem := undeclared_labels(seg, expected_labels, label_file):
        problems.append(problem)
    oddity = constant_image(images)
    return (problems, oddity and f"{name_some(image_files)}: {oddity}. Export it again, or leave the case out.",
            None if problems or oddity else mask_statistics(images[0], seg[0] > 0))


def _labels_without_image(folder: Path, dataset_json: dict, cases: dict[str, dict]) -> list[str]:
    """They are not trained on; [] where dataset.json lists the files."""
    if "dataset" in dataset_json:
        return []
    ending = dataset_json["file_ending"]
    labelled = {file.name.removesuffix(ending) for file in (folder / "labelsTr").glob(f"*{ending}") if not file.name.startswith(".")}
    orphans = sorted(labelled - cases.keys())
    return [f"labelsTr: label(s) without an image are not used: {name_some(orphans)}; add the images, or take the masks away."] if orphans else []


def _dataset_problems(folder: Path, dataset_json: dict, cases: dict[str, dict], labels: LabelManager) -> list[str]:
    problems = []
    if len(cases) != dataset_json["numTraining"]:
        problems.append(f"dataset.json: numTraining is {dataset_json['numTraining']}, {len(cases)} cases were found; correct it, or add the cases")
    if unknown := sorted(set(dataset_json.get("holdout", [])) - cases.keys()):
        problems.append(f"dataset.json: held-out case(s) without an image: {name_some(unknown)}; add them, or correct the list")
    try:
        task = ClassificationTask.from_dataset_json(dataset_json, [label for label in labels.labels_of_masks if label != 0])
        if problem := classes_of_regions(task, labels.has_regions):
            problems.append(problem)
        if task is not None:
            task.read_labels(folder, cases.keys() - set(dataset_json.get("holdout", [])))
    except (ValueError, FileNotFoundError) as error:
        problems.append(str(error))
    return problems
