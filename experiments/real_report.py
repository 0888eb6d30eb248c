"""The table and the picture of experiments/real.py, and the block of the manual that is made from its .json.

python -m experiments.real_report results/real      write the .md anew from the .json; seconds
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from PIL import Image

from data_prep.msd_to_quiz import describe
from evaluation.figure_style import METADATA, ORANGE, SKY, STYLE, stamp
from evaluation.files import write_text
from evaluation.overlays import CaseImages, draw_overlay, window_of
from experiments.real_sides import DATASET, TASK, Side
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.data_description import DataDescription
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import atomic_write, load_json

METRIC_NAMES = {"dsc": "DSC", "hd95_mm": "HD95, mm"}
CURVE_POINTS = 10
FOUND_NOTHING = 0.05  # mean DSC below which a model finds nothing
COLOURS = (SKY, ORANGE)  # of labels 1 and 2


def headline(result: dict[str, Any]) -> str:
    """What was compared, on what, with which budget; one paragraph."""
    budget = result["budget"]
    return (
        f"REAL data: {result['source']}; {result['licence']}. n = {result['n']} held-out cases of fold {', '.join(map(str, result['folds']))}. "
        f"Both programs trained with the same plans (network: {result['network']}, patch {'x'.join(map(str, budget['patch_size']))}, batch "
        f"{budget['batch_size']}, features {', '.join(map(str, budget['features_per_stage']))}) for {budget['epochs'] * budget['iterations']} iterations, "
        f"{'side by side' if result['side_by_side'] else 'one after the other'}, {result['threads']} thread{'s' if result['threads'] > 1 else ''} each, device {result['device']}, seed {budget['seed']}."
    )


def caveat(result: dict[str, Any]) -> str:
    """What the figures do not say."""
    means = [result["scores"]["all labels"]["dsc"][side]["mean"] or 0.0 for side in ("ours", "upstream")]
    lines = [
        "The training is short: figures compare the programs, and are not what nnU-Net reaches on this set (a mean DSC of about 0.89 after 1000 epochs)."
    ]
    if max(means) < FOUND_NOTHING:
        lines.append(
            "Neither program has learnt to find the structures within this budget: scores and masks compare nothing yet, and what both made before "
            "training stands."
        )
    lines.append(
        "Intervals draw cases; they do not hold the chance of another seed: both programs draw other weights and batches from it. "
        "Where the curves show one program on a plateau that the other has left, the difference of their scores is mostly that chance."
    )
    if not result["quiet_machine"]:
        lines.append("Other work ran on the machine, so no times are given; memory does not depend on that.")
    return " ".join(lines)


def score_table(result: dict[str, Any]) -> list[str]:
    lines = [
        "| label | metric | nnU-Net 2.8.1 | here | here - nnU-Net (95 % interval) | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for label, metrics in result["scores"].items():
        for metric, row in metrics.items():
            digits, difference = (3 if metric == "dsc" else 2), row["difference"]
            values = [
                f"{row[side]['mean']:.{digits}f} ({row[side]['ci_low']:.{digits}f} to {row[side]['ci_high']:.{digits}f})"
                if row[side]["n"]
                else "-"
                for side in ("upstream", "ours")
            ]
            gap = "-"  # undefined where a mask is empty in every case
            if difference["n"]:
                span = f"{difference['ci_low']:+.{digits}f} to {difference['ci_high']:+.{digits}f}"
                gap = f"{difference['difference']:+.{digits}f} ({span}), n = {difference['n']}"
            verdict = difference["verdict"].replace("B is", "here is")
            if all((metrics["dsc"][side]["mean"] or 0.0) < FOUND_NOTHING for side in ("upstream", "ours")):
                verdict = "neither finds it"
            lines.append(f"| {label} | {METRIC_NAMES[metric]} | {values[0]} | {values[1]} | {gap} | {verdict} |")
    return lines


def curve_table(result: dict[str, Any]) -> list[str]:
    """Mean pseudo Dice after some of the epochs: whether a program is slower, or waits longer on the same plateau."""
    epochs = result["budget"]["epochs"]
    shown = sorted({max(1, round(epochs * part / CURVE_POINTS)) for part in range(1, CURVE_POINTS + 1)})
    lines = [f"| program | {' | '.join(f'epoch {epoch}' for epoch in shown)} |", "|---" * (1 + len(shown)) + "|"]
    for fold, curves in result["curves"].items():
        for side, name in (("upstream", "nnU-Net 2.8.1"), ("ours", "here")):
            values = [curves[side][epoch - 1] if epoch <= len(curves[side]) else None for epoch in shown]
            lines.append(f"| {name}, fold {fold} | {' | '.join('-' if value is None else f'{value:.2f}' for value in values)} |")
    return lines


def agreement_table(result: dict[str, Any]) -> list[str]:
    """What both made before training, and of the same model."""
    preparation = result["preparation"]
    lines = ["| compared | nnU-Net 2.8.1 and here |", "|---|---|"]
    for name, what in (
        ("dataset", "dataset.json after conversion"),
        ("fingerprint", "fingerprint"),
        ("plans", "plans as planned"),
    ):
        row = preparation[name]
        differ = f"; differ: {', '.join(row['differ'][:8])}" if row["differ"] else ""
        lines.append(
            f"| {what} | {row['equal']} of {row['fields']} fields equal, largest relative difference {row['largest_relative']:.2g}{differ} |"
        )
    lines.append(f"| folds | {'equal' if preparation['splits_equal'] else 'DIFFERENT'} |")
    arrays = preparation["preprocessed"]
    shapes = f"; {len(arrays['other_shape'])} cases of another shape" if arrays["other_shape"] else ""
    lines.append(
        f"| preprocessed arrays, {arrays['cases']} cases | largest difference of a voxel {arrays['largest_difference']:.2g} standard deviations, "
        f"{arrays['label_voxels_differ']} label voxels differ{shapes} |"
    )
    for fold, exchange in zip(result["folds"], result["exchange"]):
        for model, row in exchange.items():
            found = (result["scores"]["all labels"]["dsc"][model]["mean"] or 0.0) >= FOUND_NOTHING
            weight = "" if found else "; this model finds nothing, so agreement is no evidence"
            lowest = ", ".join(f"{label} {value:.4f}" for label, value in row["lowest_dsc"].items())
            lines.append(
                f"| masks of the same model ({'trained here' if model == 'ours' else 'trained by nnU-Net'}, fold {fold}), {row['cases']} cases | "
                f"{row['voxels_differ']} of {row['voxels']} voxels differ ({100 * row['share']:.2g} %), in {row['cases_with_any']} cases; lowest DSC {lowest}{weight} |"
            )
    return lines


def stage_table(result: dict[str, Any]) -> list[str]:
    """Whole processes, from start to the last file."""

    def cell(row: dict[str, Any] | None, key: str) -> str:
        return "-" if row is None or row[key] is None else f"{row[key]:.{1 if key == 'seconds' else 2}f}"

    keys = [("seconds", "s"), *([("gpu_gib", "GiB on the GPU")] if result["device"] == "cuda" else []), ("gib", "GiB")]
    keys = keys if result["quiet_machine"] else keys[1:]
    head = [f"{side}, {unit}" for _, unit in keys for side in ("nnU-Net", "here")]
    lines = [f"| stage | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for stage, row in result["stages"].items():
        cells = [cell(row[side], key) for key, _ in keys for side in ("upstream", "ours")]
        lines.append(f"| {stage.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def markdown(result: dict[str, Any], picture: str = "real.png") -> str:
    """picture: name of the file of three cases, which lies beside the text."""
    machine = result["environment"]
    lines = [
        "# REAL scans: nnU-Net 2.8.1 and this repository",
        "",
        headline(result),
        "",
        caveat(result),
        "",
        f"`{result['command']}`; {', '.join(f'{name} {value}' for name, value in machine.items())}; code {result['commit']}.",
        "",
        "## Scores on held-out cases",
        "",
        *score_table(result),
        "",
        "## Mean pseudo Dice while they train",
        "",
        *curve_table(result),
        "",
        "## The same before training, and with the same model",
        "",
        *agreement_table(result),
        "",
        "## Every stage as a whole process",
        "",
        "`predict K other`: with the other program's model.",
        "",
        *stage_table(result),
        "",
        f"![Best, median and worst case]({picture})\n\nCases {', '.join(f'{which} {case}' for which, case in result['drawn'].items())}, by the mean DSC of both. "
        f"The images and masks in the picture are the Decathlon's, changed as drawn; the picture is under {result['licence']} too.",
    ]
    return "\n".join([*lines, ""])


def summary(result: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> str:
    """For the manual: scores, learning curves, and how far both agree. others: the same comparison with other seeds or lengths, whose curves stand beside it."""
    curves: list[str] = []
    for each in (result, *others):
        dsc = each["scores"]["all labels"]["dsc"]
        curves += [
            f"Mean pseudo Dice during {each['budget']['epochs'] * each['budget']['iterations']} iterations, seed {each['budget']['seed']}; afterwards, on {each['n']} held-out cases, a mean DSC of "
            f"{dsc['upstream']['mean']:.3f} (nnU-Net) and {dsc['ours']['mean']:.3f} (here):",
            "",
            *curve_table(each),
            "",
        ]
    return "\n".join(
        [
            headline(result),
            "",
            *score_table(result),
            "",
            *curves,
            *agreement_table(result),
            "",
            caveat(result),
            "",
            f"Command: `{result['command']}`; code {result['commit']}. All tables and three cases: `results/real.md`.",
        ]
    )


def _panel(
    ax: Axes, image: np.ndarray, mask: np.ndarray | None, aspect: float, window: tuple[float, float], title: str
) -> None:
    ax.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="nearest")
    if mask is not None:
        coloured = np.zeros((*mask.shape, 4))
        for label, colour in enumerate(COLOURS, start=1):
            coloured[mask == label] = (*to_rgb(colour), 0.55)
        ax.imshow(coloured, aspect=aspect, interpolation="nearest")
    ax.set_title(title, fontsize=7, loc="left")
    ax.set_axis_off()


def draw(result: dict[str, Any], sides: tuple[Side, Side], out: Path) -> None:
    """Best, median and worst case: the sagittal slice through the truth's centre, and on it truth and both predictions."""
    ours, upstream = sides
    description = DataDescription(describe(out / "work" / TASK))
    rows = {row["case"]: row for row in result["cases"]}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(3, 4, figsize=(6.3, 4.4))
        for line, (which, case) in zip(axes, result["drawn"].items()):
            row = rows[case]
            files = {side.name: side.predictions(row["fold"], side) / f"{case}.nii.gz" for side in sides}
            image, truth = ours.raw / "imagesTr" / f"{case}_0000.nii.gz", ours.raw / "labelsTr" / f"{case}.nii.gz"
            first, second = (CaseImages.read(case, image, truth, files[side.name]) for side in (upstream, ours))
            x = first.centre(description)[2]
            aspect, window = first.spacing[0] / first.spacing[1], window_of(first.image, description)
            scores = {
                side: np.mean([label[side]["dsc"] for label in row["labels"].values()]) for side in ("upstream", "ours")
            }
            panels = (
                (None, f"{which}: {case.removeprefix('hippocampus_')}"),
                (first.reference, "truth"),
                (first.prediction, f"nnU-Net, DSC {scores['upstream']:.2f}"),
                (second.prediction, f"here, DSC {scores['ours']:.2f}"),
            )
            for ax, (mask, title) in zip(line, panels):
                _panel(ax, first.image[::-1, :, x], None if mask is None else mask[::-1, :, x], aspect, window, title)
        stamp(figure, f"REAL MR, Decathlon Task 04, {result['licence']}; blue and orange: the two labels")
        with atomic_write(out.with_name(f"{out.name}.png")) as temporary:
            figure.savefig(temporary, dpi=130, metadata=METADATA["png"])
        plt.close(figure)


def draw_for_manual(result: dict[str, Any], out: Path, picture: Path) -> None:
    """The median case as the gallery's overlays show it: image, truth and this repository's mask; `out` is where its run keeps `work`."""
    case = result["drawn"]["median"]
    fold = next(row["fold"] for row in result["cases"] if row["case"] == case)
    raw = out / "work/ours/nnUNet_raw" / DATASET
    prediction = out / f"work/ours/predictions/fold_{fold}_model_ours/{case}.nii.gz"
    images = CaseImages.read(case, raw / f"imagesTr/{case}_0000.nii.gz", raw / f"labelsTr/{case}.nii.gz", prediction)
    description = DataDescription(describe(out / "work" / TASK))
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "overlay"
        draw_overlay(images, drawn, case, f"REAL MR, Decathlon Task 04, {result['licence']}", description)
        with Image.open(drawn.with_suffix(".png")) as full, atomic_write(picture) as temporary:
            small = full.convert("RGB").resize((full.width // 2, full.height // 2), Image.Resampling.LANCZOS)
            small.save(temporary, format="png", optimize=True)


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("path", type=Path, help="of the .json, without ending")
    parser.add_argument("--picture", type=Path, help="also draw the median case there, a .png")
    args = parser.parse_args(arguments)
    result = load_json(args.path.with_name(f"{args.path.name}.json"), AnyObject)
    write_text(markdown(result, f"{args.path.name}.png"), args.path.with_name(f"{args.path.name}.md"))
    if args.picture:
        draw_for_manual(result, args.path, args.picture)


if __name__ == "__main__":
    main()
