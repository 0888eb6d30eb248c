"""The ablation's figures: a row per variant from its metrics.json, a row per block, what they say, and the tables as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.compare_runs import compare
from evaluation.subtype_metrics import brier_per_case, classwise_ece
from evaluation.tables import with_interval

RESAMPLES = 2000
COMPARED = (("subtype", "macro_f1"), ("whole_pancreas", "dsc"), ("lesion", "dsc"))


def ablation_row(name: str, title: str, metrics: dict, folds: int, minutes: float, alarms: int | None) -> dict[str, Any]:
    """One variant's figures. metrics: its metrics.json; alarms: of the head's collapse, None where nothing was trained."""
    row = {"variant": name, "title": title, "n": metrics["n_cases"], "minutes_per_fold": minutes, "folds": folds,
           "whole_pancreas_dsc": metrics["whole_pancreas"]["dsc"], "lesion_dsc": metrics["lesion"]["dsc"]}
    if "subtype" not in metrics:
        return row
    subtype = metrics["subtype"]
    row |= {key: subtype[key] for score in ("macro_f1", "balanced_accuracy", "auroc") for key in (score, f"{score}_ci")}
    classes, cases = subtype["classes"], metrics["cases"]
    true = np.array([classes.index(case["subtype_true"]) for case in cases])
    probabilities = np.array([[case[f"p_{k}"] for k in classes] for case in cases])
    return row | {"confusion_matrix": subtype["confusion_matrix"], "collapse_alarms": alarms} | calibration_scores(probabilities, true)


def calibration_scores(probabilities: np.ndarray, true: np.ndarray, draws: int = 200) -> dict[str, float]:
    """brier and the class-wise ece of probabilities (n, K) and classes (n,), and `ece_expected` unless `draws` is 0.

    That is the mean ECE over `draws` sets of classes drawn from the probabilities themselves: with few cases in a bin, chance
    alone gives a perfectly calibrated model that much (Broecker and Smith 2007), and more the less sure it is.
    """
    each = np.ones((1, len(true)))
    scores = {"brier": float(brier_per_case(true, probabilities).mean()), "ece": float(classwise_ece(true, probabilities, each)[0])}
    if draws:
        rng, last = np.random.default_rng(0), probabilities.shape[1] - 1
        drawn = [np.minimum((rng.random((len(true), 1)) > probabilities.cumsum(1)).sum(1), last) for _ in range(draws)]
        scores["ece_expected"] = float(np.mean([classwise_ece(classes, probabilities, each)[0] for classes in drawn]))
    return scores


def minus(metrics: Mapping[str, dict], best: str, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """{variant: {"macro_f1" | "whole_pancreas_dsc" | "lesion_dsc": its figure minus that of `best` on the same cases, with interval and p}}.

    metrics: metrics.json by variant; a figure that one of the two lacks is left out.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, ours in metrics.items():
        if name == best:
            continue
        sides = (metrics[best], ours)
        compared = compare(*(sides if all("subtype" in side for side in sides) else map(_segmentation, sides)), RESAMPLES, seed)
        found[name] = {score if block == "subtype" else f"{block}_{score}": {key: compared[block][score][key] for key in ("difference", "ci_low", "ci_high", "p")}
                       for block, score in COMPARED if block in compared and np.isfinite(compared[block][score]["difference"])}
    return found


def _segmentation(metrics: dict) -> dict:
    """metrics.json as it would be without a class task."""
    cases = [{key: value for key, value in case.items() if key != "subtype_true"} for case in metrics["cases"]]
    return {key: value for key, value in metrics.items() if key != "subtype"} | {"cases": cases}


def conclusions(rows: Sequence[dict], best: str) -> list[dict[str, Any]]:
    """What the table is there to tell, each with whether it holds; questions about rows that are not there are left out."""
    by_name = {row["variant"]: row for row in rows}
    found = []

    def ask(question: str, holds: bool) -> None:
        found.append({"question": question, "holds": bool(holds)})

    if chosen := by_name.get(best):
        ask(f"{chosen['title']}: out-of-fold macro-F1 of at least 0.75 ({chosen['macro_f1']:.3f})", chosen["macro_f1"] >= 0.75)
    if "naive" in by_name:
        naive = by_name["naive"]
        ask(f"the collapse alarm rings for the naive head ({naive['collapse_alarms']} of {naive['folds']} folds)", naive["collapse_alarms"] > 0)
    for other in ("naive", "naive_refit", "chosen", "radiomics"):
        if difference := by_name.get(other, {}).get("minus_best", {}).get("macro_f1"):
            ask(f"its macro-F1 is above that of {by_name[other]['title']!r} ({_change(difference, -1)})", difference["ci_high"] < 0)
    for other in ("no_loss_refit", "gradient_refit", "gradient_no_teacher_refit"):
        if difference := by_name.get(other, {}).get("minus_best", {}).get("macro_f1"):
            ask(f"it tells more than {by_name[other]['title']!r} ({_change(difference, -1)})", difference["ci_high"] < 0)
    for key in ("whole_pancreas_dsc", "lesion_dsc"):
        if difference := by_name.get("segmentation", {}).get("minus_best", {}).get(key):
            ask(f"its {key.replace('_', ' ').replace('dsc', 'DSC')} is at most 0.01 below that of the segmentation alone ({_change(difference, -1)})", difference["difference"] <= 0.01)
    if "volume_and_mean" in by_name:
        trivial = by_name["volume_and_mean"]["macro_f1"]
        ask(f"the data are no gift: volume and mean HU of the true lesion stay below 0.55 ({trivial:.3f})", trivial < 0.55)
    return found


def markdown(result: dict) -> str:
    """Both tables with their conclusions."""
    settings, rows = result["settings"], result["rows"]
    lines = ["# Ablation of the class head", ""]
    if result["synthetic"]:
        lines += ["**SYNTHETIC DATA: these figures say nothing about patients.**", ""]
    lines += [f"`{result['command']}`; {', '.join(f'{key} {value}' for key, value in result['environment'].items())}; code {result['commit']}.", "",
              f"Out-of-fold predictions of {rows[0]['n']} training cases over {settings['folds']} folds; {settings['recipe']}, {settings['epochs']} epochs of "
              f"{settings['iterations']} iterations on {settings['device']}; seed {settings['seed']}. In brackets 95 % intervals; of differences over cases, paired. "
              "ECE: in brackets what chance alone gives a calibrated model.", "",
              "| variant | macro-F1 | minus the chosen | p | AUROC | Brier | ECE | alarms | whole DSC | lesion DSC | min per fold |",
              "|---|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["title"]]
        if "macro_f1" in row:
            difference = row.get("minus_best", {}).get("macro_f1")
            cells.append(with_interval(row["macro_f1"], row["macro_f1_ci"]))
            cells += [_change(difference), f"{difference['p']:.4f}"] if difference else ["", ""]
            cells += [f"{row['auroc']:.3f}", f"{row['brier']:.3f}", f"{row['ece']:.3f} ({row['ece_expected']:.3f})"]
            cells.append("-" if row["collapse_alarms"] is None else f"{row['collapse_alarms']} of {row['folds']}")
        else:
            cells += ["-"] * 7
        cells += [f"{row['whole_pancreas_dsc']['mean']:.3f}", f"{row['lesion_dsc']['mean']:.3f}", f"{row['minutes_per_fold']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if blocks := result.get("blocks"):
        lines += ["", *block_lines(blocks)]
    if new := result.get("new_cases"):
        lines += ["", f"On {new['n']} new SYNTHETIC cases (seed {new['seed']}), predicted by all {new['folds']} networks together: macro-F1 "
                  f"{with_interval(new['macro_f1'], new['macro_f1_ci'])}, AUROC {new['auroc']:.3f}, Brier {new['brier']:.3f}, "
                  f"ECE {new['ece']:.3f} ({new['ece_expected']:.3f})."]
    lines += ["", *(f"- {'yes' if item['holds'] else 'NO'}: {item['question']}" for item in result["conclusions"]), ""]
    return "\n".join(lines)


def block_lines(blocks: Mapping[str, Any]) -> list[str]:
    """Markdown of `ablation_blocks.block_rows`: each block by itself, and all the others without it."""
    lines = [f"The same networks, heads fitted to some of the blocks; all of them: {with_interval(blocks['rows']['all']['macro_f1'], blocks['rows']['all']['ci'])}.", "",
             "| block | weight | it alone | all but it | all but it, minus all | p of the block alone |", "|---|---|---|---|---|---|"]
    for name, weight in blocks["weights"].items():
        alone, without = (blocks["rows"].get(f"{kind}:{name}") for kind in ("alone", "without"))
        lines.append(f"| {name} | {weight:.2f} | {with_interval(alone['macro_f1'], alone['ci']) if alone else '-'} | " + (
            f"{without['macro_f1']:.3f} | {with_interval(-without['evidence_minus_this'], [-end for end in reversed(without['difference_ci'])], '+')}" if without else "- | -")
            + f" | {format(alone['p'], '.4f') if alone else '-'} |")
    return lines


def _change(row: Mapping[str, Any], sign: int = 1) -> str:
    low, high = sorted((sign * row["ci_low"] + 0.0, sign * row["ci_high"] + 0.0))  # no minus before a zero
    return f"{sign * row['difference'] + 0.0:+.3f}, {low:+.3f} to {high:+.3f}"
