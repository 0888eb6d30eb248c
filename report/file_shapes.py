"""What the JSON files that only the report reads must hold, for `load_json(path, shape)`."""

from typing import Any

from pydantic import Field

from evaluation.result_shapes import Estimate, Interval, Number
from nnunetv2.utilities.file_shapes import FileShape, FileShapeOf, Text, finite


class _AblationRow(FileShape):
    title: Text
    n: int | None = None
    macro_f1: Number = None
    macro_f1_ci: Interval = [None, None]
    balanced_accuracy: Number = None
    auroc: Number = None
    brier: Number = None
    whole_pancreas_dsc: Estimate
    lesion_dsc: Estimate
    minutes_per_fold: Number = None


class Ablation(FileShape):
    """ablation.json of experiments/ablation.py."""

    environment: dict[str, Text] = {}
    rows: list[_AblationRow]


class Conformance(FileShape):
    """conformance.json of experiments/run_conformance.sh."""

    class _Row(FileShape):
        what: Text
        difference: str | float | int | None = None
        bound: str | float | int | None = None
        passed: bool = Field(alias="pass")

    rows: list[_Row]


class Radiomics(FileShapeOf):
    """radiomics.json: metrics.json of the radiomics baseline, or its block `subtype` alone."""

    root: dict[str, Any]


def interval_problems(content: Any, place: str = "") -> list[str]:
    """Every {"mean", "ci_low", "ci_high"} and every `<key>_ci` below `content` that is not of numbers or nulls."""
    problems = []
    if isinstance(content, dict):
        if {"mean", "ci_low", "ci_high"} <= content.keys():
            problems += [f"{place}.{key}: {content[key]!r} is no number" for key in ("mean", "ci_low", "ci_high") if not _is_number(content[key])]
        for key, value in content.items():
            if key.endswith("_ci") and not (value is None or isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))):
                problems.append(f"{place}.{key}: {value!r} is no interval [low, high]")
            problems += interval_problems(value, f"{place}.{key}".lstrip("."))
    elif isinstance(content, list):
        problems += [problem for i, value in enumerate(content) for problem in interval_problems(value, f"{place}[{i}]")]
    return problems


def _is_number(value: Any) -> bool:
    return value is None or finite(value)
