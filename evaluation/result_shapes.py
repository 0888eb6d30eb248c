"""What the JSON files of a scored run must hold, for `load_json(path, shape)`; see nnunetv2/utilities/file_shapes.py."""

from collections import Counter
from typing import Annotated, Any

from pydantic import Field, model_validator

from evaluation.segmentation_metrics import SEGMENTATION_METRICS
from nnunetv2.utilities.data_description import KEY, THE_QUIZ, DataDescription, DescriptionShape
from nnunetv2.utilities.file_shapes import FileShape, Finite, Problem, Text, checked, finite

Number = Finite | None  # null: undefined
Natural = Annotated[int, Field(ge=0)]
Interval = Annotated[list[Any], checked(lambda v: len(v) == 2 and all(bound is None or finite(bound) for bound in v), "two numbers, or nulls: [low, high]")]
OUTCOMES = ("present", "both_empty", "missed", "false_alarm")


class Estimate(FileShape):
    """A mean with its interval and the n it stands on."""

    mean: Number
    ci_low: Number
    ci_high: Number
    n: Natural


class _Count(FileShape):
    count: Natural
    n: Natural


class _Empty(FileShape):
    both_empty: _Count
    missed: _Count
    false_alarm: _Count


class _Volume(FileShape):
    bias_ml: Estimate
    limits_ml: Interval


class Structure(FileShape):
    """One structure's means; `empty`: how often masks were empty; `volume`: Bland and Altman's figures."""

    dsc: Estimate
    iou: Estimate
    nsd_1mm: Estimate
    nsd_2mm: Estimate
    hd95_mm: Estimate
    masd_mm: Estimate
    empty: _Empty
    volume: _Volume


class _Tertile(FileShape):
    tertile: Text
    volume_ml: Annotated[list[Finite], Field(min_length=2, max_length=2)]
    dsc: Estimate
    detection_rate: Estimate


class _Detection(FileShape):
    rate: Estimate
    false_positive_components_per_case: Estimate
    by_size_tertile: list[_Tertile]


class Lesion(Structure):
    detection: _Detection


class _Point(FileShape):
    probability: Finite
    frequency: Finite
    n: Natural


class _Class(FileShape):
    n: Natural
    f1: Number
    f1_ci: Interval
    reliability: list[_Point] = []


class Subtype(FileShape):
    """Figures of the classification; brier and the like only where there were probabilities."""

    n: Natural
    classes: list[Text] = Field(min_length=2)
    confusion_matrix: list[list[Natural]]
    not_predicted: Natural
    macro_f1: Number
    macro_f1_ci: Interval
    balanced_accuracy: Number
    balanced_accuracy_ci: Interval
    brier: Number = None
    per_class: dict[str, _Class]

    @model_validator(mode="after")
    def _classes_agree(self) -> "Subtype":
        if sorted(self.per_class) != sorted(self.classes):
            raise ValueError(f"per_class must hold the classes {self.classes}, found {list(self.per_class)}")
        if [len(row) for row in self.confusion_matrix] != [len(self.classes)] * len(self.classes):
            raise ValueError(f"confusion_matrix must be {len(self.classes)} x {len(self.classes)}, a row and a column a class")
        return self


def _case_problem(row: Any, description: DataDescription) -> str | None:
    """What is wrong with a row of `cases`, or None."""
    if not isinstance(row.get("case"), str) or not row["case"]:
        return "needs its name under the key case"
    numbers = [f"{structure}_{name}" for structure in description.structures for name in (*SEGMENTATION_METRICS, "reference_ml", "predicted_ml")]
    numbers += [f"{description.lesion.key}_{name}" for name in ("detected", "false_positive_components")] if description.lesion else []
    wrong = [key for key in numbers if key not in row or not (row[key] is None or finite(row[key]))]
    wrong += [key for key in (f"{structure}_outcome" for structure in description.structures) if row.get(key) not in OUTCOMES]
    wrong += [key for key in ("subtype_true", "subtype_predicted") if not isinstance(row.get(key), str | None)]
    return f"case {row['case']}: {', '.join(f'{key} is {row.get(key)!r}' for key in wrong[:5])}" if wrong else None


class _Provenance(FileShape):
    references: dict[str, Text] = {}  # {case: hash of its true mask's voxels}


class Metrics(FileShape):
    """metrics.json, which compute_metrics.py writes."""

    synthetic: bool
    n_cases: Natural = 0
    data_description: DescriptionShape = None  # it and subtype may be absent, but not null
    subtype: Subtype = None
    provenance: _Provenance = _Provenance()
    definitions: dict[str, Any]
    cases: list[dict[str, Any]] = Field(min_length=1)

    @classmethod
    def problems(cls, content: Any) -> list[Problem]:
        """Of all that is always there, then of the structures that the data have."""
        found = super().problems(content)
        if not isinstance(content, dict) or (KEY in content and DescriptionShape.problems(content[KEY])):
            return found
        description = DataDescription(content[KEY]) if KEY in content else THE_QUIZ
        for key in description.structures:
            if key not in content:
                found.append(Problem(key, "is missing", True))
                continue
            shape = Lesion if description.lesion and key == description.lesion.key else Structure
            found += [Problem(f"{key}.{problem.place}".rstrip("."), problem.text, problem.absent) for problem in shape.problems(content[key])]
        return found

    @model_validator(mode="after")
    def _rows_are_whole(self) -> "Metrics":
        description = THE_QUIZ if self.data_description is None else DataDescription(self.data_description.model_dump())
        problems = [problem for row in self.cases if (problem := _case_problem(row, description))]
        times = Counter(str(row.get("case")) for row in self.cases)
        problems += [f"case {name} is there twice" for name in sorted(times) if times[name] > 1]
        if self.subtype is not None:
            keys = [f"p_{name}" for name in self.subtype.classes] if self.subtype.brier is not None else []
            for row in self.cases:
                if row.get("subtype_true") not in self.subtype.classes or row.get("subtype_predicted") not in (None, "", *self.subtype.classes):
                    problems.append(f"case {row.get('case')}: subtype {row.get('subtype_true')!r} or {row.get('subtype_predicted')!r} is no class")
                problems += [f"case {row.get('case')}: {key} is {row.get(key)!r}, no probability" for key in keys if not finite(row.get(key))]
        if problems:
            raise ValueError("rows of cases are not whole: " + "; ".join(problems[:10]))
        return self


class _Stage(FileShape):
    stage: Text
    seconds: Annotated[Finite, Field(ge=0)]


class _EvidenceBlock(FileShape):
    weight: Number
    macro_f1_alone: Number = None


class _LeftOut(FileShape):
    macro_f1: Number
    p: Number
    chance_95: list[Number]
    evidence_found: bool
    cases: Natural


class ClassEvidence(FileShape):
    """What the refit of the class head found in the training cases: the weight of each block, and the score of cases that were left out."""

    blocks: dict[str, _EvidenceBlock] = {}
    left_out: _LeftOut | None = None


class RunRecord(FileShape):
    """run.json: what was run, on what, and how long its stages took."""

    synthetic: bool = False
    phantom: bool = False  # whether the cases are those of data_prep/make_phantom.py with the quiz's subtypes, which the report describes
    data_description: DescriptionShape | None = None
    name: str | None = None
    stages: list[_Stage] = []
    environment: dict[str, Any] = {}
    training: dict[str, Any] = {}
    plan: dict[str, Any] = {}
    class_evidence: ClassEvidence | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> "RunRecord":
        if not self.model_fields_set & type(self).model_fields.keys():
            raise ValueError("it must hold what was run: name, stages, environment, training or plan")
        return self


class _Seconds(FileShape):
    median: Annotated[Finite, Field(gt=0)]
    min: Finite
    max: Finite


class Difference(FileShape):
    """A row of evaluation/comparison.py."""

    a: Number
    b: Number
    difference: Number
    ci_low: Number
    ci_high: Number
    n: Natural


class _SpeedRow(FileShape):
    seconds_a_case: _Seconds
    times_faster: Number = None
    peak_memory_gib: Number = None
    against_truth: dict[str, Number]
    against_upstream: dict[str, Number]
    truth_beside_exact: dict[str, Difference] = {}


class SpeedTable(FileShape):
    """speed.json of experiments/run_speed.py: runs as measured and, once there is a table, its rows."""

    runs: list[dict[str, Any]] = []
    rows: dict[str, _SpeedRow] = {}
    synthetic: bool = False

    @model_validator(mode="after")
    def _not_empty(self) -> "SpeedTable":
        if not {"runs", "rows"} & self.model_fields_set:
            raise ValueError("it must hold runs or rows")
        return self


class FigureIndex(FileShape):
    """figures.json of evaluation/make_figures.py."""

    class _Overlay(FileShape):
        case: Text
        reasons: list[str]
        file: Text

    figures: list[str]
    overlays: list[_Overlay] = []
