"""The table and the picture of experiments/robustness.py, and the block of the manual that is made from its .json.

python -m experiments.robustness_report results/robustness      write .md and .png anew from the .json; seconds
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from evaluation.figure_style import BLUE, GREEN, METADATA, ORANGE, STYLE, stamp
from evaluation.files import write_text
from experiments.redraw import redraw
from nnunetv2.utilities.files import atomic_write

COLOURS = {"exact": BLUE, "half": GREEN, "fast": ORANGE}


def headline(result: dict[str, Any]) -> str:
    trained = (
        "It was trained on SYNTHETIC CTs"
        if result["model_is_synthetic"]
        else f"It was trained on {result['model']['dataset']}"
    )
    return (
        f"REAL data, of {result['source']}; {result['licence']}. {result['n']} scan{'s' if result['n'] > 1 else ''}. Model of {result['model']['dataset']} with "
        f"the labels {', '.join(result['model']['labels'])}. {trained}; the scans have no truth for it. So masks are compared with themselves, and say nothing "
        "about accuracy."
    )


def grouped(result: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str, str], list[dict[str, Any]]]]:
    """((scan, group, reader, mode), rows) in the order of the scans."""
    for scan in result["scans"]:
        keys = dict.fromkeys((row["group"], row["reader"], row["mode"]) for row in scan["variants"])
        for group, reader, mode in sorted(keys, key=lambda key: (key[0], key[1])):
            yield (
                (scan["scan"], group, reader, mode),
                [
                    row
                    for row in scan["variants"]
                    if (row["group"], row["reader"], row["mode"]) == (group, reader, mode)
                ],
            )


def spread(values: list[float | None]) -> str:
    """Lowest and mean; labels that are absent from both masks count nowhere."""
    found = [value for value in values if value is not None]
    return f"{min(found):.3f} / {np.mean(found):.3f}" if found else "-"


def variant_table(result: dict[str, Any]) -> list[str]:
    labels = list(result["model"]["labels"])
    lines = [
        f"| scan | changed | mode | variants | equal to the voxel | largest share of voxels that differ | {' | '.join(f'DSC {label}' for label in labels)} |",
        "|---" * (6 + len(labels)) + "|",
    ]
    for (scan, group, reader, mode), rows in grouped(result):
        same = sum(row["voxels_differ"] == 0 for row in rows)
        what = group if reader == "the model's reader" else f"{group}, turned first"
        lines.append(
            f"| {scan} | {what} | `{mode}` | {len(rows)} | {same} | {100 * max(row['differ'] for row in rows):.2g} % | "
            f"{' | '.join(spread([row['dsc'][label] for row in rows]) for label in labels)} |"
        )
    return lines


def mode_table(result: dict[str, Any]) -> list[str]:
    labels = list(result["model"]["labels"])
    lines = [
        f"| scan | mode | voxels other than `exact` | {' | '.join(f'DSC {label} to exact (ml in exact)' for label in labels)} | files | labels missed |",
        "|---" * (5 + len(labels)) + "|",
    ]
    for scan in result["scans"]:
        for row in scan.get("modes", []):
            cells = [
                f"{'-' if row['dsc'][label] is None else format(row['dsc'][label], '.3f')} ({row['ml'][label]:.1f})"
                for label in labels
            ]
            missed = (
                "; ".join(f"{one['label']} of {one['exact_ml']} ml, {one['variant']}" for one in row["missed"])
                or "none"
            )
            lines.append(
                f"| {scan['scan']} | `{row['mode']}` | {100 * row['differ']:.2g} % | {' | '.join(cells)} | {row['variants']} | {missed} |"
            )
    return lines


def computed(result: dict[str, Any]) -> str:
    """In what each mode ran here: on some CPUs `half` has nothing faster than fp32, and is `exact` then."""
    found = dict.fromkeys(f"`{mode}` {what}" for scan in result["scans"] for mode, what in scan["computed_in"].items())
    return f"Computed in: {', '.join(found)}."


def summary(result: dict[str, Any]) -> str:
    """For the manual."""
    return "\n".join(
        [
            headline(result),
            "",
            computed(result),
            "",
            "Each mode beside `exact`. *Labels missed*: `exact` finds more than 1 ml, the mode nothing, in any variant.",
            "",
            *mode_table(result),
            "",
            "Each variant beside the scan as it is, in the same mode; DSC: lowest / mean. *Turned first*: with the reader "
            "`SimpleITKIOWithReorient`, which brings every file to one orientation.",
            "",
            *variant_table(result),
            "",
            f"Command: `{result['command']}`; code {result['commit']}.",
        ]
    )


def markdown(result: dict[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    return "\n".join(
        [
            "# REAL CTs: what should not matter, and what it does to masks",
            "",
            summary(result),
            "",
            machine + ".",
            "",
            "![DSC of each variant with the scan as it is](robustness.png)",
            "",
        ]
    )


def draw(result: dict[str, Any], out: Path) -> None:
    """DSC of all foreground labels' mean with the scan as it is: a dot a variant, a column a group and scan."""
    columns = list(dict.fromkeys((scan, group, reader) for (scan, group, reader, _), _ in grouped(result)))
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6.3, 3.6))
        for (scan, group, reader, mode), rows in grouped(result):
            place = columns.index((scan, group, reader)) + 0.22 * (list(COLOURS).index(mode) - 1)
            values = [
                np.mean(found)
                for row in rows
                if (found := [value for value in row["dsc"].values() if value is not None])
            ]
            ax.plot(
                np.full(len(values), place) + np.linspace(-0.07, 0.07, len(values)),
                values,
                ".",
                color=COLOURS[mode],
                markersize=3,
            )
        for mode in result["modes"]:
            ax.plot([], [], "o", color=COLOURS[mode], label=mode)
        ax.set_xticks(
            range(len(columns)),
            [
                f"{scan.removesuffix('_0000')}\n{group}{'' if reader.startswith('the') else ', turned'}"
                for scan, group, reader in columns
            ],
            rotation=60,
            ha="right",
            fontsize=6,
        )
        ax.set_ylim(-0.03, 1.03)
        ax.set_ylabel("DSC with the scan as it is, mean over labels")
        ax.legend(loc="lower left")
        stamp(
            figure,
            f"REAL CT; model trained on {'SYNTHETIC CTs' if result['model_is_synthetic'] else result['model']['dataset']}; no accuracy",
        )
        with atomic_write(out.with_name(f"{out.name}.png")) as temporary:
            figure.savefig(temporary, dpi=130, metadata=METADATA["png"])
        plt.close(figure)


def write_report(result: dict[str, Any], path: Path) -> None:
    """PATH.md and PATH.png."""
    write_text(markdown(result), path.with_name(f"{path.name}.md"))
    draw(result, path)


if __name__ == "__main__":
    redraw(__doc__, write_report)
