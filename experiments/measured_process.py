"""Run a command and keep what it took: seconds from start to end, and the most memory that it and its children held.

    python -m experiments.measured_process --out measured.json --cores 2 -- nnUNetv2_train 4 3d_fullres 0

The command's output goes to --out with the ending .log, and its exit status is this one's. A command that was killed and is run again adds
to `starts`; seconds are then those of its last start.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.file_shapes import Measured
from nnunetv2.configuration import available_cores
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.files import is_there, load_json, save_json

SAMPLE_SECONDS = 0.25  # between looks at memory
# of the time, at most, goes into looks at main memory: one at gigabytes in small pages takes the system tens of milliseconds, and stops the process
LOOKING_SHARE = 0.02


def tree_memory(root: int) -> int:
    """Bytes held by a process and its descendants; a page that k of them share counts 1/k in each (Linux's PSS). 0 where there is no /proc."""
    if not Path("/proc").is_dir():
        return 0
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
                )
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
    family = {root}
    while new := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= new
    total = 0
    for pid in family:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        total += sum(1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def gpu_memory() -> int:
    """Bytes in use on the first GPU, by everything on it; 0 without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return 0
    out = subprocess.run(
        ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return int(out) * 2**20


def measure(
    command: Sequence[str], log: Path, cores: int, environ: Mapping[str, str] | None = None, skip: int = 0
) -> dict[str, int | float]:
    """`status`, `seconds`, `peak_memory` and `peak_gpu_memory` (bytes) of one process on `cores` of the usable cores, behind the first `skip`."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    usable = (usable[skip:] or usable)[:cores]
    idle, peak, gpu_peak = gpu_memory(), 0, 0
    start = time.perf_counter()
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            preexec_fn=lambda: os.sched_setaffinity(0, usable) if usable else None,
        )
        next_look = start
        try:
            while process.poll() is None:
                look = time.perf_counter()
                if look >= next_look:
                    peak = max(peak, tree_memory(process.pid))
                    next_look = look + (time.perf_counter() - look) / LOOKING_SHARE
                gpu_peak = max(gpu_peak, gpu_memory() - idle)
                try:
                    process.wait(SAMPLE_SECONDS)
                except subprocess.TimeoutExpired:
                    pass
        except BaseException:
            process.terminate()  # an interrupt leaves nothing running behind
            process.wait()
            raise
    return {
        "status": process.returncode,
        "seconds": round(time.perf_counter() - start, 2),
        "peak_memory": peak,
        "peak_gpu_memory": gpu_peak,
    }


@script
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="the .json with the figures; the command's output goes beside it"
    )
    parser.add_argument(
        "--cores", type=whole_number(1), default=available_cores(), help="that the command may use (default: all)"
    )
    parser.add_argument(
        "--skip_cores", type=whole_number(0), default=0, help="leave so many to a process that runs beside"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")
    args = parser.parse_args(arguments)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("there is no command behind --")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    starts = 1 + (load_json(args.out, Measured)["starts"] if is_there(args.out) else 0)
    begun = {"command": command, "cores": args.cores, "starts": starts}
    save_json(begun, args.out)
    log = args.out.with_suffix(".log")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the command is ended too
    measured = measure(command, log, args.cores, skip=args.skip_cores)
    save_json(begun | measured, args.out)
    if measured["status"]:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        print(
            f"error: {' '.join(command)}\nended with status {measured['status']}; the last lines of {log}:\n{last}",
            file=sys.stderr,
        )
    return measured["status"]


if __name__ == "__main__":
    main()
