"""Commands run in forked children of a process that has imported everything: milliseconds a run instead of seconds.

    prepare_parent()
    outcome = run_forked(["nnUNetv2_predict", "-i", ...], cwd, environment, seconds=60)

A child behaves as the command does from a shell: arguments in sys.argv, `if __name__ == "__main__"` of a script, exit status,
standard output and error in files, a traceback and status 1 where nothing caught an error. What differs: worker processes are
forked too, what a command imports late is there before, and a fingerprint draws fewer voxels.
"""

import ast
import importlib
import multiprocessing
import multiprocessing.util
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "torch._dynamo",
    "torch._inductor.config",
    "SimpleITK",
    "sklearn.discriminant_analysis",
    "sklearn.model_selection",
    "scipy.ndimage",
    "pandas",
    "matplotlib.pyplot",
    "blosc2",
    "skimage.transform",
    "batchgeneratorsv2",
    "acvl_utils.cropping_and_padding.padding",
)
ROOMS = ("nnunetv2", "dynamic_network_architectures", "data_prep", "evaluation", "report")
MEMORY_LIMIT = 3 << 30  # bytes that a command on tiny data may take, with all its workers, on top of what the parent holds


@dataclass
class Outcome:
    status: int | None  # None: killed from outside, for `reason`
    reason: str  # "", "time", "memory" or "kill"
    stdout: str
    stderr: str
    seconds: float


def prepare_parent() -> None:
    """Import whatever the commands import, and let their workers start by fork. Before any other import of this code base."""
    os.environ.update(
        {
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "0",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "TQDM_DISABLE": "1",
            "nnUNet_device": "cpu",
            "CXX": "no-compiler",
        }
    )  # the kernels take a minute to compile; they have tests of their own
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: get_context("fork")
    sys.path.insert(0, str(REPOSITORY))
    for name in HEAVY:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    for room in ROOMS:
        for file in sorted((REPOSITORY / room).rglob("*.py")):
            if file.name not in ("__init__.py", "__main__.py"):
                _import(".".join(file.relative_to(REPOSITORY).with_suffix("").parts))
    importlib.import_module(
        "nnunetv2.experiment_planning.dataset_fingerprint"
    ).N_SAMPLES = 100_000  # of tiny cases; the default takes seconds


def _import(module: str) -> None:
    """A module whose optional package is absent is left out; its command says so itself when it is run."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ROOMS:
            raise


def run_forked(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    seconds: float,
    kill_after: float | None = None,
    before: Callable[[], None] | None = None,
    watch: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Run `command` in `cwd`: the name of a console script, or a path of a script below the repository, and its arguments.

    seconds: after these it is killed as hanging. kill_after: kill -9 of it and its workers after so many seconds.
    before: called in the child first, for limits and mounts. watch: called with its process id and age every few milliseconds.
    """
    output = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(command, cwd, environment, output, before)
    status, reason, checked = None, "", start
    while True:
        ended, raw = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic()
        if ended:
            status = os.waitstatus_to_exitcode(raw)
            break
        if kill_after is not None and now - start >= kill_after:
            reason = "kill"
        elif now - start > seconds:
            reason = "time"
        elif now - checked > 0.1:
            checked = now
            if memory_of_group(pid) > MEMORY_LIMIT:
                reason = "memory"
        if reason:
            kill_group(pid)
            os.waitpid(pid, 0)
            break
        if watch is not None:
            watch(pid, now - start)
        time.sleep(0.004)
    kill_group(pid)  # whatever it left behind
    texts = []
    for file in output:
        file.seek(0)
        texts.append(file.read(1 << 20).decode(errors="replace"))
        file.close()
    return Outcome(None if reason else status, reason, *texts, time.monotonic() - start)


def kill_group(pid: int, signal_number: int = signal.SIGKILL) -> None:
    try:
        os.killpg(pid, signal_number)
    except ProcessLookupError:
        pass  # nothing of it is left


def processes_of_group(group: int) -> list[int]:
    """Process ids of a group, its leader first."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                fields = Path(entry.path, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found, key=lambda pid: (pid != group, pid))


def memory_of_group(group: int) -> int:
    """Bytes that the processes of a group have to themselves."""
    total, page = 0, os.sysconf("SC_PAGE_SIZE")
    for pid in processes_of_group(group):
        try:
            _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split())
        except OSError:
            continue
        total += (resident - shared) * page
    return total - _own_memory()


def _own_memory() -> int:
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text(encoding="utf-8").split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _child(command: Sequence[str], cwd: Path, environment: Mapping[str, str], output: list, before: Callable[[], None] | None) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        for number, file in zip((1, 2), output):
            os.dup2(file.fileno(), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(environment)
        for name in [name for name, value in environment.items() if value == ""]:
            del os.environ[name]
        os.chdir(cwd)
        tempfile.tempdir = None
        _forget_parent_processes()
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
        if before is not None:
            before()
        status = _call(command)
    except BaseException:  # noqa: BLE001  # whatever it is, this child must end here and not go on as its parent
        os.write(2, traceback.format_exc().encode())
    finally:
        try:
            multiprocessing.util._exit_function()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status & 0xFF)


def _call(command: Sequence[str]) -> int:
    """Exit status of a console script's function or of a script run as main; errors as the interpreter prints them."""
    name, *arguments = map(str, command)
    sys.argv = [name, *arguments]
    if name.endswith(".sh"):
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.execvp("bash", ["bash", str(REPOSITORY / name), *arguments])  # nosec B606 B607  # a script of this repository
    try:
        if name.startswith("nnUNetv2_"):
            module, function = console_scripts()[name]
            getattr(importlib.import_module(module), function)()
        else:
            runpy.run_path(str(REPOSITORY / name), run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def console_scripts() -> dict[str, tuple[str, str]]:
    """{command: (module, function)} as setup.py lists them."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMANDS")
    return {f"nnUNetv2_{name}": (f"nnunetv2.cli.{module}", name) for module, names in ast.literal_eval(table).items() for name in names}


def _forget_parent_processes() -> None:
    """The child is a main process of its own, which has no children and nothing to tidy up yet."""
    multiprocessing.util._finalizer_registry.clear()
    multiprocessing.process._children = set()
