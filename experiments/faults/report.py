"""results/faults.json and faults.md out of the records of a campaign."""

import os
import platform
from collections import Counter
from pathlib import Path

from nnunetv2.utilities.files import atomic_write, save_json

KILL = ("killed", "first process killed", "killed twice", "killed, again")


def number_of_kills(records: list[dict]) -> int:
    return sum(2 if record["fault"] == "killed twice" else 1 for record in records if record["fault"] in KILL)


def write_report(out: Path, records: list[dict], skipped: list[str], seconds: float) -> None:
    """out.json holds every run, out.md counts by stage and by fault, and each run that was not met well."""
    good = sum(record["good"] for record in records)
    save_json(
        {
            "command": "bash experiments/run_faults.sh",
            "runs": len(records),
            "kills": number_of_kills(records),
            "good": good,
            "seconds": round(seconds),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "skipped": skipped,
            "records": records,
        },
        out.with_suffix(".json"),
    )
    with atomic_write(out.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(records, skipped, seconds), encoding="utf-8")


def markdown(records: list[dict], skipped: list[str], seconds: float) -> str:
    good = sum(record["good"] for record in records)
    lines = [
        "# Faults while commands run",
        "",
        f"`bash experiments/run_faults.sh`: {len(records)} runs with a fault, {number_of_kills(records)} kills (-9) among them, {seconds / 60:.0f} min on {os.cpu_count()} cores. "
        "SYNTHETIC data.",
        "",
        f"**{good} of {len(records)} met well.** Good: while the fault lasts, an exit status and one message without a traceback; a plain rerun afterwards gives, by hash, the "
        "result of a run that nothing happened to; nothing half written stays. Every other run works below a folder whose name holds blanks, a quote, `$` and characters "
        "beyond ASCII.",
        "",
        *(f"Skipped: {line}." for line in skipped),
        "",
        *_table("Stage", "stage", records),
        "",
        *_table("Fault", "fault", records),
        "",
    ]
    bad = [record for record in records if not record["good"]]
    if bad:
        lines += ["## Not met well", "", "| Stage | Fault | What is wrong |", "|---|---|---|"]
        lines += [f"| {record['stage']} | {record['fault']} | {_cell('; '.join(record['problems']))} |" for record in bad]
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, key: str, records: list[dict]) -> list[str]:
    total = Counter(record[key] for record in records)
    good = Counter(record[key] for record in records if record["good"])
    return [
        f"| {title} | Runs | Met well |",
        "|---|---|---|",
        *(f"| {group} | {total[group]} | {good[group]} |" for group in sorted(total)),
    ]


def _cell(text: str) -> str:
    plain = text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
    return plain if len(plain) <= 300 else plain[:300] + " ..."
