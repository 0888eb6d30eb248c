"""Rows: code that others write around nnU-Net. Custom trainers and small programs (downstream/), run here and upstream unchanged."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.bench import Bench, Row, agreeing, equal, within
from tests.conformance.datasets import planned, tiny_model
from tests.conformance.downstream import programs, trainers, training
from tests.conformance.models import trained_models

LOSS_BOUND = 1e-4  # relative, after four steps
LOGIT_BOUND = 1e-3
PROBABILITY_BOUND = 5e-3  # as for predicted files: half a unit in the last place of a logit of 20 in fp16 is .008


def check_custom_trainers(bench: Bench) -> Iterator[Row]:
    folder, plans = tiny_model(bench)
    dataset_json = json.loads((folder / "dataset.json").read_text())
    for name in trainers.FEW if bench.reduced else trainers.TRAINERS:
        # upstream writes the start weights, which both trainings then begin with
        start = bench.folder / f"start_{name}.pth"
        theirs = bench.upstream.call("downstream.training:train", trainer=name, plans=plans, dataset_json=dataset_json, configuration="tiny", weights=str(start))
        with bench.environment():
            ours = training.train(name, json.loads(json.dumps(plans)), dataset_json, "tiny", str(start))
        # loaders that ask for no split: here the record of the training still asks, once
        passed_over = {"do_split"} - set(theirs["calls"])
        if not theirs["outcome"]:  # both sides draw batches of their own, and these decide whether an epoch is the best so far
            passed_over.add("save_checkpoint checkpoint_best.pth")
        calls, expected = ([call for call in side["calls"] if call not in passed_over] for side in (ours, theirs))
        yield equal(f"{name}: hooks called, in order", calls, expected, note=f"{len(theirs['calls'])} calls")
        yield equal(f"{name}: network, optimiser, rates, transforms, batches, cases, checkpoints", ours["settings"], theirs["settings"])
        for key, value in theirs["outcome"].items():
            yield within(f"{name}: {key} after training", np.array(ours["outcome"][key]), np.array(value), LOSS_BOUND, relative=True)


def both(bench: Bench, program: str, **arguments: Any) -> tuple[Any, Any]:
    """What `program` returns here and upstream."""
    theirs = bench.upstream.call(f"downstream.programs:{program}", **arguments)
    with bench.environment():
        return getattr(programs, program)(**{key: json.loads(json.dumps(value)) if isinstance(value, dict) else value for key, value in arguments.items()}), theirs


def check_programs_that_predict(bench: Bench) -> Iterator[Row]:
    model = trained_models(bench)["upstream"]
    images = [str(file) for file in sorted((bench.raw / tiny_model(bench)[0].name / "imagesTr").iterdir())[:2]]
    ours, theirs = both(bench, "arrays_in_memory", model=str(model), images=images)
    for i in range(len(images)):
        yield agreeing(f"program on arrays in memory: mask {i}", ours["masks"][i], theirs["masks"][i])
        yield within(f"program on arrays in memory: probabilities {i}", ours["probabilities"][i], theirs["probabilities"][i], PROBABILITY_BOUND,
                     note="fp16 sums on both sides")
    ours, theirs = both(bench, "own_loop", model=str(model), image=images[1])
    yield within("program with a loop of its own: preprocessed array", ours["preprocessed"], theirs["preprocessed"], 1e-5)
    yield within("program with a loop of its own: logits", ours["logits"], theirs["logits"], LOGIT_BOUND, relative=True)
    yield agreeing("program with a loop of its own: mask", ours["mask"], theirs["mask"])
    ours, theirs = both(bench, "own_network", model=str(model), image=images[0])
    yield agreeing("program with a network of its own: mask", ours["mask"], theirs["mask"])


def check_programs_on_data(bench: Bench) -> Iterator[Row]:
    folder, plans = tiny_model(bench)
    dataset_json = json.loads((folder / "dataset.json").read_text())
    ours, theirs = both(bench, "plans_as_data", plans=plans, dataset_json=dataset_json)
    yield within("program that reads plans: importance map", ours.pop("gaussian"), theirs.pop("gaussian"), 1e-4, relative=True)
    yield equal("program that reads plans: every value", ours, theirs)
    planned(bench, 311, lambda: folder)  # both sides hold the fingerprint
    yield equal("planner of one's own: patch, batch, network", *both(bench, "own_planner", dataset=folder.name))
    predicted, truth = Path(trained_models(bench)["upstream"]) / "fold_0" / "validation", bench.folder / "truth_of_predicted"
    truth.mkdir(exist_ok=True)
    for file in predicted.glob("case_*.nii.gz"):
        (truth / file.name).write_bytes((folder / "labelsTr" / file.name).read_bytes())
    ours, theirs = both(bench, "metrics_of_folders", truth=str(truth), predicted=str(predicted))
    yield equal("program that scores folders", ours, theirs)
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (folder / "labelsTr").iterdir())[:2]
    results = []
    for side in (bench.theirs, bench.ours):
        arguments = {"folder": str(side / "preprocessed" / folder.name / "tiny_data"), "plans": plans, "dataset_json": dataset_json, "cases": cases}
        results.append(bench.upstream.call("downstream.programs:batches_of_one_s_own", **arguments) if side == bench.theirs
                       else programs.batches_of_one_s_own(**arguments))
    theirs, ours = results
    yield within("program with batches of its own: the case", ours.pop("data"), theirs.pop("data"), 1e-5)
    yield equal("program with batches of its own: labels, shapes, keys", ours, theirs)


CHECKS = [check_custom_trainers, check_programs_that_predict, check_programs_on_data]
