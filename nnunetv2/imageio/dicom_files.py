"""Which DICOM series a folder tree holds. Every file is looked at: what is no scan is counted by its kind, what is damaged is named.

Links are not followed, so nothing outside of the folder is read, and pipes and devices are never opened.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from nnunetv2.imageio.checked_file import irregular
from nnunetv2.imageio.dicom_header import Header, NoScan, Plane, is_dicom, load_pydicom, read_header
from nnunetv2.utilities.errors import InputError, in_one_message, list_some, name_some

MAX_FILES = 1_000_000
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
APPLE_DOUBLE = b"\x00\x05\x16\x07"  # begins what macOS writes beside a file, ._NAME, where the file system holds no attributes


@dataclass
class Series:
    """One SeriesInstanceUID, wherever its files lie. problems: what is wrong with headers -> the files that have it."""

    uid: str
    study_uid: str = ""
    modality: str = ""
    description: str = ""
    number: str = ""
    planes: list[Plane] = field(default_factory=list)
    problems: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        return sorted({plane.path for plane in self.planes}.union(*self.problems.values()))

    @property
    def label(self) -> str:
        """What messages call it: folder and UID."""
        return f"{shown(common_folder(self.files))}: series {self.uid or 'without a UID'}"


@dataclass
class Scan:
    """series: by UID, in the order of their first file. skipped: kind -> files. damaged: file -> a line with its problem."""

    series: list[Series] = field(default_factory=list)
    skipped: dict[str, list[Path]] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)

    def skip(self, kind: str, *files: Path) -> None:
        self.skipped.setdefault(kind, []).extend(files)

    def summary(self) -> str:
        """What was left out, a line a kind; empty without any."""
        return "\n".join(f"  {len(files)} x {kind}: {name_some([shown(file.name) for file in files], 3)}" for kind, files in sorted(self.skipped.items()))


def scan_folder(folder: str | os.PathLike, modality: str | None = "CT", min_slices: int = 5, progress: bool = True) -> Scan:
    """All series of `folder` and its sub-folders with `modality` (None: any) and at least `min_slices` slices; shorter ones are counted.

    Raises:
        InputError: lists links, pipes and other entries that are neither file nor folder; pydicom is not installed.
    """
    load_pydicom()
    files = list(_files_below(Path(folder)))
    scan, by_uid = Scan(), {}
    for path in tqdm(files, desc="reading headers", unit="file", disable=None if progress else True, leave=False):
        try:
            if not is_dicom(path):
                if not _is_apple_double(path) and (path.suffix.lower() in DICOM_SUFFIXES or not (path.suffix or path.stat().st_size)):
                    raise InputError("is called like a DICOM file and holds none")
                scan.skip("no DICOM file", path)
                continue
            header = read_header(path, modality)
        except NoScan as kind:
            scan.skip(str(kind), path)
        except InputError as error:
            scan.damaged[path] = f"{shown(path)}: {error}. Copy or export it again, or remove it"
        except OSError as error:
            scan.damaged[path] = in_one_message(error)
        else:
            _add(header, path, by_uid.setdefault(header.series_uid, Series(header.series_uid)))
    for series in by_uid.values():
        folders = {file.parent for file in series.files}
        if beside := sorted(file for file in scan.damaged if file.parent in folders):
            series.problems["damaged file(s) lie beside its slices, and may be slices of it"] = beside
        if len(series.planes) < min_slices and not series.problems:
            scan.skip(f"file of a series of fewer than {min_slices} slices", *series.files)
        else:
            scan.series.append(series)
    return scan


def holds_dicom(folder: str | os.PathLike) -> bool:
    """Whether any file below `folder` is DICOM; ends at the first."""
    return any(is_dicom(path) for path in _files_below(Path(folder), strict=False))


def common_folder(files: list[Path]) -> Path:
    return Path(os.path.commonpath([file.parent for file in files])) if files else Path()


def shown(path: str | os.PathLike) -> str:
    """A path as it may stand in a message or a table: printable UTF-8."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return text if text.isprintable() else repr(text)


def _is_apple_double(path: Path) -> bool:
    if not path.name.startswith("._"):
        return False
    with open(path, "rb") as file:
        return file.read(len(APPLE_DOUBLE)) == APPLE_DOUBLE


def _add(header: Header, path: Path, series: Series) -> None:
    if not series.planes and not series.problems:
        series.study_uid, series.modality = header.study_uid, header.modality
        series.description, series.number = header.description, header.number
    series.planes += header.planes
    for problem in header.problems:
        series.problems.setdefault(problem, []).append(path)


def _files_below(folder: Path, strict: bool = True) -> Iterator[Path]:
    """Regular files, sorted by path. strict: InputError names all links and special files; else they are passed over."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name the folder that holds the DICOM files.")
    problems, n_files, folders = [], 0, [folder]
    while folders:
        with os.scandir(folders.pop()) as found:
            entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        for entry in reversed(entries):
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                n_files += 1
                if n_files > MAX_FILES:
                    raise InputError(f"{folder} holds more than {MAX_FILES} files. Give a part of it.")
                yield Path(entry.path)
            elif stat.S_ISLNK(mode):
                problems.append(f"{shown(entry.path)} is a link to {os.readlink(entry.path)!r}, and links are not followed; copy what it leads to, or remove it")
            elif not stat.S_ISDIR(mode):
                problems.append(f"{shown(entry.path)} is {irregular(mode)}; remove it")
        folders += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    if problems and strict:
        raise InputError(f"{folder}: {len(problems)} entries are neither files nor folders:\n{list_some(problems)}")


def header_problems(series: Series) -> list[str]:
    """A line for each thing that is wrong with the headers, with the number of files and the first of them."""
    return [f"{problem} ({'in all' if len(files) == len(series.files) else len(files)} of {len(series.files)} files: "
            f"{name_some([shown(file.name) for file in files], 3)}). Export the series again, or mend its headers" for problem, files in series.problems.items()]


def repeated_files(planes: list[Plane]) -> Counter[str]:
    """SOPInstanceUIDs that several files share, copies of one image, with their number."""
    return Counter({uid: n for uid, n in Counter(uid for uid, _ in {(plane.instance_uid, plane.path) for plane in planes}).items() if uid and n > 1})
