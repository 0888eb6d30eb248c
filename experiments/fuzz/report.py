"""results/fuzz.json and fuzz.md out of the records of a campaign."""

import os
import platform
from collections import Counter
from pathlib import Path

from nnunetv2.utilities.files import atomic_write, save_json


def write_report(out: Path, records: list[dict], possible: int, seed: int, seconds: float) -> None:
    """out.json holds every run, out.md counts by command and by kind, and each run that was not met well."""
    good = sum(record["good"] for record in records)
    save_json(
        {
            "command": "bash experiments/run_fuzz.sh",
            "seed": seed,
            "runs": len(records),
            "possible": possible,
            "good": good,
            "seconds": round(seconds),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "records": records,
        },
        out.with_suffix(".json"),
    )
    with atomic_write(out.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(records, possible, seed, seconds), encoding="utf-8")


def markdown(records: list[dict], possible: int, seed: int, seconds: float) -> str:
    good = sum(record["good"] for record in records)
    lines = [
        "# Damaged inputs through every command",
        "",
        f"`bash experiments/run_fuzz.sh`: {len(records)} runs (seed {seed}) of {possible} possible ones, {seconds / 60:.0f} min on {os.cpu_count()} cores. SYNTHETIC data.",
        "",
        f"**{good} of {len(records)} met well.** Good: exit status not 0; one message that begins with `error:`, names each damaged file or value and says what to do or what "
        "is expected; no traceback, no hang, nothing run, lost, changed or left over. Where an input is odd but possible, ending well with its result counts too.",
        "",
        *_table("Command", [record["command"] for record in records], records),
        "",
        *_table("Kind of input", [record["kind"] for record in records], records),
        "",
    ]
    bad = [record for record in records if not record["good"]]
    if bad:
        lines += ["## Not met well", "", "| Command, input, damage | Status | What is wrong |", "|---|---|---|"]
        lines += [f"| {_cell(record['input'])} | {record['status']} | {_cell('; '.join(record['problems']))} |" for record in bad]
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, groups: list[str], records: list[dict]) -> list[str]:
    total = Counter(groups)
    good = Counter(group for group, record in zip(groups, records) if record["good"])
    return [
        f"| {title} | Runs | Met well |",
        "|---|---|---|",
        *(f"| {_cell(group)} | {total[group]} | {good[group]} |" for group in sorted(total)),
    ]


def _cell(text: str) -> str:
    """One table cell on one line, whatever a file was called."""
    plain = text.encode("ascii", "backslashreplace").decode().replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("`", "'")
    return plain if len(plain) <= 260 else plain[:260] + " ..."
