"""A dataset of the Medical Segmentation Decathlon (Antonelli et al. 2022, Nature Communications 13:4128) -> nnUNet_raw.

    convert_msd_dataset("Downloads/Task04_Hippocampus")
    convert_msd_dataset("hippocampus", overwrite_target_id=4)     # a folder whose name says nothing

The Decathlon keeps the channels of a case in one 4D file, labels as value -> name and no channel number in its file names.
"""

import os
import re
import shutil
from functools import partial
from pathlib import Path

from nnunetv2.dataset_conversion.raw_folder import MAX_DATASET_ID, new_raw_dataset, updated_description
from nnunetv2.imageio.checked_file import read_image
from nnunetv2.imageio.inflate import compress
from nnunetv2.imageio.nifti_file import new_file
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import OldDatasetJson
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.image_listing import list_images
from nnunetv2.utilities.parallel import in_threads

ENDING = ".nii.gz"


def split_4d_nifti(filename: str | os.PathLike, output_folder: str | os.PathLike, n_channels: int | None = None) -> None:
    """One file a channel, `NAME_0000.nii.gz`, ...; a 3D file is copied as it is. InputError for other dimensions or not `n_channels`."""
    name, target = Path(filename).name.removesuffix(ENDING), Path(output_folder)
    voxels, geometry = read_image(filename)
    if len(geometry["spacing"]) != 3:
        raise InputError(f"{filename} has {len(geometry['spacing'])} dimensions; an image has three, four with several channels. Export the whole volume.")
    if n_channels not in (None, len(voxels)):
        raise InputError(f"{filename} holds {len(voxels)} volume(s), dataset.json declares {n_channels} (modality); correct one of them.")
    if len(voxels) == 1:
        shutil.copyfile(filename, target / f"{name}_0000{ENDING}")
        return
    for channel, values in enumerate(voxels):
        (target / f"{name}_{channel:04d}{ENDING}").write_bytes(compress(new_file(values, geometry["spacing"], geometry["forms"])))


def convert_msd_dataset(source_folder: str | os.PathLike, overwrite_target_id: int | None = None, num_processes: int | None = None) -> str:
    """Convert `source_folder` and return the new dataset's name.

    The number comes from the folder's name, TaskXX_Name, or from `overwrite_target_id`; without a task in the folder's name
    the dataset is called as dataset.json calls itself. imagesTs may be missing. Every file that has no partner, and every
    case that could not be converted, is listed in one error; nothing is left in nnUNet_raw then.
    """
    source = Path(os.path.abspath(source_folder))  # links are not followed: their own name tells the task
    description_file = source / "dataset.json"
    missing = [str(path) for path in (description_file, source / "imagesTr", source / "labelsTr") if not path.exists()]
    if missing:
        raise InputError(f"{source} is no Decathlon dataset; missing: {', '.join(missing)}. Check the path.")
    description = load_json(description_file, OldDatasetJson)
    name = _dataset_name(source, description, overwrite_target_id)
    files = {part: _files(source / part) for part in ("imagesTr", "imagesTs", "labelsTr")}
    names = {part: {file.name for file in found} for part, found in files.items()}
    problems = [f"{source / 'imagesTr' / file} has no label map" for file in sorted(names["imagesTr"] - names["labelsTr"])]
    problems += [f"{source / 'labelsTr' / file} has no image" for file in sorted(names["labelsTr"] - names["imagesTr"])]
    if not files["imagesTr"]:
        problems.append(f"{source / 'imagesTr'} holds no {ENDING} file")
    if problems:
        raise InputError(f"{len(problems)} problem(s) in {source}:\n" + "\n".join(f"  {problem}" for problem in problems))

    with new_raw_dataset(name) as target:
        for part in ("imagesTr", "imagesTs"):
            (target / part).mkdir()
            jobs = {file.name: (str(file),) for file in files[part]}
            in_threads(partial(split_4d_nifti, output_folder=target / part, n_channels=len(description["modality"])), jobs, num_processes, f"converting {part}")
        (target / "labelsTr").mkdir()
        for file in files["labelsTr"]:
            shutil.copyfile(file, target / "labelsTr" / file.name)
        save_json(updated_description(description, description_file) | {"numTraining": len(files["imagesTr"])}, target / "dataset.json")
    print(f"{name}: {len(files['imagesTr'])} training and {len(files['imagesTs'])} test cases.")
    return name


def _dataset_name(source: Path, description: dict, number: int | None) -> str:
    task = re.fullmatch(r"task(\d+)_(.+)", source.name, re.IGNORECASE)
    if number is None and task is None:
        raise InputError(f"{source.name!r} is not named TaskXX_Name, so the dataset's number is unknown; give it with -overwrite_id.")
    number = int(task[1]) if number is None else number
    if not 1 <= number <= MAX_DATASET_ID:
        raise InputError(f"Dataset number {number} is out of range; datasets are numbered 1 to {MAX_DATASET_ID}.")
    name = task[2] if task else re.sub(r"\W+", "", str(description.get("name", source.name)))
    return f"Dataset{number:03d}_{name}"


def _files(folder: Path) -> list[Path]:
    """Images of a folder, sorted, [] where it is absent; `._x` and `_x` are what macOS leaves in archives."""
    return [file for file in list_images(folder, ENDING, empty=True) if not file.name.startswith("_")] if folder.is_dir() else []
