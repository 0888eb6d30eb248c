"""Disturb every stage and run it again: the result must be the same; `bash experiments/run_faults.sh` calls it.

    python -m experiments.faults.campaign --out results/faults --kills 220 --seed 0 --jobs 2
    python -m experiments.faults.campaign --only "predict | disk full" --show

Kills at random moments, full and read-only disks, workers killed and stopped, little memory, two runs at once, no HOME, a
clock that goes back, other locales and umasks; all of it once more in folders with blanks and characters beyond ASCII.
Good: while it lasts, an exit status and one message, without a traceback; afterwards a plain rerun gives exactly the result
of a run that nothing happened to, and nothing half written stays. Runs that are done are kept beside --out until the last
is, so a campaign that was interrupted goes on.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.campaigns.forked import prepare_parent
from experiments.campaigns.listing import leftovers, listing
from experiments.campaigns.pool import in_runners
from experiments.campaigns.world import build_world, copy_world
from experiments.faults.faults import KILLS, MOUNTED, OTHERS, SHARED_MEMORY, Fault, Trial, mounting_works
from experiments.faults.report import write_report
from experiments.faults.stages import DISTURBED, Stage, difference, result
from nnunetv2.utilities.commands import Parser

ODD_FOLDER = "Jürgen's data (膵臓) $x"


class Bench:
    """The world, and what each stage comes to when nothing happens."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.template = build_world(scratch / "template", skip=("figures",))
        self.references: dict[str, tuple[dict[str, str], float, int]] = {}

    def trial(self, stage: Stage, root: Path, generator: np.random.Generator) -> Trial:
        copy_world(self.template, root, stage.parts)
        if stage.prepare is not None:
            stage.prepare(root)
        (root / stage.folder).mkdir(parents=True, exist_ok=True)
        _, seconds, written = self.references.get(stage.name, ({}, 0.0, 0))
        return Trial(stage, root, seconds, written, generator, {})

    def learn(self, stage: Stage) -> None:
        """Run `stage` undisturbed. RuntimeError when even that fails."""
        root = Path(tempfile.mkdtemp(dir=self.scratch)) / "world"
        trial = self.trial(stage, root, np.random.default_rng(0))
        before = _bytes(root / stage.folder)
        outcome = trial.run()
        if outcome.status != 0:
            raise RuntimeError(f"{stage.name} fails undisturbed, status {outcome.status} {outcome.reason}:\n{outcome.stderr[-3000:]}")
        self.references[stage.name] = result(root, stage), outcome.seconds, _bytes(root / stage.folder) - before
        shutil.rmtree(root.parent)

    def disturb(self, stage: Stage, fault: Fault, seed: int) -> dict:
        """One fault, then a plain rerun; the record of it."""
        name = f"{stage.name} | {fault.name}"
        generator = np.random.default_rng([seed, int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)])
        home = Path(tempfile.mkdtemp(dir=self.scratch))
        root = home / (ODD_FOLDER if seed % 2 else "plain") / "world"
        try:
            trial = self.trial(stage, root, generator)
            start = time.monotonic()
            problems = fault.disturb(trial)
            again = trial.run()
            if again.status != 0 and not (stage.once and stage.once in again.stderr):
                problems.append(f"the rerun ends with {again.status} {again.reason}: {again.stderr.strip()[-300:]}")
            else:
                problems += [f"the result {line}" for line in difference(self.references[stage.name][0], result(root, stage))][:6]
            problems += [
                f"left over: {path}" for path in leftovers(path for path in listing(root) if not path.startswith(("tmp/", "home/")))
            ][:6]
            return {
                "stage": stage.name,
                "fault": fault.name,
                "seed": seed,
                "good": not problems,
                "problems": [problem.replace(str(root), "WORLD") for problem in problems],
                "seconds": round(time.monotonic() - start, 2),
            }
        finally:
            shutil.rmtree(home, ignore_errors=True)


def _bytes(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def plan(stages: list[Stage], kills: int, mounting: bool) -> list[tuple[Stage, Fault, int]]:
    """(stage, fault, seed) of all runs. Kills are shared out by the stages' weights; slow stages meet few of the others."""
    runs = []
    total = sum(stage.weight for stage in stages)
    for stage in stages:
        number = max(2, round(kills * stage.weight / total))
        runs += [(stage, KILLS[index % len(KILLS)], index) for index in range(number)]
        others = [*OTHERS, *([*MOUNTED, SHARED_MEMORY] if mounting else [])]
        if stage.weight < 1:
            others = [
                fault
                for fault in others
                if fault.name in ("two at once", "disk full after 50%", "output read-only", "locale C", "interrupted by Ctrl-C")
            ]
        runs += [(stage, fault, index) for index, fault in enumerate(others) if stage.workers or not fault.needs_workers]
    return runs


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/faults"), help="path of the .json and .md without ending")
    parser.add_argument("--kills", type=int, default=220, help="kills, over all stages (default 220)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--only", metavar="TEXT", help="those whose `stage | fault` holds TEXT; writes nothing")
    parser.add_argument("--fresh", action="store_true", help="forget the runs of a campaign that was interrupted")
    args = parser.parse_args(arguments)
    if args.kills < 0 or args.jobs < 1:
        parser.error("--kills must be at least 0 and --jobs at least 1")
    prepare_parent()
    stages = [stage for stage in DISTURBED if stage.name != "report" or shutil.which("latexmk")]
    done_file = args.out.with_name(f"{args.out.name}.done.jsonl")
    if args.fresh:
        done_file.unlink(missing_ok=True)
    start = time.time()
    with tempfile.TemporaryDirectory(prefix="faults_") as scratch:
        mounting = mounting_works(Path(scratch))
        skipped = [] if mounting else ["full disk, read-only output, 64 MB of /dev/shm: mounting is not allowed here"]
        skipped += [] if len(stages) == len(DISTURBED) else ["report: latexmk is not installed"]
        runs = [run for run in plan(stages, args.kills, mounting) if not args.only or args.only in f"{run[0].name} | {run[1].name}"]
        done = [] if args.only or not done_file.is_file() else [json.loads(line) for line in done_file.read_text(encoding="utf-8").splitlines()]
        known = {(record["stage"], record["fault"], record["seed"]) for record in done}
        todo = [run for run in runs if (run[0].name, run[1].name, run[2] + args.seed) not in known]
        bench = Bench(Path(scratch))
        for stage in {run[0].name: run[0] for run in todo}.values():
            bench.learn(stage)
        records = list(done)
        for record in in_runners(lambda run: bench.disturb(run[0], run[1], run[2] + args.seed), todo, args.jobs):
            records.append(record)
            if not args.only:
                done_file.parent.mkdir(parents=True, exist_ok=True)
                with done_file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(record) + "\n")
            if not record["good"] or args.only:
                print(
                    f"[{len(records)}/{len(runs)}] {'good' if record['good'] else 'BAD '} {record['stage']} | {record['fault']} ({record['seed']}): "
                    f"{'; '.join(record['problems'])}",
                    flush=True,
                )
    bad = sum(not record["good"] for record in records)
    print(f"{len(records)} faults, {len(records) - bad} met well, {bad} not, {time.time() - start:.0f} s")
    for line in skipped:
        print(f"skipped: {line}")
    if not args.only:
        write_report(
            args.out, sorted(records, key=lambda record: (record["stage"], record["fault"], record["seed"])), skipped, time.time() - start
        )
        done_file.unlink(missing_ok=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
