"""Serves the modules of `table.py` to Python's import system; a name is looked up only when somebody asks for it."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any


class UpstreamModule(ModuleType):
    """A module without a file: each public name lives elsewhere, as `package.module:name`."""

    def __init__(self, name: str, targets: Mapping[str, str]):
        super().__init__(name, f"Import path of nnU-Net's; its names live in {', '.join(sorted({t.split(':')[0] for t in targets.values()})) or 'submodules'}.")
        self.__dict__["_targets"] = targets
        self.__all__ = list(targets)

    def __getattr__(self, name: str) -> Any:
        target = self.__dict__["_targets"].get(name)
        if target is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, _, attribute = target.partition(":")
        value = getattr(importlib.import_module(module), attribute)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._targets})


class UpstreamFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of a table. Stands last on sys.meta_path, so a file of that name always wins.

    left_out: how the names of modules begin that are missing on purpose, and why.
    """

    def __init__(self, table: Mapping[str, Mapping[str, str]], left_out: Mapping[str, str]):
        self.table, self.left_out = table, left_out
        parents = {name.rpartition(".")[0] for name in table}
        while missing := {parent.rpartition(".")[0] for parent in parents if "." in parent} - parents:
            parents |= missing
        self.packages = parents

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.table and fullname not in self.packages:
            reason = next((reason for prefix, reason in self.left_out.items() if fullname.startswith(prefix)), None)
            if reason is not None:
                raise ModuleNotFoundError(f"{fullname} of nnU-Net is left out of this fork: {reason}.", name=fullname)
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname in self.packages)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return UpstreamModule(spec.name, self.table.get(spec.name, {}))

    def exec_module(self, module: ModuleType) -> None:
        pass


class OpenedModules(importlib.abc.MetaPathFinder):
    """Looks after files of this code base that have other people's names to offer, too.

    parents: upstream has a package where there is one file here, `preprocessing/resampling.py`. Python asks a parent for its `__path__`
    before it looks for a child; an empty one is enough. added: names that upstream has at a module which is a file here as well.
    """

    def __init__(self, parents: Sequence[str], added: Mapping[str, Mapping[str, str]]):
        self.parents, self.added = frozenset(parents), added

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.parents and fullname not in self.added:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and fullname in self.parents and spec.submodule_search_locations is None:
            spec.submodule_search_locations = []
        if spec is not None and fullname in self.added and spec.loader is not None:
            spec.loader = _AddingLoader(spec.loader, self.added[fullname])
        return spec


class _AddingLoader(importlib.abc.Loader):
    """Runs a file as `loader` does, and lets it answer for further names afterwards."""

    def __init__(self, loader: Any, targets: Mapping[str, str]):
        self._loader, self._targets = loader, targets

    def __getattr__(self, name: str) -> Any:  # get_source, get_code and the like
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _add_names(module, self._targets)


def _add_names(module: ModuleType, targets: Mapping[str, str]) -> None:
    """`module` answers for the names of `targets` where it has none of its own."""
    own = module.__dict__.get("__getattr__")

    def look_up(name: str) -> Any:
        target = targets.get(name)
        if target is not None:
            home, _, attribute = target.partition(":")
            return getattr(importlib.import_module(home), attribute)
        if own is not None:
            return own(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__dict__["__getattr__"] = look_up


def install(table: Mapping[str, Mapping[str, str]], added: Mapping[str, Mapping[str, str]], left_out: Mapping[str, str]) -> None:
    """Put both finders in place, once a process."""
    if any(isinstance(finder, UpstreamFinder) for finder in sys.meta_path):
        return
    finder = UpstreamFinder(table, left_out)
    for name in finder.packages & sys.modules.keys():  # imported before, as dynamic_network_architectures may be by itself
        if not hasattr(sys.modules[name], "__path__"):
            sys.modules[name].__path__ = []
    for name in added.keys() & sys.modules.keys():
        _add_names(sys.modules[name], added[name])
    sys.meta_path.insert(0, OpenedModules(sorted(finder.packages), added))
    sys.meta_path.append(finder)
