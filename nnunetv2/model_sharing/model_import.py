"""Install a zip of trained models (ours or upstream's) into nnUNet_results."""

import os
import stat
import zipfile
from pathlib import PurePosixPath, PureWindowsPath

from nnunetv2 import paths
from nnunetv2.utilities.leftovers import temporary_folder


def install_model_from_zip_file(zip_file: str | os.PathLike) -> None:
    """Unpack `zip_file`. Files of a model that is already there are replaced, its other files stay.

    Everything is unpacked and checked beside the target first, so a broken or refused archive changes nothing, and each
    file appears whole.

    Raises:
        ValueError: not a whole zip file, or members with an absolute name, outside of the target, or links; all are listed.
    """
    target = paths.nnUNet_results
    target.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(zip_file) as archive, temporary_folder(target, "install") as temporary:
            _refuse_unsafe_members(archive, zip_file)
            archive.extractall(temporary)  # checks each member's CRC
            for source in sorted(path for path in temporary.rglob("*") if path.is_file()):
                destination = target / source.relative_to(temporary)
                destination.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, destination)
                print(f"Installed {destination}")
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{zip_file} is not a whole zip file ({error}). Fetch it again.") from error


def _refuse_unsafe_members(archive: zipfile.ZipFile, zip_file: str | os.PathLike) -> None:
    problems = []
    for member in archive.infolist():
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or name.startswith("\\"):
            problems.append(f"{name}: absolute name")
        elif ".." in parts:
            problems.append(f"{name}: leads out of the target folder")
        elif stat.S_ISLNK(member.external_attr >> 16):  # Unix mode, in the upper half
            problems.append(f"{name}: link")
    if problems:
        raise ValueError(f"{zip_file} holds members that are not installed; nothing was changed. Do not trust this file.\n" + "\n".join(problems))
