"""Where things lie: the files of a case, `CASE_0000.nii.gz`, ... one a channel, with its label `CASE.nii.gz`; model folders."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from nnunetv2 import paths
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.image_listing import list_images
from nnunetv2.utilities.safe_names import plain_ending, plain_name, plain_names, refuse_shared_files


def get_output_folder(dataset_name_or_id: int | str, trainer_name: str = "nnUNetTrainer", plans_identifier: str = "nnUNetPlans",
                      configuration: str = "3d_fullres", fold: int | str | None = None) -> Path:
    """nnUNet_results/Dataset/Trainer__Plans__configuration, and its fold_X when `fold` is given. A trainer `package.module:Class` is called Class there."""
    trainer_name = trainer_name.rpartition(":")[2]
    for value, what, flag in ((trainer_name, "trainer", "-tr"), (plans_identifier, "plans", "-p"), (configuration, "configuration", "-c")):
        plain_name(value, what, flag)
    if fold is not None:
        plain_name(str(fold), "fold", "-f")
    model = f"{trainer_name}__{plans_identifier}__{configuration}"
    folder = paths.nnUNet_results / maybe_convert_to_dataset_name(dataset_name_or_id) / model
    return folder if fold is None else folder / f"fold_{fold}"


def create_lists_from_splitted_dataset_folder(folder: str | os.PathLike, file_ending: str) -> list[list[str]]:
    """The image files of each case in `folder`, channels in order, cases sorted by name.

    InputError names all that looks like an image and cannot be used, and an empty folder (see image_listing).
    """
    return list(_channels_by_case(Path(folder), file_ending).values())


def get_filenames_of_train_images_and_targets(raw_folder: str | os.PathLike, dataset_json: dict) -> dict[str, dict]:
    """`{case: {"images": [one path a channel], "label": path}}` of the training cases, sorted by name.

    Files come from imagesTr and labelsTr, or from the key `dataset` of dataset.json, whose paths may hold environment
    variables and may be relative to `raw_folder`. Whether the files exist is for the integrity check to say.

    Raises:
        InputError: lists all names that cannot become file names on every system, or pairs of cases whose preprocessed files
            would be one: case `p1_seg` and the segmentation of `p1`, names that differ in upper and lower case alone.
    """
    raw_folder = Path(raw_folder)
    cases = _training_cases(raw_folder, dataset_json)
    where = raw_folder / "dataset.json" if "dataset" in dataset_json else raw_folder / "imagesTr"
    plain_names(cases, "case", where)
    refuse_shared_files({case: preprocessed_names(case) for case in cases}, where)
    return cases


def example_image(cases: Mapping[str, Mapping]) -> str | None:
    """An image of `get_filenames_of_train_images_and_targets`, to look at what kind of file it is; None without cases."""
    return next((files["images"][0] for files in cases.values() if files["images"]), None)


def undeclared_channels(n_channels: int, declared: int) -> str | None:
    """What to say of an image with more or fewer channels than dataset.json declares; None of a sound one."""
    if n_channels != declared:
        return f"{n_channels} channel(s), dataset.json declares {declared}; add the files or correct dataset.json"
    return None


def preprocessed_names(case: str) -> tuple[str, str, str]:
    """Names of a case's preprocessed files: data, segmentation, properties."""
    return f"{case}.b2nd", f"{case}_seg.b2nd", f"{case}.pkl"


def _training_cases(raw_folder: Path, dataset_json: dict) -> dict[str, dict]:
    if "dataset" in dataset_json:
        def resolve(path: str) -> str:
            return os.path.abspath(raw_folder / os.path.expandvars(path))

        return {case: {"images": [resolve(path) for path in files["images"]], "label": resolve(files["label"])}
                for case, files in dataset_json["dataset"].items()}
    ending = plain_ending(dataset_json["file_ending"], raw_folder / "dataset.json")
    return {case: {"images": images, "label": str(raw_folder / "labelsTr" / f"{case}{ending}")}
            for case, images in _channels_by_case(raw_folder / "imagesTr", ending).items()}


def _channels_by_case(folder: Path, file_ending: str) -> dict[str, list[str]]:
    pattern = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})" + re.escape(file_ending))
    cases: dict[str, dict[int, str]] = {}
    unnamed: list[str] = []
    for file in list_images(folder, file_ending, predictions=False):
        if match := pattern.fullmatch(file.name):
            cases.setdefault(match["case"], {})[int(match["channel"])] = str(file)
        else:
            unnamed.append(file.name)
    gaps = {case: sorted(channels) for case, channels in cases.items() if sorted(channels) != list(range(len(channels)))}
    plain_names([*cases, *unnamed], "image", folder, portable=False)
    problems = [f"no channel number in {name}; rename it to {name.removesuffix(file_ending)}_0000{file_ending}" for name in unnamed]
    problems += [f"{case} has channels {channels}; they must run from 0 without a gap" for case, channels in gaps.items()]
    if problems:
        raise InputError(f"{len(problems)} image(s) in {folder} cannot be used:\n" + "\n".join(f"  {p}" for p in problems))
    return {case: [channels[i] for i in range(len(channels))] for case, channels in sorted(cases.items())}
