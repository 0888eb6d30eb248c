"""Rows: summary.json, ensembling, postprocessing, choice of the best configuration, model zips."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2, compute_metrics_on_folder_simple
from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing_to_folder, determine_postprocessing
from tests.conformance.bench import Bench, Row, agreeing, equal, within
from tests.conformance.cases import LABELS, volume, write_dataset_json, write_image
from tests.conformance.check_inference import mask_rows
from tests.conformance.datasets import synthetic
from tests.conformance.models import FOLDS, predictions, trained_models

REGIONS = {"background": 0, "whole": [1, 2], "lesion": 2, "ignore": 3}
SPACING = (2.0, 0.8, 0.8)


def write_pair(folder: Path, labels: dict[str, Any], ignore: bool, islands: bool = False) -> tuple[Path, Path]:
    """Folders of references and predictions: shifted, without lesion, empty on one side, empty on both.

    With `islands`, predictions have small extra pieces of label 1 (removing them helps) and two true lesions (it hurts).
    """
    reference, prediction = folder / "reference", folder / "prediction"
    for i in range(6):
        _, seg = volume((18, 30, 34), seed=i, lesion=i != 2)
        seg = seg.astype(np.uint8)
        predicted = np.roll(seg, (0, 1, -1), axis=(0, 1, 2))
        if i == 3:
            seg[seg == 2] = predicted[:] = 0
        if i == 4:
            seg[:], predicted[:] = 0, 0
        if i == 5:
            predicted[predicted == 2] = 1
        if islands:
            seg[1:3, 1:5, 1:5] = predicted[1:3, 1:5, 1:5] = 2
            predicted[15:17, 26:29, 2:5] = 1
        if ignore:
            seg[:3, :, 20:] = 3
        write_image(seg, reference / f"case_{i}.nii.gz", SPACING)
        write_image(predicted, prediction / f"case_{i}.nii.gz", SPACING)
    write_dataset_json(prediction, {"0": "CT"}, labels, 6)
    return reference, prediction


def without_paths(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with file names instead of paths."""
    cases = [{**c, "prediction_file": Path(c["prediction_file"]).name, "reference_file": Path(c["reference_file"]).name}
             for c in summary["metric_per_case"]]
    return {**summary, "metric_per_case": sorted(cases, key=lambda c: c["prediction_file"])}


def number_rows(what: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[Row]:
    """Same structure, counts equal, fractions within rounding."""
    yield equal(f"{what}: fields, files and counts", rounded(ours), rounded(theirs))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): rounded(value[k]) for k in sorted(value, key=str)}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def check_summary(bench: Bench) -> Iterator[Row]:
    plans = next(synthetic(bench))[1]
    plans_file = bench.folder / "plans_for_evaluation.json"
    plans_file.write_text(json.dumps(plans))
    for name, labels, ignore in (("labels", LABELS, False), ("regions and ignore label", REGIONS, True)):
        reference, prediction = write_pair(bench.folder / f"summary_{ignore}", labels, ignore)
        outputs = [bench.folder / f"summary_{side}_{ignore}.json" for side in ("ours", "upstream")]
        theirs = bench.upstream.call("upstream_evaluation:summary", reference=reference, predictions=prediction,
                                     dataset_json=prediction / "dataset.json", plans=plans_file, output=outputs[1])
        compute_metrics_on_folder2(reference, prediction, prediction / "dataset.json", plans_file, outputs[0], num_processes=2)
        yield from number_rows(f"summary.json, {name}", without_paths(json.loads(outputs[0].read_text())), without_paths(theirs))
    theirs = bench.upstream.call("upstream_evaluation:simple", reference=reference, predictions=prediction, labels=[1, 2],
                                 output=outputs[1], ignore=3)
    compute_metrics_on_folder_simple(reference, prediction, [1, 2], outputs[0], num_processes=2, ignore_label=3)
    yield from number_rows("summary.json, evaluate_simple", without_paths(json.loads(outputs[0].read_text())), without_paths(theirs))


def write_probabilities(bench: Bench, count: int) -> tuple[list[Path], Path]:
    """Folders of predictions with probabilities, as `--save_probabilities` leaves them (written by upstream's export)."""
    folder, plans, case = next(synthetic(bench))
    dataset_json = json.loads((folder / "dataset.json").read_text())
    from tests.conformance.check_inference import smooth_logits
    from tests.conformance.check_preprocessing import run_ours
    from tests.conformance.datasets import files_of

    images, _ = files_of(folder, case)
    shape = run_ours(plans, dataset_json, "3d_fullres", images, None)[0].shape[1:]
    folders = [bench.folder / f"member_{i}" for i in range(count)]
    for i, member in enumerate(folders):
        member.mkdir(exist_ok=True)
        bench.upstream.call("upstream_inference:export", logits=smooth_logits(shape, 3, seed=20 + i), plans=plans, dataset_json=dataset_json,
                            configuration="3d_fullres", images=images, target=member / case, save_probabilities=True)
        (member / "dataset.json").write_text(json.dumps(dataset_json))
        (member / "plans.json").write_text(json.dumps(plans))
    return folders, Path(f"{case}.nii.gz")


def check_ensemble(bench: Bench) -> Iterator[Row]:
    members, case = bench.once("ensemble members", lambda: write_probabilities(bench, 3))
    ours, theirs = bench.folder / "ensemble_ours", bench.folder / "ensemble_upstream"
    bench.upstream.call("upstream_evaluation:ensemble", folders=members, output=theirs)
    ensemble_folders(members, ours, num_processes=1, save_merged_probabilities=True)
    yield from mask_rows("nnUNetv2_ensemble, mask of three members", ours / case, theirs / case)
    npz = case.name.replace(".nii.gz", ".npz")
    yield within("nnUNetv2_ensemble, probabilities", *(np.load(f / npz)["probabilities"] for f in (ours, theirs)), 1e-7)
    yield equal("nnUNetv2_ensemble, files", [n for n in sorted(p.name for p in ours.iterdir()) if n not in ("plans.json", "manifest.json")], sorted(p.name for p in theirs.iterdir()))


def check_postprocessing(bench: Bench) -> Iterator[Row]:
    plans = next(synthetic(bench))[1]
    for name, labels in (("labels", LABELS), ("regions", {k: v for k, v in REGIONS.items() if k != "ignore"})):
        folder = bench.folder / f"postprocessing_{name}"
        reference, prediction = write_pair(folder, labels, ignore=False, islands=True)
        ours = folder / "prediction_ours"
        shutil.copytree(prediction, ours, dirs_exist_ok=True)
        theirs = bench.upstream.call("upstream_evaluation:postprocessing", predictions=prediction, reference=reference, plans=plans,
                                     dataset_json=prediction / "dataset.json")
        determine_postprocessing(ours, reference, plans, ours / "dataset.json", num_processes=1)
        decision = json.loads((ours / "postprocessing.json").read_text())
        yield equal(f"postprocessing decision, {name}", [decision[k] for k in ("postprocessing_fns", "postprocessing_kwargs")],
                    [theirs[k] for k in ("postprocessing_fns", "postprocessing_kwargs")])
        yield equal(f"postprocessing scores, {name}", rounded({k: decision[k] for k in ("input_folder", "postprocessed")}),
                    rounded({k: theirs[k] for k in ("input_folder", "postprocessed")}))
        for file in sorted((prediction / "postprocessed").glob("*.nii.gz"))[:3]:
            yield from mask_rows(f"post-processed {name} {file.name}", ours / "postprocessed" / file.name, file)
        applied = folder / "applied"
        apply_postprocessing_to_folder(prediction, applied, prediction / "postprocessing.pkl", None, plans, prediction / "dataset.json", num_processes=1)
        yield from mask_rows(f"upstream's postprocessing.pkl applied here, {name}", applied / "case_0.nii.gz", prediction / "postprocessed/case_0.nii.gz")
    yield Row("file that nnUNetv2_apply_postprocessing takes (on purpose)", "postprocessing.json, and upstream's .pkl", "postprocessing.pkl",
              "a pickle can run code", "ours reads both", True, "upstream's holds a function object; ours is data")


def check_fold_ensembling(bench: Bench) -> Iterator[Row]:
    """`-f 0 1` averages logits of the folds: not the same as averaging probabilities, so it must be the same on both sides."""
    if bench.reduced:
        return
    model = trained_models(bench)["upstream"]
    both, single = predictions(bench, "upstream", model), predictions(bench, "upstream", model, folds=(0,))
    case = sorted(p.name for p in both["upstream"].glob("*.npz"))[0]
    loaded = {key: [np.load(done[side] / case)["probabilities"] for side in ("ours", "upstream")]
              for key, done in (("two folds", both), ("one fold", single))}
    for key, (a, b) in loaded.items():
        yield within(f"-f with {key}: probabilities of {case}", a, b, 5e-3, note="fp16 sums on both sides")
    change = float(np.abs(loaded["two folds"][0] - loaded["one fold"][0]).max())
    yield Row("the second fold changes the result", f"{change:.3g}", "", f"{change:.3g}", "> 0.01", change > 0.01)


def check_best_configuration(bench: Bench) -> Iterator[Row]:
    if bench.reduced:
        return
    theirs = trained_models(bench)["upstream"]
    dataset = theirs.parent.name
    ours = bench.ours / "results" / dataset / "nnUNetTrainer__otherPlans__tiny"
    for side, target in (("upstream", theirs.with_name(ours.name)), ("ours", ours)):
        shutil.copytree(theirs, target, dirs_exist_ok=True)
        plans = json.loads((target / "plans.json").read_text()) | {"plans_name": "otherPlans"}
        for file in (target / "plans.json", (bench.theirs if side == "upstream" else bench.ours) / "preprocessed" / dataset / "otherPlans.json"):
            file.write_text(json.dumps(plans))
    flags = [dataset, "-p", "otherPlans", "-c", "tiny", "-f", *FOLDS, "-np", 1]
    bench.upstream.command("find_best_configuration", *flags)
    bench.command("find_best_configuration", *flags)
    information = [json.loads((side / "results" / dataset / "inference_information.json").read_text()) for side in (bench.ours, bench.theirs)]
    for found in information:
        for key in ("postprocessing_file", "some_plans_file"):
            found["best_model_or_ensemble"][key] = Path(found["best_model_or_ensemble"][key]).stem
        found.pop("scored_on", None)  # here alone: whether the cases were held out
        found["folds"], found["dataset_name_or_id"] = list(found["folds"]), str(found["dataset_name_or_id"])
    yield equal("nnUNetv2_find_best_configuration: inference_information.json", *map(rounded, information))
    merged = f"crossval_results_folds_{'_'.join(map(str, FOLDS))}"
    summaries = [json.loads((target / merged / "summary.json").read_text()) for target in (ours, theirs.with_name(ours.name))]
    yield from number_rows("cross-validation results gathered", *map(without_paths, summaries))


def check_model_zip(bench: Bench) -> Iterator[Row]:
    if bench.reduced:
        return
    models = trained_models(bench)
    dataset = models["ours"].parent.name
    flags = ["-d", dataset, "-p", "tinyPlans", "-c", "tiny", "-f", *FOLDS]
    zips = {side: bench.folder / f"model_{side}.zip" for side in ("ours", "upstream")}
    bench.command("export_model_to_zip", *flags, "-o", zips["ours"])
    bench.upstream.command("export_model_to_zip", *flags, "-o", zips["upstream"])
    names = {side: set(zipfile.ZipFile(file).namelist()) for side, file in zips.items()}
    yield equal("model zip: members of upstream's that are here too", sorted(n for n in names["upstream"] & names["ours"] if "debug" not in n),
                sorted(n for n in names["upstream"] if "debug" not in n), note="debug.json is a text dump that upstream alone writes")
    added = sorted(Path(n).name for n in names["ours"] - names["upstream"])
    yield Row("model zip: more members here (on purpose)", ", ".join(added), "", f"{len(added)} more", "inference_* and manifests alone",
              all(n.startswith("inference_") or n == "manifest.json" for n in added), "upstream packs inference_* only beside an ensemble folder and has no manifest")
    exchanged = Bench(bench.folder / "exchange")
    exchanged.upstream.command("install_pretrained_model_from_zip", zips["ours"])
    exchanged.command("install_pretrained_model_from_zip", zips["upstream"])
    for side, source, target in (("ours", models["ours"], exchanged.theirs), ("upstream", models["upstream"], exchanged.ours)):
        file = Path(dataset) / source.name / "fold_0/checkpoint_final.pth"
        same = (target / "results" / file).read_bytes() == (source.parent.parent / file).read_bytes()
        yield Row(f"zip from {'here' if side == 'ours' else 'upstream'} installed on the other side: checkpoint", "same bytes" if same else "differs",
                  "", "0" if same else "differs", "equal", same)


def check_components(bench: Bench) -> Iterator[Row]:
    """Largest component by 26 neighbours, ties keep all: what both sides' postprocessing stands on, on random masks."""
    from nnunetv2.postprocessing.remove_connected_components import largest_component

    rng = np.random.default_rng(0)
    masks = np.stack([ndimage.gaussian_filter(rng.normal(size=(16, 20, 20)), 1) > 0.15 for _ in range(8)])
    theirs = bench.upstream.call("upstream_evaluation:largest_components", masks=masks)
    yield agreeing("largest component of 8 random masks", np.stack([largest_component(m) for m in masks]), theirs, 1.0)


CHECKS = [check_summary, check_components, check_ensemble, check_postprocessing, check_fold_ensembling, check_best_configuration, check_model_zip]
