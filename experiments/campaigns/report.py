"""A campaign's .json and .md out of its records; each holds `good` and, where it is not, `problems`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from experiments.record_run import code_commit, environment
from nnunetv2.utilities.files import atomic_write, save_json

_CELL = 300  # characters of a table's cell


def write_report(out: Path, command: str, figures: dict, records: list[dict], seconds: float, text: str) -> None:
    """out.json: how it was made, `figures`, every record. out.md: `text`."""
    content = {
        "synthetic": True,
        "command": command,
        "commit": code_commit(),
        "environment": environment("cpu"),
        **figures,
        "runs": len(records),
        "good": sum(record["good"] for record in records),
        "seconds": round(seconds),
        "records": records,
    }
    save_json(content, out.with_suffix(".json"))
    with atomic_write(out.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")


def counts_table(title: str, key: str, records: list[dict]) -> list[str]:
    """Lines of a table: per value of `key`, the runs and those met well."""
    total = Counter(record[key] for record in records)
    good = Counter(record[key] for record in records if record["good"])
    return [
        f"| {title} | Runs | Met well |",
        "|---|---|---|",
        *(f"| {cell(group)} | {total[group]} | {good[group]} |" for group in sorted(total)),
    ]


def bad_runs(columns: dict[str, str], records: list[dict]) -> list[str]:
    """Lines on the runs that were not met well, none where all were. columns: title -> key; what is wrong comes last."""
    bad = [record for record in records if not record["good"]]
    if not bad:
        return []
    return [
        "## Not met well",
        "",
        f"| {' | '.join(columns)} | What is wrong |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {' | '.join(cell(str(record[key])) for key in columns.values())} | {cell('; '.join(record['problems']))} |" for record in bad),
    ]


def document(parts: Sequence[str | list[str]]) -> str:
    """Markdown of paragraphs (str) and tables (lines), with a blank line between them; empty parts are left out."""
    return "\n\n".join(part if isinstance(part, str) else "\n".join(part) for part in parts if part) + "\n"


def cell(text: str) -> str:
    """One table cell on one line, whatever a file was called."""
    plain = text.encode("ascii", "backslashreplace").decode().replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("`", "'")
    return plain if len(plain) <= _CELL else plain[:_CELL] + " ..."
