"""Figures of one scored run, drawn from the contents of metrics.json. Every figure shows every case, and n."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from evaluation.figure_style import BLUE, GREY, LEGEND_LINE, LIGHT, RED, WIDTH, figure, in_legend, look
from evaluation.tables import NAMES, number
from nnunetv2.utilities.data_description import description_of

PANELS_IN_A_ROW = 4
MOST_IN_A_PANEL, LONGEST_IN_A_PANEL = 7, 12  # classes of a legend over the curves, and characters of a name
LARGEST_POINT = 400  # of a reliability diagram, in square points; of a thousand cases a point would cover the others
CLASSES_WITH_SHARES = 5  # of more a confusion matrix has room for the counts alone
LONGEST_BELOW_A_CELL, LETTER = 6, 0.07  # characters of a name that lie side by side below a confusion matrix; inches that each further one takes


def distributions(metrics: dict, path: Path) -> None:
    """DSC and NSD of each structure: each case a point, the box its quartiles, the diamond the mean with its interval."""
    names = ("dsc", "nsd_1mm", "nsd_2mm")
    structures = description_of(metrics).structures
    columns = min(len(structures), PANELS_IN_A_ROW)
    rows = -(-len(structures) // columns)
    with figure(path, stamp_of(metrics), rows, columns, height=2.6 if rows == 1 else 2 * rows, sharey=True) as (_, axes):
        for ax in axes.flat[len(structures) :]:
            ax.set_visible(False)
        for ax, (structure, shown) in zip(axes.flat, structures.items()):
            for place, name in enumerate(names):
                values = case_values(metrics, f"{structure}_{name}")
                values = values[~np.isnan(values)]
                _box_and_points(ax, place, values, metrics[structure][name])
            ax.set_xticks(range(len(names)), [NAMES[name].replace(" at ", "\n") for name in names])
            ax.set_title(f"{shown.title} (n = {metrics[structure]['dsc']['n']})")
            ax.set_ylim(-0.03, 1.03)
            ax.grid(axis="y", color=LIGHT, linewidth=0.5)
            ax.set_axisbelow(True)
        for ax in axes[:, 0]:
            ax.set_ylabel("Score")


def lesion_size(metrics: dict, path: Path) -> None:
    """Lesion DSC against the lesion's true volume, by class if known; crosses are missed lesions."""
    description = description_of(metrics)
    lesion = description.lesion
    volume, dsc, detected = (case_values(metrics, f"{lesion.key}_{name}") for name in ("reference_ml", "dsc", "detected"))
    classes = metrics.get("subtype", {}).get("classes", [None])
    height, width = max(2.7, LEGEND_LINE * (len(classes) + 5)), WIDTH if _crowded(classes) else 4.2
    with figure(path, stamp_of(metrics), height=height, width=width) as (_, axes):
        ax = axes[0, 0]
        for k, name in enumerate(classes):
            member = np.array([name is None or row["subtype_true"] == name for row in metrics["cases"]]) & (volume > 0)
            found = member & (detected == 1)
            label = f"{description.task_words} {in_legend(name)} (n = {member.sum()})" if name is not None else f"found (n = {found.sum()})"
            colour, marker, _ = look(k)
            ax.scatter(volume[found], dsc[found], 20, colour, marker=marker, label=label, alpha=0.8, linewidths=0)
            ax.scatter(volume[member & (detected == 0)], dsc[member & (detected == 0)], 26, colour, marker="x", linewidths=1.2)
        missed = int(((volume > 0) & (detected == 0)).sum())
        ax.scatter([], [], 26, GREY, marker="x", linewidths=1.2, label=f"missed (n = {missed})")
        for third in metrics[lesion.key]["detection"]["by_size_tertile"]:
            ax.plot(third["volume_ml"], [third["dsc"]["mean"]] * 2, color=GREY, linewidth=1)
        ax.set(xlabel=f"Reference {lesion.word} volume (ml)", ylabel=f"{lesion.title} DSC", ylim=(-0.04, 1.02))
        if (volume > 0).any():  # an axis of logarithms wants something on it
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
        else:
            ax.text(0.5, 0.5, f"no case has a {lesion.word}", transform=ax.transAxes, ha="center", color=GREY)
            ax.set_xticks([])
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="grey: mean of each third", title_fontsize=8)


def volume_agreement(metrics: dict, path: Path) -> None:
    """Bland-Altman plots of the predicted against the reference volume."""
    shown = description_of(metrics).drawn
    with figure(path, stamp_of(metrics), columns=len(shown), height=2.3) as (_, axes):
        for ax, (structure, title) in zip(axes[0], ((each.key, each.title) for each in shown)):
            reference, predicted = (case_values(metrics, f"{structure}_{name}_ml") for name in ("reference", "predicted"))
            agreement = metrics[structure]["volume"]
            ax.scatter((reference + predicted) / 2, predicted - reference, 14, BLUE, alpha=0.7, linewidths=0)
            ax.axhline(0, color=LIGHT, linewidth=0.8, zorder=0)
            title = f"{title} (n = {len(reference)})\nbias {number(agreement['bias_ml']['mean'], 2)} ml"
            ax.axhline(agreement["bias_ml"]["mean"], color=RED, linewidth=1)
            if None not in agreement["limits_ml"]:
                low, high = agreement["limits_ml"]
                title += f", 95 % limits [{low:.2f}, {high:.2f}] ml"
                for limit in (low, high):
                    ax.axhline(limit, color=RED, linewidth=1, linestyle="--")
            ax.set(title=title, xlabel="Mean of both volumes (ml)", ylabel="Predicted - reference (ml)")


def confusion_matrix(metrics: dict, path: Path) -> None:
    """Counts of true against predicted class, shaded by the share of the true class."""
    block = metrics["subtype"]
    matrix, words = np.array(block["confusion_matrix"]), description_of(metrics).task_words
    support = np.array([block["per_class"][name]["n"] for name in block["classes"]])
    share = matrix / np.maximum(support, 1)[:, None]
    many, names = len(matrix) > CLASSES_WITH_SHARES, [in_legend(name) for name in block["classes"]]
    longest = max(map(len, names))
    upright = many or longest > LONGEST_BELOW_A_CELL  # else the names would run into each other
    grown = 0.25 * many * len(matrix) + LETTER * max(0, longest - LONGEST_BELOW_A_CELL)
    with figure(path, stamp_of(metrics), height=2.6 + grown, width=2.9 + grown) as (_, axes):
        ax = axes[0, 0]
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(matrix):
            ax.text(column, row, f"{count}" if many else f"{count}\n{share[row, column]:.0%}", ha="center", va="center",
                    color="white" if share[row, column] > 0.55 else "black")
        ax.set_xticks(range(len(support)), names, rotation=90 if upright else 0)
        ax.set_yticks(range(len(support)), [f"{name}  (n = {n})" for name, n in zip(names, support)])
        low, high = block["macro_f1_ci"]
        ax.set(xlabel=f"Predicted {words}", ylabel=f"True {words}", title=f"Macro-F1 {block['macro_f1']:.2f} [{low:.2f}, {high:.2f}]")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)


def roc_and_reliability(metrics: dict, path: Path) -> None:
    """One-vs-rest ROC curves, and observed frequency against predicted probability with n of each bin."""
    block = metrics["subtype"]
    true, words = np.array([row["subtype_true"] for row in metrics["cases"]]), description_of(metrics).task_words
    most = max((point["n"] for values in block["per_class"].values() for point in values["reliability"]), default=1)
    area = min(4, LARGEST_POINT / most)  # a case
    below, columns = _crowded(block["classes"]), 2
    height = 2.9 + below * LEGEND_LINE * (-(-len(block["classes"]) // columns) + 2)
    with figure(path, stamp_of(metrics), columns=2, height=height) as (drawing, (axes,)):
        handles: list[Line2D] = []
        for k, name in enumerate(block["classes"]):
            colour, marker, line = look(k)
            style = {"color": colour, "linestyle": line}
            values = block["per_class"][name]
            handle = Line2D([], [], marker=marker, label=f"{in_legend(name)}: AUROC {number(values['auroc'], 2)}, n = {values['n']}", **style)
            handles.append(handle)
            if values["auroc"] is not None:
                axes[0].plot(*roc_curve(true == name, case_values(metrics, f"p_{name}")), **style,
                             label=handle.get_label())
            points = values["reliability"]
            axes[1].plot([point["probability"] for point in points], [point["frequency"] for point in points], linewidth=0.9, **style)
            axes[1].scatter([point["probability"] for point in points], [point["frequency"] for point in points],
                            [6 + area * point["n"] for point in points], colour, marker=marker, alpha=0.7, linewidths=0,
                            label=in_legend(name))
        axes[0].set(xlabel="1 - specificity", ylabel="Sensitivity", title=f"One-vs-rest ROC (n = {block['n']})")
        axes[1].set(xlabel="Predicted probability", ylabel="Observed frequency",
                    title=f"Reliability: ECE {number(block['ece'])}, Brier {number(block['brier'])}")
        for ax in axes:
            ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=":", zorder=0)
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        drawn = bool(axes[0].get_legend_handles_labels()[0])
        if not drawn:
            axes[0].text(0.5, 0.4, "undefined: no class has cases on both sides", ha="center", color=GREY, fontsize=7)
        if below:
            drawing.legend(handles=handles, title=f"{words.capitalize()}; {block['ece_bins']} bins, area ~ n", loc="outside lower center", ncols=columns, title_fontsize=8)
            return
        see_through = {"loc": "lower right", "title_fontsize": 8, "frameon": True, "framealpha": 0.7, "edgecolor": "none", "borderpad": 0.2}
        if drawn:
            axes[0].legend(title=words.capitalize(), **see_through)
        axes[1].legend(title=f"{words.capitalize()}; {block['ece_bins']} bins, area ~ n", **see_through)


def _crowded(classes: Sequence[str | None]) -> bool:
    """Whether a legend of the classes leaves no room for the curves in a panel of its own."""
    return len(classes) > MOST_IN_A_PANEL or any(name is not None and len(name) > LONGEST_IN_A_PANEL for name in classes)


def roc_curve(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, from (0, 0) to (1, 1), of positive (n,) bool against score (n,); tied scores are one step."""
    thresholds = np.unique(score)[::-1]
    above = score[None] >= thresholds[:, None]  # (thresholds, n)
    return (np.concatenate([[0], (above & ~positive).sum(axis=1) / (~positive).sum()]),
            np.concatenate([[0], (above & positive).sum(axis=1) / positive.sum()]))


def stamp_of(metrics: dict) -> str:
    """What stands above every figure: that the data are made up, or that they are real and whence; nothing for the quiz's own."""
    return "SYNTHETIC DATA" if metrics["synthetic"] else description_of(metrics).banner(False)


def case_values(metrics: dict, key: str) -> np.ndarray:
    """One column of the cases, (n,) float; null becomes NaN."""
    return np.array([row[key] for row in metrics["cases"]], float)


def _box_and_points(ax: Axes, place: float, values: np.ndarray, summary: dict) -> None:
    if len(values) == 0:
        ax.text(place, 0.5, "undefined", ha="center", rotation=90, color=GREY)
        return
    ax.boxplot(values, positions=[place], widths=0.55, showfliers=False, medianprops={"color": GREY}, boxprops={"color": GREY, "linewidth": 0.8},
               whiskerprops={"color": GREY, "linewidth": 0.8}, capprops={"color": GREY, "linewidth": 0.8})
    spread = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))  # sideways only, so that equal values stay apart
    ax.scatter(place + spread, values, 9, BLUE, alpha=0.55, linewidths=0, zorder=3)
    mean = summary["mean"]
    ax.errorbar(place, mean, [[mean - summary["ci_low"]], [summary["ci_high"] - mean]], fmt="D", color=RED, markersize=3.5, capsize=2, zorder=4)
