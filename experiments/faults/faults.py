"""What can happen to a running command. Each fault says what is done to it, and what it must come to while it lasts.

After every fault the command runs once more, undisturbed: the result must equal that of a run that nothing happened to.
"""

import ctypes
import locale
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.campaigns.forked import Outcome, kill_group, processes_of_group, run_forked
from experiments.campaigns.world import environment
from experiments.faults.stages import Stage
from experiments.fuzz.judge import ERROR

SECONDS = 240
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18


@dataclass
class Trial:
    """One stage in a folder of its own."""

    stage: Stage
    root: Path
    seconds: float  # that the undisturbed run took
    written: int  # bytes that it wrote
    generator: np.random.Generator
    variables: dict[str, str]

    def run(self, further: tuple[str, ...] = (), **options) -> Outcome:
        command = [part.replace("{ROOT}", str(self.root)) for part in self.stage.argv] + list(further)
        return run_forked(command, self.root, environment(self.root) | self.variables, SECONDS, **options)


@dataclass(frozen=True)
class Fault:
    name: str
    disturb: Callable[[Trial], list[str]]  # what was not met well while it lasted
    needs_workers: bool = False


def refused_well(outcome: Outcome) -> list[str]:
    """What is wrong with a run that had to end with one message, or well."""
    text = outcome.stdout + outcome.stderr
    problems = [f"ended by {outcome.reason}"] if outcome.reason else []
    if "Traceback (most recent call last)" in text:
        problems.append(f"traceback: {text.strip().splitlines()[-1][:160]}")
    elif outcome.status and len(ERROR.findall(text)) != 1:
        problems.append(f"status {outcome.status} with {len(ERROR.findall(text))} error messages: {outcome.stderr.strip()[-160:]}")
    return problems


def _kill(whole_group: bool, times: int) -> Callable[[Trial], list[str]]:
    def disturb(trial: Trial) -> list[str]:
        problems = []
        for _ in range(times):
            moment = float(trial.generator.uniform(0, trial.seconds))
            if whole_group:
                trial.run(kill_after=moment)
                continue
            sent: list[int] = []

            def leader_alone(pid: int, age: float, moment: float = moment, sent: list[int] = sent) -> None:
                if age >= moment and not sent:
                    sent.append(pid)
                    os.kill(pid, signal.SIGKILL)

            outcome = trial.run(watch=leader_alone)
            problems += ["hangs after its first process was killed"] if outcome.reason else []
        return problems

    return disturb


def _interrupt(trial: Trial) -> list[str]:
    """Ctrl-C goes to the whole group."""
    moment, sent = float(trial.generator.uniform(min(0.05, trial.seconds / 2), trial.seconds)), []  # fast machines convert in less

    def press(pid: int, age: float) -> None:
        if age >= moment and not sent:
            sent.append(pid)
            kill_group(pid, signal.SIGINT)

    outcome = trial.run(watch=press)
    return [f"traceback: {outcome.stderr.strip().splitlines()[-1][:120]}"] if "Traceback (most recent call last)" in outcome.stderr else []


@contextmanager
def _tmpfs(folder: Path, size: int):
    """A file system of `size` bytes over `folder`, which keeps its content. Yields a function that remounts it."""
    kept = folder.with_name(f"{folder.name}.kept")
    if folder.exists():
        folder.rename(kept)
    folder.mkdir(parents=True)
    already = sum(4096 + -(-path.lstat().st_size // 4096) * 4096 for path in kept.rglob("*")) if kept.exists() else 0
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(already + size, 4096)}", "tmpfs", str(folder)], check=True)
    try:
        if kept.exists():
            subprocess.run(["cp", "-a", f"{kept}/.", str(folder)], check=True)
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
        subprocess.run(["cp", "-a", str(folder), f"{folder}.after"], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()
    Path(f"{folder}.after").rename(folder)


def _full_disk(share: float) -> Callable[[Trial], list[str]]:
    def disturb(trial: Trial) -> list[str]:
        folder = trial.root / trial.stage.folder
        with _tmpfs(folder, int(trial.written * share)):
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            outcome = trial.run()
            problems = refused_well(outcome)
            if outcome.status and not any(word in outcome.stderr for word in ("free", "No space", "space")):
                problems.append(f"does not say that the disk is full: {outcome.stderr.strip()[-160:]}")
            problems += [f"lost {path.name}" for path in before if not path.exists()]
            problems += [
                f"cut short: {path.name}" for path, content in before.items() if path.exists() and not path.stat().st_size and content
            ]
        return problems

    return disturb


def _read_only(trial: Trial) -> list[str]:
    with _tmpfs(trial.root / trial.stage.folder, 64 << 20) as remount:
        remount("ro")
        outcome = trial.run()
        remount("rw")
    return refused_well(outcome) + (["ends well though nothing could be written"] if outcome.status == 0 else [])


def _worker(signal_number: int) -> Callable[[Trial], list[str]]:
    """The first worker process that shows gets a signal; a stopped one goes on after a second."""

    def disturb(trial: Trial) -> list[str]:
        hit: list[tuple[int, float]] = []

        def watch(pid: int, age: float) -> None:
            if not hit:
                workers = processes_of_group(pid)[1:]
                if workers and age > 0.15:
                    try:
                        os.kill(workers[-1], signal_number)
                        hit.append((workers[-1], age))
                    except ProcessLookupError:  # it ended meanwhile; the next one that shows
                        pass
            elif signal_number == signal.SIGSTOP and age > hit[0][1] + 1:
                try:
                    os.kill(hit[0][0], signal.SIGCONT)
                except ProcessLookupError:
                    pass

        outcome = trial.run(tuple(trial.stage.workers), watch=watch)
        problems = refused_well(outcome)
        if hit and signal_number == signal.SIGKILL and outcome.status == 0:
            return problems  # it may have replaced the worker; the result is compared
        return problems + ([] if hit else ["no worker process was seen"])

    return disturb


def _memory(megabytes: int) -> Callable[[Trial], list[str]]:
    def limit() -> None:
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), resource.RLIM_INFINITY))

    return lambda trial: refused_well(trial.run(before=limit))


def _twice(trial: Trial) -> list[str]:
    """The same command at the same time: the second is refused, waits, or does what the first leaves to it."""
    reading, writing = os.pipe()
    other = os.fork()
    if other == 0:
        os.close(reading)
        outcome = trial.run()
        os.write(writing, "\n".join([str(outcome.status), *refused_well(outcome)]).encode()[:60_000])
        os._exit(0)
    os.close(writing)
    time.sleep(float(trial.generator.uniform(0, trial.seconds / 3)))
    first = trial.run()
    with os.fdopen(reading) as pipe:
        status, *problems = pipe.read().splitlines()
    os.waitpid(other, 0)
    problems += refused_well(first)
    return problems + ([f"neither of the two ends well: {first.stderr.strip()[-160:]}"] if first.status and status != "0" else [])


def _must_succeed(**options) -> Callable[[Trial], list[str]]:
    """Circumstances in which a command has to work as ever. A variable set to "" is unset."""
    variables = options.pop("variables", {})

    def disturb(trial: Trial) -> list[str]:
        trial.variables = variables
        outcome = trial.run(**options)
        trial.variables = {}
        return [] if outcome.status == 0 else [f"status {outcome.status} {outcome.reason}: {outcome.stderr.strip()[-300:]}"]

    return disturb


def _small_shared_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=64m")
    ):
        raise OSError(ctypes.get_errno(), "no own /dev/shm")


def _clock_goes_back() -> None:
    """Every look at the clock shows an earlier time than the one before."""
    real, looks = time.time, [0]

    def backwards() -> float:
        looks[0] += 1
        return real() - 3600 * looks[0]

    time.time = backwards
    time.time_ns = lambda: int(backwards() * 1e9)


KILLS = [
    Fault("killed", _kill(True, 1)),
    Fault("first process killed", _kill(False, 1)),
    Fault("killed twice", _kill(True, 2)),
    Fault("killed, again", _kill(True, 1)),
]
MOUNTED = [
    *(Fault(f"disk full after {share:.0%}", _full_disk(share)) for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)),
    Fault("output read-only", _read_only),
]
OTHERS = [
    Fault("interrupted by Ctrl-C", _interrupt),
    Fault("a worker killed", _worker(signal.SIGKILL), needs_workers=True),
    Fault("a worker stopped for a second", _worker(signal.SIGSTOP), needs_workers=True),
    *(Fault(f"{megabytes} MB of memory left", _memory(megabytes)) for megabytes in (20, 60)),
    Fault("two at once", _twice),
    Fault("HOME unset", _must_succeed(variables={"HOME": ""})),
    Fault("HOME not writable", _must_succeed(variables={"HOME": "/proc/no_home"})),
    Fault("clock goes back", _must_succeed(before=_clock_goes_back)),
    Fault("locale C", _must_succeed(before=lambda: locale.setlocale(locale.LC_ALL, "C") and None)),
    Fault("umask 000", _must_succeed(before=lambda: os.umask(0) and None)),
    Fault("umask 077", _must_succeed(before=lambda: os.umask(0o077) and None)),
]
SHARED_MEMORY = Fault("64 MB of /dev/shm", _must_succeed(before=_small_shared_memory))


def mounting_works(folder: Path) -> bool:
    """Whether this process may mount file systems, which needs root."""
    probe = folder / "probe"
    probe.mkdir()
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(probe)], capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", str(probe)], check=True)
        return True
    finally:
        probe.rmdir()
