"""Fill the generated blocks of README.md, results/README.md and docs/ from the files in results/.

    python -m experiments.generated_text            rewrite the blocks; seconds
    python -m experiments.generated_text --check    change nothing, end with status 1 if a block is stale

A block stands between `<!-- generated NAME -->` and `<!-- end -->`; NAME is a key of BLOCKS. No figure is written by hand.
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from evaluation.tables import with_interval
from experiments import real_report, robustness_report
from experiments.ablation_table import block_lines
from experiments.results_index import RESULTS, data_of, index_table, kept_studies, machine_of
from experiments.speed_masks import PANCREAS
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import atomic_write, load_json

REPOSITORY = RESULTS.parent
BLOCK = re.compile(r"(<!-- generated (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
FRONT_ROWS = {
    "upstream": "nnU-Net 2.8.1",
    "exact": "`exact`",
    "half": "`half`",
    "half, whole": "`half --tiling whole`",
    "fast": "`fast`",
}


def main_job() -> str:
    """The table that the main job prints, and where it was measured."""
    job = load_json(RESULTS / "main_job.json", AnyObject)
    lines = ["|validation cases|mean (95 % interval)|target|", "|-|-|-|"]
    lines += [
        f"|{row['name']}|{row['mean']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})|{row['target']:.2f}|"
        for row in job["rows"]
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"*{data_of(job)} data, n = {job['n']}, {job['seconds'] / 60:.0f} minutes on {short_machine(job)}, code of commit {job['commit']}.*",
        ]
    )


def speed() -> str:
    """Seconds per case of the modes that the front page names."""
    study = load_json(RESULTS / "speed.json", AnyObject)
    rows = {name: study["rows"][name] for name in FRONT_ROWS}
    lines = ["|mode|seconds per case|times faster|changed voxels|", "|-|-|-|-|"]
    for name, row in rows.items():
        seconds = row["seconds_a_case"]["median"]
        changed = row["against_upstream"]["changed"]
        lines.append(
            f"|{FRONT_ROWS[name]}|{seconds:.{1 if seconds < 10 else 0}f}|{times(row['times_faster'])}|{share(changed)}|"
        )
    cases = sorted({row["cases_a_run"] for name, row in rows.items() if name != study["reference"]})
    counted = " to ".join(map(str, dict.fromkeys((cases[0], cases[-1]))))
    reference = rows[study["reference"]]["cases_a_run"]
    scaled = f"; nnU-Net: n = {reference}, scaled to their size" if study.get("reference_scale", 1) != 1 else ""
    return "\n".join(
        [
            *lines,
            "",
            f"*{data_of(study)} CTs of the quiz's size, n = {counted}, {short_machine(study)}{scaled}.*",
        ]
    )


def training_step() -> str:
    """What each lever of a training on a CPU brings."""
    return "\n\n".join(_training_steps(load_json(RESULTS / f"{name}.json", AnyObject)) for name in ("training_step", "training_step_amx"))


def _training_steps(study: dict) -> str:
    lines = ["| instructions | training | seconds per step | times faster | GiB |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['instructions']} | {row['row']} | {row['seconds']:.1f} | {row['times_faster']:.1f} | {row['GiB']:.1f} |"
        for row in study["rows"]
    ]
    patch = " x ".join(map(str, study["patch"]))
    return "\n".join(
        [
            *lines,
            "",
            f"SYNTHETIC patches of {patch} voxels, two per batch, the network planned for the quiz; n = {study['steps']} steps; "
            f"{short_machine(study)}; `{study['command']}`.",
        ]
    )


def benchmarks() -> str:
    """One section per speed study: what it asked, on what, and its rows."""
    parts = []
    for study, result in kept_studies():
        if "runs" not in result or "records" in result or study.file.startswith("history/"):
            continue
        parts += [
            f"## {study.question}",
            "",
            f"{result.get('data', f'{data_of(result)} CTs')}; {machine_of(result)}; {result['threads']} threads; code {result['commit']}. "
            f"All columns: `results/{study.file}.md`.",
            "",
            f"Command: `{result['command']}`",
            "",
            "| row | runs x cases | seconds per case (lowest to highest) | times faster | memory, GiB | changed voxels | foreground DSC to truth |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, row in result["rows"].items():
            seconds = row["seconds_a_case"]
            truth = row["against_truth"].get("whole_mean")
            parts.append(
                f"| {name} | {row['runs']} x {row['cases_a_run']} | {seconds['median']:.1f} ({seconds['min']:.1f} to {seconds['max']:.1f}) "
                f"| {times(row['times_faster'])} | {row['peak_memory_gib']:.1f} | {share(row['against_upstream'].get('changed'))} "
                f"| {'-' if truth is None else f'{truth:.3f}'} |"
            )
        if "derived" in result:
            parts += [
                "",
                f"nnU-Net with mirroring was not run; {result['derived']['seconds_a_case']:.0f} s are DERIVED from its row without mirroring "
                f"and {result['derived']['seconds_a_tile']} s per window ({result['derived']['from']}). Times faster refer to it.",
            ]
        parts.append("")
    return "\n".join(parts).rstrip()


def cost_of_modes(file: str) -> str:
    """What each mode of a speed study scores against the truth; in brackets the 95 % interval of the difference to `exact`."""
    study = load_json(RESULTS / f"{file}.json", AnyObject)
    titles = {key: f"{title} DSC" for key, title in study.get("structures", PANCREAS).items()}
    if "macro_f1" in study["rows"]["exact"]["truth_beside_exact"]:
        titles["macro_f1"] = "class macro-F1"
    lines = [f"| row | seconds per case | {' | '.join(titles.values())} |", "|---" * (2 + len(titles)) + "|"]
    for name, row in study["rows"].items():
        if not name.startswith("upstream"):
            cells = [difference(row["truth_beside_exact"].get(key), name != "exact") for key in titles]
            lines.append(f"| {name} | {row['seconds_a_case']['median']:.1f} | {' | '.join(cells)} |")
    n = study["rows"]["exact"]["truth_beside_exact"]["whole"]["n"]
    return "\n".join(
        [
            *lines,
            "",
            f"{study.get('data', f'{data_of(study)} data')}; n = {n}; {short_machine(study)}; `results/{file}.md` holds the command and all columns.",
        ]
    )


def ablation() -> str:
    """The variants of the class head, and its blocks one at a time, out of fold."""
    study = load_json(RESULTS / "ablation.json", AnyObject)
    lines = ["| variant | macro-F1 (95 % interval) | minus the chosen, paired | AUROC | whole DSC | lesion DSC |", "|---|---|---|---|---|---|"]
    for row in study["rows"]:
        scores = "- | - | -"
        if "macro_f1" in row:
            change = row["minus_best"].get("macro_f1")
            difference = with_interval(change["difference"], (change["ci_low"], change["ci_high"]), "+") if change else ""
            scores = f"{with_interval(row['macro_f1'], row['macro_f1_ci'])} | {difference} | {row['auroc']:.3f}"
        lines.append(f"| {row['title']} | {scores} | {row['whole_pancreas_dsc']['mean']:.3f} | {row['lesion_dsc']['mean']:.3f} |")
    source = f"{data_of(study)} data, n = {study['rows'][0]['n']} out-of-fold cases; {short_machine(study)}; code {study['commit']}; `{study['command']}`."
    return "\n".join([*lines, "", *block_lines(study["blocks"]), "", source])


CLASS_ROWS = {
    "evidence": "class head",
    "no_forest": "without the forest",
    "network": "network's own head",
    "radiomics": "radiomics",
    "volume": "volume alone",
    "true_masks": "in true masks (bound)",
    "readers": "true volume and the readers' other ratings",
}


def nodules() -> str:
    """What the class head sees in REAL nodules, out of fold."""
    study = load_json(RESULTS / "lidc.json", AnyObject)
    lines = [
        f"REAL CT, n = {study['n']} nodules of {study['patients']} patients, out of fold by patient; macro-F1 (95 % interval by patient). "
        f"Nodule DSC {study['dsc']['mean']:.3f} ({study['dsc']['ci'][0]:.3f} to {study['dsc']['ci'][1]:.3f}).",
        "",
        "| readers' rating (classes) | " + " | ".join(CLASS_ROWS.values()) + " | class head - radiomics |",
        "|" + "---|" * (len(CLASS_ROWS) + 2),
    ]
    for task, found in study["tasks"].items():
        rows = found["rows"]
        difference = rows["radiomics"]["difference_ci"]
        lines.append(
            f"| {task} ({len(found['classes'])}) | {rows['evidence']['macro_f1']:.3f} ({rows['evidence']['ci'][0]:.3f} to {rows['evidence']['ci'][1]:.3f}) | "
            + " | ".join(f"{rows[row]['macro_f1']:.3f}" for row in CLASS_ROWS if row != "evidence")
            + f" | {rows['radiomics']['evidence_minus_this']:+.3f} ({difference[0]:+.3f} to {difference[1]:+.3f}) |"
        )
    return "\n".join([*lines, "", f"Source: {study['source']}. Command: `{study['command']}`; {short_machine(study)}; code {study['commit']}."])


CUE_PARTS = {"out_of_fold": "out of fold", "new": "new cases", "other": "another scanner"}


def cues() -> str:
    """Which cues the class head finds, by world, on new cases and beside other parts."""
    lines = []
    for study in (load_json(RESULTS / f"{file}.json", AnyObject) for file in ("cues", "cues_cells")):
        source = f"SYNTHETIC data, macro-F1 of three classes; {short_machine(study)}; code {study['commit']}; `{study['command']}`."
        for name, world in study["worlds"].items():
            sizes = ", ".join(f"{text} n = {world['lesion_dsc'][part]['n']}" for part, text in CUE_PARTS.items())
            lines += [
                f"World `{name}`, lesion DSC of new cases {world['lesion_dsc']['new']['mean']:.2f}; {sizes}:",
                "",
                "| cue | " + " | ".join(f"class head, {text}" for text in CUE_PARTS.values())
                + " | network's own head | radiomics | in true masks | drawn numbers |",
                "|" + "---|" * (len(CUE_PARTS) + 5),
            ]
            for cue, found in world["tasks"].items():
                new = found["parts"]["new"]
                bound = new["oracle"]
                lines.append(
                    f"| {cue} | "
                    + " | ".join(f"{found['parts'][part]['rows']['evidence']['macro_f1']:.2f}" for part in CUE_PARTS)
                    + " | "
                    + " | ".join(f"{new['rows'][row]['macro_f1']:.2f}" for row in ("network", "radiomics", "true_masks"))
                    + f" | {'-' if bound is None else f'{bound:.2f}'} |"
                )
            lines += ["", source, ""]
    return "\n".join(lines[:-1])


def cues_by_training() -> str:
    """What a better segmentation is worth to the class: each kept study of cues in a row per world."""
    lines = ["| world | lesion DSC, new cases | mean of single cues, new cases | out of fold | in true masks | command, code |", "|---|---|---|---|---|---|"]
    for file in ("cues", "cues_cells", "cues_short", "cues_planned"):
        study = load_json(RESULTS / f"{file}.json", AnyObject)
        for name, world in study["worlds"].items():
            single = [found["parts"] for cue, found in world["tasks"].items() if cue not in ("mixed", "shuffled")]
            mean = {
                (part, row): sum(parts[part]["rows"][row]["macro_f1"] for parts in single) / len(single)
                for part, row in (("new", "evidence"), ("out_of_fold", "evidence"), ("new", "true_masks"))
            }
            dsc = world["lesion_dsc"]["new"]
            lines.append(
                f"| {name} | {dsc['mean']:.2f} ({dsc['ci'][0]:.2f} to {dsc['ci'][1]:.2f}) | {mean['new', 'evidence']:.2f} | {mean['out_of_fold', 'evidence']:.2f} "
                f"| {mean['new', 'true_masks']:.2f} | `{study['command']}`, {study['commit']} |"
            )
    return "\n".join([*lines, "", "SYNTHETIC data, macro-F1 of three classes."])


def choices() -> str:
    """Choices of the training beside the first row with the same head."""
    study = load_json(RESULTS / "training_choices.json", AnyObject)
    lines = ["| choice | head | macro-F1 | Brier score | lesion DSC |", "|---|---|---|---|---|"]
    for row in study["rows"]:
        cells = [
            difference(row[key], row["choice"] != "default")
            for key in ("subtype_macro_f1", "subtype_brier", "lesion_dsc")
        ]
        lines.append(f"| {row['title']} | {row['head']} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{data_of(study)} data, n = {study['rows'][0]['n']} held-out cases; {short_machine(study)}; `{study['command']}`.",
        ]
    )


def views() -> str:
    """What sets of mirrored views cost, in each kept study of them."""
    studies = [load_json(RESULTS / f"{file}.json", AnyObject) for file in ("mirrored_views", "mirrored_views_nodules")]
    lines = [f"| views of each window | passes | {' | '.join(study['data'] for study in studies)} |", "|---|---|" + "---|" * len(studies)]
    names = dict.fromkeys(name for study in studies for name in study["rows"])
    for name in list(names)[1:]:
        found = [study["rows"][name]["difference"] for study in studies]
        cells = [f"{row['mean']:+.4f} ({row['ci_low']:+.4f} to {row['ci_high']:+.4f})" for row in found]
        lines.append(f"| {name} | {studies[0]['rows'][name]['passes']} | {' | '.join(cells)} |")
    told = [f"{study['data']}: n = {study['n']}, {study['windows']:.1f} windows per case" for study in studies]
    return "\n".join([*lines, "", f"DSC minus that of {next(iter(names))}. {'; '.join(told)}; {short_machine(studies[0])}."])


def real_scans() -> str:
    """Upstream and this repository on the same REAL scans."""
    first, *others = (load_json(RESULTS / f"{name}.json", AnyObject) for name in ("real", "real_short", "real_seed1"))
    return real_report.summary(first, others)


def robust() -> str:
    """What changes masks of REAL CTs that should not."""
    return robustness_report.summary(load_json(RESULTS / "robustness.json", AnyObject))


def difference(figure: dict | None, differs: bool) -> str:
    """The second run's figure of a row of evaluation/comparison.py, with the interval of its difference to the first."""
    if not figure or not figure["n"]:
        return "-"
    return f"{figure['b']:.3f}" + (f" ({figure['ci_low']:+.3f} to {figure['ci_high']:+.3f})" if differs else "")


def short_machine(result: dict) -> str:
    """`AMD EPYC, 2 cores` of a longer description."""
    return re.sub(r"\((R|TM)\)| Processor|(?<=\b1 core)s", "", machine_of(result))


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.{0 if value >= 10 else 1}f}"


def share(value: float | None) -> str:
    """A fraction of voxels: none, or with two digits."""
    return "-" if value is None else "none" if value == 0 else f"{100 * value:.2g} %"


BLOCKS: dict[str, Callable[[], str]] = {
    "main_job": main_job,
    "speed": speed,
    "training_step": training_step,
    "benchmarks": benchmarks,
    "studies": index_table,
    "ablation": ablation,
    "nodules": nodules,
    "cues": cues,
    "cues_by_training": cues_by_training,
    "choices": choices,
    "real": real_scans,
    "robustness": robust,
    "cost_40_epochs": partial(cost_of_modes, "accuracy_40_epochs"),
    "cost_12_epochs": partial(cost_of_modes, "accuracy_12_epochs"),
    "cost_gpu": partial(cost_of_modes, "speed_cuda"),
    "cost_cells": partial(cost_of_modes, "accuracy_cells"),
    "cost_hippocampus": partial(cost_of_modes, "accuracy_hippocampus"),
    "views": views,
    "cost_nodules": partial(cost_of_modes, "accuracy_nodules"),
}


def pages() -> list[Path]:
    """Pages that may hold generated blocks."""
    return [REPOSITORY / "README.md", RESULTS / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """`text` with every block's present contents. Raises KeyError at a block that BLOCKS does not know."""
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", text)


def stale_pages() -> dict[Path, str]:
    """{page: what it should hold} of pages whose blocks are not what the results give."""
    contents = {page: page.read_text(encoding="utf-8") for page in pages()}
    return {page: filled(text) for page, text in contents.items() if filled(text) != text}


@script
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if a page is stale")
    args = parser.parse_args(arguments)
    stale = stale_pages()
    if args.check and stale:
        names = ", ".join(str(page.relative_to(REPOSITORY)) for page in stale)
        print(
            f"error: {names}: figures differ from results/; run `python -m experiments.generated_text`", file=sys.stderr
        )
        return 1
    for page, text in stale.items():
        with atomic_write(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"rewritten: {page.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
