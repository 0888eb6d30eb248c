"""How long a training step takes on this CPU, lever by lever: each row is a process of its own, rows take turns.

    python -m experiments.training_step                                   # results/training_step.{json,md}
    python -m experiments.training_step --rounds 1 --patch 32 64 64 --out /tmp/step

The network is the one that nnU-Net's planner makes for the quiz's image size, a class head left out, with the trainer's loss and optimiser on
random patches. `--isa` adds rows as on a CPU with fewer instructions, which oneDNN then leaves unused.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from dynamic_network_architectures.architectures.bf16_convolutions import trust_bf16
from dynamic_network_architectures.architectures.cpu_layout import lay_out_for_cpu
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from experiments.engine_pass import LAYERS, QUIZ
from experiments.measured_process import tree_memory
from experiments.record_run import code_commit, environment, shown_command
from nnunetv2.training.nnUNetTrainer.cpu_training import FAST_IN_BF16, in_float32
from nnunetv2.training.nnUNetTrainer.objective import deep_supervision_weights
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.muon import Muon, split
from nnunetv2.utilities.allocator import keep_freed_memory
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.cpu_flags import cpu_flags
from nnunetv2.utilities.files import save_json

REPOSITORY = Path(__file__).resolve().parents[1]
BATCH, STEPS = 2, 4  # the first step is not timed
ISAS = {"AVX-512": "AVX512_CORE_VNNI", "AVX2": "AVX2"}


@dataclass(frozen=True)
class Levers:
    """keep: freed memory stays with the process. layout: channels last, norm and nonlinearity in one step, fused optimiser. bf16: see autocast. muon: in place of
    nnU-Net's optimiser."""

    keep: bool
    layout: bool
    bf16: bool
    muon: bool = False


ROWS = {
    "as nnU-Net": Levers(False, False, False),
    "memory kept": Levers(True, False, False),
    "layout": Levers(False, True, False),
    "memory kept, layout": Levers(True, True, False),
    "bf16": Levers(False, False, True),
    "memory kept, layout, bf16": Levers(True, True, True),
    "memory kept, layout, bf16, Muon": Levers(True, True, True, muon=True),
}


def time_row(levers: Levers, patch: tuple[int, ...]) -> dict[str, Any]:
    """Seconds of each step after the first, the losses, and the most memory in GiB."""
    torch.manual_seed(0)
    if levers.keep and not keep_freed_memory():
        raise SystemExit("Freed memory is kept with glibc alone; this system has another C library.")
    network = ResidualEncoderUNet(1, **QUIZ | LAYERS, deep_supervision=True)
    network.apply(network.initialize)
    if levers.layout:
        lay_out_for_cpu(network)
    if levers.bf16 and not trust_bf16(network, (BATCH, 1, *patch)):
        raise SystemExit("This CPU computes convolutions of the network wrongly in bf16.")
    if levers.muon:
        optimizer = Muon(*split(network, network.parameters()), lr=1e-2)
    else:
        optimizer = torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True, fused=levers.layout or None)
    x = torch.randn(BATCH, 1, *patch)
    coarse = torch.randn(BATCH, 1, *(4 for _ in patch))
    with torch.no_grad():
        sizes = [logits.shape[2:] for logits in network(x)]
    targets = [torch.nn.functional.interpolate(coarse, size=size, mode="trilinear").gt(0.3).float() for size in sizes]
    loss_of = DeepSupervisionWrapper(DC_and_CE_loss({"batch_dice": False, "do_bg": False, "smooth": 1e-5}, {}), deep_supervision_weights(len(sizes)))
    seconds, losses = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=levers.bf16):
            loss = loss_of(in_float32(network(x)), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    return {"seconds": seconds[1:], "losses": losses, "GiB": _most_memory() / 2**30}


def _most_memory() -> int:
    """Bytes that this process has held at most, as Linux counts; elsewhere what it holds now."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return tree_memory(os.getpid())
    return next(1024 * int(line.split()[1]) for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))


def in_a_process(row: str, patch: tuple[int, ...], threads: int, isa: str | None) -> dict[str, Any]:
    variables = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY)} | ({} if isa is None else {"ONEDNN_MAX_CPU_ISA": ISAS[isa]})
    command = [sys.executable, "-m", "experiments.training_step", "--row", row, "--patch", *map(str, patch)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Row {row!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def markdown(result: Mapping[str, Any]) -> str:
    lines = ["# A training step on a CPU (SYNTHETIC patches)", "",
             f"ResEnc M as planned for the quiz, batch {BATCH}, patch {' x '.join(map(str, result['patch']))}, {result['threads']} threads, random patches. "
             f"Median of {result['rounds']} processes of {STEPS - 1} steps each, in brackets the fastest and the slowest.", "",
             "| instructions | row | seconds per step | times faster | GiB | loss after 3 steps |", "|---|---|---|---|---|---|"]
    lines += [f"| {row['instructions']} | {row['row']} | {row['seconds']:.2f} ({row['fastest']:.2f} to {row['slowest']:.2f}) | "
              f"{row['times_faster']:.2f} | {row['GiB']:.1f} | {row['loss']:.4f} |" for row in result["rows"]]
    return "\n".join([*lines, "", f"{result['environment'].get('CPU', '')}; commit {result['commit']}; `{result['command']}`.", ""])


def summary(runs: list[dict[str, Any]], of: float | None) -> dict[str, float]:
    """of: seconds of the first row with the same instructions; None: this is it."""
    seconds = [value for run in runs for value in run["seconds"]]
    return {"seconds": median(seconds), "fastest": min(seconds), "slowest": max(seconds), "times_faster": 1.0 if of is None else of / median(seconds),
            "GiB": max(run["GiB"] for run in runs), "loss": runs[0]["losses"][-1]}


@script
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=3)
    parser.add_argument("--patch", type=whole_number(32), nargs=3, default=[64, 96, 96], metavar=("Z", "Y", "X"), help="each divisible by 32, z by 16")
    parser.add_argument("--threads", type=whole_number(1), default=2)
    parser.add_argument("--isa", choices=ISAS, nargs="*", default=list(ISAS), help="fewer instructions, beside all that the CPU has")
    parser.add_argument("--out", type=Path, default=Path("results/training_step"), help="results, without ending")
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS), metavar="ROW", help=f"the first is what others are measured by: {'; '.join(ROWS)}")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    patch = tuple(args.patch)
    if args.row is not None:
        print(json.dumps(time_row(ROWS[args.row], patch)))
        return 0
    # bf16 without instructions for it takes longer than fp32
    kinds = [(isa, row) for isa in (None, *args.isa) for row in args.rows if not ROWS[row].bf16 or isa is None and FAST_IN_BF16 & cpu_flags()]
    runs: dict[tuple[str | None, str], list[dict]] = {kind: [] for kind in kinds}
    turns = [kind for turn in range(args.rounds) for kind in (kinds if turn % 2 == 0 else kinds[::-1])]
    for isa, row in tqdm(turns, "processes"):
        runs[isa, row].append(in_a_process(row, patch, args.threads, isa))
    rows, first = [], {}
    for (isa, row), of_row in runs.items():
        found = summary(of_row, first.get(isa))
        first.setdefault(isa, found["seconds"])
        rows.append({"instructions": isa or "all of this CPU", "row": row, **found})
    result = {"synthetic": True, "command": shown_command("training_step", sys.argv[1:] if arguments is None else arguments), "commit": code_commit(),
              "environment": environment("cpu"), "patch": patch, "threads": args.threads, "rounds": args.rounds, "steps": args.rounds * (STEPS - 1), "rows": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_json(result, args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    print(f"Written: {args.out}.json, {args.out}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
