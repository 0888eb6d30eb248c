"""Rows: command lines. Every flag of upstream's commands is accepted here with the same meaning, or a row says why not."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

from tests.conformance.bench import Bench, Row
from tests.conformance.command_flags import flags

COMMANDS = [
    "extract_fingerprint", "plan_experiment", "preprocess", "plan_and_preprocess", "train", "predict", "predict_from_modelfolder",
    "evaluate_folder", "evaluate_simple", "find_best_configuration", "ensemble", "determine_postprocessing", "apply_postprocessing",
    "export_model_to_zip", "install_pretrained_model_from_zip", "accumulate_crossval_results", "plot_overlay_pngs",
]
# Where we differ on purpose: (command or *, flag) -> why. A difference that is not listed here fails.
ON_PURPOSE = {
    ("*", "-np"): "default: the cores that are there; upstream's 8 (or 4) are slower on fewer cores",
    ("*", "-npfp"): "default: the cores that are there",
    ("*", "-npp"): "threads, not processes: one reads ahead while the network runs",
    ("*", "-nps"): "threads, not processes: one writes while the network runs",
    ("*", "-d"): "upstream calls it required in its help text; here the parser does",
    ("*", "-step_size"): "None means the mode's, which is 0.5",
}


def by_flag(described: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each spelling of each flag; positional arguments by their order."""
    found = {}
    for action in described:
        for spelling in action["flags"]:
            key = spelling
            while key in found:
                key += "'"
            found[key] = action
    return found


def find(described: dict[str, dict[str, Any]], flag: str) -> dict[str, Any] | None:
    """The action behind `flag`; as argparse does, a long flag may be cut short where only one begins like that."""
    begins = [action for spelling, action in described.items() if flag.startswith("--") and spelling.startswith(flag)]
    return described.get(flag) or (begins[0] if len(begins) == 1 else None)


def meaning(action: dict[str, Any]) -> dict[str, Any]:
    """What a caller can see: how many values, whether it must be there, what happens without it."""
    default = action["default"]
    if isinstance(default, list):
        default = [str(v) for v in default]
    return {"takes": action["takes"], "required": action["required"], "default": None if action["required"] else default}


def compare(command: str, flag: str, ours: dict[str, Any] | None, theirs: dict[str, Any]) -> Row:
    what = f"nnUNetv2_{command} {flag.rstrip(chr(39))}"
    excuse = ON_PURPOSE.get((command, flag.rstrip("'"))) or ON_PURPOSE.get(("*", flag))
    if ours is None:
        return Row(what, "not accepted", str(meaning(theirs)), "missing", "accepted", False)
    mine, reference = meaning(ours), meaning(theirs)
    differing = [k for k in mine if mine[k] != reference[k]]
    shown = "; ".join(f"{k} {mine[k]!r}, upstream {reference[k]!r}" for k in differing) or "0"
    return Row(what, str(mine), str(reference), shown, "same meaning, or on purpose", not differing or excuse is not None,
               f"on purpose: {excuse}" if differing and excuse else "")


def check_flags(bench: Bench) -> Iterator[Row]:
    scripts = {e.name: e.value for e in entry_points(group="console_scripts")}
    upstream = bench.upstream.call("upstream_commands:flags", commands=COMMANDS)
    for command in COMMANDS:
        name = f"nnUNetv2_{command}"
        if name not in scripts:
            yield Row(name, "missing", "there", "missing", "installed", False)
            continue
        ours, theirs = by_flag(flags(scripts[name])), by_flag(upstream[command])
        for flag, action in theirs.items():
            yield compare(command, flag, find(ours, flag), action)
        added = sorted(f for f in ours if f not in theirs)
        yield Row(f"{name}: flags added here", ", ".join(added) or "none", "", f"{len(added)} more", "none hides an upstream flag",
                  not set(added) & set(theirs))


CHECKS = [check_flags]
