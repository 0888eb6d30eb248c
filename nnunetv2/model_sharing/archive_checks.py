"""What a model's zip may hold, looked at before anything of it is unpacked: names, kinds, sizes."""

import os
import zipfile
from pathlib import Path

from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.safe_names import file_key, name_problem
from nnunetv2.utilities.zip_guard import kind_problem, refuse_absurd_sizes, without_litter

# What trainings, cross-validations and exports of upstream and of this fork leave in a model's folder; nothing of it is ever run
ENDINGS = (".json", ".pth", ".pkl", ".txt", ".png", ".pdf", ".npz", ".csv", ".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl", ".tif", ".tiff", ".log")
IN_DATASET = ("inference_information.json", "inference_information.txt", "inference_instructions.txt")


def checked_members(archive: zipfile.ZipFile, zip_file: str | os.PathLike, target: Path) -> list[zipfile.ZipInfo]:
    """The members to unpack into `target`, without those of file managers.

    Raises:
        InputError: lists every member that is no file of a model (DatasetXXX_Name/Trainer__Plans__configuration/...), leads
            elsewhere, is a link, is encrypted, compressed in a way that is not known, there twice, or has its place taken by a
            folder; or the whole is larger than its packed size or the free disk can explain.
    """
    members = [member for member in without_litter(archive) if _put_plainly(member)]
    problems = [f"{member.filename!r}: {problem}" for member in members if (problem := _problem(member)) is not None]
    if not any(not member.is_dir() for member in members):
        raise InputError(f"{zip_file} holds no file of a model. Name another, or pack it again.")
    problems += _doubles(members) + _incomplete(members, target)
    if problems or (problems := _in_the_way(members, target)):
        raise InputError(f"{zip_file} holds members that are not installed; nothing was changed. Do not trust this file, or pack it again.\n{list_some(problems)}")
    refuse_absurd_sizes(members, zip_file, target, "a model")
    return members


def _put_plainly(member: zipfile.ZipInfo) -> bool:
    """Write its name with `/`, where a program for Windows wrote `\\`, and without `./` before it; False for what is the whole archive's folder."""
    name = member.filename.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    member.filename = name
    return name not in ("", ".")


def name_of_member_problem(name: str) -> str | None:
    """Why a file called `name` in an archive is not installed, or None."""
    return _problem(zipfile.ZipInfo(name))


def _problem(member: zipfile.ZipInfo) -> str | None:
    name = member.filename
    if name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":"):
        return "absolute name"
    parts = name.rstrip("/").replace("\\", "/").split("/")
    if ".." in parts:
        return "leads out of the target folder"
    if (reason := kind_problem(member, "models")) is not None:
        return reason
    for part in parts:
        if (reason := name_problem(part)) is not None:
            return f"{part!r} {reason}"
    return _layout_problem(parts, member.is_dir())


def _layout_problem(parts: list[str], is_folder: bool) -> str | None:
    if not (parts[0].startswith("Dataset") and parts[0][7:10].isdecimal() and "_" in parts[0]):
        return "not in a folder DatasetXXX_Name"
    if len(parts) == 1:
        return None if is_folder else "a file in place of a dataset's folder"
    if len(parts) == 2 and not is_folder and parts[1] in IN_DATASET:
        return None
    if parts[1] != "ensembles" and parts[1].count("__") < 2:
        return "not in a model's folder Trainer__Plans__configuration, nor in ensembles"
    if not is_folder and (len(parts) == 2 or not parts[-1].lower().endswith(ENDINGS)):
        return f"no file of a model; those end with {' '.join(ENDINGS)}"
    return None


def _doubles(members: list[zipfile.ZipInfo]) -> list[str]:
    """Members that are one file where upper and lower case are not told apart, and files where others need a folder."""
    files: dict[str, str] = {}
    problems = []
    for member in members:
        if member.is_dir():
            continue
        first = files.setdefault(file_key(member.filename), member.filename)
        if first is not member.filename:
            problems.append(f"{first!r} and {member.filename!r}: one file")
    folders = {"/".join(key.split("/")[:depth]) for key in files for depth in range(1, key.count("/") + 1)}
    return problems + [f"{files[key]!r}: a file and a folder" for key in sorted(files.keys() & folders)]


def _in_the_way(members: list[zipfile.ZipInfo], target: Path) -> list[str]:
    """Members whose place a folder has, or one of whose folders is a file, in `target`."""
    problems = []
    for member in members:
        path = target / member.filename
        blocked = [folder for folder in path.parents if folder != target and target in folder.parents and folder.exists() and not folder.is_dir()]
        if blocked:
            problems.append(f"{member.filename!r}: {blocked[-1]} is a file; move it away")
        elif path.exists() and path.is_dir() != member.is_dir():
            problems.append(f"{member.filename!r}: {path} is a {'folder' if path.is_dir() else 'file'}; move it away")
    return problems


def _incomplete(members: list[zipfile.ZipInfo], target: Path) -> list[str]:
    """Models with checkpoints that lack what no model can be used without, in the archive and in `target`."""
    names = {member.filename for member in members}
    models = sorted({"/".join(parts[:2]) for name in names if len(parts := name.split("/")) > 3 and parts[2].startswith("fold_") and name.endswith(".pth")})
    return [f"{model}/{name} is missing" for model in models for name in ("plans.json", "dataset.json")
            if f"{model}/{name}" not in names and not (target / model / name).is_file()]
