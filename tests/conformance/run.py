"""Run every comparison with upstream nnU-Net, print the table and write results/conformance.json.

    bash experiments/run_conformance.sh            # builds the reference environment first; twenty minutes on 2 cores
    python -m tests.conformance.run --only network loss --reduced
"""

import importlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.record_run import code_commit, shown_command
from nnunetv2.utilities.commands import Parser
from nnunetv2.utilities.cpu_flags import cpu_model
from nnunetv2.utilities.files import atomic_write
from tests.conformance.bench import REPOSITORY, THREADS, Bench, Row, reference_python

ROOMS = ["imageio", "planning", "preprocessing", "network", "loss", "training", "inference", "evaluation", "commands", "downstream"]
SHARING = {"inference", "evaluation", "commands", "downstream"}  # rooms whose checks share trained models: one process does them
WITHOUT_MODELS = {"check_cpu_engines_full_size", "check_sliding_window", "check_custom_trainers"}  # but these
Unit = tuple[str, str]  # room, name of a check


def run_check(check, bench: Bench) -> list[Row]:
    """Rows of one check; an exception becomes a failed row, so that one broken room does not hide the others."""
    rows = []
    try:
        for row in check(bench):
            rows.append(row)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        text = str(error).strip().splitlines() or [""]
        rows.append(Row(check.__name__, "error", "", f"{type(error).__name__}: {text[-1][:160]}", "runs", False, where))
    return rows


def compare(units: list[Unit], folder: Path, reduced: bool, line: int = 0) -> dict[Unit, list[Row]]:
    """Rows of each check of `units`, compared in `folder`; the progress bar goes to this line of the terminal."""
    torch.set_num_threads(int(THREADS))
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, reduced)
    rows: dict[Unit, list[Row]] = {}
    for room, name in tqdm(units, desc="checks", position=line, disable=None):
        began = time.monotonic()
        rows[room, name] = run_check(next(check for check in checks_of(room) if check.__name__ == name), bench)
        print(f"{room} {name}: {time.monotonic() - began:.1f} s", flush=True)
    bench.upstream.close()
    return rows


def compare_in_processes(groups: list[list[Unit]], folder: Path, reduced: bool) -> dict[Unit, list[Row]]:
    """As `compare`, each group in a process and a folder of its own."""
    with ProcessPoolExecutor(len(groups), mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(compare, group, folder / str(i), reduced, i) for i, group in enumerate(groups)]
        return {unit: rows for run in runs for unit, rows in run.result().items()}


def checks_of(room: str) -> list:
    return importlib.import_module(f"tests.conformance.check_{room}").CHECKS


def print_table(rooms: dict[str, list[Row]]) -> None:
    width = min(74, max(len(row.what) for rows in rooms.values() for row in rows))
    for room, rows in rooms.items():
        compared = [row for row in rows if not row.skipped]
        print(f"\n{room}: {sum(r.passed for r in compared)} of {len(compared)} pass" + (f", {len(rows) - len(compared)} skipped" if len(compared) < len(rows) else ""))
        for row in rows:
            mark = "skip" if row.skipped else "pass" if row.passed else "FAIL"
            print(f"  {mark}  {row.what[:width]:{width}}  {row.difference[:60]:>20}  ({row.bound})  {row.note}")
            if not row.passed:
                print(f"        ours {row.ours}\n        upstream {row.upstream}")


def hardware() -> str:
    return f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, {platform.platform()}"


def kept_rows(out: Path, rooms: list[str], reduced: bool) -> list[dict]:
    """Rows that an earlier run of the same kind and machine left in `out` for rooms other than `rooms`."""
    if set(rooms) == set(ROOMS) or not out.is_file():
        return []
    earlier = json.loads(out.read_text())
    if (earlier["reduced"], earlier["hardware"]) != (reduced, hardware()):
        return []
    return [row for row in earlier["rows"] if row["room"] not in rooms]


def one_line_a_row(report: dict) -> str:
    """The report as JSON with each key, and each of its `rows`, on one line."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in report.items() if key != "rows"]
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in report["rows"])
    return "\n".join(["{", *lines, ' "rows": [', rows, " ]", "}"]) + "\n"


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=ROOMS, default=ROOMS, help="rooms to compare; default: all. OUT keeps its rows of the others")
    parser.add_argument("--reduced", action="store_true", help="fewer and smaller cases, about a minute")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=min(2, os.cpu_count() or 1), help="processes of one thread; default: 2, with two cores")
    parser.add_argument("--real-cts", help="folder of real CTs (*_0000.nii.gz); default: $CONFORMANCE_REAL_CTS")
    parser.add_argument("--out", default=REPOSITORY / "results/conformance.json", type=Path)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it; default: a temporary one")
    args = parser.parse_args()
    if not reference_python().exists():
        sys.exit(f"{reference_python()} is missing: run `bash experiments/run_conformance.sh`, or set NNUNET_UPSTREAM_PYTHON")
    if args.real_cts:
        os.environ["CONFORMANCE_REAL_CTS"] = args.real_cts
    folder, start = args.keep or Path(tempfile.mkdtemp(prefix="conformance_")), time.monotonic()
    rooms: dict[str, list[Row]] = {room: [] for room in args.only}
    units: list[Unit] = []
    for room in args.only:
        try:
            units += [(room, check.__name__) for check in checks_of(room)]
        except ImportError as error:
            rooms[room] = [Row(f"{room} can be imported", "error", "", str(error), "imports", False)]
    shared = [unit for unit in units if unit[0] in SHARING and unit[1] not in WITHOUT_MODELS]
    groups = [group for group in (shared, [unit for unit in units if unit not in shared]) if group]
    found = compare(units, folder, args.reduced) if args.jobs == 1 or len(groups) == 1 else compare_in_processes(groups, folder, args.reduced)
    for unit in units:
        rooms[unit[0]] += found[unit]
    if not args.keep:
        shutil.rmtree(folder)
    print_table(rooms)
    kept = kept_rows(args.out, args.only, args.reduced)
    rows = kept + [{"room": room, **row.as_json()} for room, group in rooms.items() for row in group]
    rows.sort(key=lambda row: ROOMS.index(row["room"]))
    compared = [row for row in rows if not row.get("skipped")]
    passed, seconds = sum(row["pass"] for row in compared), time.monotonic() - start
    with atomic_write(args.out) as temporary:
        temporary.write_text(one_line_a_row({
            "command": shown_command("run_conformance.sh", sys.argv[1:]), "commit": code_commit(), "hardware": hardware(),
            "upstream": "nnunetv2 2.8.1", "reduced": args.reduced, "seconds": round(seconds, 1), "passed": passed,
            "total": len(compared), "skipped": len(rows) - len(compared), "kept_from_an_earlier_run": len(kept), "rows": rows,
        }))
    print(f"\n{passed} of {len(compared)} rows pass, {len(rows) - len(compared)} skipped, {seconds:.0f} s; {args.out}")
    return int(passed < len(compared))


if __name__ == "__main__":
    sys.exit(main())
