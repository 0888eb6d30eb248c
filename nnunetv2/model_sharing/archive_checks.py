"""What a model's zip may hold, looked at before anything of it is unpacked: names, kinds, sizes."""

import os
import shutil
import stat
import zipfile
from pathlib import Path

from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.safe_names import file_key, name_problem

# What trainings, cross-validations and exports of upstream and of this fork leave in a model's folder; nothing of it is ever run
ENDINGS = (".json", ".pth", ".pkl", ".txt", ".png", ".pdf", ".npz", ".csv", ".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl", ".tif", ".tiff", ".log")
IN_DATASET = ("inference_information.json", "inference_information.txt", "inference_instructions.txt")
LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db")  # of file managers: left out without a word
MAX_MEMBERS = 100_000
MAX_RATIO, RATIO_FROM = 100, 2**28  # times the packed size; bytes below which a ratio says nothing
KNOWN_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def checked_members(archive: zipfile.ZipFile, zip_file: str | os.PathLike, target: Path) -> list[zipfile.ZipInfo]:
    """The members to unpack into `target`, without those of file managers.

    Raises:
        InputError: lists every member that is no file of a model (DatasetXXX_Name/Trainer__Plans__configuration/...), leads
            elsewhere, is a link, is encrypted, compressed in a way that is not known, or there twice; or the whole is larger
            than its packed size or the free disk can explain.
    """
    members = [member for member in archive.infolist() if not set(LITTER) & set(member.filename.split("/"))]
    problems = [f"{member.filename!r}: {problem}" for member in members if (problem := _problem(member)) is not None]
    if not any(not member.is_dir() for member in members):
        raise InputError(f"{zip_file} holds no file of a model. Name another, or pack it again.")
    problems += _doubles(members) + _incomplete(members, target)
    if problems:
        raise InputError(f"{zip_file} holds members that are not installed; nothing was changed. Do not trust this file, or pack it again.\n{list_some(problems)}")
    _refuse_absurd_sizes(members, zip_file, target)
    return members


def _problem(member: zipfile.ZipInfo) -> str | None:
    name, mode = member.filename, member.external_attr >> 16  # Unix mode, in the upper half
    if name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":"):
        return "absolute name"
    parts = name.rstrip("/").replace("\\", "/").split("/")
    if ".." in parts:
        return "leads out of the target folder"
    if stat.S_ISLNK(mode):
        return "link"
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "neither file nor folder"
    if member.flag_bits & 0x1:
        return "encrypted; models are packed without a password"
    if member.compress_type not in KNOWN_COMPRESSION:
        return f"compressed by method {member.compress_type}, which is not known; pack it with deflate"
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


def _incomplete(members: list[zipfile.ZipInfo], target: Path) -> list[str]:
    """Models with checkpoints that lack what no model can be used without, in the archive and in `target`."""
    names = {member.filename for member in members}
    models = sorted({"/".join(parts[:2]) for name in names if len(parts := name.split("/")) > 3 and parts[2].startswith("fold_") and name.endswith(".pth")})
    return [f"{model}/{name} is missing" for model in models for name in ("plans.json", "dataset.json")
            if f"{model}/{name}" not in names and not (target / model / name).is_file()]


def _refuse_absurd_sizes(members: list[zipfile.ZipInfo], zip_file: str | os.PathLike, target: Path) -> None:
    total, packed, free = sum(member.file_size for member in members), sum(member.compress_size for member in members), shutil.disk_usage(target).free
    reason = None
    if len(members) > MAX_MEMBERS:
        reason = f"{len(members)} members; a model has less than {MAX_MEMBERS}"
    elif packed > os.path.getsize(zip_file):
        reason = f"its members claim {packed} packed bytes, the file has {os.path.getsize(zip_file)}: they overlap"
    elif large := [member for member in members if member.file_size > max(RATIO_FROM, MAX_RATIO * member.compress_size)]:
        reason = f"{large[0].filename} would grow from {large[0].compress_size} to {large[0].file_size} bytes"
    elif total > max(RATIO_FROM, MAX_RATIO * packed):
        reason = f"it would grow from {packed} to {total} bytes"
    elif total > free:
        reason = f"it unpacks to {total / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free in {target}; free some space"
    if reason is not None:
        raise InputError(f"{zip_file} is not unpacked, nothing was changed: {reason}. Fetch it again, or pack it again.")
