"""Rows: fingerprint and plans. Both sides plan the same data sets; every field of plans.json is compared."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments
from tests.conformance.bench import Bench, Row, equal, within
from tests.conformance.cases import FLIPPED, GEOMETRIES, OBLIQUE, CaseSpec, random_geometries, write_dataset
from tests.conformance.datasets import PLANNERS, prepare

HU_BOUND = 0.5  # for foreground intensities: an exact histogram may stand in for upstream's sampling
FINGERPRINT_CASES = [
    CaseSpec((40, 50, 60), (2.0, 0.8, 0.8)),
    CaseSpec((44, 48, 52), (2.5, 0.7, 0.9), margin=6),
    CaseSpec((30, 64, 40), (1.5, 1.0, 1.0), margin=3, direction=FLIPPED),
    CaseSpec((36, 40, 44), (3.0, 0.75, 0.75), direction=OBLIQUE),
]


def check_fingerprint(bench: Bench) -> Iterator[Row]:
    bench.once("fingerprint data", lambda: write_dataset(bench.raw, 301, "Fingerprint", FINGERPRINT_CASES))
    bench.once("fingerprint data, two channels", lambda: write_dataset(
        bench.raw, 302, "FingerprintTwo", FINGERPRINT_CASES[:2], {"0": "CT", "1": "T1"}))
    datasets = [(301, "Dataset301_Fingerprint"), (302, "Dataset302_FingerprintTwo")]
    for dataset, name in datasets[1:] if bench.reduced else datasets:
        theirs = bench.upstream.call("upstream_planning:fingerprint", dataset=dataset, samples=2e6 if bench.reduced else 1e8)
        with bench.environment():
            extract_fingerprints([dataset], num_processes=1, clean=True)
        ours = json.loads((bench.ours / "preprocessed" / name / "dataset_fingerprint.json").read_text())
        for key in ("spacings", "shapes_after_crop", "median_relative_size_after_cropping"):
            yield equal(f"fingerprint {key}, {name}", ours[key], theirs[key])
        mine, reference = (f["foreground_intensity_properties_per_channel"] for f in (ours, theirs))
        yield equal(f"fingerprint channels and fields, {name}", {c: sorted(mine[c]) for c in mine},
                    {c: sorted(reference[c]) for c in reference})
        for channel in reference:
            fields = sorted(reference[channel])
            a, b = (np.array([f[channel][k] for k in fields]) for f in (mine, reference))
            note = "sampled alike" if np.array_equal(a, b) else "exact histogram of all foreground voxels instead of a sample"
            yield within(f"foreground intensities, {name}, channel {channel}", a, b, HU_BOUND, note=note)


def compare_plans(bench: Bench, number: int, what: str, planner: str, memory: float | None = None,
                  spacing: list[float] | None = None, name: str | None = None) -> Row:
    theirs = bench.upstream.call("upstream_planning:plan", dataset=number, planner=planner, memory=memory, spacing=spacing,
                                 name=name)
    with bench.environment():
        identifier = plan_experiments([number], experiment_planner_class_name=planner, gpu_memory_target_in_gb=memory,
                                      overwrite_target_spacing=spacing, overwrite_plans_name=name)
    folder = bench.ours / "preprocessed" / f"Dataset{number:03d}_Plan"
    ours = json.loads((folder / f"{identifier}.json").read_text())
    row = equal(f"plans.json, {what}, {planner}", ours, theirs)
    return Row(row.what, summary(ours), summary(theirs), row.difference, row.bound, row.passed, row.note)


def summary(plans: dict[str, Any]) -> str:
    """Patch and batch of each configuration: the part of a plan people know by heart."""
    shown = [f"{name} {'x'.join(map(str, c['patch_size']))} b{c['batch_size']}"
             for name, c in plans["configurations"].items() if "patch_size" in c]
    return "; ".join(shown)


def check_plans(bench: Bench) -> Iterator[Row]:
    geometries = GEOMETRIES + random_geometries(8)
    planners = PLANNERS
    if bench.reduced:
        geometries, planners = [g for g in GEOMETRIES if g.name in ("quiz-like", "anisotropy > 3", "coarse axis last")], PLANNERS[:2]
    for i, geometry in enumerate(geometries):
        prepare(bench, 400 + i, geometry)
        for planner in planners:
            yield compare_plans(bench, 400 + i, geometry.name, planner)


def check_plan_options(bench: Bench) -> Iterator[Row]:
    quiz, huge = GEOMETRIES[0], next(g for g in GEOMETRIES if g.name.startswith("huge"))
    prepare(bench, 480, quiz)
    yield compare_plans(bench, 480, "-overwrite_target_spacing 3 1 1", "nnUNetPlannerResEncM", spacing=[3.0, 1.0, 1.0], name="coarse")
    yield compare_plans(bench, 480, "-gpu_memory_target 4", "nnUNetPlannerResEncM", memory=4.0, name="small")
    if bench.reduced:
        return
    prepare(bench, 481, huge)
    for memory in (6.0, 16.0, 40.0):
        for planner in PLANNERS[:3]:
            yield compare_plans(bench, 481, f"{huge.name}, -gpu_memory_target {memory:g}", planner, memory, name=f"m{memory:g}")


def check_replanning(bench: Bench) -> Iterator[Row]:
    """A configuration somebody added by hand survives planning again; splits beside the raw data are taken over."""
    name = prepare(bench, 490, GEOMETRIES[4])
    splits = [{"train": ["case_000"], "val": []}]
    (bench.raw / name / "splits_final.json").write_text(json.dumps(splits))
    compare_plans(bench, 490, "first", "ExperimentPlanner", name="again")
    for side in (bench.ours, bench.theirs):
        file = side / "preprocessed" / name / "again.json"
        plans = json.loads(file.read_text())
        plans["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 5}
        file.write_text(json.dumps(plans))
    row = compare_plans(bench, 490, "planned again over a plan with an added configuration", "nnUNetPlannerResEncM", name="again")
    kept = json.loads((bench.ours / "preprocessed" / name / "again.json").read_text())["configurations"]
    yield row
    yield equal("added configuration kept", kept.get("mine"), {"inherits_from": "3d_fullres", "batch_size": 5})
    copied = [json.loads((side / "preprocessed" / name / "splits_final.json").read_text()) for side in (bench.ours, bench.theirs)]
    yield equal("splits_final.json beside the raw data is taken over", *copied)


CHECKS = [check_fingerprint, check_plans, check_plan_options, check_replanning]
