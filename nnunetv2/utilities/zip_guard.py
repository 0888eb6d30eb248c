"""What any zip from outside may hold, looked at before anything of it is unpacked: kinds of members, sizes."""

import os
import shutil
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.utilities.errors import InputError

LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db")  # of file managers: left out without a word
MAX_MEMBERS = 100_000
MAX_RATIO, RATIO_FROM = 100, 2**28  # times the packed size; bytes below which a ratio says nothing
KNOWN_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def without_litter(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [member for member in archive.infolist() if not set(LITTER) & set(member.filename.split("/"))]


def kind_problem(member: zipfile.ZipInfo, what: str) -> str | None:
    """Why a member is no file or folder that can be unpacked, or None. what: is packed, in the plural."""
    mode = member.external_attr >> 16  # Unix mode, in the upper half
    if stat.S_ISLNK(mode):
        return "link"
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "neither file nor folder"
    if member.flag_bits & 0x1:
        return f"encrypted; {what} are packed without a password"
    if member.compress_type not in KNOWN_COMPRESSION:
        return f"compressed by method {member.compress_type}, which is not known; pack it with deflate"
    return None


def refuse_absurd_sizes(members: Sequence[zipfile.ZipInfo], zip_file: str | os.PathLike, target: Path, what: str) -> None:
    """InputError where the whole is larger than its packed size or the free disk can explain. what: is in it, for the message."""
    total, packed, free = sum(member.file_size for member in members), sum(member.compress_size for member in members), shutil.disk_usage(target).free
    reason = None
    if len(members) > MAX_MEMBERS:
        reason = f"{len(members)} members; {what} has less than {MAX_MEMBERS}"
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
