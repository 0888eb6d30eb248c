"""A folder tree of DICOM series -> one image file a series, CASE_0000.nii.gz, and series.csv, which says what came from where.

Names of patients stand in no file name: cases are numbered, unless the names of folders are asked for. What a former run has written from
the same files is kept.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.dicom_files import Series, common_folder, scan_folder, shown
from nnunetv2.imageio.dicom_pixels import read_stack
from nnunetv2.imageio.dicom_series import Stack, stack_of
from nnunetv2.imageio.dicom_tilt import upright
from nnunetv2.imageio.image_arrays import to_sitk
from nnunetv2.imageio.inflate import compress
from nnunetv2.imageio.whole_file import damage_of_written, write_image_whole
from nnunetv2.utilities.csv_files import read_csv, write_csv
from nnunetv2.utilities.errors import EXPECTED_ERRORS, InputError, in_one_message, list_some
from nnunetv2.utilities.files import atomic_write, is_there
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.image_listing import scan_images
from nnunetv2.utilities.manifest import value_hash
from nnunetv2.utilities.parallel import in_processes, in_threads
from nnunetv2.utilities.safe_names import file_key, name_problem, plain_names

TABLE = "series.csv"
COLUMNS = ("case", "image", "series_uid", "study_uid", "modality", "series_number", "description", "slices", "size", "spacing_mm", "tilt_degrees",
           "folder", "source")


@dataclass(frozen=True)
class Converted:
    """A series and the image that was made of it. The image lies on the stack's grid, unless its tilt was resampled away."""

    case: str
    image: Path
    series: Series
    stack: Stack


@dataclass
class Conversion:
    """converted: in the order of the folders. problems: a text for each series or file that cannot be used. skipped: lines with counts."""

    converted: list[Converted] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: str = ""
    n_kept: int = 0


def convert_folder(source: str | os.PathLike, out: str | os.PathLike, *, modality: str | None = "CT", min_slices: int = 5, folder_names: bool = False,
                   resample_tilt: bool = False, ending: str = ".nii.gz", processes: int = 1, wait: bool = False) -> Conversion:
    """Convert every series of `source` that is sound, and say of the others what is wrong.

    modality, min_slices: see `scan_folder`. folder_names: cases are called like their folders, where those names are safe. resample_tilt:
    put sheared stacks upright rather than refuse them. wait: for another run that converts into `out`.

    Raises:
        InputError: `source` has links or special files; `out` holds images of another origin.
    """
    scan = scan_folder(source, modality, min_slices)
    result = Conversion(problems=list(scan.damaged.values()), skipped=scan.summary())
    sound: list[tuple[Series, Stack]] = []
    for series in scan.series:
        try:
            sound.append((series, stack_of(series, resample_tilt)))
        except InputError as error:
            result.problems.append(str(error))
    out = Path(out)
    with folder_lock(out, "conversion", f"{source} is converted", wait=wait):
        _convert_all(sound, out, folder_names, resample_tilt, ending, processes, result)
    return result


def _convert_all(sound: list[tuple[Series, Stack]], out: Path, folder_names: bool, resample_tilt: bool, ending: str, processes: int, result: Conversion) -> None:
    table = _known(out, ending)
    names = _names([series for series, _ in sound], table, folder_names)
    wanted = [Converted(names[series.uid], out / f"{names[series.uid]}_0000{ending}", series, stack) for series, stack in sound]
    rows = {item.series.uid: _row(item, resample_tilt) for item in wanted}
    todo = [item for item in wanted if not _is_done(item, table.get(item.series.uid), rows[item.series.uid])]
    for item in todo:
        item.image.unlink(missing_ok=True)  # of other files than these: no later run must take it for theirs
    if wanted:
        write_csv(out / TABLE, COLUMNS, (table | rows).values())
    jobs = {item.case: (item.stack, item.image) for item in todo}
    failed = (in_threads(_convert, jobs, 1, "converting series") if processes < 2 else in_processes(_convert, jobs, processes, "converting series")) if jobs else {}
    result.problems += [f"{item.series.label}: {failed[item.case]}" for item in todo if failed[item.case]]
    result.converted = [item for item in wanted if not failed.get(item.case)]
    result.n_kept = len(wanted) - len(todo)
    if any(failed.values()):
        lost = {item.series.uid for item in todo if failed[item.case]}
        write_csv(out / TABLE, COLUMNS, [row for uid, row in (table | rows).items() if uid not in lost])


def write_stack(stack: Stack, target: Path) -> None:
    """The volume of a series as an image file. InputError lists files that cannot be read."""
    volume, geometry = read_stack(stack), stack.geometry
    if any(stack.shear):
        volume, geometry = upright(volume, stack)
    _write(to_sitk(volume, {"sitk_stuff": geometry}), target)


def _convert(stack: Stack, target: Path) -> str | None:
    """Write one image; what is wrong with the series, if it is."""
    try:
        write_stack(stack, target)
    except EXPECTED_ERRORS as error:
        return in_one_message(error)
    return None


def _write(image: sitk.Image, target: Path) -> None:
    with atomic_write(target) as temporary:
        if not str(target).endswith(".nii.gz"):
            write_image_whole(image, temporary)
            return
        plain = temporary.with_suffix("")  # ITK compresses at a tenth of the speed
        try:
            write_image_whole(image, plain)
            temporary.write_bytes(compress(plain.read_bytes()))
        finally:
            plain.unlink(missing_ok=True)


def _known(out: Path, ending: str) -> dict[str, dict[str, str]]:
    """Rows of a former run's table whose images are there, by series; InputError where other images lie in `out`."""
    path = out / TABLE
    rows = read_csv(path, COLUMNS, only_these=True).rows if is_there(path) else []
    plain_names([row["case"] for row in rows], "case", path)
    images = {f"{row['case']}_0000{ending}" for row in rows}
    foreign = [shown(file) for file in (scan_images(out, ending, "ignore").files if out.is_dir() else []) if file.name not in images]
    if foreign:
        raise InputError(f"{out} holds images that {TABLE} does not know, and they would pass for converted series:\n{list_some(foreign)}\nChoose another folder.")
    return {row["series_uid"]: row for row in rows if (out / f"{row['case']}_0000{ending}").is_file()}


def _is_done(item: Converted, before: dict[str, str] | None, now: dict[str, str]) -> bool:
    return before is not None and before["source"] == now["source"] and item.image.is_file() and damage_of_written(item.image) is None


def _names(series: Iterable[Series], table: dict[str, dict[str, str]], folder_names: bool) -> dict[str, str]:
    """A case's name for each series; one that has a name already keeps it."""
    taken = {file_key(row["case"]) for row in table.values()}
    names = {}
    for one in series:
        if one.uid in table:
            names[one.uid] = table[one.uid]["case"]
            continue
        wish = common_folder(one.files).resolve().name if folder_names else ""
        name = wish if folder_names and name_problem(wish) is None and not re.search(r"_\d{4}\Z", wish) else "case"
        number = 1
        candidate = name if name != "case" else f"case{number:04d}"
        while file_key(candidate) in taken:
            number += 1
            candidate = f"{name}-{number}" if name != "case" else f"case{number:04d}"
        taken.add(file_key(candidate))
        names[one.uid] = candidate
    return names


def _row(item: Converted, resample_tilt: bool) -> dict[str, str]:
    stack, series = item.stack, item.series
    stamps = [(os.fsencode(file), file.stat().st_size, file.stat().st_mtime_ns) for file in series.files]
    return {
        "case": item.case, "image": item.image.name, "series_uid": series.uid, "study_uid": series.study_uid, "modality": series.modality,
        "series_number": series.number, "description": series.description, "slices": str(len(stack.planes)), "size": " ".join(map(str, stack.shape[::-1])),
        "spacing_mm": " ".join(f"{value:.6g}" for value in stack.spacing), "tilt_degrees": f"{stack.tilt:.2f}",
        "folder": shown(common_folder(series.files).absolute()), "source": value_hash([stamps, resample_tilt and bool(np.any(stack.shear))])[:16],
    }
