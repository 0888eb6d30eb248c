"""Turn a run's JSON into what the LaTeX sources read: values.tex, one table a file, and the figures.

    python report/make_inputs.py --results results/fold0 --shared results --name TEAM --out BUILD

Called by build.sh. Every file is optional (see report/README.md); what is not there is "not run" in the report. Prints the
report's name, for the PDF's file name.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.files import write_text
from evaluation.result_shapes import FigureIndex, Metrics, RunRecord, SpeedTable
from evaluation.selection import WHOLE_FAILURE
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.data_description import KEY, description_of
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import FileShape, FileShapeOf
from nnunetv2.utilities.files import is_there, load_json
from nnunetv2.utilities.safe_names import plain_name
from report import tables
from report.file_shapes import Ablation, Conformance, Radiomics, interval_problems
from report.tex import escape, number, values_of

FILES = {"metrics": ("metrics.json", Metrics), "run": ("run.json", RunRecord), "radiomics": ("radiomics.json", Radiomics),
         "figures": ("figures/figures.json", FigureIndex)}
LABELS_IN_A_BOX = 5  # of the drawing of the network
SHARED_FILES = {"speed": ("speed.json", SpeedTable), "ablation": ("ablation.json", Ablation),
                "conformance": ("conformance.json", Conformance)}  # studies beside the run


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    inputs = read_inputs(args.results, args.shared)
    name = str(inputs["run"].get("name") or "NAME") if args.name is None else args.name
    try:
        plain_name(name, "name", args.results / "run.json" if args.name is None else "--name")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_text(values_file(inputs, name), args.out / "values.tex")
    for table, draw in tables.TABLES.items():
        write_text(draw(inputs) + "\n", args.out / f"table_{table}.tex")
    for figure in _figures_of_run(args.results / "figures", inputs["figures"]):
        shutil.copy(figure, args.out / f"figure_{figure.name}")
    print(name)
    return 0


def _figures_of_run(folder: Path, index: dict) -> list[Path]:
    """The PDFs that the index names, without one all but those of single cases: another file there is of a former run."""
    found = sorted(path for path in folder.glob("*.pdf") if not path.name.startswith("overlay_"))
    if not index:
        return found
    named = {*index["figures"], *(["overlays"] if index.get("overlays") else [])}
    return [path for path in found if path.stem in named]


def read_inputs(results: Path, shared: Path) -> dict[str, dict]:
    """{input: contents, or {} if it is not there}. A speed.json and the like in `results` itself goes before the shared one."""
    inputs = {key: _read(results / file, shape) for key, (file, shape) in FILES.items()}
    return inputs | {key: _read(results / file, shape) or _read(shared / file, shape) for key, (file, shape) in SHARED_FILES.items()}


def values_file(inputs: dict[str, dict], name: str) -> str:
    r"""Lines \setvalue{key}{text}; keys are JSON paths, such as lesion.dsc for a mean with interval, lesion.dsc.mean without."""
    metrics, run = inputs["metrics"], inputs["run"]
    values = values_of({key: value for key, value in metrics.items() if key not in ("cases", "synthetic", KEY)})
    values |= {f"run.{key}": value for key, value in values_of(run).items()}
    for key in SHARED_FILES:
        if inputs[key]:
            values |= {f"{key}.{field}": text for field, text in _study(inputs[key]).items()} | {"beside": ""}
    if inputs["conformance"]:
        passed = [bool(row["pass"]) for row in inputs["conformance"]["rows"]]
        values |= {"conformance.n": str(len(passed)), "conformance.passed": str(sum(passed))} | ({} if all(passed) else {"conformance.failed": ""})
    values |= _names(metrics, run)
    values["most_failures"] = str(tables.MOST_FAILURES)
    values |= {"name": escape(name)} | ({"n_failures": str(len(tables.failed_cases(metrics)))} if metrics else {})
    seconds = [stage["seconds"] for stage in run.get("stages", [])]
    if seconds:
        values["run.minutes"] = f"{sum(seconds) / 60:.0f}"
    values |= {f"have.{key}": "" for key, contents in inputs.items() if contents}
    left_out = (run.get("class_evidence") or {}).get("left_out")
    if left_out:
        low, high = left_out["chance_95"]
        values |= {"have.evidence": "", "evidence.chance": f"{number(low, 2)} to {number(high, 2)}"}
        values |= {} if left_out["evidence_found"] else {"evidence.none": ""}
    if any(contents.get("synthetic") for contents in (metrics, run)):
        values["synthetic"] = ""
    if run.get("phantom"):
        values["phantom"] = ""
    return "".join(f"\\setvalue{{{key}}}{{{value}}}\n" for key, value in values.items())


def _names(metrics: dict, run: dict) -> dict[str, str]:
    """What the data are and what their parts are called, and the figures of the whole and of the lesion whatever these are called."""
    description = description_of(metrics or run)
    whole, lesion = description.whole, description.lesion
    foreground = [s for s in description.structures.values() if len(s.labels) == 1]
    listed = [s.word for s in sorted(foreground, key=lambda s: s.labels)]
    words = ", ".join(listed)
    names = {"data.title": description.title, "whole.title": whole.title, "whole.word": whole.word, "task": description.task_words,
             "labels.choice": listed[0] if len(listed) == 1 else f"one of {words}", "labels": words,
             "labels.box": words if len(foreground) <= LABELS_IN_A_BOX else f"{len(foreground)} labels", "organ_failure": f"{WHOLE_FAILURE:.2f}"}
    names |= {"lesion.title": lesion.title, "lesion.word": lesion.word, "have.lesion": ""} if lesion else {}
    names |= {"quiz": ""} if description.is_quiz else {}
    names |= {"have.classes": ""} if description.task else {}
    names |= {"have.organ": ""} if len(description.structures) > 1 else {}
    names |= {"ct": ""} if description.is_ct else {}
    names |= {f"data.{key}": description.content[key] for key in ("source", "licence") if description.content.get(key)}
    values = {key: escape(value) for key, value in names.items()}
    for role, structure in (("whole", whole), ("lesion", lesion)):
        if structure and metrics:
            values |= {f"{role}.{key}": value for key, value in values_of(metrics[structure.key]).items()}
    return values


def _study(result: dict) -> dict[str, str]:
    """Command, data, machine and number of cases of a study, as LaTeX text; what its JSON lacks is left out."""
    environment, rows = result.get("environment", {}), result.get("rows", {})
    cases = [row["cases_a_run"] for row in rows.values() if "cases_a_run" in row] if isinstance(rows, dict) else [row["n"] for row in rows if "n" in row]
    found = {"command": result.get("command"), "data": "SYNTHETIC data" if result.get("synthetic") else "real data",
             "machine": environment.get("GPU") or environment.get("CPU"), "n": max(cases, default=None)}
    return {field: escape(value) for field, value in found.items() if value is not None}


def _read(path: Path, shape: type[FileShape] | type[FileShapeOf]) -> dict:
    if not is_there(path):
        return {}
    content = load_json(path, shape)
    if problems := interval_problems(content):
        raise InputError(f"{path}: {len(problems)} value(s) are not as they must be.\n" + "\n".join(f"  {problem}" for problem in problems[:20]))
    return content


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--name", help="of the submission (default: the one in run.json)")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
