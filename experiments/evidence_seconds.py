"""What the class's evidence costs per case at the quiz's image size: CPU seconds of every block, in true masks of SYNTHETIC CTs, one thread.

    python -m experiments.evidence_seconds                  # results/evidence_seconds.{json,md}, about 2 minutes
    python -m experiments.evidence_seconds --cases 6 --out /tmp/seconds
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.evidence_blocks import SEED, made_cases, read_case
from experiments.record_run import code_commit, environment, shown_command
from nnunetv2.class_evidence.blocks import BLOCKS
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.files import save_json

PRESET = "quiz"


def seconds_of(image: Path, mask: Path) -> dict[str, float]:
    """CPU seconds of finding the case's organ and lesion, and of each block; what several blocks share counts for the first that needs it."""
    data, labels, properties, measurement = read_case(image, mask)
    start = time.process_time()
    case = measurement.case(data, labels, properties)
    found = {"case": time.process_time() - start}
    for name, block in BLOCKS.items():
        start = time.process_time()
        block(case)
        found[name] = time.process_time() - start
    return found


def markdown(result: Mapping[str, Any]) -> str:
    total = result["seconds_a_case"]
    return "\n".join([
        "# SYNTHETIC: what the class's evidence costs", "",
        f"{total['mean']:.2f} CPU seconds per case ({total['min']:.2f} to {total['max']:.2f}), n = {result['n']} CTs of the quiz's size, one thread.", "",
        "| part | CPU seconds per case |", "|---|---|", *(f"| {name} | {value:.2f} |" for name, value in result["parts"].items()), "",
        f"{result['environment'].get('CPU', '')}; commit {result['commit']}; `{result['command']}`.", ""])


@script
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--cases", type=whole_number(3), default=12)
    parser.add_argument("--out", type=Path, default=Path("results/evidence_seconds"))
    args: argparse.Namespace = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [seconds_of(*files) for files in made_cases(args.out / "work" / f"{PRESET}_{args.cases}", PRESET, args.cases).values()]
    totals = [sum(row.values()) for row in rows]
    result = {"synthetic": True, "command": shown_command("evidence_seconds", sys.argv[1:] if arguments is None else arguments),
              "commit": code_commit(), "environment": environment("cpu"), "n": args.cases, "seed": SEED,
              "seconds_a_case": {"mean": float(np.mean(totals)), "min": min(totals), "max": max(totals)},
              "parts": {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}}
    save_json(result, args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))
    return 0


if __name__ == "__main__":
    main()
