"""One process of experiments/engine_speed.py, which starts it with the checkout to run on PYTHONPATH. It prints one line of JSON.

    PYTHONPATH=CHECKOUT python experiments/engine_pass.py time half 64 128 192        seconds of a pass, and a hash of its logits
    PYTHONPATH=CHECKOUT python experiments/engine_pass.py bytes half 20               hashes of the logits of 20 random networks and shapes

It uses nothing but what every checkout since the Winograd layers has.
"""

import hashlib
import json
import random
import sys
import time

import torch
from torch import nn

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.inference.engines import make_engine

CPU = torch.device("cpu")
# the network that nnU-Net's planner makes for the quiz's image size
QUIZ = {"n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320], "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * 5],
        "strides": [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 4], "n_blocks_per_stage": [1, 3, 4, 6, 6, 6], "n_conv_per_stage_decoder": [1] * 5}
LAYERS = {"conv_op": nn.Conv3d, "num_classes": 3, "conv_bias": True, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True},
          "nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}


def engine_of(kind: type, arguments: dict, precision: str, size: tuple[int, ...]):
    """Winograd's engine of a network of random weights, of one channel and no class head."""
    def build() -> nn.Module:
        torch.manual_seed(0)
        return kind(1, **LAYERS | arguments).eval()

    divisor = tuple(int(torch.tensor(axis).prod()) for axis in zip(*arguments["strides"]))
    # an identity, so that what the engine checks at its start is checked in the first process alone
    identity = hashlib.sha256(repr((kind.__name__, arguments)).encode()).hexdigest()
    engine = make_engine(build, CPU, precision, "winograd", 1, divisor, patch_size=size, identity=identity)
    assert engine.name == "winograd", f"{engine.name} serves"
    return engine


def hash_of(logits: torch.Tensor) -> str:
    return hashlib.sha256(logits.contiguous().numpy().tobytes()).hexdigest()[:16]


def timed(precision: str, size: tuple[int, ...], passes: int = 3) -> dict:
    """The fastest of `passes` after a first one: seconds on the clock and of all cores together."""
    x = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
    engine = engine_of(ResidualEncoderUNet, QUIZ, precision, size)
    logits = engine(x, classify=False)[0]
    seconds, cpu_seconds = [], []
    for _ in range(passes):
        clock, cpu = time.perf_counter(), time.process_time()
        engine(x, classify=False)
        seconds.append(time.perf_counter() - clock)
        cpu_seconds.append(time.process_time() - cpu)
    return {"seconds": min(seconds), "cpu_seconds": min(cpu_seconds), "hash": hash_of(logits), "checkout": sys.modules["nnunetv2"].__path__[0]}


def random_case(seed: int) -> tuple[type, dict, tuple[int, ...]]:
    """A network of two to four stages and a size that it takes; kernels and strides among those that planners make."""
    draw = random.Random(seed)
    kind, stages = draw.choice((ResidualEncoderUNet, PlainConvUNet)), draw.randint(2, 4)
    flat = draw.choice(([1, 2, 2], [2, 2, 2]))
    kernels = [draw.choice(([1, 3, 3], [3, 3, 3])) for _ in range(stages)]
    strides = [[1, 1, 1], *[flat if draw.random() < 0.5 else [2, 2, 2] for _ in range(stages - 1)]]
    features = [16 * draw.randint(1, 6) for _ in range(stages)]
    blocks = [draw.randint(1, 2) for _ in range(stages)]
    arguments = {"n_stages": stages, "features_per_stage": features, "kernel_sizes": kernels, "strides": strides,
                 "n_conv_per_stage_decoder": [draw.randint(1, 2) for _ in range(stages - 1)],
                 "n_blocks_per_stage" if kind is ResidualEncoderUNet else "n_conv_per_stage": blocks}
    divisor = [int(torch.tensor(axis).prod()) for axis in zip(*strides)]
    return kind, arguments, tuple(d * draw.randint(2, max(3, 40 // d)) for d in divisor)


def hashes(precision: str, n: int) -> dict:
    result = {}
    for seed in range(n):
        kind, arguments, size = random_case(seed)
        x = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed))
        x[..., size[0] // 2:, :, :] += 3 * (seed % 3)  # steps too: sums of noise alone stay small
        logits = engine_of(kind, arguments, precision, size)(x, classify=False)[0]
        assert logits.isfinite().all()
        result[f"{seed} {kind.__name__} {size}"] = hash_of(logits)
    return {"hashes": result, "checkout": sys.modules["nnunetv2"].__path__[0]}


if __name__ == "__main__":
    what, precision, *numbers = sys.argv[1:]
    with torch.no_grad():
        print(json.dumps(timed(precision, tuple(map(int, numbers))) if what == "time" else hashes(precision, int(numbers[0]))))
