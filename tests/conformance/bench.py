"""The work bench: one folder with a raw data set both sides read, a folder of results per side, and upstream on call."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance import exchange

REPOSITORY = Path(__file__).resolve().parents[2]
THREADS = "1"  # a side: small networks gain nothing from more, and threads that wait for a busy core lose much
AS_UPSTREAM = {"nnUNet_cpu_training": "fp32"}  # which trains in nothing else on a CPU


def reference_python() -> Path:
    """Interpreter of the environment that holds upstream: $NNUNET_UPSTREAM_PYTHON or .venv-upstream."""
    return Path(os.environ.get("NNUNET_UPSTREAM_PYTHON", REPOSITORY / ".venv-upstream/bin/python"))


def real_ct_folder() -> Path | None:
    """Folder with real CTs named `*_0000.nii.gz`: $CONFORMANCE_REAL_CTS, or shared/realct beside the checkout; None without."""
    folder = Path(os.environ.get("CONFORMANCE_REAL_CTS", REPOSITORY.parent / "shared/realct"))
    return folder if folder.is_dir() else None


@dataclass(frozen=True)
class Row:
    """One compared fact. `difference` is a number or a short text, `bound` says what is allowed."""

    what: str
    ours: str
    upstream: str
    difference: str
    bound: str
    passed: bool
    note: str = ""
    skipped: bool = False  # its data are not here; counted neither as passed nor as failed

    def as_json(self) -> dict[str, Any]:
        row = asdict(self)
        row["pass"] = row.pop("passed")
        return row


def skipped(what: str, reason: str) -> Row:
    """A row whose data are not here."""
    return Row(what, "", "", "not compared", reason, True, skipped=True)


def equal(what: str, ours: Any, upstream: Any, note: str = "") -> Row:
    """Exactly equal after JSON's view of both (tuples are lists, numpy numbers are numbers)."""
    ours, upstream = plain(ours), plain(upstream)
    differences = list(differing_fields(ours, upstream))
    shown = "; ".join(differences[:4]) + (f" (+{len(differences) - 4})" if len(differences) > 4 else "") if differences else "0"
    return Row(what, brief(ours), brief(upstream), shown, "equal", not differences, note)


def within(what: str, ours: np.ndarray | float, upstream: np.ndarray | float, bound: float, relative: bool = False,
           note: str = "") -> Row:
    """Largest absolute (or, over the larger magnitude, relative) difference of two arrays at most `bound`."""
    a, b = np.asarray(ours, np.float64), np.asarray(upstream, np.float64)
    if a.shape != b.shape:
        return Row(what, f"shape {a.shape}", f"shape {b.shape}", "shapes differ", f"<= {bound:g}", False, note)
    gap = float(np.max(np.abs(a - b), initial=0))
    if relative:
        gap /= max(float(np.max(np.abs(b), initial=0)), 1e-12)
    passed = bool(gap <= bound)  # NaN fails
    return Row(what, describe(a), describe(b), f"{gap:.3g}", f"<= {bound:g}" + (" relative" if relative else ""), passed, note)


def agreeing(what: str, ours: np.ndarray, upstream: np.ndarray, least: float = 0.99999, note: str = "") -> Row:
    """Fraction of equal labels at least `least`."""
    if ours.shape != upstream.shape:
        return Row(what, f"shape {ours.shape}", f"shape {upstream.shape}", "shapes differ", f">= {least:.5%}", False, note)
    unequal = int(np.count_nonzero(ours != upstream))
    counts = [", ".join(f"{v}: {n}" for v, n in zip(*np.unique(x, return_counts=True))) for x in (ours, upstream)]
    return Row(what, counts[0], counts[1], f"{unequal} of {ours.size} voxels", f">= {least:.5%} equal",
               unequal <= (1 - least) * ours.size, note)


def plain(value: Any) -> Any:
    """What `value` looks like after a trip through JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def differing_fields(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Paths of the fields in which two plain structures differ; NaN equals NaN."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in list(a) + [k for k in b if k not in a]:
            if key not in a or key not in b:
                yield f"{where}.{key} missing {'here' if key not in a else 'upstream'}"
            else:
                yield from differing_fields(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differing_fields(x, y, f"{where}[{i}]")
    elif a != b and not (a != a and b != b):
        yield f"{where or 'value'}: {brief(a)} != {brief(b)}"


def brief(value: Any, length: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def describe(array: np.ndarray) -> str:
    if array.size == 1:
        return f"{array.item():.6g}"
    return f"mean {array.mean():.5g}, SD {array.std():.4g}, n {array.size}"


class Upstream:
    """Upstream nnU-Net in its own process and environment; answers are cached by the content of the question."""

    def __init__(self, python: Path, folder: Path):
        self.python, self.folder = python, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        # A clean environment: no PYTHONPATH, nothing that would put this repository's nnunetv2 in front of upstream's.
        self.environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": THREADS,
                            "nnUNet_def_n_proc": "2", "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
        self._server: subprocess.Popen | None = None
        self._cache: dict[str, Any] = {}

    def call(self, function: str, **arguments: Any) -> Any:
        """Call `module:function` of the upstream_*.py files; raises RuntimeError with upstream's traceback."""
        question = self.folder / "question"
        exchange.write(arguments, question)
        with np.load(question.with_suffix(".npz")) as arrays:
            content = b"".join(arrays[name].tobytes() for name in arrays.files)
        key = hashlib.sha256(function.encode() + question.with_suffix(".json").read_bytes() + content).hexdigest()
        if key not in self._cache:
            answer = self.folder / "answer"
            request = {"function": function, "arguments": str(question), "result": str(answer)}
            reply = self._ask(json.dumps(request))
            if reply != "ok":
                raise RuntimeError(f"upstream {function} failed:\n{reply}")
            self._cache[key] = exchange.read(answer)
        return self._cache[key]

    def command(self, command: str, *arguments: Any) -> str:
        """Run one of upstream's console commands as a process of its own; returns what it printed."""
        script = self.python.parent / f"nnUNetv2_{command}"
        return run([self.python, "-I", script, *arguments], self.environment, self.folder)

    def _ask(self, request: str) -> str:
        if self._server is None:
            log = open(self.folder / "upstream.log", "w")
            self._server = subprocess.Popen(
                [self.python, "-I", Path(__file__).with_name("upstream_server.py")], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True, cwd=self.folder, env=self.environment)
        self._server.stdin.write(request + "\n")
        self._server.stdin.flush()
        reply = self._server.stdout.readline()
        if not reply:
            raise RuntimeError(f"the reference process died; see {self.folder / 'upstream.log'}")
        return json.loads(reply)

    def close(self) -> None:
        if self._server is not None:
            self._server.stdin.close()
            self._server.wait(timeout=60)
            self._server = None


class Bench:
    """Folders and environment of one comparison run. `reduced` asks the checks for fewer and smaller cases."""

    def __init__(self, folder: Path, reduced: bool = False):
        self.folder, self.reduced = Path(folder).resolve(), reduced
        self.raw = self.folder / "raw"
        self.ours, self.theirs = self.folder / "ours", self.folder / "upstream"
        for side in (self.ours, self.theirs):
            for kind in ("preprocessed", "results"):
                (side / kind).mkdir(parents=True, exist_ok=True)
        self.raw.mkdir(exist_ok=True)
        self.upstream = Upstream(reference_python(), self.theirs)
        self.upstream.environment |= self._paths(self.theirs)
        self._store: dict[str, Any] = {}

    def _paths(self, side: Path) -> dict[str, str]:
        return {"nnUNet_raw": str(self.raw), "nnUNet_preprocessed": str(side / "preprocessed"),
                "nnUNet_results": str(side / "results")}

    def once(self, key: str, make: Any) -> Any:
        """`make()` the first time `key` is asked for, the same object afterwards: shared inputs of several checks."""
        if key not in self._store:
            self._store[key] = make()
        return self._store[key]

    def command(self, command: str, *arguments: Any) -> str:
        """Run one of this repository's console commands as a process of its own; returns what it printed."""
        script = Path(sys.executable).with_name(f"nnUNetv2_{command}")
        environment = os.environ | self._paths(self.ours) | {"OMP_NUM_THREADS": THREADS, "nnUNet_n_proc_DA": "1"} | AS_UPSTREAM
        return run([script, *arguments], environment, REPOSITORY)

    @contextmanager
    def environment(self) -> Iterator[None]:
        """This repository's code, called in this process, sees the bench's folders."""
        before = dict(os.environ)
        os.environ.update(self._paths(self.ours) | {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2", "nnUNet_compile": "f"} | AS_UPSTREAM)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def run(command: list[Any], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run([str(c) for c in command], env=environment, cwd=folder, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout
