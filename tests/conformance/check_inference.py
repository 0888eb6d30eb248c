"""Rows: inference. Tiles, weights, logits, exported masks, and whole predictions of models trained on either side."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from nnunetv2.inference.export_prediction import convert_logits_to_labels
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window, mirror_views, predict_windows
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.conformance.bench import Bench, Row, agreeing, equal, within
from tests.conformance.check_network import build
from tests.conformance.datasets import files_of, synthetic, tiny_model
from tests.conformance.models import classified_model, predictions, trained_models

FP32_BOUND = 1e-4


def check_tiles(bench: Bench) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    for step in (0.5, 0.33, 0.75, 1.0):
        tiles = rng.integers(8, 200, (60, 3))
        images = tiles + rng.integers(0, 300, tiles.shape) * rng.integers(0, 2, tiles.shape)
        theirs = bench.upstream.call("upstream_inference:steps", images=images, tiles=tiles, step=step)
        ours = [compute_steps_for_sliding_window(image, tile, step) for image, tile in zip(images.tolist(), tiles.tolist())]
        yield equal(f"tile positions, step {step}, {len(ours)} random image and tile sizes", ours, theirs)


def check_gaussian(bench: Bench) -> Iterator[Row]:
    for tile in ((64, 128, 192), (24, 32, 48), (8, 9, 10)):
        for double in (False, True):
            theirs = bench.upstream.call("upstream_inference:gaussian", tile=tile, double=double)
            compute_gaussian.cache_clear()
            ours = compute_gaussian(tile, 1 / 8, 10, dtype=torch.float64 if double else torch.float16).double().numpy()
            yield within(f"Gaussian map of tile {tile}, {'fp64' if double else 'fp16'}", ours, theirs, 1e-12 if double else 0.0)
    compute_gaussian.cache_clear()


def make_predictor(plans: dict[str, Any], dataset_json: dict[str, Any], files: list[Path], mirroring: tuple[int, ...] | None, step: float,
                   gaussian: bool = True, engine: str = "torch", configuration: str = "tiny") -> nnUNetPredictor:
    manager = PlansManager(plans)
    network = build(plans["configurations"][configuration]["architecture"], 1, 3, deep_supervision=False)
    predictor = nnUNetPredictor(tile_step_size=step, use_gaussian=gaussian, use_mirroring=mirroring is not None, device=torch.device("cpu"),
                                allow_tqdm=False, engine=engine)
    predictor.manual_initialization(network, manager, manager.get_configuration(configuration), [torch.load(f, weights_only=True) for f in files],
                                    dataset_json, "nnUNetTrainer", mirroring)
    return predictor


def in_fp32(predictor: nnUNetPredictor, data: torch.Tensor, mirroring: tuple[int, ...] | None, step: float, gaussian: bool) -> np.ndarray:
    """Our windows with fp32 accumulators, mean over the folds."""
    tile = predictor.configuration_manager.patch_size
    views = mirror_views(mirroring, 8)
    folds = [predict_windows(e, data, tile, step, views, gaussian=gaussian, accumulate=torch.float32) for e in predictor.engines]
    return torch.stack(folds).mean(0).numpy()


def sliding_window_cases(bench: Bench) -> list[tuple[str, tuple[int, ...], dict[str, Any]]]:
    cases = [("8 mirrored views, step 0.5", (24, 30, 50), {"mirroring": (0, 1, 2), "step": 0.5}),
             ("no mirroring, step 0.5", (24, 30, 50), {"mirroring": None, "step": 0.5}),
             ("two mirror axes, step 0.75", (21, 28, 44), {"mirroring": (1, 2), "step": 0.75}),
             ("smaller than the patch, padded", (13, 20, 25), {"mirroring": (0, 1, 2), "step": 0.5}),
             ("two folds", (16, 24, 44), {"mirroring": (0,), "step": 0.5, "folds": 2}),
             ("no Gaussian", (20, 28, 40), {"mirroring": None, "step": 0.5, "gaussian": False})]
    return cases[1:5] if bench.reduced else cases


def sliding_window_inputs(bench: Bench, shape: tuple[int, ...], options: dict[str, Any]) -> tuple:
    """Plans, dataset.json, weight files of the folds, data (1, *shape) and the predictor's settings."""
    folder, plans = tiny_model(bench)

    def weights() -> list[Path]:
        files = [bench.folder / f"fold{i}.pth" for i in range(2)]
        for i, file in enumerate(files):
            torch.manual_seed(10 + i)
            torch.save(build(plans["configurations"]["tiny"]["architecture"], 1, 3, initialise=True).state_dict(), file)
        return files

    files = bench.once("random weights", weights)[: options.get("folds", 1)]
    data = np.random.default_rng(4).normal(size=(1, *shape)).astype(np.float32)
    arguments = {"mirroring": options["mirroring"], "step": options["step"], "gaussian": options.get("gaussian", True)}
    return plans, json.loads((folder / "dataset.json").read_text()), files, data, arguments


def upstream_logits(bench: Bench, plans: dict, dataset_json: dict, files: list[Path], data: np.ndarray,
                    arguments: dict[str, Any], configuration: str = "tiny") -> tuple[np.ndarray, np.ndarray, float]:
    """Upstream's logits as it runs (fp16 sums), the same with fp32 sums, and how far the first are off."""
    half, full = (bench.upstream.call("upstream_inference:sliding_window", plans=plans, dataset_json=dataset_json, configuration=configuration,
                                      files=files, data=data, fp32=fp32, **arguments)["logits"] for fp32 in (False, True))
    return half, full, float(np.abs(half - full).max())


def check_sliding_window(bench: Bench) -> Iterator[Row]:
    for name, shape, options in sliding_window_cases(bench):
        plans, dataset_json, files, data, arguments = sliding_window_inputs(bench, shape, options)
        half, full, own_error = upstream_logits(bench, plans, dataset_json, files, data, arguments)
        predictor, tensor = make_predictor(plans, dataset_json, files, **arguments), torch.from_numpy(data)
        yield within(f"logits, both in fp32, {name}", in_fp32(predictor, tensor, **arguments), full, FP32_BOUND)
        yield within(f"logits, both in fp16 as upstream runs, {name}", predictor.predict_logits_from_preprocessed_data(tensor).float().numpy(),
                     half, own_error, note=f"upstream's fp16 sums are off by {own_error:.2g} from its own fp32")


def check_openvino(bench: Bench) -> Iterator[Row]:
    """On purpose different: OpenVINO runs the network on CPUs. Its logits stay within the error of upstream's own fp16 sums."""
    try:
        import openvino
    except ImportError:
        yield Row("logits by OpenVINO fp32", "not installed", "", "not run", "pip install openvino", False)
        return
    name, shape, options = sliding_window_cases(bench)[-1]
    plans, dataset_json, files, data, arguments = sliding_window_inputs(bench, shape, options)
    theirs, own_error = upstream_logits(bench, plans, dataset_json, files, data, arguments)[::2]
    ours = make_predictor(plans, dataset_json, files, **arguments, engine="openvino").predict_logits_from_preprocessed_data(torch.from_numpy(data))
    yield within(f"logits by OpenVINO {openvino.__version__.split('-')[0]} in fp32 (on purpose), {name}", ours.float().numpy(),
                 theirs, own_error, note=f"upstream's fp16 sums are off by {own_error:.2g} from its own fp32")


def check_cpu_engines_full_size(bench: Bench) -> Iterator[Row]:
    """On purpose different: OpenVINO, and Winograd convolutions, which are the CPU's default in fp32, by a network as wide and deep as planned.

    Random weights, as no trained ones of that size are at hand; they leave many voxels on the edge between two labels: upstream's own
    fp16 sums tip over hundreds of them.
    """
    if bench.reduced:
        return
    engines = ["winograd"] + ["openvino"] * (importlib.util.find_spec("openvino") is not None)  # `check_openvino` has the row that says it is missing
    folder, plans = tiny_model(bench)
    plans = json.loads(json.dumps(plans))
    planned = plans["configurations"]["3d_fullres"]
    plans["configurations"]["full_size"] = {**planned, "patch_size": [32, 64, 96], "data_identifier": "unused"}
    dataset_json = json.loads((folder / "dataset.json").read_text())
    kwargs = planned["architecture"]["arch_kwargs"]
    what = f"in fp32 (on purpose), {kwargs['n_stages']} stages up to {max(kwargs['features_per_stage'])} features, random weights"
    arguments = {"mirroring": None, "step": 0.5, "gaussian": True}
    changed, own, voxels = dict.fromkeys(engines, 0), 0, 0
    for seed in range(3):
        file = bench.folder / f"full_size_{seed}.pth"
        torch.save(random_weights(planned["architecture"], seed), file)
        data = np.random.default_rng(seed).normal(size=(1, 32, 64, 144)).astype(np.float32)  # two windows
        half, full, own_error = upstream_logits(bench, plans, dataset_json, [file], data, arguments, "full_size")
        for engine in engines:
            predictor = make_predictor(plans, dataset_json, [file], **arguments, engine=engine, configuration="full_size")
            if predictor.engines[0].name != engine:
                yield Row(f"logits by {engine} {what} {seed}", f"{predictor.engines[0].name} ran instead", "", "not run", "the engine itself", False)
                continue
            ours = in_fp32(predictor, torch.from_numpy(data), **arguments)
            yield within(f"logits by {engine} {what} {seed}", ours, full, own_error, note=f"upstream's fp16 sums are off by {own_error:.2g} from its own fp32")
            changed[engine] += int(np.count_nonzero(ours.argmax(0) != full.argmax(0)))
        file.unlink()
        own += int(np.count_nonzero(half.argmax(0) != full.argmax(0)))
        voxels += full[0].size
    for engine in engines:
        yield Row(f"labels by {engine} {what}", f"{changed[engine]} voxels changed", f"{own} changed by its own fp16 sums",
                  f"{changed[engine]} of {voxels} voxels", "<= 0.001% of voxels", changed[engine] <= 1e-5 * voxels)


def random_weights(architecture: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """As training leaves them in one respect: residual branches take part, which initialisation switches off by a norm weight of 0."""
    torch.manual_seed(seed)
    weights = build(architecture, 1, 3, initialise=True).state_dict()
    for name, values in weights.items():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(values, 0.5, 1.5)
    return weights


def smooth_logits(shape: tuple[int, ...], heads: int, seed: int) -> np.ndarray:
    """Logits (heads, *shape) with blobs of every class, fp16-representable as the predictor's are."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, 3, (1, heads, *(max(2, n // 7) for n in shape))).astype(np.float32))
    logits = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0]
    logits[0] += 1.0 if heads > 2 else 0.0
    return logits.half().float().numpy()


def check_export(bench: Bench) -> Iterator[Row]:
    """Logits to masks in the image's geometry, and to probabilities: resampled, uncropped, transposed back, with the image's header."""
    cases = list(synthetic(bench))
    for i, (folder, plans, case) in enumerate(cases[::4] if bench.reduced else cases):
        dataset_json = json.loads((folder / "dataset.json").read_text())
        images, _ = files_of(folder, case)
        manager = PlansManager(plans)
        configuration = manager.get_configuration("3d_fullres")
        network = build(configuration.configuration["architecture"], len(images), manager.get_label_manager(dataset_json).num_segmentation_heads,
                        deep_supervision=False) if i == 0 else torch.nn.Identity()
        predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
        predictor.manual_initialization(network, manager, configuration, None, dataset_json, "nnUNetTrainer", None)
        reader = manager.image_reader_writer_class()
        data, properties = predictor._preprocess(*reader.read_images(images), None)
        logits = smooth_logits(tuple(data.shape[1:]), predictor.label_manager.num_segmentation_heads, seed=i)
        for probabilities in (False, True):
            theirs, ours = bench.folder / f"export_upstream_{i}_{probabilities}", bench.folder / f"export_ours_{i}_{probabilities}"
            bench.upstream.call("upstream_inference:export", logits=logits, plans=plans, dataset_json=dataset_json, configuration="3d_fullres",
                                images=images, target=theirs, save_probabilities=probabilities)
            export_here(predictor, logits, properties, ours, probabilities)
            what = f"{folder.name} {case}" + (", with probabilities" if probabilities else "")
            yield from mask_rows(f"exported mask, {what}", Path(f"{ours}.nii.gz"), Path(f"{theirs}.nii.gz"))
            if probabilities:
                a, b = (np.load(f"{p}.npz")["probabilities"] for p in (ours, theirs))
                yield within(f"exported probabilities, {what}", a, b, FP32_BOUND, note=f"{a.dtype} here, {b.dtype} upstream")


def export_here(predictor: nnUNetPredictor, logits: np.ndarray, properties: dict, target: Path, probabilities: bool) -> None:
    """What the predictor does with the logits of a case, without the network in front."""
    from nnunetv2.inference.case_prediction import CasePrediction
    from nnunetv2.inference.export_prediction import convert_prediction_to_segmentation, write_prediction

    shape = tuple(logits.shape[1:])
    prediction = CasePrediction(torch.from_numpy(logits), tuple(slice(0, n) for n in shape), shape, None)
    mask, values = convert_prediction_to_segmentation(
        prediction, properties, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, probabilities)
    write_prediction(mask, values, properties, predictor.plans_manager, target, ".nii.gz")


def mask_rows(what: str, ours: Path, theirs: Path) -> Iterator[Row]:
    a, b = sitk.ReadImage(str(ours)), sitk.ReadImage(str(theirs))
    yield agreeing(what, sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b))
    yield equal(f"header, {what}", *({"size": i.GetSize(), "spacing": i.GetSpacing(), "origin": i.GetOrigin(), "direction": i.GetDirection(),
                                      "type": i.GetPixelIDTypeAsString()} for i in (a, b)))


def check_labels(bench: Bench) -> Iterator[Row]:
    for index in (0, -1):
        folder, plans, _ = list(synthetic(bench))[index]
        dataset_json = json.loads((folder / "dataset.json").read_text())
        manager = PlansManager(plans).get_label_manager(dataset_json)
        logits = smooth_logits((14, 15, 16), manager.num_segmentation_heads, seed=3)
        logits[1, :4] = logits[0, :4]  # ties
        theirs = bench.upstream.call("upstream_inference:labels", dataset_json=dataset_json, plans=plans, logits=logits)
        yield equal(f"labels: heads, foreground, ignore label, {folder.name}",
                    [manager.num_segmentation_heads, manager.foreground_regions if manager.has_regions else manager.foreground_labels, manager.ignore_label],
                    [theirs["heads"], theirs["foreground"], theirs["ignore"]])
        yield within(f"probabilities from logits, {folder.name}", np.asarray(manager.apply_inference_nonlin(torch.from_numpy(logits))),
                     theirs["probabilities"], 1e-6)
        yield agreeing(f"labels from logits, ties included, {folder.name}", convert_logits_to_labels(torch.from_numpy(logits), manager),
                       theirs["segmentation"].astype(np.uint8), 1.0)


def check_models_both_ways(bench: Bench) -> Iterator[Row]:
    """`nnUNetv2_predict` of either side on model folders trained on either side, TTA, probabilities saved: two folds; and one with what upstream does not have."""
    if bench.reduced:
        return  # minutes: two trainings and four predictions in processes of their own
    models = trained_models(bench)
    of_class = predictions(bench, "classified", classified_model(bench), folds=(0,))
    for what, done in (("model trained here", predictions(bench, "ours", models["ours"])), ("model trained upstream", predictions(bench, "upstream", models["upstream"])),
                       ("nnUNetTrainerShort with a class head, trained here", of_class)):
        masks = sorted(p.name for p in done["upstream"].glob("*.nii.gz"))
        yield equal(f"{what}: masks written", sorted(p.name for p in done["ours"].glob("*.nii.gz")), masks)
        for name in masks:
            yield from mask_rows(f"{what}: {name} predicted here and upstream", done["ours"] / name, done["upstream"] / name)
            a, b = (np.load((done[side] / name.replace(".nii.gz", ".npz")))["probabilities"] for side in ("ours", "upstream"))
            yield within(f"{what}: {name} probabilities", a, b, 5e-3, note="fp16 sums on both sides")


def check_checkpoints(bench: Bench) -> Iterator[Row]:
    """Both sides' model folders hold the same files and checkpoint keys."""
    if bench.reduced:
        return
    models = trained_models(bench)
    files = {origin: sorted(str(p.relative_to(m)) for p in m.rglob("*") if p.is_file()) for origin, m in models.items()}
    wanted = ["plans.json", "dataset.json", "dataset_fingerprint.json", "fold_0/checkpoint_final.pth", "fold_0/checkpoint_best.pth",
              "fold_0/progress.png", "fold_0/validation/summary.json"]
    yield equal("model folder: files upstream writes are written here", [f for f in wanted if f in files["ours"]],
                [f for f in wanted if f in files["upstream"]])
    ours, theirs = (torch.load(models[o] / "fold_0/checkpoint_final.pth", weights_only=False) for o in ("ours", "upstream"))
    yield equal("checkpoint: upstream's keys", sorted(k for k in ours if k in theirs), sorted(theirs),
                note=f"added here: {', '.join(sorted(set(ours) - set(theirs)))}")
    yield equal("checkpoint: keys of network_weights", sorted(ours["network_weights"]), sorted(theirs["network_weights"]))
    yield equal("checkpoint: trainer, configuration, mirror axes, epoch",
                [ours["trainer_name"], ours["init_args"]["configuration"], ours["inference_allowed_mirroring_axes"], ours["current_epoch"]],
                [theirs["trainer_name"], theirs["init_args"]["configuration"], theirs["inference_allowed_mirroring_axes"], theirs["current_epoch"]])


CHECKS = [check_tiles, check_gaussian, check_labels, check_sliding_window, check_openvino, check_cpu_engines_full_size, check_export, check_checkpoints, check_models_both_ways]
