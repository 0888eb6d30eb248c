"""The report's tables, each a function of all inputs; `make_inputs.py` writes every one of TABLES to a file."""

from collections.abc import Callable

from evaluation.selection import failures, noteworthy
from evaluation.tables import NAMES, heading
from nnunetv2.utilities.data_description import DataDescription, description_of
from report.tex import NOT_RUN, escape, number, plain_with_interval, setting, tabular, with_interval

MOST_FAILURES, MOST_COMPARISONS = 6, 15  # rows of a table; the rest is counted
MOST_COLUMNS = 4  # structures beside each other; more stand below each other
SPEED_ROWS = ("upstream", "exact", "half", "half, whole", "fast")
LONGEST_TEXT = 70  # characters of a text in a narrow column
LONGEST_CASE, LONGEST_CLASS = 20, 10  # characters of names that fit beside each other in a line
RAGGED = r">{\raggedright\arraybackslash}p{%s}"  # a column of text, of a width


def segmentation(inputs: dict) -> str:
    metrics = inputs["metrics"]
    if not metrics:
        return NOT_RUN
    structures = description_of(metrics).structures
    blocks = [metrics[structure] for structure in structures]
    if len(structures) > MOST_COLUMNS:
        rows = [[escape(structure.title), *(_cell(block[name], metrics["n_cases"]) for name in ("dsc", "nsd_2mm", "hd95_mm")),
                 *("{count} of {n}".format(**block["empty"][outcome]) for outcome in ("missed", "false_alarm"))]
                for structure, block in zip(structures.values(), blocks)]
        return tabular("lccccc", ["", *(NAMES[name] for name in ("dsc", "nsd_2mm", "hd95_mm")), "Missed", "False alarm"], rows)
    rows = [[NAMES[name], *(_cell(block[name], metrics["n_cases"]) for block in blocks)]
            for name in ("dsc", "nsd_1mm", "nsd_2mm", "hd95_mm", "masd_mm")]
    rows.append(["Volume bias (ml)", *(with_interval(block["volume"]["bias_ml"], 2) for block in blocks)])
    rows.append([r"95\,\% limits (ml)", *(_limits(block["volume"]["limits_ml"]) for block in blocks)])
    for outcome, title in (("missed", "Missed"), ("false_alarm", "False alarm"), ("both_empty", "Both masks empty")):
        rows.append([title, *("{count} of {n}".format(**block["empty"][outcome]) for block in blocks)])
    return tabular("l" + "c" * len(structures), ["", *(escape(structure.title) for structure in structures.values())], rows)


def detection(inputs: dict) -> str:
    lesion = description_of(inputs["metrics"]).lesion
    if not inputs["metrics"] or lesion is None:
        return NOT_RUN
    found = inputs["metrics"][lesion.key]["detection"]
    rows = [["All", "", str(found["rate"]["n"]), with_interval(inputs["metrics"][lesion.key]["dsc"]), with_interval(found["rate"])]]
    rows += [[escape(third["tertile"].capitalize()), "{:.2g} to {:.2g}".format(*third["volume_ml"]), str(third["dsc"]["n"]), with_interval(third["dsc"]),
              with_interval(third["detection_rate"])] for third in found["by_size_tertile"]]
    return tabular("llrcc", ["Lesions", "Volume (ml)", "$n$", f"{escape(lesion.title)} DSC", "Detection rate"], rows)


def subtype(inputs: dict) -> str:
    block, radiomics = inputs["metrics"].get("subtype"), inputs["radiomics"]
    radiomics = radiomics.get("subtype", radiomics)
    if not block:
        return NOT_RUN
    names = ("macro_f1", "balanced_accuracy", "mcc", "expected_cost", "auroc", "average_precision", "brier", "ece")
    beside = {"Network": block} | ({"Radiomics": radiomics} if radiomics else {})
    return tabular("l" + "c" * len(beside), ["", *beside], [[NAMES[name], *(plain_with_interval(each, name) for each in beside.values())] for name in names])


def classes(inputs: dict) -> str:
    block = inputs["metrics"].get("subtype")
    if not block:
        return NOT_RUN
    names = ("precision", "recall", "f1", "auroc")
    return tabular("lrcccc", [escape(heading(description_of(inputs["metrics"]).task_words)), "$n$", "Precision", "Recall", "F1", "AUROC"],
                   [[escape(name), str(values["n"]), *(plain_with_interval(values, key, 2) for key in names)]
                    for name, values in block["per_class"].items()])


def ablation(inputs: dict) -> str:
    """Rows of experiments/ablation.py; segmentation alone has no class scores, which prints as dashes."""
    rows = [[escape(row["title"]), plain_with_interval(row, "macro_f1", 2) if "macro_f1" in row else "--", _decimal(row, "auroc", 2),
             _decimal(row, "brier"), _decimal(row["whole_pancreas_dsc"], "mean"), _decimal(row["lesion_dsc"], "mean")]
            for row in inputs["ablation"].get("rows", [])]
    return tabular(r">{\raggedright\arraybackslash}p{5.4cm}ccccc", ["Variant", "Macro-F1", "AUROC", "Brier score", "Whole DSC", "Lesion DSC"], rows)


def speed(inputs: dict) -> str:
    """The modes among the rows of experiments/run_speed.py; all rows where none is a mode."""
    every = inputs["speed"].get("rows", {})
    shown = {name: every[name] for name in SPEED_ROWS if name in every} or every
    rows = [[escape(name), _decimal(row["seconds_a_case"], "median", 2), _decimal(row, "times_faster", 1), _decimal(row, "peak_memory_gib", 1),
             _decimal(row["against_upstream"], "changed", 4)] for name, row in shown.items()]
    return tabular("lrrrr", ["Mode", "Seconds per case", "Times faster", "Memory (GiB)", "Changed voxels"], rows)


def conformance(inputs: dict) -> str:
    """Failed comparisons, the first of them; without one a sentence."""
    failed = [row for row in inputs["conformance"].get("rows", []) if not row["pass"]][:MOST_COMPARISONS]
    if inputs["conformance"] and not failed:
        return "No comparison is outside its bound."
    return tabular(RAGGED % "7.6cm" + RAGGED % "3.6cm" + RAGGED % "3.6cm", ["What", "Difference", "Bound"],
                   [[_brief(row["what"]), _brief(row.get("difference")), _brief(row.get("bound"))] for row in failed])


def stages(inputs: dict) -> str:
    rows = [[escape(stage["stage"].replace("_", " ")), f"{stage['seconds'] / 60:.1f}"] for stage in inputs["run"].get("stages", [])]
    return tabular("lr", ["Stage", "Minutes"], rows)


def failure_list(inputs: dict) -> str:
    cases, description = failed_cases(inputs["metrics"]), description_of(inputs["metrics"])
    shown, lesion = description.judged, description.lesion
    with_classes = any("subtype_true" in row for row in cases) or description.is_quiz
    rows = [[escape(row["case"]), *(number(row[f"{structure.key}_dsc"], 2) for structure in shown),
             *([number(row[f"{lesion.key}_reference_ml"], 1)] if lesion else []),
             *_classes_of(row, with_classes), escape(", ".join(failures(row, description)))] for row in cases[:MOST_FAILURES]]
    if inputs["metrics"] and not rows:
        return "No case failed."
    titles = ["DSC" if shown == [structure] else f"{escape(structure.title)} DSC" for structure in shown]
    titles += [f"{escape(lesion.title)} ml"] if lesion else []
    header = ["Case", *titles, *(["True", "Predicted"] if with_classes else []), "Failure"]
    longest = [max(map(len, column)) for column in zip(*([row["case"], *(str(row.get(f"subtype_{which}")) for which in ("true", "predicted"))] for row in cases[:MOST_FAILURES]))]
    if longest and (longest[0] > LONGEST_CASE or with_classes and max(longest[1:]) > LONGEST_CLASS):  # in columns as wide as the names the table would leave the page
        widths = ["2.8cm", *["1.3cm"] * len(titles), *["1.7cm"] * 2 * with_classes, "2.6cm"]
        return tabular("".join(RAGGED % width for width in widths), header, rows)
    return tabular("l" + "c" * (len(titles) + 2 * with_classes) + RAGGED % ("6cm" if description.is_quiz else "4.5cm"), header, rows)


def _classes_of(row: dict, shown: bool) -> list[str]:
    if not shown:
        return []
    return [escape(row["subtype_true"]), escape(row["subtype_predicted"] or "--")] if "subtype_true" in row else ["--", "--"]


def _settings(key: str) -> Callable[[dict], str]:
    """A two-column table of one flat object of run.json, in its own order and words."""
    def table(inputs: dict) -> str:
        return tabular(r"p{3.2cm}>{\raggedright\arraybackslash}p{3.7cm}", [], [
            [escape(name.replace("_", " ")), setting(value)]
            for name, value in inputs["run"].get(key, {}).items()])
    return table


def evidence(inputs: dict) -> str:
    """Blocks by weight, those without any last; two columns of blocks side by side."""
    found = (inputs["run"].get("class_evidence") or {}).get("blocks")
    if not found:
        return NOT_RUN
    titles = {"joint": "all blocks at once", "forest": "all blocks in a forest", "network": "the network's features"}
    rows = [[escape(titles.get(name, name.replace("_", " "))), number(block["weight"], 2), number(block.get("macro_f1_alone"), 2)]
            for name, block in sorted(found.items(), key=lambda item: -(item[1]["weight"] or 0))]
    half = (len(rows) + 1) // 2
    pairs = [[*left, *right] for left, right in zip(rows[:half], [*rows[half:], ["", "", ""]])]
    return tabular("lrrlrr", ["Block", "Weight", "Alone", "Block", "Weight", "Alone"], pairs)


TABLES: dict[str, Callable[[dict], str]] = {
    "segmentation": segmentation, "detection": detection, "subtype": subtype, "classes": classes, "evidence": evidence, "ablation": ablation, "speed": speed,
    "conformance": conformance, "stages": stages, "failures": failure_list,
    **{key: _settings(key) for key in ("environment", "training", "plan")},
}


def failed_cases(metrics: dict) -> list[dict]:
    """Rows of metrics.json with a failure, those that the figures show first."""
    if not metrics:
        return []
    description: DataDescription = description_of(metrics)
    shown = list(noteworthy(metrics["cases"], description))
    failed = [row for row in metrics["cases"] if failures(row, description)]
    return sorted(failed, key=lambda row: (row["case"] not in shown, row["case"]))


def _cell(value: dict, n_cases: int) -> str:
    note = "" if value["n"] == n_cases else rf"\,{{\scriptsize ($n={value['n']}$)}}"
    return with_interval(value) + note


def _limits(limits: list) -> str:
    return "--" if None in limits else f"{number(limits[0], 2)} to {number(limits[1], 2)}"


def _brief(value: str | float | None) -> str:
    """A figure, or the beginning of a text."""
    if isinstance(value, str):
        return escape(value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "...")
    return number(value)


def _decimal(row: dict, key: str, digits: int = 3) -> str:
    """One column's cell, with decimals even where the JSON holds a whole number; what the row lacks is a dash."""
    value = row.get(key)
    return number(float(value) if isinstance(value, int) else value, digits)
