"""Where a result comes from: hashes of files and settings, the version of the code, the machine.

Manifests are JSON files named `manifest.json`: of a raw dataset (data_prep/convert_quiz.py), of a preprocessed one
(data_manifest.py), of a trained fold (training/nnUNetTrainer/training_identity.py) and of a prediction folder
(prediction_manifest.py). `nnUNetv2_verify FOLDER` compares a folder with its manifest.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnunetv2.configuration import available_cores
from nnunetv2.utilities.cpu_flags import cpu_model

MANIFEST_FILE = "manifest.json"
PACKAGES = ("nnunetv2", "dynamic_network_architectures")  # whose source makes the code version
DATASET_KEYS = ("channel_names", "labels", "regions_class_order", "classification")  # of dataset.json
PLANS_KEYS = ("transpose_forward", "foreground_intensity_properties_per_channel")
END_BYTES = 2**16  # of each end of a file that `quick_hash` reads; a gzip file's end holds the checksum of all of it
KNOWN_HASHES = dict[str, list]  # path -> [size, mtime_ns, ctime_ns, sha256]


def file_hash(path: str | os.PathLike) -> str:
    """sha256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def quick_hash(path: str | os.PathLike) -> str:
    """Hash of size and both ends, for files too large to read for it: a `.gz` ends with the checksum of its content."""
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(END_BYTES))
        if size > END_BYTES:
            file.seek(max(END_BYTES, size - END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def known_hash(path: str | os.PathLike, known: KNOWN_HASHES) -> str:
    """`file_hash`, read only when size or times differ from what `known`, which is updated, says of the file."""
    status = os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    entry = known.get(str(path))
    if entry is None or entry[:3] != stamp:
        entry = known[str(path)] = [*stamp, file_hash(path)]
    return entry[3]


def value_hash(value: Any) -> str:
    """Hash of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def origin() -> dict[str, Any]:
    """What every manifest holds: code, machine, time."""
    return {"format": 1, "code": code_version(), "machine": machine(), "written": datetime.now(timezone.utc).isoformat(timespec="seconds")}


@lru_cache
def code_version() -> dict[str, Any]:
    """Version, hash of the packages' source, and where they lie in a git repository its commit and whether they were changed since."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(path for package in PACKAGES for path in (root / package).rglob("*") if path.suffix in (".py", ".cpp", ".h", ".hpp"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    found: dict[str, Any] = {"version": package_version("nnunetv2"), "source": digest.hexdigest()[:16]}
    try:
        tracked = _git(root, "ls-files", "--", str(Path(__file__).resolve()))
        if tracked:
            found |= {"commit": _git(root, "rev-parse", "HEAD"), "changed": bool(_git(root, "status", "--porcelain", "--", *PACKAGES))}
    except (OSError, subprocess.SubprocessError):
        pass  # no git, or no repository: the hash of the source says it
    return found


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def package_version(name: str) -> str | None:
    """Of an installed distribution, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache
def machine() -> dict[str, Any]:
    """Processor, cores, graphics card if torch has been loaded and sees one, versions. Names nobody's computer."""
    found = {"cpu": cpu_model(), "cores": available_cores(), "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
             **{name: package_version(name) for name in ("torch", "numpy", "SimpleITK")}}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def plans_identity(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What a network's input and architecture follow from: `configuration` as resolved, and what all configurations of `plans` share."""
    settings = {key: value for key, value in configuration.items() if key != "median_image_size_in_voxels"}
    return json.loads(json.dumps(settings | {key: plans[key] for key in PLANS_KEYS}))


def dataset_identity(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """What a network's channels and outputs mean."""
    return json.loads(json.dumps({key: dataset_json.get(key) for key in DATASET_KEYS}))


def changes(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """One line for each value that differs, `a.b was 1, is 2`; keys of one side alone count as None."""
    lines = []
    for key in sorted({*old, *new}, key=str):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += changes(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key} was {_short(before)}, is {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def weights_hash(checkpoint: str | os.PathLike) -> str:
    """Of what a checkpoint holds. Quick: its zip archive lists a checksum of every tensor; an older format is read whole."""
    if not zipfile.is_zipfile(checkpoint):
        return file_hash(checkpoint)
    with zipfile.ZipFile(checkpoint) as archive:
        return value_hash([(member.filename, member.file_size, member.CRC) for member in archive.infolist()])
