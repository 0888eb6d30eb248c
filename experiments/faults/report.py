"""results/faults.json and faults.md out of the records of a campaign."""

import os
from pathlib import Path

from experiments.campaigns import report

COMMAND = "bash experiments/run_faults.sh"
KILL = ("killed", "first process killed", "killed twice", "killed, again")


def number_of_kills(records: list[dict]) -> int:
    return sum(2 if record["fault"] == "killed twice" else 1 for record in records if record["fault"] in KILL)


def write_report(out: Path, records: list[dict], skipped: list[str], seconds: float) -> None:
    """out.json holds every run, out.md counts by stage and by fault, and each run that was not met well."""
    figures = {"kills": number_of_kills(records), "skipped": skipped}
    report.write_report(out, COMMAND, figures, records, seconds, markdown(records, skipped, seconds))


def markdown(records: list[dict], skipped: list[str], seconds: float) -> str:
    good = sum(record["good"] for record in records)
    return report.document([
        "# Faults while commands run",
        f"`{COMMAND}`: {len(records)} runs with a fault, {number_of_kills(records)} kills (-9) among them, {seconds / 60:.0f} min on {os.cpu_count()} cores. "
        "SYNTHETIC data.",
        f"**{good} of {len(records)} met well.** Good: while the fault lasts, an exit status and one message without a traceback; a plain rerun afterwards gives, by hash, the "
        "result of a run that nothing happened to; nothing half written stays. Every other run works below a folder whose name holds blanks, a quote, `$` and characters "
        "beyond ASCII.",
        [f"Skipped: {line}." for line in skipped],
        report.counts_table("Stage", "stage", records),
        report.counts_table("Fault", "fault", records),
        report.bad_runs({"Stage": "stage", "Fault": "fault"}, records),
    ])
