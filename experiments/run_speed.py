"""Time whole prediction processes, upstream nnU-Net and the modes of this repository, on the same model and images.

    python -m experiments.run_speed --upstream .venv-upstream/bin/python --run results/quiz_size

A run is one process from its start to its last file. Rounds go through the rows forwards and backwards in turn, so that a
warm cache or a slow minute helps no row. The table (experiments/speed_table.py) is written after each run.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from evaluation.case_pairs import is_synthetic
from evaluation.subtype_tables import read_truth
from experiments.file_shapes import PredictionTimes, SpeedRuns
from experiments.measured_process import measure
from experiments.pipeline import model_of
from experiments.record_run import code_commit, environment, shown_command
from experiments.speed_masks import folder_of, structure_titles
from experiments.speed_table import REPEATED, derive_with_tta, write_table
from experiments.upstream_tiles import upstream_tiles
from nnunetv2.configuration import available_cores
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import is_there, load_json, save_json

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "upstream"  # every ratio is to this row
ROWS = {  # name -> flags of the predict command; upstream's own command where the name begins with its
    REFERENCE: [],
    "upstream, no TTA": ["--disable_tta"],
    "exact": ["--mode", "exact"],
    "half": ["--mode", "half"],
    "fast": ["--mode", "fast"],
    "fast, ROI model": ["--mode", "fast", "-roi_model"],  # --roi_model follows
    "fast, whole": ["--mode", "fast", "--tiling", "whole"],
    "fast, TTA 1": ["--mode", "fast", "--tta", "1"],
    "fast, TTA 2": ["--mode", "fast", "--tta", "2"],
    "fast, TTA 8": ["--mode", "fast", "--tta", "8"],
    "half, TTA 4": ["--mode", "half", "--tta", "4"],
    "half, whole": ["--mode", "half", "--tiling", "whole"],
    "exact, fp32": ["--precision", "fp32"],
    "exact, torch": ["--engine", "torch"],
    "exact, OpenVINO": ["--engine", "openvino"],
    "exact, half precision": ["--precision", "half"],
    "exact, half precision in OpenVINO": ["--precision", "half", "--engine", "openvino"],
    "exact, int8": ["--precision", "int8"],
    "exact, TTA 4": ["--tta", "4"],
    "exact, TTA 1": ["--tta", "1"],
    "exact, whole": ["--tiling", "whole"],
    "exact, ROI": ["--roi", "coarse"],
    "exact, step 0.75": ["-step_size", "0.75"],
}
LEVERS = tuple(row for row in ROWS if row.startswith("exact, "))  # one change to `exact` each
NEED_INT8 = ("exact, int8",)  # a quantised model
ON_A_CPU = ("half", "exact, torch", "exact, OpenVINO", "exact, half precision", "exact, half precision in OpenVINO", "exact, int8")  # on a GPU `exact` is in torch and in fp16, as upstream is
ON_A_GPU = ("exact, fp32",)
NEED_ROI_MODEL = ("fast, ROI model",)


def is_upstream(row: str) -> bool:
    return row.startswith(REFERENCE)


def command(row: str, args: argparse.Namespace, images: Path, out: Path) -> list[str]:
    """The prediction command of a row: a console script of either environment."""
    # -I: a PYTHONPATH would put this repository's nnunetv2 in front of upstream's
    interpreter = [args.upstream, "-I"] if is_upstream(row) else [Path(sys.executable)]
    script = interpreter[0].parent / "nnUNetv2_predict_from_modelfolder"
    return [*map(str, interpreter), str(script), "-i", str(images), "-o", str(out), "-m", str(args.model), "-f", args.fold, "-device", args.device,
            "--disable_progress_bar", *ROWS[row], *([str(args.roi_model)] if row in NEED_ROI_MODEL else [])]


def run_once(row: str, args: argparse.Namespace, images: Path, out: Path) -> dict:
    """One process: seconds, peak memory, our own time split. Its masks stay in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    cores = min(args.threads, available_cores())
    environ = os.environ | {"OMP_NUM_THREADS": str(cores), "nnUNet_def_n_proc": str(cores)}
    log = out.with_suffix(".log")
    measured = measure(command(row, args, images, out), log, cores, environ)
    if measured.pop("status"):
        sys.exit(f"error: row {row!r} ended with an error; the last lines of {log}:\n"
                 + "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:]))
    times = out / "prediction_times.json"
    n_cases = len({file.name.rsplit("_", 1)[0] for file in images.iterdir()})
    return {"row": row, "cases": n_cases, **measured,
            "times": load_json(times, PredictionTimes) if is_there(times) else None}


def planned_runs(args: argparse.Namespace) -> list[tuple[int, str]]:
    """(round, row) in balanced order."""
    runs = []
    for number in range(max(_rounds_of(row, args) for row in args.rows)):
        rows = [row for row in args.rows if number < _rounds_of(row, args)]
        runs += [(number, row) for row in (rows if number % 2 == 0 else reversed(rows))]
    return runs


def _rounds_of(row: str, args: argparse.Namespace) -> int:
    return args.reference_rounds if row == REFERENCE else args.lever_rounds if row in LEVERS else args.rounds


def link_cases(images: Path, n: int, folder: Path) -> Path:
    """A folder with links to the first `n` cases (all their channels); InputError without any."""
    files = sorted(images.glob("*_[0-9][0-9][0-9][0-9].nii.gz"))
    if not files:
        raise InputError(f"{images} holds no images CASE_0000.nii.gz to time predictions on. Finish the run, or name a folder with --images.")
    cases = sorted({file.name.rsplit("_", 1)[0] for file in files})[:n]
    folder.mkdir()
    for file in files:
        if file.name.rsplit("_", 1)[0] in cases:
            (folder / file.name).symlink_to(file.resolve())
    return folder


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--upstream", type=Path, required=True, help="python of the environment that holds upstream nnU-Net")
    parser.add_argument("--run", type=Path, default=Path("results/quiz_size"),
                        help="a finished train_quiz_size.sh or run_fold0.sh; gives model, images and labels")
    parser.add_argument("--model", type=Path, help="model folder instead of the run's")
    parser.add_argument("--roi_model", type=Path, help=f"model folder that finds the boxes of the row {NEED_ROI_MODEL[0]!r}")
    parser.add_argument("--images", type=Path, help="images instead of the run's validation cases")
    parser.add_argument("--labels", type=Path, help="true masks of --images, if there are any")
    parser.add_argument("--truth", type=Path, help="true classes of --images, a csv with the columns case,TASK")
    parser.add_argument("--task", default="subtype", help="that column (default subtype)")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=whole_number(1), default=2, help="CPU cores that a run may use")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW", help=f"of: {'; '.join(ROWS)}; default: all that device and model can")
    parser.add_argument("--cases", type=whole_number(1), default=4)
    parser.add_argument("--rounds", type=whole_number(1), default=3)
    parser.add_argument("--lever_rounds", type=whole_number(1), default=3, help="of the rows that change one thing of `exact`")
    parser.add_argument("--reference_cases", type=whole_number(1), default=3, help="cases of the row `upstream`")
    parser.add_argument("--reference_rounds", type=whole_number(1), default=2)
    parser.add_argument("--tta_from", type=Path, metavar="JSON", help="without the row `upstream`: its time here is derived from the row without TTA, the "
                        "number of windows, and the seconds per window in this earlier table")
    parser.add_argument("--synthetic", action="store_true", help="say that the images are synthetic, where no SYNTHETIC.txt beside them does")
    parser.add_argument("--data", metavar="TEXT", help="what the images are, for the heading: 'MR, hippocampus, fold 0'; SYNTHETIC or REAL goes before it")
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="path of the .json, .md and .png without ending")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    parser.add_argument("--table_alone", action="store_true", help="measure nothing, and write the table of the runs that are there anew")
    args = parser.parse_args()
    if args.model is None:
        args.model = model_of(args.run, args.fold)
    if args.rows is None:
        can_int8 = any((args.model / f"fold_{args.fold}").glob("*.int8_*.xml"))
        elsewhere = ON_A_GPU if args.device == "cpu" else ON_A_CPU
        args.rows = [row for row in ROWS if (can_int8 or row not in NEED_INT8) and (args.roi_model or row not in NEED_ROI_MODEL) and row not in elsewhere]
    if args.roi_model is None and set(args.rows) & set(NEED_ROI_MODEL):
        sys.exit(f"error: the row {NEED_ROI_MODEL[0]!r} needs --roi_model")
    marked = [args.images] if args.images else sorted(args.run.glob("work/nnUNet_raw/Dataset*"))
    args.synthetic |= any(map(is_synthetic, marked))
    if args.images is None:
        args.images, args.labels = args.run / "work/validation/images", args.run / "work/validation/labels"
        args.truth = next(iter(sorted(args.run.glob("work/nnUNet_raw/Dataset*/subtypes.csv"))), None)
    if args.tta_from:
        args.seconds_a_tile = load_json(args.tta_from, SpeedRuns).get("seconds_a_tile")
        if args.seconds_a_tile is None:
            sys.exit(f"error: {args.tta_from} holds no seconds_a_tile; it comes from a run with the rows 'upstream' and 'upstream, no TTA'")
    return args


def _conditions(args: argparse.Namespace) -> dict:
    """What runs of one table have in common. Paths as from the repository, so that no machine's folders are told."""
    here = {name: os.path.relpath(path.absolute(), ROOT) for name, path in (("model", args.model), ("images", args.images))}
    return {"commit": code_commit(), "environment": environment(args.device), "threads": args.threads, "device": args.device, **here}


def _comparable(conditions: dict) -> dict:
    """Without the commit's mark of changed files, of which the table itself may be one."""
    return conditions | {"commit": str(conditions["commit"]).rstrip("+")}


def kept_runs(file: Path, args: argparse.Namespace) -> dict:
    """The runs in `file` of a call that was ended, if they were made as this one makes them; those of another machine or code must not stand in one table with them."""
    if args.fresh or not file.is_file():
        return {"runs": []}
    result, now = load_json(file, SpeedRuns), _comparable(_conditions(args))
    before = _comparable({name: result.get(name) for name in now})
    other = [name for name in now if before[name] != now[name]]
    if args.table_alone or not other:
        return result
    print(f"{file} holds runs with another {' and '.join(other)}; all rows are measured anew.", flush=True)
    return {"runs": []}


@script
def main() -> None:
    args = parse_arguments()
    truth = read_truth(args.truth, args.task) if args.truth else None  # before hours of work
    result_file = args.out.with_name(f"{args.out.name}.json")
    masks = args.out.with_name(f"{args.out.name}_masks") / "predictions"  # below `predictions`: git leaves it out
    result = kept_runs(result_file, args)
    flags = sys.argv[3:]  # run_speed.sh puts `--upstream PYTHON` first
    if not result["runs"]:
        shutil.rmtree(folder_of(REPEATED, masks), ignore_errors=True)  # of another measurement
    done = {(run["round"], run["row"]) for run in result["runs"]}
    pending = [] if args.table_alone else [run for run in planned_runs(args) if run not in done]
    if pending:  # else the table alone is written anew, and the runs are those of before
        result |= _conditions(args) | {"command": shown_command("run_speed.sh", flags), "reference": REFERENCE, "synthetic": args.synthetic,
                   "structures": structure_titles(load_json(args.model / "dataset.json", DatasetJson)["labels"]), **({"data": f"{'SYNTHETIC' if args.synthetic else 'REAL'} {args.data}"} if args.data else {})}
    with tempfile.TemporaryDirectory() as folder:
        images = {True: link_cases(args.images, args.reference_cases, Path(folder) / "reference"),
                  False: link_cases(args.images, args.cases, Path(folder) / "cases")}
        result["tiles"] = {which: upstream_tiles(folder, args.model, args.fold) for which, folder in
                           (("reference", images[True]), ("cases", images[False]))}
        if args.tta_from:
            result["derived"] = {"from": str(args.tta_from), "seconds_a_tile": args.seconds_a_tile}
        if args.device == "cpu" and any(not is_upstream(row) for _, row in pending):
            print("Compiling and converting the network once, which a first prediction would do ...", flush=True)
            one = link_cases(args.images, 1, Path(folder) / "one")
            needed = {row for _, row in pending} & {"exact, OpenVINO", *NEED_ROI_MODEL}
            for row in ("exact, TTA 1", "fast", *sorted(needed)):  # a pass in fp32, and one in reduced precision
                run_once(row, args, one, masks / "warm_up")
        for i, (number, row) in enumerate(pending, start=1):
            out = folder_of(row, masks)
            if row == REFERENCE and number > 0 and out.is_dir():  # on a GPU it does not repeat itself to the voxel, and the table says by how much
                shutil.rmtree(folder_of(REPEATED, masks), ignore_errors=True)
                out.rename(folder_of(REPEATED, masks))
            run = run_once(row, args, images[row == REFERENCE], out)
            print(f"[{i}/{len(pending)}] {row}: {run['seconds'] / run['cases']:.1f} s per case", flush=True)
            result["runs"].append({"round": number} | run)
            save_json(result, result_file)
    derive_with_tta(result)
    write_table(result, masks, args.labels, truth, args.out)
    save_json(result, result_file)
    print(args.out.with_name(f"{args.out.name}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
