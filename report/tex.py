"""JSON values as LaTeX text."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

NOT_RUN = r"\notrun"
SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_\allowbreak{}", "%": r"\%",
           "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
           "/": r"/\allowbreak{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
           "[": "{[}", "]": "{]}", "*": "{*}"}  # behind the end of a table's row these would belong to the command that ends it
ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u0308": '"',
           "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c", "\u0328": "k"}  # combining characters, of Unicode's canonical decomposition
LETTERS = {"\u00df": "ss", "\u00e6": "ae", "\u00c6": "AE", "\u0153": "oe", "\u0152": "OE", "\u00f8": "o", "\u00d8": "O", "\u0142": "l", "\u0141": "L"}
WITHOUT_DOT = {"i": r"\i", "j": r"\j"}  # below an accent
LIGATURE = re.compile(r"([-,])(?=\1)")


def escape(text: Any) -> str:
    """Any text as literal LaTeX, ASCII only: accents become commands, what the font lacks and control characters question marks, line ends blanks.
    No ligatures: a command can be copied out of the PDF."""
    text = str(text).replace("\u2212", "-").replace("\u00d7", "x").replace("\u2013", "-").replace("\u00b5", "u")
    text = " ".join(text.splitlines())
    return LIGATURE.sub(r"\1{}", "".join(map(_character, unicodedata.normalize("NFC", text))))


def _character(character: str) -> str:
    if character.isascii():
        return SPECIAL.get(character, character if character.isprintable() else "?")
    if character in LETTERS:
        return rf"{{\{LETTERS[character]}}}"
    parts = unicodedata.normalize("NFD", character)  # a letter and its accents
    if len(parts) != 2 or parts[1] not in ACCENTS or not (parts[0].isascii() and parts[0].isalpha()):
        return "?"
    return rf"{{\{ACCENTS[parts[1]]}{{{WITHOUT_DOT.get(parts[0], parts[0])}}}}}"


def number(value: Any, digits: int = 3) -> str:
    """A figure with `digits` decimals, small shares in powers of ten; undefined -> a dash, not there -> not run."""
    if value is None:
        return "--"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _minus(f"{value}")
    if isinstance(value, float):
        small = value and abs(value) < 0.5 * 10 ** -digits
        return _power(f"{value:.1e}") if small else _minus(f"{value:.{digits}f}")
    return escape(value)


def setting(value: Any) -> str:
    """A setting as people write it: 0.01, 3e-5 as a power of ten, lists on one line."""
    if isinstance(value, (list, tuple)):
        return sequence(value)
    return _power(f"{value:.4g}") if isinstance(value, float) else number(value)


def with_interval(value: dict | None, digits: int = 3) -> str:
    """`0.912 [0.900, 0.923]` of {"mean", "ci_low", "ci_high"}."""
    if not value:
        return NOT_RUN
    return _interval(value["mean"], [value["ci_low"], value["ci_high"]], digits)


def plain_with_interval(block: dict, key: str, digits: int = 3) -> str:
    """The same of a number whose interval stands under `<key>_ci`; without one the number alone."""
    if key not in block:
        return NOT_RUN
    return _interval(block[key], block.get(f"{key}_ci"), digits)


def values_of(obj: Any, path: str = "") -> dict[str, str]:
    """{JSON path: LaTeX text} of every scalar, every mean with interval and every short list below `obj`.

    A key with its `_ci` beside it gets the interval, and `<key>.plain` the number alone.
    """
    values: dict[str, str] = {}
    if isinstance(obj, dict):
        if {"mean", "ci_low", "ci_high"} <= obj.keys():
            values[path] = with_interval(obj)
        for key, value in obj.items():
            name = re.sub(r"[^A-Za-z0-9_.]", "", f"{path}.{key}".lstrip("."))
            values |= values_of(value, name)
            if f"{key}_ci" in obj:
                values |= {name: plain_with_interval(obj, key), f"{name}.plain": number(value)}
    elif isinstance(obj, (list, tuple)):
        if path and obj and not any(isinstance(item, (dict, list)) for item in obj):
            values[path] = sequence(obj)
    elif path:
        values[path] = number(obj)
    return values


def sequence(items: Sequence) -> str:
    """A list on one line; three numbers, as sizes are, joined by crosses."""
    joint = r" $\times$ " if len(items) == 3 and all(isinstance(item, (int, float)) for item in items) else ", "
    return joint.join(setting(item) for item in items)


def tabular(columns: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs table; no rows: not run."""
    if not rows:
        return NOT_RUN
    lines = [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule"]
    if header:
        lines += [" & ".join(header) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _interval(value: Any, interval: Sequence | None, digits: int) -> str:
    if interval is None or value is None or None in interval:
        return number(value, digits)
    low, high = (_minus(f"{bound:.{digits}f}") for bound in interval)
    return f"{_minus(f'{value:.{digits}f}')}~[{low},~{high}]"


def _power(text: str) -> str:
    """`3e-05` as 3 times a power of ten; a number without exponent as it is."""
    mantissa, _, exponent = text.partition("e")
    return rf"${mantissa}\cdot 10^{{{int(exponent)}}}$" if exponent else _minus(mantissa)


def _minus(text: str) -> str:
    return f"$-${text[1:]}" if text.startswith("-") else text
