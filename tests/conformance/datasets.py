"""Data sets on the bench: fingerprints to plan from, small volumes to preprocess, real CTs; plans made by upstream for both sides."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from tests.conformance.bench import Bench, real_ct_folder
from tests.conformance.cases import CT, FLIPPED, OBLIQUE, CaseSpec, Geometry, fingerprint, write_dataset, write_dataset_json, write_image

PLANNERS = ["ExperimentPlanner", "nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL"]

DATASETS: list[tuple[int, str, list[CaseSpec], dict[str, Any]]] = [
    (311, "Quiz", [CaseSpec((40, 60, 90), (2.0, 0.75, 0.75)), CaseSpec((44, 64, 70), (2.5, 0.7, 0.9), margin=6),
                   CaseSpec((40, 64, 80), (1.5, 0.8, 0.8), margin=3, direction=FLIPPED),
                   CaseSpec((36, 50, 94), (2.0, 0.75, 0.75), direction=OBLIQUE, lesion=False)], {}),
    (312, "Anisotropic", [CaseSpec((14, 90, 96), (6.0, 0.8, 0.8)), CaseSpec((12, 80, 110), (5.0, 0.9, 0.9)),
                          CaseSpec((16, 100, 90), (7.0, 0.7, 0.7), margin=2)], {}),
    (313, "CoarseLast", [CaseSpec((70, 60, 24), (0.8, 0.9, 3.0)), CaseSpec((64, 66, 30), (0.7, 0.8, 2.5))], {}),
    (314, "TwoChannels", [CaseSpec((40, 60, 64), (1.2, 1.0, 1.0), margin=9), CaseSpec((44, 64, 60), (1.0, 1.0, 1.1), margin=10)],
     {"channels": {"0": "T1", "1": "CT"}}),
    (315, "Regions", [CaseSpec((30, 40, 44), (1.5, 1.0, 1.0)), CaseSpec((34, 44, 40), (1.4, 1.1, 1.0))],
     {"labels": {"background": 0, "whole": [1, 2], "lesion": 2, "ignore": 3}}),
]


def prepare(bench: Bench, number: int, geometry: Geometry) -> str:
    """A raw data set that carries `geometry`'s fingerprint on both sides; one small image lets planners find the reader."""
    name = f"Dataset{number:03d}_Plan"
    folder = bench.raw / name
    if not folder.exists():
        for channel in geometry.channels:
            write_image(np.ones((4, 4, 4), np.float32), folder / f"imagesTr/case_000_{int(channel):04d}.nii.gz", (1, 1, 1))
        write_image(np.ones((4, 4, 4), np.uint8), folder / "labelsTr/case_000.nii.gz", (1, 1, 1))
        write_dataset_json(folder, geometry.channels, geometry.labels, len(geometry.shapes))
        for side in (bench.ours, bench.theirs):
            target = side / "preprocessed" / name
            target.mkdir(parents=True)
            (target / "dataset_fingerprint.json").write_text(json.dumps(fingerprint(geometry)))
    return name


def share_plans(bench: Bench, dataset: str, plans_name: str) -> dict[str, Any]:
    """Give our side upstream's plans file of `dataset`, so that later rooms are compared on one plan."""
    source = bench.theirs / "preprocessed" / dataset
    target = bench.ours / "preprocessed" / dataset
    target.mkdir(parents=True, exist_ok=True)
    for file in (f"{plans_name}.json", "dataset_fingerprint.json"):
        shutil.copyfile(source / file, target / file)
    shutil.copyfile(bench.raw / dataset / "dataset.json", target / "dataset.json")
    return json.loads((target / f"{plans_name}.json").read_text())


def planned(bench: Bench, number: int, write: Callable[[], Path], planner: str = "nnUNetPlannerResEncM") -> tuple[Path, dict[str, Any]]:
    """Raw data set written once and planned by upstream; both sides then hold the same plans.

    The fingerprint is written here, from the labels' headers: extraction has a check of its own, and its worker pools are slow.
    """

    def make() -> tuple[Path, dict[str, Any]]:
        folder = write()
        headers = [read_header(file) for file in sorted((folder / "labelsTr").iterdir())]
        channels = json.loads((folder / "dataset.json").read_text())["channel_names"]
        geometry = Geometry(folder.name, [shape for shape, _ in headers], [spacing for _, spacing in headers], channels,
                            relative_size=0.5 if len(channels) > 1 else 1.0)
        target = bench.theirs / "preprocessed" / folder.name
        target.mkdir(parents=True, exist_ok=True)
        (target / "dataset_fingerprint.json").write_text(json.dumps(fingerprint(geometry)))
        plans = bench.upstream.call("upstream_planning:plan", dataset=number, planner=planner, memory=None, spacing=None, name=None)
        share_plans(bench, folder.name, plans["plans_name"])
        return folder, plans

    return bench.once(f"plans {number} {planner}", make)


def read_header(file: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing of a volume, (z, y, x), without its voxels."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return reader.GetSize()[::-1], reader.GetSpacing()[::-1]


def synthetic(bench: Bench) -> Iterator[tuple[Path, dict[str, Any], str]]:
    for number, name, specs, more in DATASETS:
        specs = specs[:2] if bench.reduced else specs
        folder, plans = planned(bench, number, lambda n=number, na=name, s=specs, m=more: write_dataset(bench.raw, n, na, s, **m))
        for i in range(len(specs)):
            yield folder, plans, f"case_{i:03d}"


def write_real_cts(bench: Bench, source: Path) -> Path:
    """Real CTs and their masks as a raw data set of their own."""
    folder = bench.raw / "Dataset320_RealCT"
    images = sorted(p for p in source.glob("*_0000.nii.gz") if p.with_name(p.name.replace("_0000", "")).exists())
    for image in images:
        mask = image.with_name(image.name.replace("_0000", ""))
        for file, kind in ((image, "imagesTr"), (mask, "labelsTr")):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / kind / file.name)
    write_dataset_json(folder, CT, {"background": 0, "pancreas": 1}, len(images))
    return folder


def real(bench: Bench) -> Iterator[tuple[Path, dict[str, Any], str]]:
    source = real_ct_folder()
    if source is None:
        return
    folder, plans = planned(bench, 320, lambda: write_real_cts(bench, source))
    for mask in sorted((folder / "labelsTr").iterdir()):
        yield folder, plans, mask.name.removesuffix(".nii.gz")


def files_of(folder: Path, case: str) -> tuple[list[str], str]:
    return [str(p) for p in sorted((folder / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9].nii.gz"))], str(folder / f"labelsTr/{case}.nii.gz")


def tiny_model(bench: Bench) -> tuple[Path, dict[str, Any]]:
    """The quiz-like data set and plans for it with a configuration `tiny`: its planned topology, few features, a small patch."""

    def make() -> tuple[Path, dict[str, Any]]:
        folder, plans, _ = next(synthetic(bench))
        plans = json.loads(json.dumps(plans))
        plans["plans_name"] = "tinyPlans"
        full = plans["configurations"]["3d_fullres"]
        architecture = json.loads(json.dumps(full["architecture"]))
        kwargs = architecture["arch_kwargs"]
        kwargs |= {"n_stages": 4, "features_per_stage": [8, 12, 16, 24], "kernel_sizes": kwargs["kernel_sizes"][:4],
                   "strides": kwargs["strides"][:4], "n_blocks_per_stage": [1, 1, 2, 2], "n_conv_per_stage_decoder": [1, 1, 1]}
        plans["configurations"]["tiny"] = {**full, "architecture": architecture, "patch_size": [16, 24, 32], "batch_size": 2,
                                           "data_identifier": "tiny_data"}
        cases = [p.name.removesuffix(".nii.gz") for p in sorted((folder / "labelsTr").iterdir())]
        splits = [{"train": cases[:-1], "val": cases[-1:]}, {"train": cases[1:], "val": cases[:1]}]
        for side in (bench.ours, bench.theirs):
            target = side / "preprocessed" / folder.name
            (target / "tinyPlans.json").write_text(json.dumps(plans))
            (target / "splits_final.json").write_text(json.dumps(splits))
            shutil.copyfile(folder / "dataset.json", target / "dataset.json")
        bench.upstream.call("upstream_preprocessing:preprocess", dataset=int(folder.name[7:10]), plans_name="tinyPlans", configurations=["tiny"])
        shutil.copytree(*(side / "preprocessed" / folder.name / "tiny_data" for side in (bench.theirs, bench.ours)))
        return folder, plans

    return bench.once("tiny model", make)
