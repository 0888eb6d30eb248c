"""SHA-256 of files that are made once and loaded often, kept beside them as sha256sum writes it."""

import hashlib
from pathlib import Path


def digests(*files: Path) -> str:
    """A line for each of `files`: digest and name."""
    lines = []
    for file in files:
        digest = hashlib.sha256()
        with open(file, "rb") as content:
            while part := content.read(1 << 20):
                digest.update(part)
        lines.append(f"{digest.hexdigest()}  {file.name}\n")
    return "".join(lines)


def are_intact(digests_file: Path, *files: Path) -> bool:
    """Whether all of `files` are there as `digests_file` says; False without one, or where something cannot be read."""
    try:
        return digests_file.read_text() == digests(*files)
    except (OSError, UnicodeDecodeError):
        return False
