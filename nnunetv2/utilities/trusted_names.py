"""Classes and functions that a file names, found without importing whatever the file likes.

Plans, checkpoints and dataset descriptions travel between people and name Python objects by dotted path. Importing such a
path runs code, and calling what it leads to runs any function of any installed package. So a path resolves through what is
known: torch.nn's modules and this code base's own classes. Everything else needs the user's word, in the environment
variable `nnUNet_trust` or by the flag `--trust`: packages, separated by commas, whose objects may be imported.
"""

import importlib
import inspect
import math
import os
import pkgutil
import pydoc
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from nnunetv2.utilities.errors import InputError

TRUST_VARIABLE = "nnUNet_trust"


def trusted_packages() -> tuple[str, ...]:
    """Packages and modules that the user trusts by `nnUNet_trust`."""
    return tuple(name.strip() for name in os.environ.get(TRUST_VARIABLE, "").split(",") if name.strip())


def trust(packages: str) -> None:
    """Add packages, separated by commas, to those that this process and the processes it starts trust."""
    named = [name.strip() for name in packages.split(",") if name.strip()]
    if wrong := [name for name in named if not all(part.isidentifier() for part in name.split("."))]:
        raise InputError(f"--trust: {', '.join(map(repr, wrong))} is no name of a package. Write package or package.module, separated by commas.")
    os.environ[TRUST_VARIABLE] = ",".join(dict.fromkeys([*trusted_packages(), *named]))


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
        package = dotted.rpartition(".")[0]
        remedy = (f" and would run code of that package. If you wrote it or trust its author: --trust {package}, or export {TRUST_VARIABLE}={package}" if package
                  else ". Write one of these, or the full path of your own, package.module.name, with --trust package.module")
        raise InputError(f"{where}: {what} names {dotted!r}, which is not among what is known here ({', '.join(sorted(known)[:12])}"
                         f"{', ...' if len(known) > 12 else ''}){remedy}.")
    try:
        found = pydoc.locate(dotted)
    except (pydoc.ErrorDuringImport, ValueError) as error:
        raise InputError(f"{where}: {what} names {dotted!r}, whose import failed: {error}") from error
    if found is None:
        raise InputError(f"{where}: {what} names {dotted!r}, which cannot be imported; put its folder on PYTHONPATH.")
    if not accept(found):
        raise InputError(f"{where}: {what} names {dotted!r}, which is a {type(found).__name__} of another kind.")
    return found


def name_of(found: Any, known: Mapping[str, Any]) -> str:
    """What a file calls `found`, a class or function: its bare name where it is known or a class of this package, else its dotted path."""
    if known.get(found.__name__) is found or (isinstance(found, type) and found.__module__.startswith("nnunetv2.")):
        return found.__name__
    return f"{found.__module__}.{found.__qualname__}"


def with_own_files(name: object, known: Mapping[str, Any], room: ModuleType, base: type) -> Mapping[str, Any]:
    """`known`, and where `name` is a plain name that is not in it, {name: class} of the subclasses of `base` in modules below `room`, a package of ours.

    Files that people put there are trusted as ours are.
    """
    if not isinstance(name, str) or "." in name or name in known:
        return known
    found = dict(known)
    for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        content = vars(importlib.import_module(module.name))
        found |= {name: value for name, value in content.items()
                  if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.name}
    return found


def plain_arguments(function: Callable, arguments: object, what: str, where: object, given: Iterable[str] = ()) -> dict[str, Any]:
    """`arguments` out of a file as keywords for `function`, if it takes them and they are plain values.

    Plain are numbers, truth values, text, None and lists of them. None as a whole means no arguments.

    Args:
        given: names of parameters that the caller fills itself; a file must not.
    Raises:
        InputError: lists every name that `function` lacks or that is given already, and every value of another kind.
    """
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"{where}: {what} is {arguments!r}; it must be an object of names and values.")
    parameters = inspect.signature(function).parameters
    allowed = [name for name, parameter in parameters.items() if name not in given and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in arguments if name in given or not (name in allowed or takes_any)]
    problems = [f"{name!r} is not known; known: {', '.join(allowed) or 'none'}" for name in unknown]
    problems += [f"{name!r} is {value!r}, no plain value" for name, value in arguments.items() if name not in unknown and not _is_plain(value)]
    if problems:
        raise InputError(f"{where}: {what} cannot be used: {'; '.join(problems)}.")
    return dict(arguments)


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
