"""Which mirrored views are worth their passes: the validation cases of a trained fold, segmented in several sets of views.

    python -m experiments.mirrored_views MODEL_FOLDER 1 --out results/mirrored_views            model of fold 1, its preprocessed cases

DSC is the mean over the foreground labels, on the network's grid; its difference to all views is paired by case. In turn: every other window, as on
a chessboard, is mirrored. The network needs two axes to mirror or more.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from evaluation.bootstrap import estimate, resample_counts
from evaluation.tables import with_interval
from experiments.record_run import code_commit, environment, shown_command
from nnunetv2 import paths
from nnunetv2.inference.label_maps import winning_channels
from nnunetv2.inference.model_loading import find_model
from nnunetv2.inference.modes import MODES
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import mirror_views, odd_windows, predict_windows
from nnunetv2.preprocessing.case_store import load_case
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import AnyObject, Splits
from nnunetv2.utilities.files import load_json, save_json

Views = Sequence[tuple[int, ...]]


def sets_of_views(axes: Sequence[int]) -> dict[str, tuple[Views, Sequence[int]]]:
    """Name -> views of every window, and axes that take turns. Axes count from the first of the network's."""
    everything, last, all_axes = mirror_views(axes, 8), (axes[-1],), tuple(axes)
    last_two = [(), (axes[-2],), last, tuple(axes[-2:])]
    return {
        f"{len(everything)} views": (everything, ()),
        "4 views: last two axes": (last_two, ()),
        "4 views: an even number of axes": (mirror_views(axes, 4), ()),
        "2 views: last axis": ([(), last], ()),
        "2 views: last two axes": ([(), last_two[-1]], ()),
        "2 views: all axes": (mirror_views(axes, 2), ()),
        "2 views: last axis, in turn with the others": ([(), last], all_axes),
        "1 view": ([()], ()),
        "1 view, in turn with that along all axes": ([()], all_axes),
    }


def mean_dsc(found: np.ndarray, true: np.ndarray, labels: Sequence[int]) -> float:
    """Over `labels`, leaving out those that neither holds; NaN where there is none."""
    dsc = [2 * np.sum((found == label) & (true == label)) / total for label in labels if (total := np.sum(found == label) + np.sum(true == label))]
    return float(np.mean(dsc)) if dsc else float("nan")


def markdown(result: dict[str, Any]) -> str:
    lines = [f"# Mirrored views ({result['data']})", "", f"`{result['command']}`; {result['environment'].get('CPU', '')}; code {result['commit']}. "
             f"n = {result['n']} validation cases of fold {result['fold']}, patch {result['patch']}, {result['windows']:.1f} windows per case. In brackets: 95 % "
             "bootstrap interval over cases.", "", "| views | passes per window | DSC | difference to all views |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        values = [with_interval(row[key]["mean"], (row[key]["ci_low"], row[key]["ci_high"]), sign) for key, sign in (("dsc", ""), ("difference", "+"))]
        lines.append(f"| {name} | {row['passes']} | {values[0]} | {values[1]} |")
    return "\n".join([*lines, ""])


@script
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("model", type=Path, help="TRAINER__PLANS__CONFIGURATION below $nnUNet_results")
    parser.add_argument("fold", type=whole_number(0))
    parser.add_argument("--data", default="SYNTHETIC CTs", help="what the cases are (default SYNTHETIC CTs)")
    parser.add_argument("--out", type=Path, default=Path("results/mirrored_views"))
    args = parser.parse_args(arguments)
    model = find_model(args.model, (args.fold,))
    dataset = paths.nnUNet_preprocessed / model.plans_manager.dataset_name
    cases = load_json(dataset / "splits_final.json", Splits)[args.fold]["val"]
    geometry = network_geometry(model.configuration_manager, model.mirror_axes)
    engine, = model.make_engines(torch.device("cpu"), MODES["half"], "auto")
    labels = model.plans_manager.get_label_manager(model.dataset_json)
    axes = sorted(geometry.mirror_axes or ())
    if len(axes) < 2:
        raise InputError(f"{args.model} was trained with {len(axes)} mirrored axes; sets of views differ where there are 2 or 3.")
    sets = sets_of_views(axes)
    dsc: dict[str, list[float]] = {name: [] for name in sets}
    windows = []
    for case in tqdm(cases, desc="cases"):
        data, true, _ = load_case(dataset / model.configuration_manager.data_identifier, case)
        image = torch.from_numpy(data[:])
        fed = np.maximum(image.shape[1:], geometry.patch_size).tolist()
        windows.append(len(odd_windows(fed, geometry.patch_size, 0.5)))
        for name, (views, in_turn) in sets.items():
            logits = predict_windows(engine, image, geometry.patch_size, views=views, in_turn=in_turn)
            dsc[name].append(mean_dsc(winning_channels(logits), true[0], labels.foreground_labels))
    values = {name: np.array(found) for name, found in dsc.items()}
    reference, counts = next(iter(values.values())), resample_counts(len(cases), 2000, seed=0)
    rows = {name: {"passes": len(sets[name][0]), "dsc": estimate(found, counts), "difference": estimate(found - reference, counts)}
            for name, found in values.items()}
    result = {"synthetic": "REAL" not in args.data, "data": args.data, "command": shown_command("mirrored_views", sys.argv[1:] if arguments is None else arguments),
              "commit": code_commit(), "environment": environment("cpu"), "n": len(cases), "fold": args.fold, "patch": "x".join(map(str, geometry.patch_size)),
              "windows": float(np.mean(windows)), "rows": rows}
    save_json(result, args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(markdown(load_json(args.out.with_suffix(".json"), AnyObject)))
    print(markdown(result))
    return 0


if __name__ == "__main__":
    main()
