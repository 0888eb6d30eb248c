"""The table and figure of experiments/run_speed.py: seconds, memory and agreement of each row.

    python -m experiments.speed_table results/speed results/speed_cuda     write .md and .png anew from the .json; seconds
"""

from collections import defaultdict
from pathlib import Path
from statistics import mean, median

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from evaluation.figure_style import BLUE, GREY, LIGHT, METADATA, STYLE, stamp
from experiments.redraw import redraw
from experiments.speed_accuracy import accuracy_markdown, compared_with_exact
from experiments.speed_masks import PANCREAS, folder_of, masks_in, read_mask, scores_of, subtypes
from nnunetv2.utilities.files import atomic_write

REPEATED = "upstream, run before"  # masks of the last but one run of `upstream`
STAGES = ("read", "preprocess", "network", "classify", "resample", "write")


def agreement(folder: Path, other: Path) -> dict:
    """Mean and lowest DSC of each structure over the cases both folders hold, and the fraction of voxels that differ.

    Empty if they share no case. Cases in which a structure is absent from both count in neither.
    """
    ours, theirs = masks_in(folder), masks_in(other)
    scores, changed, voxels = defaultdict(list), 0, 0
    for name in ours.keys() & theirs.keys():
        a, b = read_mask(ours[name]), read_mask(theirs[name])
        changed, voxels = changed + int((a != b).sum()), voxels + a.size
        for structure, score in scores_of(a, b).items():
            scores[structure].append(score)
    if not voxels:
        return {}
    found = {structure: [score for score in values if score is not None] for structure, values in scores.items()}
    return {"changed": changed / voxels, "cases": len(scores["whole"])} | {
        f"{structure}_{how.__name__}": how(values) for structure, values in found.items() if values for how in (mean, min)}


def same_subtype(folder: Path, other: Path) -> str | None:
    """`agreeing/common`, or None without common cases."""
    a, b = subtypes(folder), subtypes(other)
    common = a.keys() & b.keys()
    return f"{sum(a[name] == b[name] for name in common)}/{len(common)}" if common else None


def time_split(runs: list[dict]) -> dict[str, float] | None:
    """Mean seconds per case by stage, and of the start (everything outside the cases); None for upstream, which keeps no times."""
    split = defaultdict(list)
    for run in runs:
        if run["times"] is None:
            return None
        split["start"].append((run["seconds"] - run["times"]["cases_wall"]) / run["cases"])
        for stage in STAGES:
            split[stage].append(mean(case.get(stage, 0.0) for case in run["times"]["cases"].values()))  # runs of before a stage was timed by itself
    return {stage: round(mean(values), 3) for stage, values in split.items()}


def seconds_a_case(result: dict) -> dict[str, list[float]]:
    """Of each run, by row, in the order in which rows were first run."""
    seconds = defaultdict(list)
    for run in result["runs"]:
        seconds[run["row"]].append(run["seconds"] / run["cases"])
    return seconds


def windows_a_case(result: dict) -> dict[str, float]:
    """In upstream's tiling: {"reference": of the cases that `upstream` was run on, "cases": of those of all other rows}."""
    return {which: mean(counts.values()) for which, counts in result["tiles"].items()}


def derive_with_tta(result: dict) -> None:
    """Add `seconds_a_tile` where both of upstream's rows were run, and `seconds_a_case` to `derived` where it is wanted.

    With o seconds per case besides the network, c per window and n windows per case, TTA takes o + 8 n c and none o + n c.
    """
    seconds = seconds_a_case(result)
    with_tta, without = result["reference"], f"{result['reference']}, no TTA"
    tiles = windows_a_case(result)
    if with_tta in seconds and without in seconds:
        difference = median(seconds[with_tta]) - median(seconds[without])
        result["seconds_a_tile"] = round(difference / (8 * tiles["reference"] - tiles["cases"]), 3)
    if "derived" in result and without in seconds:
        more = 7 * tiles["cases"] * result["derived"]["seconds_a_tile"]
        result["derived"]["seconds_a_case"] = round(median(seconds[without]) + more, 1)


def summarise(result: dict, masks: Path, labels: Path | None, truth: dict[str, str] | None = None) -> dict[str, dict]:
    """Figures by row, in the order in which rows were first run. truth: case -> class."""
    by_row = defaultdict(list)
    for run in result["runs"]:
        by_row[run["row"]].append(run)
    folders = {row: folder_of(row, masks) for row in by_row}
    reference, derived = result["reference"], result.get("derived", {}).get("seconds_a_case")
    upstream = next((row for row in (reference, f"{reference}, no TTA") if row in folders), None)  # whose masks are compared with
    per_case = seconds_a_case(result)
    if reference in per_case:
        per_case[reference] = [seconds * result.get("reference_scale", 1) for seconds in per_case[reference]]
    reference_seconds = median(per_case[reference]) if reference in per_case else derived
    rows = {}
    for row, runs in by_row.items():
        seconds = per_case[row]
        rows[row] = {
            "seconds_a_case": {"median": round(median(seconds), 2), "min": round(min(seconds), 2), "max": round(max(seconds), 2)},
            "runs": len(runs), "cases_a_run": runs[0]["cases"],
            "times_faster": round(reference_seconds / median(seconds), 2) if reference_seconds else None,
            "peak_memory_gib": round(max(run["peak_memory"] for run in runs) / 2**30, 2),
            "peak_gpu_memory_gib": round(max(run["peak_gpu_memory"] for run in runs) / 2**30, 2),
            "against_upstream": agreement(folders[row], folders[upstream]) if upstream else {},
            "against_exact": agreement(folders[row], folders["exact"]) if "exact" in folders else {},
            "against_truth": agreement(folders[row], labels) if labels is not None else {},
            "truth_beside_exact": compared_with_exact(folders[row], folders["exact"], labels, truth) if labels and "exact" in folders else {},
            "subtype_as_exact": same_subtype(folders[row], folders["exact"]) if "exact" in folders else None,
            "time_split": time_split(runs),
        }
    return rows


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def as_markdown(result: dict) -> str:
    reference, derived = result["reference"], result.get("derived", {})
    compared = reference if reference in result["rows"] else f"{reference}, no TTA"
    scale = result.get("reference_scale", 1)
    titles = result.get("structures", PANCREAS)
    both = " / ".join(titles.values())
    data = result.get("data", "SYNTHETIC CTs" if result.get("synthetic") else "")
    lines = [
        f"# Inference: time, memory and agreement{f' ({data})' if data else ''}", "",
        f"`{result['command']}`; {', '.join(f'{key} {value}' for key, value in result['environment'].items())}; "
        f"{result['threads']} threads, device {result['device']}, code {result.get('commit', 'unknown')}.", "",
        f"Whole processes, from start to the last file, classification included here. Seconds per case: median (lowest-highest) of the "
        f"runs. Agreement with the masks of `{compared}`, on the cases both have."
        + (f" Windows per case in upstream's tiling: {windows_a_case(result)['cases']:.1f}." if "tiles" in result else ""), "",
        *([f"`{reference}` was run on cases with {1 / scale:.2g} times as many windows as those of the other rows; its seconds are scaled to theirs.", ""]
          if scale != 1 else []),
        *([f"Two runs of `{reference}` differ from one another in {result['repeated']['changed']:.1e} of the voxels, and their whole DSC is "
           f"{result['repeated'].get('whole_mean', 1):.5f}.", ""] if result.get("repeated") else []),
        *([f"The row `{reference}` was not run: with 8-fold TTA it would take {derived['seconds_a_case']:.0f} s per case. DERIVED from the row without "
           f"TTA and {derived['seconds_a_tile']} s per window, measured in {derived['from']}; times faster refer to it.", ""]
          if "seconds_a_case" in derived else []),
        f"| row | seconds per case | times faster | runs x cases | GiB | GPU GiB | changed voxels | DSC {both} to upstream "
        f"| {titles['whole']} DSC to exact: mean / lowest | DSC {both} to truth | class as exact |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, figures in result["rows"].items():
        s, up, truth = figures["seconds_a_case"], figures["against_upstream"], figures["against_truth"]
        lines.append("| " + " | ".join([
            row, f"{s['median']:.1f} ({s['min']:.1f}-{s['max']:.1f})", _number(figures["times_faster"], 1),
            f"{figures['runs']} x {figures['cases_a_run']}", _number(figures["peak_memory_gib"], 1),
            _number(figures["peak_gpu_memory_gib"], 1) if figures["peak_gpu_memory_gib"] else "-",
            f"{up['changed']:.1e}" if up else "-", " / ".join(_number(up.get(f"{name}_mean"), 4) for name in titles),
            f"{_number(figures['against_exact'].get('whole_mean'), 4)} / {_number(figures['against_exact'].get('whole_min'), 4)}",
            " / ".join(_number(truth.get(f"{name}_mean")) for name in titles), figures["subtype_as_exact"] or "-",
        ]) + " |")
    lines += accuracy_markdown(result["rows"], titles)
    lines += ["", "Where the time goes, seconds per case; stages of different cases overlap, so they may add up to more than the total.", "",
              f"| row | start | {' | '.join(STAGES)} |", "|---" * (2 + len(STAGES)) + "|"]
    for row, figures in result["rows"].items():
        if split := figures["time_split"]:
            lines.append(f"| {row} | " + " | ".join(_number(split.get(stage), 2) for stage in ("start", *STAGES)) + " |")
    return "\n".join(lines) + "\n"


def draw(result: dict, path: Path) -> None:
    """Seconds per case of each row on a logarithmic axis, lowest to highest run, the ratio written beside the bar."""
    rows = result["rows"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.3, 0.26 * len(rows) + 0.9))
        try:
            bars(axes, rows, {name: name for name in rows})
            lowest, highest = (side(row["seconds_a_case"][key] for row in rows.values()) for side, key in ((min, "min"), (max, "max")))
            axes.set(xscale="log", xlabel=f"Seconds per case, whole process, {result['device']} (log scale)", xlim=(lowest / 2, highest * 2.5))
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            if result.get("synthetic"):
                stamp(figure)
            with atomic_write(path) as temporary:
                figure.savefig(temporary, dpi=200, metadata=METADATA["png"])
        finally:
            plt.close(figure)


def bars(axes: Axes, rows: dict[str, dict], titles: dict[str, str]) -> None:
    """One bar per row of `titles` (row: its title), the first on top; nnU-Net's own are light and hatched, so that grey print tells them apart."""
    for y, name in enumerate(reversed(titles)):
        seconds, upstream = rows[name]["seconds_a_case"], name.startswith("upstream")
        spread = [[seconds["median"] - seconds["min"]], [seconds["max"] - seconds["median"]]]
        axes.barh(y, seconds["median"], xerr=spread, color=LIGHT if upstream else BLUE, edgecolor=GREY if upstream else BLUE, hatch="///" if upstream else None,
                  error_kw={"ecolor": "black", "elinewidth": 1, "capsize": 2}, linewidth=0.5)
        factor = rows[name]["times_faster"]
        text = f"{seconds['median']:.3g} s" + (f", {factor:.{0 if factor >= 10 else 1}f} times faster" if factor and factor != 1 else "")
        axes.annotate(text, (seconds["max"], y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(titles)), list(reversed(titles.values())))
    axes.tick_params(axis="y", length=0)


def write_table(result: dict, masks: Path, labels: Path | None, truth: dict[str, str] | None, out: Path) -> None:
    """Add `rows` to `result`, and `reference_scale` where the reference was run on cases with fewer or more windows; write OUT.md and OUT.png."""
    if "tiles" in result and any(run["row"] == result["reference"] for run in result["runs"]):
        windows = windows_a_case(result)
        result["reference_scale"] = windows["cases"] / windows["reference"]
    result["rows"] = summarise(result, masks, labels, truth)
    result["repeated"] = agreement(folder_of(REPEATED, masks), folder_of(result["reference"], masks))
    show(result, out)


def show(result: dict, out: Path) -> None:
    """Write OUT.md and OUT.png of a result with `rows`."""
    with atomic_write(out.with_name(f"{out.name}.md")) as temporary:
        temporary.write_text(as_markdown(result), encoding="utf-8")
    draw(result, out.with_name(f"{out.name}.png"))


if __name__ == "__main__":
    redraw(__doc__, show)
