"""Run damaged inputs through every command and judge how each is met; `bash experiments/run_fuzz.sh` calls it.

    python -m experiments.fuzz.campaign --out results/fuzz --runs 700 --seed 0 --jobs 2
    python -m experiments.fuzz.campaign --only "nnUNetv2_predict | flag" --show      # those whose name holds the text, with their output

Each run works in a folder of its own with a fresh copy of what its command needs, in a forked process with a limit of time and
memory. Good: exit status not 0, one message that begins with "error:", names every damaged file or value and says what to do
or what is expected; no traceback, no hang, nothing run, lost, changed or left over. An odd but possible name may also be
taken, if its result is there. The same seed gives the same runs.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.campaigns.forked import Outcome, prepare_parent, run_forked
from experiments.campaigns.listing import listing
from experiments.campaigns.pool import in_runners
from experiments.campaigns.world import build_world, copy_world, environment
from experiments.fuzz.damage import FILE_SYSTEM
from experiments.fuzz.flags import with_flag
from experiments.fuzz.jobs import CASE_NAMES_OF, Job, all_jobs, thinned
from experiments.fuzz.judge import Case, judge
from experiments.fuzz.names import is_file_name
from experiments.fuzz.report import write_report
from nnunetv2.utilities.commands import Parser

SECONDS = 120  # a command on two or three cases of 5,000 voxels takes a tenth of it, on a machine that does other things too
CANARY = "canary_executed"


def run_job(job: Job, template: Path, scratch: Path) -> tuple[dict, Outcome]:
    """One run in a folder of its own below `scratch`; its record and what the command said."""
    root = Path(tempfile.mkdtemp(dir=scratch, prefix="run_"))
    try:
        world, canary = root / "world", root / CANARY
        copy_world(template, world, job.command.parts)
        if job.command.prepare is not None:
            job.command.prepare(world)
        argv, case = spoil(job, world, canary)
        before, outside = listing(world), listing(template)
        outcome = run_forked(argv, world, environment(world), SECONDS)
        problems = judge(case, outcome, before, listing(world))
        problems += (
            ["writes outside of its folders"] if listing(template) != outside or len(list(root.iterdir())) > 1 + canary.exists() else []
        )
        record = {
            "command": job.command.name,
            "kind": job.what,
            "input": job.key,
            "good": not problems,
            "status": outcome.status,
            "problems": [problem.replace(str(world), "WORLD") for problem in problems],
            "seconds": round(outcome.seconds, 2),
        }
        return record, outcome
    finally:
        shutil.rmtree(root, ignore_errors=True)


def spoil(job: Job, world: Path, canary: Path) -> tuple[list[str], Case]:
    """Damage the copy as the job says; the command line to run and what it has to come to."""
    argv = list(job.command.argv)
    case = Case([], True, job.command.writes, canary)
    generator = np.random.default_rng(job.seed)
    if job.damage is not None:
        files = sorted(world.glob(job.role.pattern))
        if not files:
            raise RuntimeError(f"{job.command.name}: nothing in its world matches {job.role.pattern}")
        chosen = sorted(generator.permutation(len(files))[: len(files) if job.role.every else 2 if job.several else 1])
        for index in chosen:
            job.damage.apply(files[index], generator, canary)
        case.must_fail, spoilt = job.damage.must_fail, [str(files[index]) for index in chosen]
        case.named, case.any_named = ([], spoilt) if job.role.every else (spoilt, [])
        if job.command.survivors and job.role.several and job.damage not in FILE_SYSTEM:  # those are refused before anything is predicted
            whole = [file for index, file in enumerate(files) if index not in chosen]
            case.survivors = [job.command.survivors.format(case=file.name.removesuffix(".nii.gz").removesuffix("_0000")) for file in whole]
    elif job.flag is not None:
        argv = with_flag(argv, job.flag.flag, job.flag.value, job.flag.position)
        case.named = [job.flag.shown]
    elif job.argument is not None:
        flag, odd = job.argument
        argv = with_flag(argv, flag, odd.text)
        shown = odd.text.rpartition(":")[2] if flag == "-tr" and not odd.leads_out else odd.text  # a trainer may be package.module:Class
        case.named, case.must_fail = [shown], odd.leads_out
    else:
        _rename_a_case(job, world, case)
    return argv, case


def _rename_a_case(job: Job, world: Path, case: Case) -> None:
    """The first case of the command's folders gets an odd name, where a file can have it."""
    name, patterns = job.case_name.text, CASE_NAMES_OF[job.command.name]
    case.named, case.must_fail = [name], False
    if not is_file_name(name):
        raise ValueError(f"{name!r} is no name for a file")
    first = sorted(world.glob(patterns[0].format(name="*")))[0]
    prefix, suffix = Path(patterns[0]).name.split("{name}")
    old = first.name.removeprefix(prefix).removesuffix(suffix)
    for pattern in patterns:
        (world / pattern.format(name=old)).rename(world / pattern.replace("{name}", name))
    if job.command.survivors:
        case.results = [job.command.survivors.format(case=name)]


def possible(job: Job) -> bool:
    return job.case_name is None or is_file_name(job.case_name.text)


def run_campaign(jobs: Sequence[Job], template: Path, scratch: Path, runners: int, show: bool = False) -> Iterator[dict]:
    """The record of each job, in the order in which they end."""

    def work(job: Job) -> dict:
        record, outcome = run_job(job, template, scratch)
        if show or not record["good"]:
            record["stderr"] = outcome.stderr[-1500:].replace(str(scratch), "SCRATCH")
        return record

    return in_runners(work, jobs, runners)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/fuzz"), help="path of the .json and .md without ending")
    parser.add_argument("--runs", type=int, default=700, help="damaged inputs (default 700); 0: all there are")
    parser.add_argument("--seed", type=int, default=0, help="which of all possible ones")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--only", metavar="TEXT", help="run those whose name holds TEXT, and write nothing")
    parser.add_argument("--show", action="store_true", help="print what each command said")
    args = parser.parse_args(arguments)
    if args.runs < 0 or args.jobs < 1:
        parser.error("--runs must be at least 0 and --jobs at least 1")
    start = time.time()
    prepare_parent()
    possible_jobs = [job for job in all_jobs(CANARY) if possible(job)]
    jobs = (
        [job for job in possible_jobs if args.only in job.key]
        if args.only
        else thinned(possible_jobs, args.runs or len(possible_jobs), args.seed)
    )
    with tempfile.TemporaryDirectory(prefix="fuzz_") as scratch:
        template = build_world(Path(scratch) / "template", skip=("figures",))
        records = []
        for record in run_campaign(jobs, template, Path(scratch), args.jobs, args.show):
            records.append(record)
            if args.show or not record["good"]:
                print(
                    f"[{len(records)}/{len(jobs)}] {'good' if record['good'] else 'BAD '} {record['input']}: status {record['status']}; {'; '.join(record['problems'])}",
                    flush=True,
                )
                if args.show:
                    print(record.get("stderr", ""), flush=True)
    bad = sum(not record["good"] for record in records)
    print(f"{len(records)} damaged inputs, {len(records) - bad} met well, {bad} not, {time.time() - start:.0f} s")
    if not args.only:
        write_report(args.out, sorted(records, key=lambda record: record["input"]), len(possible_jobs), args.seed, time.time() - start)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
