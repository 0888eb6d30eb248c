"""Damaged and hostile checkpoints, pickles and arrays: code in pickles, sizes beyond any memory, wrong kinds, numbers that are none."""

import dataclasses
import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.fuzz.damage import CONTENT, FILE_SYSTEM, Damage, constant, replace, rewriting


class _Command:
    """Unpickled, it runs a command."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


def _petabytes() -> bytes:
    """A pickle that asks for an array of 2^50 bytes through numpy's own functions, which are let in."""
    return b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(\x8a\x07" + (1 << 50).to_bytes(7, "little") + b"tC\x01btR."


def _frombuffer() -> bytes:
    """Announces a byte string of a terabyte and holds none."""
    return b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."


def _pickled(name: str, make: Callable[[Path], Any]) -> Damage:
    return Damage(name, lambda path, _, canary: replace(path, pickle.dumps(make(canary))))


PICKLE = [
    *CONTENT,
    *FILE_SYSTEM,
    _pickled("that runs a command", _Command),
    _pickled("that runs a command inside", lambda canary: {"spacing": _Command(canary)}),
    _pickled("a number", lambda _: 5),
    _pickled("a list", lambda _: [1, 2]),
    _pickled("an empty dict", lambda _: {}),
    constant("asks for a petabyte", _petabytes()),
    constant("announces a terabyte", _frombuffer()),
    rewriting("last byte missing", lambda content, _: content[:-1]),
    constant("asks for builtins.eval", b"cbuiltins\neval\n(V1+1\ntR."),
]
CASE_PROPERTIES = PICKLE + [
    _pickled(
        "values of other kinds",
        lambda _: dict.fromkeys(("spacing", "class_locations", "shape_before_cropping", "bbox_used_for_cropping"), "x"),
    ),
]


def checkpoint(name: str, change: Callable[[dict, Path], Any], must_fail: bool = True) -> Damage:
    """The loaded checkpoint changed and saved again."""

    def apply(path: Path, _: np.random.Generator, canary: Path) -> None:
        import torch

        from nnunetv2.utilities.checkpoint import load_checkpoint

        content = change(load_checkpoint(path), canary)
        path.unlink()
        torch.save(content, path)

    return Damage(name, apply, must_fail)


def _entry(key: str, value: Any) -> Callable[[dict, Path], dict]:
    return lambda content, canary: content | {key: value(canary) if isinstance(value, type) else value}


def _without(key: str) -> Callable[[dict, Path], dict]:
    return lambda content, _: {name: value for name, value in content.items() if name != key}


def _weights(change: Callable[[Any], Any], every: bool = True) -> Callable[[dict, Path], dict]:
    def apply(content: dict, _: Path) -> dict:
        items = list(content["network_weights"].items())
        chosen = {key: change(value) for key, value in (items if every else items[:1])}
        return content | {"network_weights": dict(items) | chosen}

    return apply


CHECKPOINT = [
    *CONTENT,
    *FILE_SYSTEM,
    rewriting("1000 bytes missing", lambda content, _: content[:-1000]),
    rewriting(
        "a zeroed block",
        lambda content, _: content[: len(content) // 2] + bytes(2000) + content[len(content) // 2 + 2000 :],
        must_fail=False,
    ),
    Damage("a plain pickle that runs a command", lambda path, _, canary: replace(path, pickle.dumps(_Command(canary)))),
    checkpoint("code inside", lambda content, canary: content | {"note": _Command(canary)}),
    checkpoint("a list", lambda content, _: [content]),
    checkpoint("an empty dict", lambda content, _: {}),
    checkpoint("no weights", _without("network_weights")),
    checkpoint("no trainer", _without("trainer_name"), must_fail=False),
    checkpoint("no settings", _without("init_args")),
    checkpoint("settings a list", _entry("init_args", [1])),
    checkpoint("weights a list", _entry("network_weights", [1, 2])),
    checkpoint("weights of text", _weights(lambda _: "x")),
    checkpoint("weights all NaN", _weights(lambda value: value * float("nan"))),
    checkpoint("an infinite weight", _weights(lambda value: value + float("inf"), every=False)),
    checkpoint("weights of another shape", _weights(lambda value: value[:1])),
    checkpoint("another trainer, os.system", _entry("trainer_name", "os.system"), must_fail=False),
    checkpoint("trainer with a path", _entry("trainer_name", "../../x"), must_fail=False),
    checkpoint("trainer a number", _entry("trainer_name", 3), must_fail=False),
    checkpoint("mirroring over axis 9", _entry("inference_allowed_mirroring_axes", (9,))),
]
# Of these the weights alone are taken
NOT_WEIGHTS = {"no settings", "settings a list", "mirroring over axis 9"}
PRETRAINED = [dataclasses.replace(damage, must_fail=damage.must_fail and damage.name not in NOT_WEIGHTS) for damage in CHECKPOINT]


def _npy(shape: tuple, kind: str = "<f4", content: bytes = b"1234") -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


def _zipped(name: str, content: bytes) -> bytes:
    import zipfile

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, content)
    return made.getvalue()


def _arrays(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def apply(path: Path, _: np.random.Generator, __: Path) -> None:
        with np.load(path) as stored:
            arrays = {key: change(stored[key]) for key in stored.files}
        path.unlink()
        np.savez_compressed(path, **arrays)

    return Damage(name, apply)


PROBABILITIES = [
    *CONTENT,
    *FILE_SYSTEM,
    constant("another key", _zipped("other.npy", _npy((1,)))),
    constant("an array of a petabyte", _zipped("probabilities.npy", _npy((1 << 50,)))),
    constant("an array of objects", _zipped("probabilities.npy", _npy((1,), "|O", pickle.dumps([1])))),
    constant("no array inside", _zipped("probabilities.npy", b"text")),
    _arrays("another shape", lambda array: array[:, :2]),
    _arrays("another number of labels", lambda array: array[:1]),
    _arrays("all NaN", lambda array: array * np.nan),
]


def _flip_header(content: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in generator.integers(8, 90, 6):
        changed[place] ^= 0xFF
    return bytes(changed)


def _b2nd(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def apply(path: Path, _: np.random.Generator, __: Path) -> None:
        import blosc2

        array = np.ascontiguousarray(change(blosc2.open(urlpath=str(path), mode="r")[:]))
        path.unlink()
        blosc2.asarray(array, urlpath=str(path))

    return Damage(name, apply)


PREPROCESSED = [
    *CONTENT,
    *FILE_SYSTEM,
    rewriting("flipped bits in the header", _flip_header),
    rewriting("last 100 bytes missing", lambda content, _: content[:-100]),
    rewriting(  # blosc2 keeps no checksum, and zeros may decompress to zeros
        "a zeroed block", lambda content, _: content[: len(content) // 2] + bytes(300) + content[len(content) // 2 + 300 :], must_fail=False
    ),
    _b2nd("three axes", lambda array: array[0]),
    _b2nd("another shape", lambda array: array[:, :3]),
]
PREPROCESSED_IMAGE = [*PREPROCESSED, _b2nd("all NaN", lambda array: array * np.nan)]
