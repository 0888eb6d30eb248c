"""A DICOM series that is sent as a zip: unpacked under numbers, whatever its members are called, and made one image."""

import lzma
import math
import shutil
import zipfile
import zlib
from pathlib import Path

from nnunetv2.imageio.dicom_conversion import write_stack
from nnunetv2.imageio.dicom_files import scan_folder, shown
from nnunetv2.imageio.dicom_series import stack_of
from nnunetv2.inference.serving.jobs import refuse_large
from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.leftovers import temporary_folder
from nnunetv2.utilities.zip_guard import kind_problem, refuse_absurd_sizes, without_litter


def image_of_zip(path: Path, target: Path, modality: str | None, max_voxels: int) -> None:
    """Write the one series that the zip `path` holds to `target`.

    Raises:
        InputError: it is no whole zip or a bomb; it holds no series, several, or one that is no regular grid or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive, temporary_folder(path.parent, "dicom") as folder:
            try:
                _unpack(archive, path, folder)
                _convert(folder, target, modality, max_voxels)
            except InputError as error:  # its sender shall not learn where it lies
                raise InputError(str(error).replace(f"{folder}/", "").replace(str(folder), "the zip").replace(str(path), "the zip")) from error
    except (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError) as error:
        raise InputError(f"The file is not a whole zip ({error}). Pack it again.") from error


def _unpack(archive: zipfile.ZipFile, path: Path, folder: Path) -> None:
    members = [member for member in without_litter(archive) if not member.is_dir()]
    problems = [f"{shown(member.filename)}: {problem}" for member in members if (problem := kind_problem(member, "series")) is not None]
    if problems:
        raise InputError(f"The zip holds members that are not unpacked:\n{list_some(problems)}\nPack the files alone.")
    refuse_absurd_sizes(members, path, folder, "a series")
    for number, member in enumerate(members):
        with archive.open(member) as packed, open(folder / f"{number:06d}", "wb") as file:
            shutil.copyfileobj(packed, file)


def _convert(folder: Path, target: Path, modality: str | None, max_voxels: int) -> None:
    scan = scan_folder(folder, modality, progress=False)
    if len(scan.series) != 1 or scan.damaged:
        reasons = [*scan.damaged.values(), *(f"series {one.uid}, {len(one.files)} files" for one in scan.series)]
        raise InputError(f"Send a zip with one whole {modality or 'image'} series of 5 or more slices; this one holds {len(scan.series)}.\n"
                         f"{list_some(reasons)}\n{scan.summary()}".strip())
    stack = stack_of(scan.series[0])
    refuse_large(math.prod(stack.shape), max_voxels)
    write_stack(stack, target)
