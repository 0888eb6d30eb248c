"""Which cues the class head finds, wherever they lie: SYNTHETIC CTs whose classes show in one of thirteen ways; see run_cues.sh.

    python -m experiments.cues --worlds abdomen --train 60 --new 30 --other 30 --epochs 2 --iterations 10     # a quick look

All cues are drawn independently on the same images (data_prep/phantom_cues.py), so one training of the segmentation serves them all: the class
head alone is fitted, to one cue after the other. Every training case is predicted by a fold that left it out; new cases, and new cases of another
scanner, by the mean of the folds. `shuffled` are labels without meaning.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep.convert_quiz import stratified_folds
from data_prep.make_phantom import PhantomCase, case_cues, list_cases
from data_prep.phantom_cues import CUES, LEVELS, MIXED, Drawn
from data_prep.phantom_worlds import WORLDS
from evaluation.bootstrap import interval
from evaluation.tables import with_interval
from experiments.class_study import ROWS, Described, Fold, by_group, describe, draw_rows, mean_weights, parse_study, score, segment, train_command, weights_table
from experiments.fold_jobs import run_command
from experiments.options import SEEDS
from experiments.pipeline import enter
from experiments.record_run import code_commit, environment, shown_command
from experiments.small_plans import write_small_plans
from nnunetv2.class_evidence.fit import macro_f1
from nnunetv2.inference.model_loading import find_model
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.file_shapes import AnyObject, DatasetJson, Plans
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.parallel import in_processes

PRESET, N_CLASSES, SHUFFLED = "demo", 3, "shuffled"
TASKS = (*CUES, SHUFFLED)
STUDIED = ("evidence", "no_forest", "network", "radiomics", "volume", "true_masks", "blocks", "honest_blocks")
HOME, OTHER = "Dataset777_PancreasCT", "Dataset778_OtherScanner"
PARTS = {"out_of_fold": "training cases, each by a fold that left it out", "new": "new cases, mean of the folds", "other": "new cases of another scanner, mean of the folds"}
Part = dict[str, dict[str, np.ndarray]]  # name of PARTS -> row -> (n, K) probabilities


def draw_labels(drawn: Mapping[str, Drawn], seed: int) -> dict[str, dict[str, int]]:
    """{task: {case: class}}; the shuffled labels are the texture's, in another order."""
    names = sorted(drawn)
    labels = {cue: {name: drawn[name].classes[cue] for name in names} for cue in CUES}
    order = np.random.default_rng([seed, 17]).permutation(len(names))
    return labels | {SHUFFLED: {name: labels["texture"][names[other]] for name, other in zip(names, order)}}


@dataclass(frozen=True)
class World:
    """The data of one painter below OUT/work/NAME. Cases of another scanner are named other_NAME."""

    name: str
    args: argparse.Namespace

    @cached_property
    def work(self) -> Path:
        return self.args.out.absolute() / "work" / self.name

    def counts(self, other: bool) -> tuple[int, int, int]:
        return (self.args.other - 3, 3, 0) if other else (self.args.train, self.args.new, 0)  # the converter wants both splits

    def seed(self, other: bool) -> int:
        return SEEDS["cues_other_scanner" if other else "cues"]

    def listed(self, other: bool) -> list[PhantomCase]:
        return list_cases(self.counts(other), self.seed(other))

    @cached_property
    def drawn(self) -> dict[str, Drawn]:
        return {("other_" if other else "") + case.name: case_cues(PRESET, self.seed(other), case) for other in (False, True) for case in self.listed(other)}

    @cached_property
    def splits(self) -> list[dict[str, list[str]]]:
        """Folds of the training cases, stratified by the texture."""
        return stratified_folds({case.name: str(case.subtype) for case in self.listed(False) if case.split == "train"}, self.args.folds)

    def prepare(self) -> dict[str, Path]:
        """Images, plans and preprocessed cases, unless they are there; {dataset: folder of the preprocessed cases}."""
        at = enter(self.work)
        for dataset, other in ((HOME, False), (OTHER, True)):
            train, validation, _ = self.counts(other)
            data = self.work / dataset
            run_command(["python", "data_prep/make_phantom.py", data, "--preset", PRESET, "--seed", str(self.seed(other)), "--cues", "--world", self.name, "--scanner",
                         "other" if other else "standard", "--train", str(train), "--validation", str(validation), "--test", "0"])
            run_command(["python", "data_prep/convert_quiz.py", "--data", data, "--out", at["nnUNet_raw"], "--dataset", dataset])
        home, away = (at["nnUNet_preprocessed"] / dataset for dataset in (HOME, OTHER))
        plans = self.args.plans
        if not (home / f"{plans}.json").is_file():
            run_command(["nnUNetv2_plan_and_preprocess", "-d", "777", "-pl", "nnUNetPlannerResEncM", "--no_pp", "-gpu_memory_target", "0.18"])
            write_small_plans(home)
        save_json(self.splits, home / "splits_final.json")
        run_command(["nnUNetv2_preprocess", "-d", "777", "-plans_name", plans, "-c", "3d_fullres"])
        away.mkdir(exist_ok=True)
        save_json(load_json(at["nnUNet_raw"] / OTHER / "dataset.json", DatasetJson), away / "dataset.json")
        save_json(load_json(home / f"{plans}.json", Plans) | {"dataset_name": OTHER}, away / f"{plans}.json")
        run_command(["nnUNetv2_preprocess", "-d", "778", "-plans_name", plans, "-c", "3d_fullres"])
        identifier = load_json(home / f"{plans}.json", Plans)["configurations"]["3d_fullres"]["data_identifier"]
        return {HOME: home / identifier, OTHER: away / identifier}

    def train(self, fold: int) -> Path:
        """The model folder."""
        model = enter(self.work)["nnUNet_results"] / HOME / f"{self.args.trainer}__{self.args.plans}__3d_fullres"
        if not (model / f"fold_{fold}" / "checkpoint_final.pth").is_file():
            run_command(train_command(777, fold, self.args))
        return model


def segment_fold(model_folder: Path, fold: int, folders: Mapping[str, Path], cases: Mapping[str, Sequence[str]], work: Path, device: str) -> None:
    for dataset, folder in folders.items():
        segment(find_model(model_folder, (fold,)), folder, cases[dataset], work / dataset, torch.device(device))


def describe_fold(model_folder: Path, fold: int, folders: Mapping[str, Path], cases: Mapping[str, Sequence[str]], work: Path, device: str) -> Described:
    """Of all cases of HOME and OTHER, the latter under their own names."""
    model, described = find_model(model_folder, (fold,)), {}
    for dataset, prefix in ((HOME, ""), (OTHER, "other_")):
        found = describe(model, folders[dataset], cases[dataset], work / dataset, torch.device(device))
        described |= {prefix + case: row for case, row in found.items()}
    return described


def predict_task(model_folder: Path, described: Sequence[Described], splits: Sequence[Mapping[str, list[str]]], label_of: Mapping[str, int],
                 fresh: Mapping[str, list[str]]) -> tuple[Part, list[dict[str, Any]]]:
    """Probabilities of every part, and the folds' reports. fresh: cases of the parts `new` and `other`."""
    left_out: list[dict[str, np.ndarray]] = []
    later: dict[str, list[dict[str, np.ndarray]]] = {part: [] for part in fresh}
    reports = []
    unseen = {case: described[number][case] for number, split in enumerate(splits) for case in split["val"]}
    for number, split in enumerate(splits):
        fold = Fold(find_model(model_folder, (number,)), described[number], unseen, split["train"])
        every = [*split["val"], *(case for cases in fresh.values() for case in cases)]
        rows, report = fold.predict(label_of, N_CLASSES, every, STUDIED)
        reports.append(report)
        at = len(split["val"])
        left_out.append({row: p[:at] for row, p in rows.items()})
        for part, cases in fresh.items():
            later[part].append({row: p[at : at + len(cases)] for row, p in rows.items()})
            at += len(cases)
    return {"out_of_fold": {row: np.concatenate([rows[row] for rows in left_out]) for row in STUDIED},
            **{part: {row: np.mean([rows[row] for rows in folds], axis=0) for row in STUDIED} for part, folds in later.items()}}, reports


def oracle(task: str, drawn: Mapping[str, Drawn], label_of: Mapping[str, int], train: Sequence[str], cases: Sequence[str]) -> np.ndarray | None:
    """(n, K) probabilities from the very numbers that were drawn for the cue: what perfect measurement would give. None for shuffled labels."""
    if task == SHUFFLED:
        return None

    def rows(names: Sequence[str]) -> np.ndarray:
        if task == "mixed":
            return np.array([[drawn[name].classes[cue] for cue in MIXED] for name in names], float)
        value = [np.log(drawn[name].values[task]) if task == "margin" else drawn[name].values[task] for name in names]
        nearest = [np.abs(np.array(LEVELS[task]) - drawn[name].values[task]) for name in names]
        return np.column_stack([value, nearest]).astype(float)

    model = make_pipeline(StandardScaler(), LogisticRegression(C=100, max_iter=2000)).fit(rows(train), [label_of[name] for name in train])
    return model.predict_proba(rows(cases))


def study(world: World) -> dict[str, Any]:
    folders = world.prepare()
    models = [world.train(fold) for fold in range(world.args.folds)]
    cases = {dataset: sorted(case.name for case in world.listed(other)) for dataset, other in ((HOME, False), (OTHER, True))}
    jobs = {str(fold): (model, fold, folders, cases, world.work / "segmented", world.args.device) for fold, model in enumerate(models)}
    in_processes(segment_fold, jobs, None if world.args.device == "cpu" else 1, f"{world.name}: segmenting cases by fold")
    described = [describe_fold(*job) for job in jobs.values()]
    labels = draw_labels(world.drawn, world.seed(False))
    fresh = {"new": sorted(case.name for case in world.listed(False) if case.split == "validation"), "other": [f"other_{name}" for name in cases[OTHER]]}
    predicted = in_processes(predict_task, {task: (models[0], described, world.splits, labels[task], fresh) for task in TASKS}, None, f"{world.name}: fitting heads")
    order = {"out_of_fold": [case for split in world.splits for case in split["val"]], **fresh}
    drawn_again = {part: by_group(names, world.args.seed) for part, names in order.items()}
    tasks: dict[str, Any] = {}
    for task, (parts, reports) in predicted.items():
        tasks[task] = {"weights": mean_weights(reports, "weight"), "parts": {}}
        for part, names in order.items():
            true = np.array([labels[task][name] for name in names])
            found = {"n_of_class": np.bincount(true, minlength=N_CLASSES).tolist(), "rows": score(parts[part], true, drawn_again[part], N_CLASSES, world.args.seed)}
            train = names if part == "out_of_fold" else order["out_of_fold"]
            perfect = oracle(task, world.drawn, labels[task], train, names)
            found["oracle"] = None if perfect is None else macro_f1(true, perfect.argmax(1), N_CLASSES)
            tasks[task]["parts"][part] = found
    home = {case: [fold[case]["dsc"] for fold in described] for case in described[0]}
    dsc = {}
    for part, names in order.items():
        values = np.array([described[fold][name]["dsc"] for fold, split in enumerate(world.splits) for name in split["val"]] if part == "out_of_fold"
                          else [np.mean(home[name]) for name in names])
        weights = drawn_again[part]
        dsc[part] = {"mean": float(values.mean()), "ci": interval(weights @ values / weights.sum(1)), "n": len(names)}
    return {"lesion_dsc": dsc, "tasks": tasks}


def summary(tasks: Mapping[str, Any], part: str, row: str) -> dict[str, float]:
    """Mean and lowest macro-F1 over the single cues."""
    values = {cue: tasks[cue]["parts"][part]["rows"][row]["macro_f1"] for cue in LEVELS}
    lowest = min(values, key=lambda cue: values[cue])
    return {"mean": float(np.mean(list(values.values()))), "lowest": values[lowest], "lowest_cue": lowest}


def markdown(result: Mapping[str, Any]) -> str:
    lines = ["# SYNTHETIC: which cues the class head finds", "",
             "Macro-F1 of three classes, which show in one cue, drawn independently of all others. Two painters of images (worlds), unlike each other. "
             "Masks are the network's but where the row says otherwise. Intervals: 95 %, cases drawn with replacement. "
             "`mixed` adds four cues up weakly, and a tenth of its labels is wrong; `shuffled` has labels without meaning. "
             "Drawn: from the very numbers that the painter used, the best that measuring could reach.", ""]
    for name, world in result["worlds"].items():
        lines += [f"## World: {name}", "", *(f"- {PARTS[part]}: n = {dsc['n']}, lesion DSC {with_interval(dsc['mean'], dsc['ci'])}" for part, dsc in world["lesion_dsc"].items()), ""]
        for part, text in PARTS.items():
            mean = summary(world["tasks"], part, "evidence")
            lines += [f"### {text.capitalize()}", "", f"Mean over the twelve single cues {mean['mean']:.3f}, lowest {mean['lowest']:.3f} ({mean['lowest_cue']}); "
                      f"network's own head {summary(world['tasks'], part, 'network')['mean']:.3f}.", "",
                      "| cue | " + " | ".join(ROWS[row] for row in STUDIED) + " | Drawn | p | evidence minus network's own |", "|" + "---|" * (len(STUDIED) + 4)]
            for task, found in world["tasks"].items():
                rows, drawn = found["parts"][part]["rows"], found["parts"][part]["oracle"]
                lines.append(f"| {task} | {with_interval(rows['evidence']['macro_f1'], rows['evidence']['ci'])} | "
                             + " | ".join(f"{rows[row]['macro_f1']:.3f}" for row in STUDIED[1:]) + f" | {'' if drawn is None else f'{drawn:.3f}'} | {rows['evidence']['p']:.4f} | "
                             + with_interval(rows["network"]["evidence_minus_this"], rows["network"]["difference_ci"], "+") + " |")
            lines.append("")
        lines += ["### What each class rests on, weights of the blocks, mean over folds", "", *weights_table({task: found["weights"] for task, found in world["tasks"].items()}, "cue"), ""]
    return "\n".join([*lines, f"{result['environment'].get('CPU', '')}; commit {result['commit']}; `{result['command']}`.", ""])


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    start = time.monotonic()
    worlds = {name: study(World(name, args)) for name in args.worlds}
    result = {"synthetic": True, "command": shown_command("run_cues.sh", args.given),
              "commit": code_commit(), "environment": environment(args.device), "n": args.train + args.new + args.other, "seeds": {key: SEEDS[key] for key in ("cues", "cues_other_scanner")},
              "worlds": worlds, "seconds_of_this_call": round(time.monotonic() - start)}
    save_json(result, args.out.with_suffix(".json"))
    result = load_json(args.out.with_suffix(".json"), AnyObject)
    args.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    drawn = {name: {cue: world["tasks"][cue]["parts"]["new"] for cue in TASKS} for name, world in worlds.items()}
    draw_rows(drawn, f"SYNTHETIC: new cases, n = {args.new} per world, 95 % intervals", args.out.with_suffix(".png"))
    print(markdown(result))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/cues"))
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--train", type=whole_number(30), default=240, help="training cases per world, predicted out of fold (default 240)")
    parser.add_argument("--new", type=whole_number(10), default=120, help="new cases per world (default 120)")
    parser.add_argument("--other", type=whole_number(10), default=60, help="new cases of another scanner per world (default 60)")
    return parse_study(parser, arguments, iterations=160)


if __name__ == "__main__":
    main()
