"""Results as plain text for a terminal, and cells of tables in Markdown."""

from collections.abc import Sequence

from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription, description_of

BANNER = THE_QUIZ.banner(synthetic=True)
NAMES = {
    "dsc": "DSC", "iou": "IoU", "nsd_1mm": "NSD at 1 mm", "nsd_2mm": "NSD at 2 mm", "hd95_mm": "HD95 (mm)", "masd_mm": "MASD (mm)",
    "missed": "Missed, share", "false_alarm": "False alarm, share", "found": "Found, any overlap",
    "macro_f1": "Macro-F1", "balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy", "mcc": "MCC",
    "expected_cost": "Normalised expected cost", "auroc": "AUROC (one vs rest, mean)", "average_precision": "Average precision (mean)",
    "brier": "Brier score", "ece": "Class-wise ECE",
}


def metrics_table(metrics: dict) -> str:
    """The whole of metrics.json that a person reads: one line per figure, with 95 % interval and n."""
    description = description_of(metrics)
    banner = description.banner(metrics["synthetic"])
    lines = [banner] if banner else []
    lines += [f"{'':34}{'mean':>8}   {'95 % interval':<18}{'n':>4}"]
    for key, structure in description.structures.items():
        block = metrics[key]
        lines.append(structure.title)
        lines += [_line(NAMES[name], block[name]) for name in NAMES if name in block]
        lines.append(_line("Volume bias (ml)", block["volume"]["bias_ml"]))
        lines += [f"  {outcome.replace('_', ' '):32}{count['count']:>8} of {count['n']}" for outcome, count in block["empty"].items()
                  if count["count"]]
    return "\n".join(lines + _detection_lines(metrics, description) + _subtype_lines(metrics.get("subtype"), heading(description.task_words)))


def heading(words: str) -> str:
    """The words with a capital letter in front."""
    return words[:1].upper() + words[1:]


def _detection_lines(metrics: dict, description: DataDescription) -> list[str]:
    if description.lesion is None:
        return []
    detection = metrics[description.lesion.key]["detection"]
    lines = [f"{description.lesion.title} detection", _line("Rate (any overlap)", detection["rate"]),
              _line("False components per case", detection["false_positive_components_per_case"])]
    lines += [_line("DSC, {} ({:.2g}-{:.2g} ml)".format(third["tertile"], *third["volume_ml"]), third["dsc"])
              for third in detection["by_size_tertile"]]
    return lines


def number(value: float | None, digits: int = 3) -> str:
    """A figure for print; what is undefined is a dash."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def _subtype_lines(block: dict | None, title: str) -> list[str]:
    if block is None:
        return []
    lines = [title]
    lines += [_plain_line(NAMES[name], block, name, block["n"]) for name in NAMES if name in block]
    for name, values in block["per_class"].items():
        lines += [_plain_line(f"F1 of class {name}", values, "f1", values["n"])]
    lines.append("Confusion matrix (rows true, columns predicted: {})".format(", ".join(block["classes"])))
    width = max(6, *map(len, block["classes"]))
    lines += [f"  {name:<{width}}" + "".join(f"{int(count):>5}" for count in row)
              for name, row in zip(block["classes"], block["confusion_matrix"])]
    if block["not_predicted"]:
        lines.append(f"  {block['not_predicted']} of {block['n']} cases without a prediction")
    if block.get("decision_differs_from_argmax"):
        lines.append(f"  {block['decision_differs_from_argmax']} of {block['n']} decisions are not the most probable class")
    return lines


def _line(name: str, value: dict) -> str:
    interval = f"[{number(value['ci_low'])}, {number(value['ci_high'])}]"
    return f"  {name:32}{number(value['mean']):>8}   {interval:<18}{value['n']:>4}"


def _plain_line(name: str, block: dict, key: str, n: int) -> str:
    low, high = block[f"{key}_ci"]
    return _line(name, {"mean": block[key], "ci_low": low, "ci_high": high, "n": n})


def with_interval(value: float, ci: Sequence[float], sign: str = "") -> str:
    """A cell of a table in Markdown; sign "+" for a difference."""
    return f"{value:{sign}.3f} ({ci[0]:{sign}.3f} to {ci[1]:{sign}.3f})"
