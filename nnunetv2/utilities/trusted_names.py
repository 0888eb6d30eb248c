"""Classes and functions that a file names, found without importing whatever the file likes.

Plans, checkpoints and dataset descriptions travel between people and name Python objects by dotted path. Importing such a
path runs code, and calling what it leads to runs any function of any installed package. So a path resolves through what is
known: torch.nn's modules and this code base's own classes. Everything else needs the user's word, in the environment
variable `nnUNet_trust` or by the flag `--trust`: packages, separated by commas, whose objects may be imported.
"""

import os
import pydoc
from collections.abc import Callable, Mapping
from typing import Any

from nnunetv2.utilities.errors import InputError

TRUST_VARIABLE = "nnUNet_trust"


def trusted_packages() -> tuple[str, ...]:
    """Packages and modules that the user trusts by `nnUNet_trust`."""
    return tuple(name.strip() for name in os.environ.get(TRUST_VARIABLE, "").split(",") if name.strip())


def is_trusted(dotted: str) -> bool:
    """Whether `package.module.Object` lies in a package that the user trusts."""
    return any(dotted == package or dotted.startswith(f"{package}.") for package in trusted_packages())


def resolve(dotted: object, what: str, where: object, known: Mapping[str, Any], accept: Callable[[Any], bool] = callable) -> Any:
    """The object that `dotted` names.

    Args:
        what, where: what it is for ("dropout_op") and the file that names it, for the message.
        known: name -> object, looked up first and without any import.
        accept: whether an object is of the wanted kind; a trusted package's object must be as well.
    Raises:
        InputError: it is not known and not trusted, cannot be imported, or is of another kind.
    """
    if not isinstance(dotted, str):
        raise InputError(f"{where}: {what} is {dotted!r}; it must be the name of a class or function.")
    if dotted in known:
        return known[dotted]
    if not is_trusted(dotted):
        package = dotted.rpartition(".")[0] or dotted
        raise InputError(
            f"{where}: {what} names {dotted!r}, which is not among what is known here ({', '.join(sorted(known)[:12])}"
            f"{', ...' if len(known) > 12 else ''}) and would run code of that package. If you wrote it or trust its author: "
            f"--trust {package}, or export {TRUST_VARIABLE}={package}")
    try:
        found = pydoc.locate(dotted)
    except pydoc.ErrorDuringImport as error:
        raise InputError(f"{where}: {what} names {dotted!r}, whose import failed: {error}") from error
    if found is None:
        raise InputError(f"{where}: {what} names {dotted!r}, which cannot be imported; put its folder on PYTHONPATH.")
    if not accept(found):
        raise InputError(f"{where}: {what} names {dotted!r}, which is a {type(found).__name__} of another kind.")
    return found
