"""Damaged and hostile zip files: packed models and submissions."""

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.fuzz.damage import CONTENT, FILE_SYSTEM, Damage, rewriting

MODEL_FOLDER = "Dataset777_PancreasCT/nnUNetTrainer__nnUNetPlans__3d_fullres"


def added(
    name: str, member: str | zipfile.ZipInfo, content: bytes | Callable[[Path], bytes] = b"payload", compression: int = zipfile.ZIP_DEFLATED
) -> Damage:
    """One more member; its content may depend on the canary's path."""

    def apply(path: Path, _: np.random.Generator, canary: Path) -> None:
        entry = member if isinstance(member, zipfile.ZipInfo) else zipfile.ZipInfo(member.replace("CANARY", str(canary)))
        entry.compress_type = compression
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(entry, content(canary) if callable(content) else content)

    return Damage(name, apply)


def remade(name: str, keep: Callable[[str], bool], rename: Callable[[str], str] = str) -> Damage:
    """Written anew with some members left out or under other names."""

    def change(content: bytes, _: np.random.Generator) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
            for member in old.namelist():
                if keep(member):
                    new.writestr(rename(member), old.read(member))
        return made.getvalue()

    return rewriting(name, change)


def _link(member: str, target: str) -> Damage:
    entry = zipfile.ZipInfo(member)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return added(f"a link to {target}", entry, target.encode())


def _in_directory(name: str, change: Callable[[bytearray, int, int], None]) -> Damage:
    """Fields of the first member changed in both of its headers: called with the bytes and the offsets of the local and central one."""

    def apply(content: bytes, _: np.random.Generator) -> bytes:
        changed = bytearray(content)
        change(changed, content.index(b"PK\3\4"), content.index(b"PK\1\2"))
        return bytes(changed)

    return rewriting(name, apply)


def _encrypted(content: bytearray, local: int, central: int) -> None:
    content[local + 6] |= 1
    content[central + 8] |= 1


def _unknown_compression(content: bytearray, local: int, central: int) -> None:
    content[local + 8 : local + 10] = content[central + 10 : central + 12] = b"\x63\x00"


def _wrong_checksum(content: bytearray, local: int, central: int) -> None:
    content[local + 14 : local + 18] = content[central + 16 : central + 20] = b"\1\2\3\4"


ZIP = [
    *CONTENT,
    *FILE_SYSTEM,
    rewriting("directory missing", lambda content, _: content[:-200]),
    _in_directory("encrypted", _encrypted),
    _in_directory("unknown compression", _unknown_compression),
    _in_directory("wrong checksum", _wrong_checksum),
    added("a member above the folder", "../../escaped.txt"),
    added("a member at an absolute path", "CANARY"),
    added("a member with backslashes", "..\\..\\escaped.txt"),
    _link("link", "/etc"),
    remade("no member", lambda member: False),
]
MODEL_ZIP = ZIP + [
    added("a hidden file", f"{MODEL_FOLDER}/.bashrc"),
    added("a program beside the model", f"{MODEL_FOLDER}/run.sh", b"#!/bin/sh\n"),
    added("a Python module", f"{MODEL_FOLDER}/sitecustomize.py", b"1\n"),
    added("a file at the top", "evil.pth"),
    added("a dataset called ..", "../x/plans.json"),
    added("a bomb of 1 GiB", f"{MODEL_FOLDER}/fold_0/checkpoint_best.pth", lambda _: bytes(1 << 30)),
    added("names that differ by case alone", f"{MODEL_FOLDER}/PLANS.json", b"{}"),
    remade("no plans", lambda member: not member.endswith("plans.json")),
    remade("no dataset.json", lambda member: not member.endswith("/dataset.json")),
    remade("another layout", lambda member: True, lambda member: member.replace("/", "_")),
]
SUBMISSION_ZIP = ZIP + [
    added("a stray file", "notes.txt"),
    added("a mask in a folder", "masks/quiz_101.nii.gz"),
    added("a mask of nobody", "quiz_999.nii.gz"),
    remade("no table", lambda member: not member.endswith(".csv")),
    remade("a mask missing", lambda member: member != "quiz_101.nii.gz"),
    remade("masks under other names", lambda member: True, lambda member: member.replace("quiz", "case")),
]
