"""Compare the CPU's compiled layers of two checkouts of this repository: seconds of a pass, or bytes of logits.

    python -m experiments.engine_speed ../before .                       a table; 20 minutes at the quiz's window on one core
    python -m experiments.engine_speed ../before . --bytes 20            whether 20 random networks and shapes give the same bytes; minutes

Each run is a process, and rounds go through the rows forwards and backwards in turn, so that a slow minute helps no row. Ratios
are the median over rounds of a round's two runs. `half` is 16-bit integers, also on CPUs where `auto` would not take them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from experiments.record_run import hardware
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.errors import InputError

ONE_PASS = Path(__file__).with_name("engine_pass.py")


def run_pass(checkout: Path, threads: int, *arguments: object) -> dict:
    """What engine_pass.py prints of `checkout`. InputError with its last words if it fails or runs other code."""
    environ = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, str(ONE_PASS), *map(str, arguments)], capture_output=True, text=True, env=environ, cwd=checkout)
    if run.returncode:
        raise InputError(f"{checkout}: {' '.join(map(str, arguments))} ended with status {run.returncode}:\n{run.stderr[-2000:]}")
    result = json.loads(run.stdout.splitlines()[-1])
    if Path(result["checkout"]).parent != checkout:
        raise InputError(f"{checkout}: the package in {result['checkout']} ran instead. Name the root of a checkout.")
    return result


def compare_times(checkouts: list[Path], precisions: list[str], size: list[int], rounds: int, threads: int) -> None:
    """Print a table of medians, and what the second checkout takes of the first one's time."""
    rows = [(precision, checkout) for precision in precisions for checkout in checkouts]
    runs: dict[tuple[str, Path], list[dict]] = {row: [] for row in rows}
    for row in rows:  # compiles, and checks the layers, where that has not been done
        run_pass(row[1], threads, "time", row[0], *size)
    for number in range(rounds):
        for row in rows if number % 2 == 0 else reversed(rows):
            runs[row].append(run_pass(row[1], threads, "time", row[0], *size))
            print(f"[{number + 1}/{rounds}] {row[0]}, {row[1]}: {runs[row][-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    print(f"One pass of {' x '.join(map(str, size))} voxels, random weights and noise (SYNTHETIC); {hardware()}, {threads} threads, {rounds} rounds.\n")
    print("| precision | checkout | seconds: median (lowest-highest) | CPU seconds: median | ratio of seconds | of CPU seconds | same bytes |")
    print("|---|---|---|---|---|---|---|")
    for precision, checkout in rows:
        ours, first = runs[precision, checkout], runs[precision, checkouts[0]]
        seconds = [run["seconds"] for run in ours]
        ratios = [median(run[what] / other[what] for run, other in zip(ours, first)) for what in ("seconds", "cpu_seconds")]
        same = {run["hash"] for run in ours} == {run["hash"] for run in first}
        print(f"| {precision} | {checkout.name} | {median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f}) "
              f"| {median(run['cpu_seconds'] for run in ours):.2f} | {ratios[0]:.3f} | {ratios[1]:.3f} | {'yes' if same else 'no'} |")


def compare_bytes(checkouts: list[Path], precisions: list[str], n: int, threads: int) -> int:
    """Print the cases whose logits differ. Returns 1 if there are any, else 0."""
    different = 0
    for precision in precisions:
        first, second = (run_pass(checkout, threads, "bytes", precision, n)["hashes"] for checkout in checkouts)
        unlike = [case for case in first if first[case] != second[case]]
        print(f"{precision}: the same bytes in {n - len(unlike)} of {n} networks and shapes" + "".join(f"\n  not in {case}" for case in unlike))
        different += len(unlike)
    return int(different > 0)


@script
def main(arguments: list[str] | None = None) -> int | None:
    parser = Parser(__doc__)
    parser.add_argument("checkouts", nargs=2, type=Path, metavar="CHECKOUT", help="roots of two checkouts; ratios are to the first")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "half"), default=["fp32", "half"])
    parser.add_argument("--size", nargs=3, type=whole_number(32), default=[64, 128, 192], metavar=("D", "H", "W"),
                        help="of the window, multiples of 16, 32, 32")
    parser.add_argument("--rounds", type=whole_number(1), default=5)
    parser.add_argument("--threads", type=whole_number(1), default=1)
    parser.add_argument("--bytes", type=whole_number(1), metavar="N", help="compare the logits of N random networks instead of times")
    args = parser.parse_args(arguments)
    checkouts = [path.resolve() for path in args.checkouts]
    missing = [str(path) for path in checkouts if not (path / "nnunetv2" / "inference" / "engines").is_dir()]
    if missing:
        raise InputError(f"{', '.join(missing)}: no checkout of this repository. Name folders that hold nnunetv2/inference/engines.")
    if args.bytes:
        return compare_bytes(checkouts, args.precisions, args.bytes, args.threads)
    compare_times(checkouts, args.precisions, args.size, args.rounds, args.threads)
    return None


if __name__ == "__main__":
    main()
