"""Run one stage of an experiment unless it is already done and valid.

    python experiments/stage.py --work results/fold0/work --name train --outputs results/fold0/work/nnUNet_results -- nnUNetv2_train ...

A stage is identified by its command line, the extra `--key` strings and everything that ran before it: change one and this
stage and all later ones run again. `work/stages.json` keeps, per stage, that identity, whether it finished, and the seconds.

- finished, same identity, outputs there: skipped.
- started before with the same identity but killed: run again over what it left, so that the command's own resumption works.
- another identity, or `--forget_from` named this stage or an earlier one: its outputs are deleted first.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.file_shapes import Stages  # noqa: E402
from nnunetv2.utilities.files import load_json, save_json  # noqa: E402


class StageLog:
    """Stages of one work folder in the order in which they ran; `stages.json` is rewritten after each change."""

    def __init__(self, work: Path):
        self.path = work / "stages.json"
        self.stages: list[dict] = load_json(self.path, Stages) if self.path.is_file() else []

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


def folder_key(folder: Path) -> str:
    """Hash of the names, sizes and times of all files below `folder`: changes when a file is added, removed or edited."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def run_stage(work: Path, name: str, outputs: list[Path], command: list[str], keys: list[str]) -> int:
    """Run or skip; returns the command's exit status (0 when skipped)."""
    log = StageLog(work)
    before = log.stages[:log.stages.index(log.find(name))] if log.find(name) else log.stages
    own = identity(before[-1]["identity"] if before else "", command, keys)
    last = log.find(name)
    if last and last["done"] and last["identity"] == own and all(path.exists() for path in outputs):
        print(f"[{name}] done before ({last['seconds']:.0f} s), skipped", flush=True)
        return 0
    if last and last["identity"] != own:
        for path in outputs:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    resumed = last["seconds"] if last and last["identity"] == own and not last["done"] else 0.0
    log.put(stage=name, identity=own, done=False, seconds=resumed, command=" ".join(command))
    print(f"[{name}] {' '.join(command)}", flush=True)
    start = time.time()
    status = subprocess.run(command).returncode
    seconds = resumed + time.time() - start
    missing = [str(path) for path in outputs if not path.exists()]
    if status == 0 and missing:
        print(f"error: stage {name} ended well but did not write {', '.join(missing)}", file=sys.stderr)
        status = 1
    log.put(stage=name, identity=own, done=status == 0, seconds=round(seconds, 1), command=" ".join(command))
    print(f"[{name}] {'finished' if status == 0 else f'failed with status {status}'} after {seconds:.0f} s", flush=True)
    return status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps stages.json")
    parser.add_argument("--name", help="name of the stage")
    parser.add_argument("--outputs", type=Path, nargs="*", default=[], help="what the stage writes; deleted when it must start over")
    parser.add_argument("--key", nargs="*", default=[], help="further strings that identify the stage's inputs")
    parser.add_argument("--input_folder", type=Path, default=None, help="folder whose files' names, sizes and times identify the input")
    parser.add_argument("--forget_from", metavar="STAGE", help="mark STAGE and all after it as not done, and end")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")
    args = parser.parse_args()
    if args.forget_from:
        StageLog(args.work).forget_from(args.forget_from)
        return
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    keys = args.key + ([folder_key(args.input_folder)] if args.input_folder else [])
    sys.exit(run_stage(args.work, args.name, args.outputs, command, keys))


if __name__ == "__main__":
    main()
