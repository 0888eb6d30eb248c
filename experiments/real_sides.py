"""The two programs that are compared on real scans, each with folders of its own, and their stages as whole processes."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.file_shapes import Measured
from experiments.stage import run_stage
from nnunetv2.utilities.errors import CommandFailed
from nnunetv2.utilities.files import is_there, load_json

TASK, DATASET_ID, DATASET = "Task04_Hippocampus", "4", "Dataset004_Hippocampus"
CONFIGURATION = "3d_fullres"
PLANNED, COMPARED = "nnUNetPlans", "nnUNetPlansCompared"  # as the planner names them, and those that both train with
EXPERIMENTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Budget:
    """What a training gets; the same for both programs."""

    epochs: int
    iterations: int  # an epoch
    val_iterations: int  # an epoch
    seed: int = 0

    def flags(self) -> list[str]:
        return [text for name, value in vars(self).items() for text in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Side:
    """One program. python: of the environment that holds it. folder: for all that it writes. workers: processes that prepare batches."""

    name: str
    python: Path
    folder: Path
    threads: int
    device: str
    workers: int

    @property
    def raw(self) -> Path:
        return self.folder / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.folder / "nnUNet_preprocessed" / DATASET

    @property
    def model(self) -> Path:
        return self.folder / "nnUNet_results" / DATASET / f"nnUNetTrainer__{COMPARED}__{CONFIGURATION}"

    def checkpoint(self, fold: int) -> Path:
        return self.model / f"fold_{fold}" / "checkpoint_final.pth"

    def predictions(self, fold: int, of: "Side") -> Path:
        """Where this program's masks with the other's, or its own, model lie."""
        return self.folder / "predictions" / f"fold_{fold}_model_{of.name}"

    def command(self, command: str, *arguments: str) -> list[str]:
        """One of the program's console commands in its environment. Upstream's never sees this repository: -I."""
        return [*self._environment(), *self._interpreter(), str(self.python.parent / f"nnUNetv2_{command}"), *arguments]

    def training(self, fold: int, budget: Budget) -> list[str]:
        flags = [DATASET_ID, CONFIGURATION, str(fold), "-p", COMPARED, "-device", self.device, *budget.flags()]
        workers = f"nnUNet_n_proc_DA={self.workers}"  # for the training alone: upstream's planner takes it for a number of threads, above 0
        if self.name == "upstream":
            return [*self._environment(), workers, *self._interpreter(), str(EXPERIMENTS / "upstream_train.py"), *flags]
        return [*self._environment(), workers, str(self.python.parent / "nnUNetv2_train"), *flags, "--no_val", "--c"]

    def prediction(self, images: Path, fold: int, of: "Side") -> list[str]:
        return self.command(
            "predict_from_modelfolder",
            "-i",
            str(images),
            "-o",
            str(self.predictions(fold, of)),
            "-m",
            str(of.model),
            "-f",
            str(fold),
            "-device",
            self.device,
            "--disable_progress_bar",
            "-npp",
            "1",
            "-nps",
            "1",
        )

    def stage(
        self, name: str, command: Sequence[str], outputs: Sequence[Path], keys: Sequence[str] = (), skip_cores: int = 0
    ) -> None:
        """Run a stage, measured, unless it is done (experiments/stage.py); CommandFailed where it fails."""
        file = self._file(name)
        measured = [
            sys.executable,
            "-m",
            "experiments.measured_process",
            "--out",
            str(file),
            "--cores",
            str(self.threads),
            *(["--skip_cores", str(skip_cores)] if skip_cores else []),
            "--",
            *command,
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        if run_stage(self.folder, name, [*outputs, file], measured, list(keys)):
            raise CommandFailed(
                f"{self.name}: stage {name} failed; its output is in {file.with_suffix('.log')}. Given again, the command goes on there."
            )

    def measured(self, name: str) -> dict[str, Any] | None:
        """seconds, peak_memory, peak_gpu_memory (bytes), starts of a stage; None where it has not run."""
        file = self._file(name)
        return load_json(file, Measured) if is_there(file) else None

    def _file(self, name: str) -> Path:
        return self.folder / "measured" / f"{name}.json"

    def _interpreter(self) -> list[str]:
        return [str(self.python), "-I"] if self.name == "upstream" else []

    def _environment(self) -> list[str]:
        folders = {name: str(self.folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc"), self.threads)
        return ["env", *(f"{name}={value}" for name, value in (folders | threads | {"nnUNet_compile": "f"}).items())]
