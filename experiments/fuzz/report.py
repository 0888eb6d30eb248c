"""results/fuzz.json and fuzz.md out of the records of a campaign."""

import os
from pathlib import Path

from experiments.campaigns import report

COMMAND = "bash experiments/run_fuzz.sh"


def write_report(out: Path, records: list[dict], possible: int, seed: int, seconds: float) -> None:
    """out.json holds every run, out.md counts by command and by kind, and each run that was not met well."""
    figures = {"seed": seed, "possible": possible}
    report.write_report(out, COMMAND, figures, records, seconds, markdown(records, possible, seed, seconds))


def markdown(records: list[dict], possible: int, seed: int, seconds: float) -> str:
    good = sum(record["good"] for record in records)
    return report.document([
        "# Damaged inputs through every command",
        f"`{COMMAND}`: {len(records)} runs (seed {seed}) of {possible} possible ones, {seconds / 60:.0f} min on {os.cpu_count()} cores. SYNTHETIC data.",
        f"**{good} of {len(records)} met well.** Good: exit status not 0; one message that begins with `error:`, names each damaged file or value and says what to do or what "
        "is expected; no traceback, no hang, nothing run, lost, changed or left over. Where an input is odd but possible, ending well with its result counts too.",
        report.counts_table("Command", "command", records),
        report.counts_table("Kind of input", "kind", records),
        report.bad_runs({"Command, input, damage": "input", "Status": "status"}, records),
    ])
