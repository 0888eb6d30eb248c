"""An experiment as a row of stages in one work folder: what each runs, reads and writes. stage.py says when one is skipped."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.stage import StageLog, input_keys, run_stage
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.folder_lock import lock_descriptor


def nnunet_folders(work: Path) -> dict[str, Path]:
    """nnU-Net's variables, with folders below `work`."""
    return {f"nnUNet_{kind}": work / f"nnUNet_{kind}" for kind in ("raw", "preprocessed", "results")}


def enter(work: Path) -> dict[str, Path]:
    """Let this process and its commands work in `nnunet_folders(work)`, which are returned."""
    folders = nnunet_folders(work)
    os.environ.update({name: str(folder) for name, folder in folders.items()})
    return folders


def model_of(run: Path, fold: str = "0") -> Path:
    """The model folder of a finished run; InputError where there is none, or several."""
    found = sorted((nnunet_folders(run / "work")["nnUNet_results"]).glob(f"Dataset*/*__3d_fullres/fold_{fold}/checkpoint_final.pth"))
    if len(found) != 1:
        raise InputError(f"{run} holds {len(found)} models of 3d_fullres with fold {fold}; finish train_quiz_size.sh or run_fold0.sh, or name one with --model")
    return found[0].parents[1]


@dataclass(frozen=True)
class Stage:
    """One command. outputs: what it writes, deleted when it must start over. inputs: files, folders and patterns that it depends on."""

    name: str
    command: Sequence[str | os.PathLike]
    outputs: Sequence[Path]
    inputs: Sequence[Path | str] = ()


class Pipeline:
    """Runs stages in order; one run at a time works in `work`, by a lock that its commands hold too, so that it outlives a kill of this process."""

    def __init__(self, work: Path, alone: bool = True):
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        self._held: tuple[int, ...] = ()
        if alone:
            self._lock = open(work / "run.lock", "a")  # noqa: SIM115  # held to the end of the process
            lock_descriptor(self._lock.fileno(), str(work.parent), "its run.lock is held")
            self._held = (self._lock.fileno(),)

    def forget_from(self, name: str) -> None:
        StageLog(self.work).forget_from(name)

    def run(self, stage: Stage, log: Path | None = None, variables: dict[str, str] | None = None) -> None:
        """Run a stage, or skip it if it is done. log: folder of its record, for stages side by side (default: the work folder).

        SystemExit with the command's status where it fails: its own message is on the screen.
        """
        log = log or self.work
        log.mkdir(parents=True, exist_ok=True)
        status = run_stage(log, stage.name, list(stage.outputs), [str(part) for part in stage.command], input_keys(log, stage.inputs), self._held, variables)
        if status:
            raise SystemExit(status)
