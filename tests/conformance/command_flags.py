"""Ask a console command for its flags: run it until it parses its arguments, and look at the parser. Standard library alone."""

import argparse
import importlib
import sys
from unittest import mock


class _Parsed(Exception):
    pass


def flags(entry: str) -> list[dict]:
    """Flags of the command `module:function`, sorted; positional arguments carry their name."""
    module, function = entry.split(":")
    found: list[argparse.ArgumentParser] = []

    def stop(parser, *args, **kwargs):
        found.append(parser)
        raise _Parsed

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop), \
            mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop), mock.patch.object(sys, "argv", ["command"]):
        try:
            getattr(importlib.import_module(module), function)()
        except _Parsed:
            pass
    actions = [a for a in found[0]._actions if not isinstance(a, argparse._HelpAction)]
    described = [{"flags": list(a.option_strings) or ["<positional>"], "takes": _takes(a), "required": bool(a.required),
                  "default": _plain(a.default)} for a in actions]
    return sorted(described, key=lambda d: d["flags"])


def _takes(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "nothing"
    return "one value" if action.nargs is None else "a list"


def _plain(value):
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)
