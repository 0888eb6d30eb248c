"""What the JSON files that the experiments keep must hold, for `load_json(path, shape)`."""

from typing import Annotated

from pydantic import Field

from evaluation.result_shapes import ClassEvidence, SpeedTable
from nnunetv2.utilities.file_shapes import FileShape, FileShapeOf, Finite, Text

Seconds = Annotated[Finite, Field(ge=0)]


class InputHashes(FileShapeOf):
    """input_hashes.json of experiments/stage.py: path -> size, mtime_ns, ctime_ns, sha256."""

    root: dict[str, Annotated[list[int | str], Field(min_length=4, max_length=4)]]


class Stages(FileShapeOf):
    """stages.json of experiments/stage.py."""

    class _Stage(FileShape):
        stage: Text
        identity: str
        done: bool
        seconds: Seconds
        command: str
        written: dict[str, int] = {}  # file -> size

    root: list[_Stage] = Field(min_length=1)


class Identity(FileShape):
    """begun.json of a fold that an experiment trains."""

    identity: str


class Done(Identity):
    """done.json of such a fold."""

    seconds: Seconds


class Refit(FileShape):
    """class_head_refit.json."""

    temperature: Annotated[Finite, Field(gt=0)]
    evidence: ClassEvidence | None = None


class PredictionTimes(FileShape):
    """prediction_times.json: seconds of each stage of each case."""

    cases_wall: Seconds
    cases: dict[str, dict[str, Seconds]]


class SpeedRuns(SpeedTable):
    """speed.json, of which experiments/run_speed.py continues the runs."""

    class _Run(FileShape):
        round: Annotated[int, Field(ge=0)]
        row: Text
        seconds: Annotated[Finite, Field(gt=0)]
        cases: Annotated[int, Field(ge=1)]
        peak_memory: Annotated[int, Field(ge=0)]
        peak_gpu_memory: Annotated[int, Field(ge=0)]
        times: PredictionTimes | None

    runs: list[_Run]
    seconds_a_tile: Finite | None = None


class Measured(FileShape):
    """What experiments/measured_process.py keeps of a command; without seconds while it runs, or where it was killed."""

    starts: Annotated[int, Field(ge=1)]
    seconds: Seconds | None = None
    peak_memory: Annotated[int, Field(ge=0)] | None = None
    peak_gpu_memory: Annotated[int, Field(ge=0)] | None = None
