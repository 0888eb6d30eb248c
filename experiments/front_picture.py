"""The README's picture: a case with its subtype on the left, seconds per case of five modes on the right.

    python -m experiments.front_picture --run results/fold0      seconds; writes docs/front.png

The case is the median by DSC of the run's validation cases; the bars are rows of results/speed.json. Both are marked SYNTHETIC where
they are, and the picture says whose seconds they are.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D

from evaluation.figure_style import BLUE, GREY, LIGHT, METADATA, ORANGE, SKY, STYLE, stamp
from evaluation.overlays import WINDOW_HU, CaseImages
from evaluation.result_shapes import Metrics, SpeedTable
from experiments.generated_text import FRONT_ROWS, short_machine
from experiments.results_index import RESULTS
from experiments.speed_table import bars
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.files import atomic_write, load_json

SIZE = (9.6, 2.9)  # inches
CONTOURS = {"pancreas": (SKY, "-"), "lesion": (ORANGE, (0, (2.5, 1)))}


def median_case(metrics: dict) -> dict:
    """The row of metrics.json whose mean of whole and lesion DSC is the median, of cases that have both and a subtype with probabilities."""
    rows = [row for row in metrics["cases"] if row["lesion_dsc"] is not None and probabilities_of(row)]
    if not rows:
        raise ValueError(
            "metrics.json holds no case with both structures and class probabilities; the picture needs one."
        )
    return sorted(rows, key=lambda row: (row["whole_pancreas_dsc"] + row["lesion_dsc"], row["case"]))[len(rows) // 2]


def probabilities_of(row: dict) -> dict[str, float]:
    """class -> probability of a row of metrics.json; empty without a class head."""
    return {key.removeprefix("p_"): value for key, value in row.items() if key.startswith("p_")}


def draw_case(panels: list[Axes], case: CaseImages) -> None:
    """CT, truth and prediction: the axial slice through the lesion's centre; pancreas solid and light, lesion dashed and dark."""
    z = case.centre()[0]
    for panel, title, mask in zip(panels, ("CT", "Truth", "Prediction"), (None, case.reference, case.prediction)):
        low, high = WINDOW_HU
        aspect = case.spacing[1] / case.spacing[2]
        panel.imshow(case.image[z], cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="bilinear")
        panel.set_title(title, pad=3)
        panel.set_axis_off()
        panel.set_anchor("N")
        panel.autoscale(False)
        for structure, labels in (("pancreas", (1, 2)), ("lesion", (2,))):
            inside = np.zeros(case.image[z].shape, bool) if mask is None else np.isin(mask[z], labels)
            if inside.any():
                colour, style = CONTOURS[structure]
                panel.contour(inside, [0.5], colors=[colour], linewidths=1.8, linestyles=[style])


def draw_subtype(axes: Axes, row: dict) -> None:
    """One bar per class; the true one is named."""
    classes, values = zip(*probabilities_of(row).items())
    axes.barh(
        range(len(classes)),
        values,
        color=[BLUE if name == row["subtype_predicted"] else LIGHT for name in classes],
        edgecolor=GREY,
        linewidth=0.5,
    )
    for y, value in enumerate(values):
        axes.annotate(f"{value:.2f}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(
        range(len(classes)), [f"subtype {name}{' (truth)' if name == row['subtype_true'] else ''}" for name in classes]
    )
    axes.set(xlim=(0, 1.12), xticks=(), ylim=(len(classes) - 0.4, -0.6))
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def compose(run: Path, speed: dict, path: Path) -> None:
    """Draw the picture of a finished main job and of results/speed.json's contents. Raises OSError or ValueError if the run lacks a file."""
    metrics = load_json(run / "metrics.json", Metrics)
    row = median_case(metrics)
    name = row["case"]
    case = CaseImages.read(
        name,
        run / "work/validation/images" / f"{name}_0000.nii.gz",
        run / "work/validation/labels" / f"{name}.nii.gz",
        run / "predictions/validation" / f"{name}.nii.gz",
    )
    synthetic = bool(metrics.get("synthetic") or speed.get("synthetic"))
    with plt.rc_context(STYLE | {"figure.constrained_layout.use": False}):
        figure = plt.figure(figsize=SIZE)
        try:
            left = GridSpec(2, 3, figure, 0.01, 0.15, 0.55, 0.85, wspace=0.04, hspace=0.1, height_ratios=(2.4, 1))
            draw_case([figure.add_subplot(left[0, column]) for column in range(3)], case)
            draw_subtype(figure.add_subplot(left[1, 1:]), row)
            handles = [
                Line2D([], [], color=c, linestyle=style, linewidth=1.8, label=name)
                for name, (c, style) in CONTOURS.items()
            ]
            place = {
                "loc": "lower left",
                "bbox_to_anchor": (0.005, 0.17),
                "facecolor": "#444444",
                "labelcolor": "white",
            }
            figure.legend(handles=handles, frameon=True, fontsize=8.5, **place)
            right = figure.add_axes((0.695, 0.22, 0.295, 0.6))
            rows = {key: value for key, value in speed["rows"].items() if key in FRONT_ROWS}
            bars(right, rows, {key: title.replace("`", "") for key, title in FRONT_ROWS.items()})
            right.set(
                xlabel="Seconds per case",
                xlim=(0, 1.3 * max(value["seconds_a_case"]["max"] for value in rows.values())),
                title="Inference, whole process",
            )
            cases = {value["cases_a_run"] for value in rows.values()}
            figure.text(
                0.01,
                0.03,
                f"Left: {name}, the median of {metrics['n_cases']} validation cases by DSC (whole {row['whole_pancreas_dsc']:.2f}, "
                f"lesion {row['lesion_dsc']:.2f}). Right: {min(cases)} to {max(cases)} cases of the quiz's size, {short_machine(speed)}.",
                fontsize=7.5,
            )
            if synthetic:
                stamp(figure)
            with atomic_write(path) as temporary:
                figure.savefig(temporary, dpi=160, metadata=METADATA["png"])
        finally:
            plt.close(figure)


@script
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--run", type=Path, default=RESULTS / "fold0", help="folder of a finished run_fold0.sh")
    parser.add_argument("--speed", type=Path, default=RESULTS / "speed.json", help="table of run_speed.sh")
    parser.add_argument("--out", type=Path, default=RESULTS.parent / "docs/front.png")
    args = parser.parse_args(arguments)
    compose(args.run, load_json(args.speed, SpeedTable), args.out)
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
