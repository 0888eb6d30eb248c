"""The ablation's figures: a row a variant from its metrics.json, what they say, and the table as Markdown."""

import numpy as np
from scipy.special import softmax

from evaluation.bootstrap import weighted_mean
from evaluation.subtype_metrics import brier_per_case, classwise_ece
from nnunetv2.class_evidence.calibration import fit_temperature

TINY = 1e-6  # probabilities are written with six digits; a 0 has no logarithm


def ablation_row(name: str, title: str, metrics: dict, splits: list[dict], folds: range, minutes: float, alarms: int | None,
                 temperatures: dict[int, float] | None) -> dict:
    """One variant's figures. `metrics`: its metrics.json; `temperatures`: of each fold where the model calibrates itself."""
    row = {"variant": name, "title": title, "n": metrics["n_cases"], "minutes_per_fold": minutes, "folds": len(folds),
           "whole_pancreas_dsc": metrics["whole_pancreas"]["dsc"], "lesion_dsc": metrics["lesion"]["dsc"]}
    if "subtype" not in metrics:
        return row
    subtype = metrics["subtype"]
    row |= {key: subtype[key] for name in ("macro_f1", "balanced_accuracy", "auroc") for key in (name, f"{name}_ci")}
    row |= {"confusion_matrix": subtype["confusion_matrix"], "collapse_alarms": alarms}
    classes = subtype["classes"]
    cases = {case["case"]: case for case in metrics["cases"]}
    order = [(case, fold) for fold in folds for case in splits[fold]["val"]]
    true = np.array([classes.index(cases[case]["subtype_true"]) for case, _ in order])
    fold_of = np.array([fold for _, fold in order])
    reported = np.array([[cases[case][f"p_{k}"] for k in classes] for case, _ in order])
    if temperatures is None:
        before, after = reported, cross_fitted(reported, true, fold_of)
    else:
        before, after = with_temperature(reported, np.array([1 / temperatures[fold] for fold in fold_of])), reported
    return row | {"calibration": "own" if temperatures else "temperature of the other folds",
                  "before_calibration": calibration_scores(before, true), "after_calibration": calibration_scores(after, true)}


def with_temperature(probabilities: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """Soften (n, K) probabilities by `temperature` (n,); 1/T takes a temperature T off again."""
    return softmax(np.log(np.maximum(probabilities, TINY)) / temperature[:, None], axis=1)


def cross_fitted(probabilities: np.ndarray, true: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Each fold calibrated with the temperature that suits the other folds' cases, so that no case judges itself."""
    temperature = np.ones(len(true))
    for fold in np.unique(fold_of):
        others = fold_of != fold
        temperature[~others] = fit_temperature(np.log(np.maximum(probabilities[others], TINY)), true[others])
    return with_temperature(probabilities, temperature)


def weighted_calibration(probabilities: np.ndarray, true: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Brier score, class-wise ECE and log loss in nats, each (R,), of probabilities (n, K) and classes (n,) under weights (R, n)."""
    surprise = -np.log(np.maximum(probabilities[np.arange(len(true)), true], TINY))
    return {"brier": weighted_mean(brier_per_case(true, probabilities), weights), "ece": classwise_ece(true, probabilities, weights),
            "nll": weighted_mean(surprise, weights)}


def calibration_scores(probabilities: np.ndarray, true: np.ndarray, draws: int = 200) -> dict[str, float]:
    """`weighted_calibration` with every case counted once, and `ece_expected` unless `draws` is 0.

    That is the mean ECE over `draws` sets of classes drawn from the probabilities themselves: with few cases in a bin, chance
    alone gives a perfectly calibrated model that much (Broecker and Smith 2007), and more the less sure it is.
    """
    each = np.ones((1, len(true)))
    scores = {name: float(values[0]) for name, values in weighted_calibration(probabilities, true, each).items()}
    if draws:
        rng, last = np.random.default_rng(0), probabilities.shape[1] - 1
        drawn = [np.minimum((rng.random((len(true), 1)) > probabilities.cumsum(1)).sum(1), last) for _ in range(draws)]
        scores["ece_expected"] = float(np.mean([classwise_ece(classes, probabilities, each)[0] for classes in drawn]))
    return scores


def conclusions(rows: list[dict], new_cases: dict | None = None) -> list[dict]:
    """What the table is there to tell, each with whether it holds; questions about rows that are not there are left out.

    new_cases: of `new_cases.calibration_on_new_cases`.
    """
    by_name = {row["variant"]: row for row in rows}
    best = by_name.get("chosen_refit", by_name.get("chosen"))
    found = []

    def ask(question: str, holds: bool) -> None:
        found.append({"question": question, "holds": bool(holds)})

    if best:
        ask(f"{best['title']}: out-of-fold macro-F1 of at least 0.75 ({best['macro_f1']:.3f})", best["macro_f1"] >= 0.75)
        before, after = best["before_calibration"], best["after_calibration"]
        ask(f"its calibration lowers Brier score and ECE ({before['brier']:.3f} to {after['brier']:.3f}, "
            f"{before['ece']:.3f} to {after['ece']:.3f})", after["brier"] < before["brier"] and after["ece"] < before["ece"])
    if new_cases:
        before, after = new_cases["before_calibration"], new_cases["after_calibration"]
        ask(f"on {new_cases['cases']} new cases it lowers both ({before['brier']:.3f} to {after['brier']:.3f}, {before['ece']:.3f} to "
            f"{after['ece']:.3f})", after["brier"] < before["brier"] and after["ece"] < before["ece"])
    if best and "naive" in by_name:
        naive = by_name["naive"]
        low = best["macro_f1_ci"][0]
        ask(f"the interval's lower bound ({low:.3f}) lies above the naive head's macro-F1 ({naive['macro_f1']:.3f})", low > naive["macro_f1"])
        ask(f"the collapse alarm rings for the naive head ({naive['collapse_alarms']} of {naive['folds']} folds)", naive["collapse_alarms"] > 0)
    if best and "segmentation" in by_name:
        for structure in ("whole_pancreas_dsc", "lesion_dsc"):
            with_head, without = best[structure]["mean"], by_name["segmentation"][structure]["mean"]
            ask(f"{structure.replace('_', ' ')} is at most 0.01 below segmentation only ({with_head:.3f} against {without:.3f})",
                with_head >= without - 0.01)
    if best and "radiomics" in by_name:
        radiomics = by_name["radiomics"]["macro_f1"]
        ask(f"the network's macro-F1 is not below the radiomics baseline's ({best['macro_f1']:.3f} against {radiomics:.3f})",
            best["macro_f1"] >= radiomics)
    if "volume_and_mean" in by_name:
        trivial = by_name["volume_and_mean"]["macro_f1"]
        ask(f"the data are no gift: volume and mean HU of the true lesion stay below 0.55 ({trivial:.3f})", trivial < 0.55)
    return found


def markdown(result: dict) -> str:
    """The table with its conclusions."""
    settings = result["settings"]
    lines = ["# Ablation of the classifier", ""]
    if result["synthetic"]:
        lines += ["**SYNTHETIC DATA: these figures say nothing about patients.**", ""]
    lines += [f"`{result['command']}`; {', '.join(f'{key} {value}' for key, value in result['environment'].items())}.", "",
              f"Out-of-fold predictions of {result['rows'][0]['n']} training cases over {settings['folds']} folds; {settings['epochs']} epochs of "
              f"{settings['iterations']} iterations on {settings['device']}; seed {settings['seed']}. Brackets: 95 % bootstrap interval over "
              "cases. Brier and ECE before -> after calibration; in parentheses the ECE that chance alone gives a calibrated model.", "",
              "| variant | macro-F1 | balanced accuracy | AUROC | Brier | ECE | alarms | whole DSC | lesion DSC | min a fold |",
              "|---|---|---|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        cells = [row["title"]]
        if "macro_f1" in row:
            cells.append("{:.3f} [{:.3f}, {:.3f}]".format(row["macro_f1"], *row["macro_f1_ci"]))
            cells += [f"{row['balanced_accuracy']:.3f}", f"{row['auroc']:.3f}"]
            before, after = row["before_calibration"], row["after_calibration"]
            cells += [f"{before['brier']:.3f} -> {after['brier']:.3f}", f"{_ece(before)} -> {_ece(after)}"]
            cells.append("-" if row["collapse_alarms"] is None else f"{row['collapse_alarms']} of {row['folds']}")
        else:
            cells += ["-"] * 6
        cells += [f"{row['whole_pancreas_dsc']['mean']:.3f}", f"{row['lesion_dsc']['mean']:.3f}", f"{row['minutes_per_fold']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if result.get("new_cases"):
        lines += ["", new_cases_text(result["new_cases"])]
    lines += ["", *(f"- {'yes' if item['holds'] else 'NO'}: {item['question']}" for item in result["conclusions"]), ""]
    return "\n".join(lines)


def _ece(scores: dict[str, float]) -> str:
    return f"{scores['ece']:.3f} ({scores['ece_expected']:.3f})"


def new_cases_text(new_cases: dict) -> str:
    """One paragraph on the calibration of the refitted heads on new cases."""
    before, after = new_cases["before_calibration"], new_cases["after_calibration"]

    def change(key: str) -> str:
        low, high = new_cases[f"{key}_change_ci"]
        return f"{before[key]:.3f} -> {after[key]:.3f} (change {low:+.3f} to {high:+.3f})"

    temperatures = ", ".join(f"{t:.2f}" for t in new_cases["temperatures"].values())
    return (f"Calibration of the refitted heads on {new_cases['cases']} new SYNTHETIC cases (seed {new_cases['seed']}), each predicted by all "
            f"{new_cases['folds']} models, temperatures {temperatures}: Brier {change('brier')}, ECE {change('ece')}, of which chance alone gives "
            f"{before['ece_expected']:.3f} -> {after['ece_expected']:.3f}, log loss {change('nll')}. Changes: 95 % bootstrap interval over cases.")
