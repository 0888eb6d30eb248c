"""What lies in a folder, by hash: to see what a command changed, and whether two runs came to the same result."""

import gzip
import hashlib
import json
import os
import re
import shlex
import zipfile
from collections.abc import Iterable
from pathlib import Path

OWN_LEFTOVER = re.compile(r"\.part$|\.tmp$|~$|^\..*\.[0-9a-f]{32}|^\.(install|convert)_|^tmp[a-z0-9_]{8}$")
VOLATILE_KEYS = re.compile(
    r"^written$|seconds|time|date|host|machine|command|version|commit|created|_path|^path$|folder|pid|mtime|hardware|device|cpu|memory|platform"
)


def listing(folder: Path) -> dict[str, str]:
    """{path relative to `folder`: hash, or what it is}; links are not followed, and pipes not opened."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            relative = os.fsencode(path.relative_to(folder)).decode(errors="surrogateescape")
            if path.is_symlink():
                found[relative] = f"link to {os.readlink(path)}"
            elif path.is_dir():
                found[f"{relative}/"] = "folder"
            elif path.is_file():
                found[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[relative] = "special"
    return found


def leftovers(paths: Iterable[str]) -> list[str]:
    """Those of `paths` that a writer names so while it writes and a finished command has no business to leave."""
    return sorted(path for path in paths if any(OWN_LEFTOVER.search(part) for part in Path(path).parts))


def canonical(path: Path, root: Path | None = None) -> str:
    """Hash of what a result says: voxels and geometry without the compression, tables, JSON and text without times and places.

    root: a folder whose path is left out where JSON and text mention it.

    Pictures and PDFs of equal content may differ in their bytes, so for those the kind alone counts.
    """
    name = path.name
    if path.is_symlink() and not path.exists():
        return f"dangling link to {os.readlink(path)}"
    if name.endswith(".nii.gz"):
        return _hash(gzip.decompress(path.read_bytes()))
    if name.endswith(".json"):
        return _hash(json.dumps(_settled(json.loads(path.read_text(encoding="utf-8")), str(root or "no root")), sort_keys=True).encode())
    if name.endswith((".pth", ".pt")):
        return _checkpoint(path)
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            parts = sorted((member.filename, _bytes_of_member(archive, member)) for member in archive.infolist())
        return _hash(repr(parts).encode())
    if name.endswith((".png", ".pdf", ".html", ".log", ".b2nd", ".npz", ".pkl", ".lock")):
        return _typed(path)
    content, place = path.read_bytes(), str(root or "no root")
    for form in (shlex.quote(place).removeprefix("'").removesuffix("'"), place):
        content = content.replace(os.fsencode(form), b"ROOT")
    return _hash(content.replace(b"'", b"") if name.endswith(".txt") else content)  # quotes of commands, which some places need


def _bytes_of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    content = archive.read(member)
    if member.filename.endswith(".nii.gz"):
        content = gzip.decompress(content)
    if member.filename.endswith(".json"):
        content = json.dumps(_settled(json.loads(content), "no root"), sort_keys=True).encode()
    if member.filename.endswith(".pth"):
        return "checkpoint"  # the same file lies in the model's folder, where it is looked at
    return _hash(content)


def _typed(path: Path) -> str:
    """Hash of the content of arrays and pickles; kind and being whole of pictures; nothing of logs and locks."""
    name, content = path.name, path.read_bytes()
    if name.endswith(".png"):
        return "whole picture" if content[:4] == b"\x89PNG" and content[-8:-4] == b"IEND" else "broken picture"
    if name.endswith(".pdf"):
        return "whole PDF" if content[:4] == b"%PDF" and content.rstrip().endswith(b"%%EOF") else "broken PDF"
    if name.endswith(".html"):
        return "whole page" if content.rstrip().endswith(b"</html>") else "broken page"
    if name.endswith(".b2nd"):
        import blosc2

        return _hash(blosc2.open(urlpath=str(path), mode="r")[:].tobytes())
    if name.endswith(".npz"):
        import numpy as np

        with np.load(path) as arrays:
            return _hash(b"".join(key.encode() + arrays[key].tobytes() for key in sorted(arrays.files)))
    if name.endswith(".pkl"):
        from nnunetv2.preprocessing.safe_pickle import load_pickle

        return _hash(repr(_plain(load_pickle(path))).encode())
    return "text of a log"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return sorted((str(key), _plain(item)) for key, item in value.items())
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _checkpoint(path: Path) -> str:
    """Weights alone: optimiser and bookkeeping hold times."""
    from nnunetv2.utilities.checkpoint import load_checkpoint

    content = load_checkpoint(path)
    digest = hashlib.sha256()
    for group in ("network_weights", "class_head_weights"):
        for key, tensor in sorted((content.get(group) or {}).items()):
            digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _settled(value: object, root: str) -> object:
    """JSON content without what differs from run to run: times, places, the machine."""
    if isinstance(value, dict):
        return {key.replace(root, "ROOT"): _settled(item, root) for key, item in value.items() if not VOLATILE_KEYS.search(key.lower())}
    if isinstance(value, str):
        return value.replace(root, "ROOT")
    return [_settled(item, root) for item in value] if isinstance(value, list) else value


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
