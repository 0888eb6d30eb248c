"""Rows: architectures. Weights of either side load strictly in the other and give the same logits."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dynamic_network_architectures.architectures.unet import seg_and_class
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from tests.conformance.bench import Bench, Row, equal, within
from tests.conformance.cases import GEOMETRIES
from tests.conformance.datasets import PLANNERS, prepare

LOGIT_BOUND = 1e-5
CLASS_HEAD = {"n_classes": 3, "lesion_labels": [2], "regions": {"lesion": [2], "pancreas": [1, 2], "patch": None},
              "stages": [0, 1, 2], "statistics": ["mean", "std"], "descriptors": True, "hidden": 0, "dropout": 0.1}


def build(architecture: dict[str, Any], channels: int, heads: int, initialise: bool = False, deep_supervision: bool = True,
          class_head: dict[str, Any] | None = None) -> torch.nn.Module:
    return get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"],
                                  architecture["_kw_requires_import"], channels, heads, allow_init=initialise,
                                  deep_supervision=deep_supervision, class_head=class_head)


def narrow(architecture: dict[str, Any], divisor: int) -> dict[str, Any]:
    """The same topology with fewer features, at least 4 a stage."""
    kwargs = architecture["arch_kwargs"]
    features = [max(4, f // divisor) for f in kwargs["features_per_stage"]]
    return {**architecture, "arch_kwargs": {**kwargs, "features_per_stage": features}}


def architectures(bench: Bench) -> Iterator[tuple[str, dict[str, Any]]]:
    """Networks of the four planners for the quiz's geometry, plus 2D and strongly anisotropic ones, as upstream plans them."""
    wanted = [(0, p, "3d_fullres") for p in PLANNERS] + [(0, PLANNERS[1], "2d"), (2, PLANNERS[0], "3d_fullres")]
    for geometry, planner, configuration in wanted[:2] if bench.reduced else wanted:
        prepare(bench, 400 + geometry, GEOMETRIES[geometry])
        plans = bench.upstream.call("upstream_planning:plan", dataset=400 + geometry, planner=planner, memory=None, spacing=None,
                                    name=None)
        architecture = plans["configurations"][configuration]["architecture"]
        yield f"{planner} {configuration}, {GEOMETRIES[geometry].name}", narrow(architecture, 8) if bench.reduced else architecture


def smallest_input(architecture: dict[str, Any], channels: int, batch: int = 1, at_bottleneck: int = 2) -> np.ndarray:
    """Random (batch, channels, *spatial) with `at_bottleneck` voxels a side at the lowest resolution."""
    shape = np.prod(architecture["arch_kwargs"]["strides"], axis=0) * at_bottleneck
    return np.random.default_rng(3).normal(size=(batch, channels, *shape)).astype(np.float32)


def check_weights_and_logits(bench: Bench) -> Iterator[Row]:
    for i, (name, architecture) in enumerate(architectures(bench)):
        channels, heads = 1, 3
        x = smallest_input(architecture, channels)
        theirs_file, ours_file = bench.folder / f"theirs_{i}.pth", bench.folder / f"ours_{i}.pth"
        keys = bench.upstream.call("upstream_network:initialise", architecture=architecture, channels=channels, heads=heads,
                                   seed=i, file=theirs_file)
        network = build(architecture, channels, heads, initialise=True).eval()
        state = network.state_dict()
        yield equal(f"state_dict keys and shapes, {name}", {k: list(state[k].shape) for k in sorted(state)},
                    {k: keys[k] for k in sorted(keys)}, note=f"{len(state)} keys")
        torch.save(state, ours_file)
        reference = bench.upstream.call("upstream_network:logits", architecture=architecture, channels=channels, heads=heads,
                                        file=ours_file, x=x)
        yield logits_row(f"our weights upstream, logits, {name}", network, x, reference)
        network.load_state_dict(torch.load(theirs_file, weights_only=True))
        reference = bench.upstream.call("upstream_network:logits", architecture=architecture, channels=channels, heads=heads,
                                        file=theirs_file, x=x)
        yield logits_row(f"upstream's weights here, logits, {name}", network, x, reference)
        for file in (theirs_file, ours_file):
            file.unlink()


def logits_row(what: str, network: torch.nn.Module, x: np.ndarray, reference: list[np.ndarray]) -> Row:
    with torch.no_grad():
        outputs, _ = seg_and_class(network(torch.from_numpy(x)))
    if [tuple(o.shape) for o in outputs] != [r.shape for r in reference]:
        return equal(what, [list(o.shape) for o in outputs], [list(r.shape) for r in reference])
    flat = [np.concatenate([np.asarray(a).ravel() for a in side]) for side in (outputs, reference)]
    return within(what, *flat, LOGIT_BOUND, note=f"{len(outputs)} resolutions")


def check_feature_map_size(bench: Bench) -> Iterator[Row]:
    for name, architecture in architectures(bench):
        patch = [int(s) for s in np.prod(architecture["arch_kwargs"]["strides"], axis=0) * 3]
        ours = int(build(architecture, 1, 3).compute_conv_feature_map_size(patch))
        theirs = bench.upstream.call("upstream_network:feature_map_size", architecture=architecture, channels=1, heads=3, patch=patch)
        yield equal(f"memory estimate (feature map voxels), {name}", ours, theirs)


def check_class_head_changes_nothing(bench: Bench) -> Iterator[Row]:
    """Same weights with and without a class head: identical segmentation logits, and upstream loads the segmentation part."""
    name, architecture = next((n, a) for n, a in architectures(bench) if "ResEncM" in n)
    architecture = narrow(architecture, 4)
    torch.manual_seed(0)
    plain_net = build(architecture, 1, 3, initialise=True).eval()
    with_head = build(architecture, 1, 3, class_head=CLASS_HEAD).eval()
    outcome = with_head.load_state_dict(plain_net.state_dict(), strict=False)
    yield equal("class head: what upstream's weights lack is the head alone",
                [k for k in outcome.missing_keys if not k.startswith("class_head.")] + outcome.unexpected_keys, [])
    x = torch.from_numpy(smallest_input(architecture, 1, batch=2, at_bottleneck=3))
    with torch.no_grad():
        alone = plain_net(x)
        beside, class_logits = with_head(x)
    yield equal("class head: what a network without one returns, shape of class_logits with one",
                [type(alone).__name__, list(class_logits.shape)], ["list", [2, 3]])
    for i, (a, b) in enumerate(zip(beside, alone)):
        yield within(f"class head changes nothing: segmentation logits, resolution {i}", a.numpy(), b.numpy(), 0.0,
                     note="ours with head against ours without")
    file = bench.folder / "with_head.pth"
    torch.save({k: v for k, v in with_head.state_dict().items() if not k.startswith("class_head.")}, file)
    reference = bench.upstream.call("upstream_network:logits", architecture=architecture, channels=1, heads=3, file=file, x=x.numpy())
    yield logits_row(f"network with class head: segmentation weights upstream, {name}", with_head, x.numpy(), reference)


CHECKS = [check_weights_and_logits, check_feature_map_size, check_class_head_changes_nothing]
