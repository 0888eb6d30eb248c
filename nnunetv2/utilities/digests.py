"""SHA-256 of files that are made once and loaded often, kept beside them as sha256sum writes it."""

from pathlib import Path

from nnunetv2.utilities.manifest import file_hash


def digests(*files: Path) -> str:
    """A line for each of `files`: digest and name."""
    return "".join(f"{file_hash(file)}  {file.name}\n" for file in files)


def are_intact(digests_file: Path, *files: Path) -> bool:
    """Whether all of `files` are there as `digests_file` says; False without one, or where something cannot be read."""
    try:
        return digests_file.read_text(encoding="utf-8") == digests(*files)
    except (OSError, UnicodeDecodeError):
        return False
