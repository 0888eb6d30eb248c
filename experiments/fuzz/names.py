"""Names that break something somewhere: shells, paths, TeX, HTML, spreadsheets, globs, encodings, other systems."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class OddName:
    text: str
    leads_out: bool = False  # must be refused wherever it becomes a path


def odd_names(canary: str) -> list[OddName]:
    """All of them; `canary` is a file that only a name executed as a command would create."""
    harmless = [
        "with a blank",
        "it's",
        'say "hello"',
        "$(touch CANARY)",
        "`touch CANARY`",
        "a;touch CANARY;",
        "a&b|c",
        "$HOME",
        "100%",
        "#hash",
        "a\tb",
        "a\nb",
        "=1+1",
        "+cmd",
        "@SUM(A1)",
        "-rf",
        "--help",
        "~root",
        r"\input{x}",
        r"$\frac{1}{0}$",
        "^_{}%&#",
        "<script>alert(1)</script>",
        "&lt;b&gt;",
        "*",
        "a?b",
        "[ab]",
        "{a,b}",
        "ünïcödé",
        "Панкреас",
        "膵臓",
        "😀",
        "e\u0301",
        "a\u202eb",
        "CON",
        "a.b.c",
        "a..b",
        "seg",
        "p_seg",
        "UPPER",
        "x" * 180,
        "x" * 250,
        os.fsdecode(b"not\xff\xfeUTF8"),
        "%n%s%p",
        "{0.__class__}",
        "a:b",
        "null",
    ]
    return [OddName(name.replace("CANARY", os.path.basename(canary))) for name in harmless] + [
        OddName(name, leads_out=True) for name in ("../x", "../../x", "/srv/x_of_a_campaign", "..", ".", "", "a/../../x", "a/b")
    ]


def is_file_name(name: str) -> bool:
    """Whether a file can bear this name with endings behind it."""
    return bool(name) and "/" not in name and name not in (".", "..") and len(os.fsencode(name)) <= 240


def shown(name: str) -> str:
    """For tables: one line of printable characters."""
    text = name.encode("ascii", "backslashreplace").decode().replace("\n", "\\n").replace("\t", "\\t")
    return text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)"
