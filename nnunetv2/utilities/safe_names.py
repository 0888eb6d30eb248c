"""Names that come out of a file or off a command line and become part of a path.

A dataset, a model or a command line names cases, configurations, plans, folders and tables. Whatever joins such a name to a
folder would follow `/etc/passwd` or `../..` out of it, so each name is checked where it is read: one plain component of a path.
"""

import unicodedata
from collections.abc import Iterable, Mapping

from nnunetv2.utilities.errors import InputError

MAX_BYTES = 200  # file systems allow 255; endings, channel numbers and the names of temporary files come on top
_WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
_SEPARATORS, _NOT_ON_WINDOWS = set("/\\"), set(':*?"<>|')


def plain_name(value: object, what: str, where: object, taken: Iterable[str] = ()) -> str:
    """`value` if it is safe as one component of a path, on every system; InputError otherwise.

    what: what it names, for the message ("case"); where: the file or flag it came from; taken: names that mean something else there.
    """
    reason = name_problem(value)
    if reason is None and file_key(value) in map(file_key, taken):
        reason = "is the name of something else in that folder"
    if reason is not None:
        raise InputError(f"{where}: {what} {value!r} {reason}. Rename it: letters, digits, '_', '-' and '.' are always safe.")
    return value


def plain_names(values: Iterable, what: str, where: object, portable: bool = True) -> list[str]:
    """`plain_name` of each; all that are wrong are listed in one InputError. portable: see `name_problem`."""
    values = list(values)
    wrong = [f"{value!r} {reason}" for value in values if (reason := name_problem(value, portable)) is not None]
    if wrong:
        listed = "\n".join(f"  {what} {entry}" for entry in wrong)
        raise InputError(f"{where}: {len(wrong)} name(s) cannot be used; letters, digits, '_', '-' and '.' are always safe.\n{listed}")
    return values


def plain_ending(value: object, where: object) -> str:
    """A file ending such as `.nii.gz`, which stands behind a name in a path; InputError for anything else."""
    if not isinstance(value, str) or not value.startswith(".") or any(not part.isalnum() or not part.isascii() for part in value[1:].split(".")):
        raise InputError(f"{where}: file_ending is {value!r}; it must be a dot and letters or digits, such as .nii.gz.")
    return value


def file_key(name: str) -> str:
    """Equal for names that some file system takes for one: upper and lower case, composed and decomposed accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def refuse_shared_files(files: Mapping[str, Iterable[str]], where: object) -> None:
    """InputError that lists every pair of cases that would write to one file; `files`: case -> the names of its files."""
    owners: dict[str, tuple[str, str]] = {}
    clashes = []
    for case, names in files.items():
        for name in names:
            other, its_name = owners.setdefault(file_key(name), (case, name))
            if other != case:
                clashes.append(f"  {other} and {case}: {its_name}" + (f" and {name} (one file where upper and lower case are not told apart)" if name != its_name else ""))
    if clashes:
        raise InputError(f"{where}: {len(clashes)} pair(s) of cases share a file; rename one of each.\n" + "\n".join(clashes))


def name_problem(value: object, portable: bool = True) -> str | None:
    """Why `value` must not become a component of a path, or None.

    portable: refuse what other systems cannot hold, too. False serves for files that lie on this system already.
    """
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
    if bad := sorted((_SEPARATORS | _NOT_ON_WINDOWS if portable else _SEPARATORS) & set(value)):
        return f"holds {' '.join(bad)}"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "is not UTF-8"
    if any(unicodedata.category(character).startswith("C") for character in value):
        return "holds a control or unprintable character"
    if portable and value.split(".")[0].strip().upper() in _WINDOWS_DEVICES:
        return "is the name of a device on Windows"
    if len(value.encode()) > MAX_BYTES:
        return f"is longer than {MAX_BYTES} bytes"
    return None
