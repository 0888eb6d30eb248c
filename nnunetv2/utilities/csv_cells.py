"""Cells of the tables that are written for people, who open them in a spreadsheet.

A spreadsheet runs a cell that begins with = + - @ or a tab as a formula, and a case's name may be one. Such a text gets an
apostrophe in front, which spreadsheets take for "this is text"; reading takes it off again. Numbers stay as they are.
"""

import re

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


def guarded(value: object) -> object:
    """`value` as it may stand in a table: a text that a spreadsheet would run gets an apostrophe, all else comes back itself."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}" if value.lstrip("'").startswith(_FORMULA_STARTS) else value


def unguarded(value: str) -> str:
    """What `guarded` was given."""
    return value[1:] if value.startswith("'") and value.lstrip("'").startswith(_FORMULA_STARTS) else value
