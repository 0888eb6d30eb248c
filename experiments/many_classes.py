"""From logits of many classes to the mask on the image's grid: seconds here and in nnU-Net 2.8.1, on SYNTHETIC logits.

    python -m experiments.many_classes                                   104 classes, 80 x 160 x 160 voxels; 2 minutes, 4 GiB
    python -m experiments.many_classes --classes 13 --shape 48 110 160
    NNUNET_UPSTREAM_PYTHON=.venv-upstream/bin/python python -m experiments.many_classes     beside nnU-Net (run_conformance.sh --environment)

One thread. Each class is a ball with a soft edge. The image's grid is finer than the network's by 1.25 along each axis.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nnunetv2.inference.case_prediction import CasePrediction
from nnunetv2.inference.export_prediction import resample_logits_to_segmentation_box
from nnunetv2.utilities.commands import Parser
from nnunetv2.utilities.label_handling.label_handling import LabelManager

NETWORK, IMAGE = (1.5, 1.5, 1.5), (1.2, 1.2, 1.2)  # mm
UPSTREAM = """
import sys, time
import numpy, torch
torch.set_num_threads(1)
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
logits, result = torch.from_numpy(numpy.load(sys.argv[1])), sys.argv[2]
start = time.perf_counter()
resampled = resample_data_or_seg_to_shape(logits, [int(n) for n in sys.argv[3:]], [1.5] * 3, [1.2] * 3, is_seg=False, order=1, order_z=0, force_separate_z=None)
mask = torch.as_tensor(resampled).argmax(0).numpy()
print(time.perf_counter() - start)
numpy.save(result, mask)
"""


def balls(classes: int, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Logits (classes, D, H, W) float16: background 2, and each class falls off by 1 per voxel from the surface of its ball."""
    rng = np.random.default_rng(seed)
    logits = np.empty((classes, *shape), np.float16)
    logits[0] = 2
    voxels = np.indices(shape, np.float32)
    for channel in range(1, classes):
        centre, radius = rng.random(3) * shape, rng.uniform(0.06, 0.2) * min(shape)
        distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(voxels, centre)))
        logits[channel] = np.clip(radius - distance, -12, 12)
    return logits


def here(logits: np.ndarray, image_shape: Sequence[int]) -> tuple[float, np.ndarray]:
    """Seconds, and the mask of `image_shape`."""
    labels = LabelManager({"background": 0} | {f"class {i}": i for i in range(1, len(logits))}, None)
    shape = tuple(logits.shape[1:])
    prediction = CasePrediction(torch.from_numpy(logits), tuple(slice(0, n) for n in shape), shape, None)
    start = time.perf_counter()
    part, box = resample_logits_to_segmentation_box(prediction, image_shape, NETWORK, IMAGE, labels)
    mask = np.zeros(image_shape, part.dtype)
    mask[box] = part
    return time.perf_counter() - start, mask


def in_upstream(python: str, logits: np.ndarray, image_shape: Sequence[int]) -> tuple[float, np.ndarray]:
    """The same by nnU-Net in the environment of `python`."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "logits.npy"), Path(folder, "mask.npy")
        np.save(given, logits)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([python, "-c", UPSTREAM, str(given), str(result), *map(str, image_shape)], capture_output=True, text=True, check=True,
                              env=environment, cwd=folder)
        return float(done.stdout.split()[-1]), np.load(result)


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--classes", type=int, default=104, help="with the background (default 104)")
    parser.add_argument("--shape", type=int, nargs=3, default=(80, 160, 160), metavar=("D", "H", "W"), help="voxels of the network's grid")
    args = parser.parse_args(arguments)
    if args.classes < 2 or min(args.shape) < 2:
        parser.error("at least 2 classes and 2 voxels along each axis")
    torch.set_num_threads(1)
    logits = balls(args.classes, args.shape)
    image_shape = [round(n * a / b) for n, a, b in zip(args.shape, NETWORK, IMAGE)]
    seconds, mask = here(logits, image_shape)
    print(f"here: {seconds:.2f} s", flush=True)
    python = os.environ.get("NNUNET_UPSTREAM_PYTHON")
    if python is None:
        print("nnU-Net: not run; NNUNET_UPSTREAM_PYTHON names no Python that has it", file=sys.stderr)
        return
    theirs, their_mask = in_upstream(os.path.abspath(python), logits, image_shape)
    print(f"nnU-Net 2.8.1: {theirs:.2f} s, {theirs / seconds:.1f} times as long; {int((mask != their_mask).sum())} of {mask.size} voxels differ")


if __name__ == "__main__":
    main()
