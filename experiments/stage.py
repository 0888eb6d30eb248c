"""Run one stage of an experiment unless it is already done and valid.

    python -m experiments.stage --work results/fold0/work --name train --outputs results/fold0/work/nnUNet_results -- nnUNetv2_train ...

A stage is identified by its command line, the content of its `--inputs` and everything that ran before it: change one and
this stage and all later ones run again. `work/stages.json` keeps, per stage, that identity, whether it finished, the
seconds, and which files it wrote.

- finished, same identity, every file it wrote there: skipped.
- the same identity, but killed, or files are missing or cut short: run again over what is there, so that the command's own
  resumption works.
- another identity, or `--from` of an experiment named this stage or an earlier one: its outputs are deleted first.

One stage runs at a time in a work folder; others wait. pipeline.py runs the stages of an experiment.
"""

import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.file_shapes import InputHashes, Stages
from nnunetv2.utilities.commands import Parser, run
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import is_there, load_json, save_json
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.manifest import known_hash

GROWING = (".json", ".txt", ".log", ".csv", ".png", ".html")  # written anew by later commands, and then perhaps shorter


class StageLog:
    """Stages of one work folder in the order in which they ran; `stages.json` is rewritten after each change."""

    def __init__(self, work: Path):
        self.path = work / "stages.json"
        self.stages: list[dict] = load_json(self.path, Stages) if is_there(self.path) else []

    def find(self, name: str) -> dict | None:
        return next((stage for stage in self.stages if stage["stage"] == name), None)

    def put(self, **stage) -> None:
        """Replace the entry of this name in place, or append it."""
        old = self.find(stage["stage"])
        if old is None:
            self.stages.append(stage)
        else:
            self.stages[self.stages.index(old)] = stage
        save_json(self.stages, self.path)

    def forget_from(self, name: str) -> None:
        """Drop the identities of `name` and of all after it, so that they rerun from nothing."""
        if self.find(name) is None:
            known = ", ".join(stage["stage"] for stage in self.stages) or "none yet"
            raise SystemExit(f"error: --from {name}: no such stage has run in {self.path.parent}; stages there: {known}")
        for stage in self.stages[self.stages.index(self.find(name)):]:
            stage.update(identity="", done=False)
        save_json(self.stages, self.path)


def identity(previous: str, command: list[str], keys: list[str]) -> str:
    """Hash of a stage's command and keys, chained to the stage before it."""
    return hashlib.sha256("\0".join([previous, *command, *keys]).encode()).hexdigest()[:16]


def content_key(inputs: list[Path], known: dict | None = None) -> str:
    """Hash of names and contents of files and of all files below folders; hidden ones are left out. A path may be a pattern.

    known: hashes of files by size and time, updated; a file that was not touched is not read again. InputError for a path
    that is not there.
    """
    known = {} if known is None else known
    lines = []
    for path in inputs:
        roots = [path] if path.exists() else [Path(found) for found in sorted(glob.glob(str(path)))]
        if not roots and not glob.has_magic(str(path)):
            raise InputError(f"{path} is not there, and a stage depends on it. Run the stage that writes it again (--from).")
        for root in roots:
            lines += [f"{name} {known_hash(file, known)}" for name, file in _files_below(root).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _files_below(root: Path) -> dict[str, Path]:
    """Name relative to `root`'s folder -> file, sorted; hidden files, half-written or locks, left out."""
    files = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
    named = {str(path.relative_to(root.parent)): path for path in sorted(files)}
    return {name: path for name, path in named.items() if not any(part.startswith(".") for part in Path(name).parts[1:] or (name,))}


def written(outputs: list[Path]) -> dict[str, int]:
    """File -> size of all that a stage wrote."""
    return {str(path): path.stat().st_size for output in outputs if output.exists() for path in _files_below(output).values()}


def damaged(files: dict[str, int]) -> list[str]:
    """Those of `written` that are missing, empty or cut short."""
    sizes = {name: os.path.getsize(name) if os.path.isfile(name) else None for name in files}
    return [name for name, size in files.items()
            if sizes[name] is None or size and not sizes[name] or not name.endswith(GROWING) and sizes[name] < size]


def input_keys(work: Path, inputs: Sequence[Path | str]) -> list[str]:
    """The key of what a stage depends on; hashes of files that were not touched are kept in WORK/input_hashes.json."""
    if not inputs:
        return []
    cache = work / "input_hashes.json"
    known = load_json(cache, InputHashes) if is_there(cache) else {}
    before = dict(known)
    keys = [content_key([Path(path).absolute() for path in inputs], known)]
    if known != before:
        save_json(known, cache)
    return keys


def run_stage(work: Path, name: str, outputs: list[Path], command: list[str], keys: list[str], held: tuple[int, ...] = (),
              variables: dict[str, str] | None = None) -> int:
    """Run or skip; returns the command's exit status (0 when skipped).

    held: files that stay open in the command, such as a lock. variables: of its environment, besides this process's own.
    """
    with folder_lock(work, "stages", f"stage {name} runs", wait=True):
        return _run_stage(work, name, outputs, command, keys, held, variables)


def _run_stage(work: Path, name: str, outputs: list[Path], command: list[str], keys: list[str], held: tuple[int, ...],
               variables: dict[str, str] | None) -> int:
    log = StageLog(work)
    before = log.stages[:log.stages.index(log.find(name))] if log.find(name) else log.stages
    own = identity(before[-1]["identity"] if before else "", command, keys)
    last = log.find(name)
    same = last is not None and last["identity"] == own
    if same and last["done"] and all(path.exists() for path in outputs):
        lost = damaged(last.get("written", {}))
        if not lost:
            print(f"[{name}] done before ({last['seconds']:.0f} s), skipped", flush=True)
            return 0
        print(f"[{name}] runs again: {len(lost)} of its files are missing or cut short, {lost[0]} among them", flush=True)
    if last and not same:
        for path in outputs:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    resumed = last["seconds"] if same else 0.0
    log.put(stage=name, identity=own, done=False, seconds=resumed, command=" ".join(command))
    print(f"[{name}] {' '.join(command)}", flush=True)
    start = time.time()
    status = subprocess.run(command, pass_fds=held, env=os.environ | (variables or {})).returncode
    seconds = resumed + max(0.0, time.time() - start)  # a clock may be set back
    missing = [str(path) for path in outputs if not path.exists()]
    if status == 0 and missing:
        print(f"error: stage {name} ended well but did not write {', '.join(missing)}", file=sys.stderr)
        status = 1
    log.put(stage=name, identity=own, done=status == 0, seconds=round(seconds, 1), command=" ".join(command),
            written=written(outputs) if status == 0 else {})
    print(f"[{name}] {'finished' if status == 0 else f'failed with status {status}'} after {seconds:.0f} s", flush=True)
    return status


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps stages.json")
    parser.add_argument("--name", required=True, help="name of the stage")
    parser.add_argument("--outputs", type=Path, nargs="*", default=[], help="what the stage writes; deleted when it must start over")
    parser.add_argument("--inputs", type=Path, nargs="*", default=[], help="files, folders and patterns whose content identifies the input")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")
    run(_main, parser.parse_args())


def _main(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    return run_stage(args.work, args.name, args.outputs, command, input_keys(args.work, args.inputs))


if __name__ == "__main__":
    main()
