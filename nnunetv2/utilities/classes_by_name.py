"""Find a class by its name in a folder of modules, as nnU-Net finds trainers."""

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def temporarily_extend_syspath(path: str | os.PathLike) -> Iterator[None]:
    """`path` stands first on sys.path inside the block."""
    path = os.path.abspath(path)
    added = path not in sys.path
    if added:
        sys.path.insert(0, path)
    try:
        yield
    finally:
        if added and path in sys.path:
            sys.path.remove(path)


@contextmanager
def temporarily_cleanup_imports_from_path(path: str | os.PathLike) -> Iterator[None]:
    """What is imported from below `path` inside the block is forgotten after it, so that two folders may hold modules of one name."""
    before = set(sys.modules)
    root = Path(path).resolve()
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().is_relative_to(root):
                del sys.modules[name]


def recursive_find_python_class(folder: str | os.PathLike, class_name: str, current_module: str | None, base_folder: str | os.PathLike | None = None,
                                verbose: bool = False, cleanup_imports_from_base_folder: bool = False) -> type | None:
    """The class in the modules of `folder`, then in those of its packages; None if there is none.

    current_module: dotted path of `folder`, None where it is no package itself. base_folder: put on sys.path meanwhile, `folder` by default.
    A module that cannot be imported raises its own error.
    """
    with ExitStack() as stack:
        stack.enter_context(temporarily_extend_syspath(base_folder or folder))
        if cleanup_imports_from_base_folder:
            stack.enter_context(temporarily_cleanup_imports_from_path(base_folder or folder))
        return _find(os.fspath(folder), class_name, current_module, verbose)


def _find(folder: str, class_name: str, package: str | None, verbose: bool) -> type | None:
    entries = sorted(pkgutil.iter_modules([folder]), key=lambda entry: entry.ispkg)  # modules first
    for entry in entries:
        dotted = entry.name if package is None else f"{package}.{entry.name}"
        if entry.ispkg:
            found = _find(os.path.join(folder, entry.name), class_name, dotted, verbose)
        else:
            if verbose:
                print(f"looking for {class_name} in {dotted}")
            found = getattr(importlib.import_module(dotted), class_name, None)
        if found is not None:
            return found
    return None
