"""Flags of upstream's console commands."""

from importlib.metadata import entry_points

import command_flags


def flags(commands):
    scripts = {e.name: e.value for e in entry_points(group="console_scripts")}
    return {c: command_flags.flags(scripts[f"nnUNetv2_{c}"]) if f"nnUNetv2_{c}" in scripts else None for c in commands}
