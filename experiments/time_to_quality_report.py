"""The tables and curves of time_to_quality.py out of its runs.

    python -m experiments.time_to_quality_report results/time_to_quality     write .json, .md and .png anew from the runs in the .json
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from evaluation.bootstrap import interval, resample_counts
from evaluation.figure_style import METADATA, STYLE, look, stamp
from evaluation.files import write_text
from experiments.redraw import redraw
from nnunetv2.utilities.files import atomic_write, save_json

RESAMPLES = 2000
LABELS = {"hippocampus": {1: "anterior", 2: "posterior"}, "nodules": {1: "nodule"}, "phantom": {1: "pancreas", 2: "lesion"}}  # by set


def dice_of_cases(point: dict) -> np.ndarray:
    """(n,) mean over labels, NaN for a case without any of them."""
    values = np.array(point["dice"], float)
    there = np.isfinite(values)
    return np.where(there.any(1), np.nansum(values, 1) / np.maximum(there.sum(1), 1), np.nan)


def reached(run: dict, dice: float) -> float | None:
    """Seconds until the curve of `run` first lies at `dice` or above; None: never."""
    return next((point["seconds"] for point in run["points"] if np.nanmean(dice_of_cases(point)) >= dice), None)


def rows_of(runs: list[dict], recipes: list[str], first: str) -> list[dict]:
    """One row per recipe. Intervals: cases drawn with replacement, the mean over seeds taken first; `first` is what the others are measured by."""
    end = {name: np.stack([dice_of_cases(run["points"][-1]) for run in runs if run["recipe"] == name]) for name in recipes}
    usable = np.isfinite(np.concatenate(list(end.values()))).all(0)
    counts = resample_counts(int(usable.sum()), RESAMPLES, 0)
    goal = {run["seed"]: float(np.nanmean(dice_of_cases(run["points"][-1]))) for run in runs if run["recipe"] == first}
    rows = []
    for name in recipes:
        mine = [run for run in runs if run["recipe"] == name]
        mean = end[name][:, usable].mean(0)
        difference = mean - end[first][:, usable].mean(0)
        times = [reached(run, goal[run["seed"]]) for run in mine]
        whole = {run["seed"]: run["points"][-1]["seconds"] for run in runs if run["recipe"] == first}
        rows.append({
            "recipe": name, "seeds": len(mine), "steps": mine[0]["iterations"] * len(mine[0]["points"]), "n": int(usable.sum()),
            "seconds": float(np.mean([run["points"][-1]["seconds"] for run in mine])), "dice": float(mean.mean()), "ci": interval(counts @ mean / counts.sum(1)),
            "difference": float(difference.mean()), "difference_ci": interval(counts @ difference / counts.sum(1)),
            "seconds_to_goal": times, "share_of_time": [None if t is None else t / whole[run["seed"]] for t, run in zip(times, mine)],
        })
    return rows


def of_label(runs: list[dict], label: int) -> list[dict]:
    """The runs with the Dice of one label alone."""
    def alone(point: dict) -> dict:
        k = point["labels"].index(label)
        return point | {"labels": [label], "dice": [[dice[k]] for dice in point["dice"]]}

    return [run | {"points": [alone(point) for point in run["points"]]} for run in runs]


def write_report(result: dict, out: Path) -> None:
    """OUT.json, OUT.md and OUT.png, each at once or not at all."""
    recipes = list(result["recipes"])
    result["rows"] = [{"set": name, **row} for name, found in result["sets"].items() for row in rows_of(found["runs"], recipes, recipes[0])]
    result["label_rows"] = [{"set": name, "label": title, **row} for name, found in result["sets"].items() if len(LABELS[name]) > 1
                            for label, title in LABELS[name].items() for row in rows_of(of_label(found["runs"], label), recipes, recipes[0])]
    save_json(result, out.with_suffix(".json"))
    text = markdown(result)
    write_text(text, out.with_suffix(".md"))
    draw(result, out.with_suffix(".png"))
    print(text)


COLUMNS = "Dice at the end | minus the first | goal reached after, share of the first's time |"


def _cells(row: dict) -> str:
    shares = ", ".join("never" if share is None else f"{share:.2f}" for share in row["share_of_time"])
    return (f"{row['dice']:.3f} ({row['ci'][0]:.3f} to {row['ci'][1]:.3f}) | {row['difference']:+.3f} ({row['difference_ci'][0]:+.3f} to {row['difference_ci'][1]:+.3f}) "
            f"| {shares} |")


def markdown(result: dict) -> str:
    first = next(iter(result["recipes"].values()))
    lines = ["# Time to quality", "", f"Each training's Dice on held-out cases. Goal: the Dice of {first} at the end of its schedule, by seed. One thread per process "
             f"where `threads` is 1 (here {result['threads'] or 'all cores'}). Intervals: 95 %, cases drawn with replacement.", ""]
    for name, found in result["sets"].items():
        lines += [f"## {found['title']}", "", f"| training | steps | seconds | {COLUMNS}", "|---|---|---|---|---|---|"]
        for row in result["rows"]:
            if row["set"] == name:
                lines.append(f"| {result['recipes'][row['recipe']]} | {row['steps']} | {row['seconds']:.0f} | {_cells(row)}")
        by_label = [row for row in result["label_rows"] if row["set"] == name]
        if by_label:
            lines += ["", "By label, each with a goal of its own:", "", f"| label | training | {COLUMNS}", "|---|---|---|---|---|"]
            lines += [f"| {row['label']} | {result['recipes'][row['recipe']]} | {_cells(row)}" for row in by_label]
        lines += ["", f"n = {next(row['n'] for row in result['rows'] if row['set'] == name)} cases, {row['seeds']} seed{'s' if row['seeds'] > 1 else ''}.", ""]
    machine = result["environment"]
    lines += [result["note"], ""] if result.get("note") else []
    return "\n".join([*lines, f"{machine.get('GPU') or machine.get('CPU')}; `{result['command']}`; code {result['commit']}.", ""])


def draw(result: dict, file: Path) -> None:
    """Per set two pictures: Dice over seconds and over steps; a line per recipe and seed."""
    looks = {recipe: dict(zip(("color", "linestyle"), look(k)[::2])) for k, recipe in enumerate(result["recipes"])}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(result["sets"]), 2, figsize=(9, 3 * len(result["sets"])), squeeze=False)
        for (over_time, over_steps), found in zip(axes, result["sets"].values()):
            named = set()
            for run in found["runs"]:
                dice = [float(np.nanmean(dice_of_cases(point))) for point in run["points"]]
                label = None if run["recipe"] in named else result["recipes"][run["recipe"]]
                named.add(run["recipe"])
                over_time.plot([point["seconds"] for point in run["points"]], dice, label=label, **looks[run["recipe"]])
                over_steps.plot([point["epoch"] * run["iterations"] for point in run["points"]], dice, **looks[run["recipe"]])
            over_time.set(xlabel="seconds", ylabel="Dice, held-out cases", title=found["title"])
            over_steps.set(xlabel="steps", title=found["title"])
            over_time.legend()
        stamp(figure, "; ".join(found["title"] for found in result["sets"].values()))
        with atomic_write(file) as temporary:
            figure.savefig(temporary, dpi=130, metadata=METADATA["png"], format="png")
        plt.close(figure)


if __name__ == "__main__":
    redraw(__doc__, write_report)
