"""Figures about how a result came about: the training's curves, and what each inference mode costs and saves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import NullFormatter

from evaluation.figure_style import BLUE, GREEN, GREY, LIGHT, ORANGE, RED, figure, in_legend, look

MOST_NAMED = 6  # labels in a legend


def training_curves(log: dict[str, list], path: Path, banner: str, words: str = "subtype", labels: Sequence[str] = ()) -> None:
    """Losses, pseudo Dice of patches and, with a class task, its cross-entropy and macro-F1 on training patches.

    log: {key: one value an epoch} as the trainer logs them (`train_losses`, `val_losses`, `ema_fg_dice`,
    `dice_per_class_or_region`, `lrs`, `class_ce`, `class_macro_f1`, `class_predicted`). Keys that are not there are not drawn.
    labels: names of the foreground labels, in their order; of many labels the legend gives the number.
    """
    has_classes = bool(log.get("class_ce"))
    with figure(path, banner, columns=3 if has_classes else 2, height=2.3) as (_, (axes,)):
        _lines(axes[0], log, {"train_losses": ("training", BLUE, "-"), "val_losses": ("validation", ORANGE, "--")})
        axes[0].set(title="Loss", xlabel="Epoch")
        dice = np.array(log.get("dice_per_class_or_region", []), float)
        n_labels = dice.shape[1] if dice.ndim == 2 else 0
        for k in range(n_labels):
            colour, _, line = look(k)
            name = in_legend(labels[k]) if k < len(labels) else f"label {k + 1}"
            if n_labels > MOST_NAMED:
                name = f"{n_labels} labels" if k == 0 else "_nolegend_"
            axes[1].plot(dice[:, k], color=colour, linewidth=0.8, linestyle=line, label=name)
        _lines(axes[1], log, {"ema_fg_dice": ("moving average", GREY, "-")})
        axes[1].set(title="Pseudo Dice (patches)", xlabel="Epoch", ylim=(0, 1))
        if has_classes:
            _lines(axes[2], log, {"class_ce": ("cross-entropy", BLUE, "-"), "class_macro_f1": ("macro-F1", GREEN, "--")})
            predicted = np.array(log.get("class_predicted", []), float)
            if predicted.ndim == 2:
                classes = predicted.shape[1]
                axes[2].axhline(np.log(classes), color=LIGHT, linewidth=0.8, zorder=0)
                axes[2].text(len(predicted) - 1, np.log(classes), f"ln {classes}", color=GREY, fontsize=7, ha="right", va="bottom")
                share = predicted.max(axis=1) / np.maximum(predicted.sum(axis=1), 1)
                axes[2].plot(share, color=RED, linewidth=0.9, linestyle=":", label="share of one class")
            axes[2].set(title=f"{words[:1].upper()}{words[1:]} (training patches)", xlabel="Epoch", ylim=(0, 1.7 * axes[2].get_ylim()[1]))
        for ax in axes:
            ax.legend(loc="best")


def speed_accuracy(speed: dict, path: Path) -> None:
    """Seconds per case (log) against DSC with the truth, whole pancreas and lesion, one marker per row of run_speed.py's JSON.

    Rows without a DSC of a structure are left out of that panel.
    """
    with figure(path, "SYNTHETIC DATA" if speed.get("synthetic") else "", columns=2, height=2.7) as (_, (axes,)):
        for ax, (key, title) in zip(axes, {"whole_mean": "Whole pancreas", "lesion_mean": "Lesion"}.items()):
            shown = {name: (row["seconds_a_case"]["median"], row["against_truth"][key]) for name, row in speed["rows"].items()
                     if row["against_truth"].get(key) is not None}
            for k, (name, place) in enumerate(shown.items()):
                upstream = name.startswith("upstream")
                ax.scatter(*place, 30, GREY if upstream else BLUE, marker="s" if upstream else "o", zorder=3, linewidths=0)
                ax.annotate(name, place, (3, 5 if k % 2 else -10), textcoords="offset points", fontsize=7)
            ax.set(xscale="log", title=title, xlabel="Seconds per case (log scale)", ylabel="DSC against truth")
            ax.margins(x=0.35, y=0.35)
            ax.grid(color=LIGHT, linewidth=0.5)
            ax.set_axisbelow(True)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())


def _lines(ax, log: dict[str, list], keys: dict[str, tuple[str, str, str]]) -> None:
    for key, (label, colour, style) in keys.items():
        if log.get(key):
            ax.plot(log[key], color=colour, linestyle=style, label=label)
