"""Names that come out of a file or off a command line and become part of a path.

A dataset, a model or a command line names cases, configurations, plans, folders and tables. Whatever joins such a name to a
folder would follow `/etc/passwd` or `../..` out of it, so each name is checked where it is read: one plain component of a path.
"""

import unicodedata

from nnunetv2.utilities.errors import InputError

MAX_BYTES = 200  # file systems allow 255; endings, channel numbers and the names of temporary files come on top
_WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
_FORBIDDEN = set('/\\:*?"<>|')  # separators, and what other systems' file names cannot hold


def plain_name(value: object, what: str, where: object) -> str:
    """`value` if it is safe as one component of a path, on every system; InputError otherwise.

    what: what it names, for the message ("case"); where: the file or flag it came from.
    """
    reason = name_problem(value)
    if reason is not None:
        raise InputError(f"{where}: {what} {value!r} {reason}. Rename it: letters, digits, '_', '-' and '.' are always safe.")
    return value


def plain_names(values, what: str, where: object) -> list[str]:
    """`plain_name` of each; all that are wrong are listed in one InputError."""
    values = list(values)
    wrong = [f"{value!r} {reason}" for value in values if (reason := name_problem(value)) is not None]
    if wrong:
        listed = "\n".join(f"  {what} {entry}" for entry in wrong)
        raise InputError(f"{where}: {len(wrong)} name(s) cannot be used; letters, digits, '_', '-' and '.' are always safe.\n{listed}")
    return values


def name_problem(value: object) -> str | None:
    """Why `value` must not become a component of a path, or None."""
    if not isinstance(value, str):
        return f"is {type(value).__name__} and not text"
    if not value or value.strip() != value:
        return "is empty or begins or ends with a blank"
    if value in (".", "..") or value.startswith("."):
        return "begins with a dot: a hidden file, or a way out of the folder"
    if value.endswith("."):
        return "ends with a dot"
    if value.startswith(("-", "~")):
        return f"begins with {value[0]!r}, which programs read as a flag or as a home folder"
    if bad := sorted(_FORBIDDEN & set(value)):
        return f"holds {' '.join(bad)}"
    if any(unicodedata.category(character).startswith("C") for character in value):
        return "holds a control or unprintable character"
    if value.split(".")[0].upper() in _WINDOWS_DEVICES:
        return "is the name of a device on Windows"
    if len(value.encode()) > MAX_BYTES:
        return f"is longer than {MAX_BYTES} bytes"
    return None
