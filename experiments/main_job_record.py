"""Keep the figures of a finished main job in results/main_job.json, which README and front picture are made of.

    bash experiments/run_fold0.sh && python -m experiments.main_job_record --run results/fold0
    python -m experiments.generated_text && python -m experiments.front_picture --run results/fold0

Refuses a run on data that may not be shown: only runs on synthetic data are kept.
"""

import sys
from pathlib import Path

from evaluation.result_shapes import Metrics, RunRecord
from experiments.record_run import TARGETS
from experiments.results_index import RESULTS
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.files import load_json, save_json

TITLES = {
    "whole_pancreas.dsc.mean": "whole-pancreas DSC",
    "lesion.dsc.mean": "lesion DSC",
    "subtype.macro_f1": "subtype macro-F1",
}


def figures(metrics: dict) -> list[dict]:
    """The figures that the task is judged by: name, mean, 95 % interval, target. Without subtypes two."""
    values = {"whole_pancreas.dsc.mean": metrics["whole_pancreas"]["dsc"], "lesion.dsc.mean": metrics["lesion"]["dsc"]}
    if subtype := metrics.get("subtype"):
        low, high = subtype["macro_f1_ci"]
        values["subtype.macro_f1"] = {"mean": subtype["macro_f1"], "ci_low": low, "ci_high": high}
    return [
        {"name": TITLES[key], "target": TARGETS[key]}
        | {part: round(value[part], 4) for part in ("mean", "ci_low", "ci_high")}
        for key, value in values.items()
    ]


def record(run: Path, command: str, out: Path) -> dict:
    """Write `out` from RUN/metrics.json and RUN/run.json. Raises ValueError if the run's data are not synthetic."""
    metrics, protocol = load_json(run / "metrics.json", Metrics, partial=True), load_json(run / "run.json", RunRecord)
    if not protocol["synthetic"]:
        raise ValueError(f"{run}/run.json: the run used real data; only runs on synthetic data go into {out}.")
    stages = {stage["stage"]: stage["seconds"] for stage in protocol["stages"]}
    kept = {
        "synthetic": True,
        "command": command,
        "environment": protocol["environment"],
        "commit": protocol["commit"],
        "n": metrics["n_cases"],
        "data": protocol["data"],
        "seconds": round(sum(stages.values()), 1),
        "stages": stages,
        "rows": figures(metrics),
    }
    save_json(kept, out)
    return kept


@script
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--run", type=Path, default=RESULTS / "fold0", help="folder of a finished run_fold0.sh on synthetic data"
    )
    parser.add_argument("--command", default="bash experiments/run_fold0.sh", help="the command of that run")
    parser.add_argument("--out", type=Path, default=RESULTS / "main_job.json")
    args = parser.parse_args(arguments)
    record(args.run, args.command, args.out)
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
