"""What a damage is, and those that any file can suffer."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Damage:
    """One way to spoil a file. `apply(path, generator, canary)` changes `path` in place.

    canary: a path that only code out of the file would create.
    must_fail: the command has to refuse it. Otherwise it may also end well, if what it then leaves is right.
    """

    name: str
    apply: Callable[[Path, np.random.Generator, Path], None]
    must_fail: bool = True


def replace(path: Path, content: bytes) -> None:
    """New content under the same name, whatever stood there; never through a link into something else."""
    if path.is_symlink() or path.exists():
        path.unlink()
    path.write_bytes(content)


def rewriting(name: str, change: Callable[[bytes, np.random.Generator], bytes], must_fail: bool = True) -> Damage:
    """A damage made of a function of the file's bytes."""
    return Damage(name, lambda path, generator, _: replace(path, change(path.read_bytes(), generator)), must_fail)


def constant(name: str, content: bytes, must_fail: bool = True) -> Damage:
    """A damage that puts something else in the file's place."""
    return Damage(name, lambda path, _, __: replace(path, content), must_fail)


def _instead(make: Callable[[Path], None]) -> Callable[[Path, np.random.Generator, Path], None]:
    def apply(path: Path, _: np.random.Generator, __: Path) -> None:
        path.unlink()
        make(path)

    return apply


def _socket(path: Path) -> None:
    """A path may be too long for a socket's address, so it is bound from its own folder."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _loop(path: Path) -> None:
    other = path.with_name(f"other_{path.name}.link")
    path.symlink_to(other)
    other.symlink_to(path)


FILE_SYSTEM = [
    Damage("a folder in its place", _instead(Path.mkdir)),
    Damage("a pipe in its place", _instead(lambda path: os.mkfifo(path))),
    Damage("a socket in its place", _instead(_socket)),
    Damage("a dangling link", _instead(lambda path: path.symlink_to("/nowhere/at/all"))),
    Damage("links in a loop", _instead(_loop)),
    Damage("a link to an endless device", _instead(lambda path: path.symlink_to("/dev/zero"))),
]
CONTENT = [
    constant("empty", b""),
    constant("text instead", b"this is not what you expect\n" * 20),
    constant("a picture instead", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4),
    rewriting("cut in half", lambda content, _: content[: len(content) // 2]),
    constant("random bytes", np.random.default_rng(5).bytes(4096)),
    constant("null bytes", bytes(4096)),
]
