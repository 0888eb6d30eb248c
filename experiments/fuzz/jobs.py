"""The list of runs: every command with every kind of damage, flag and name that concerns it, thinned to a number by a seed."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from experiments.fuzz.commands import COMMANDS, KINDS, Command, Role
from experiments.fuzz.damage import Damage
from experiments.fuzz.flags import WRONG_FLAGS, WrongFlag
from experiments.fuzz.names import OddName, odd_names

CASE_NAMES_OF = {  # commands that take names of cases out of a folder: what to rename, {name} for the case
    "nnUNetv2_predict": ["nnUNet_raw/Dataset777_PancreasCT/imagesTs/{name}_0000.nii.gz"],
    "nnUNetv2_predict_from_modelfolder": ["validation/images/{name}_0000.nii.gz"],
    "nnUNetv2_plan_and_preprocess": [
        "nnUNet_raw/Dataset777_PancreasCT/imagesTr/{name}_0000.nii.gz",
        "nnUNet_raw/Dataset777_PancreasCT/labelsTr/{name}.nii.gz",
    ],
    "nnUNetv2_evaluate_simple": ["validation/labels/{name}.nii.gz", "predictions/validation/{name}.nii.gz"],
    "nnUNetv2_plot_overlay_pngs": [
        "nnUNet_raw/Dataset777_PancreasCT/imagesTr/{name}_0000.nii.gz",
        "nnUNet_raw/Dataset777_PancreasCT/labelsTr/{name}.nii.gz",
    ],
    "data_prep/convert_quiz.py": ["quiz/train/subtype0/{name}_0000.nii.gz", "quiz/train/subtype0/{name}.nii.gz"],
    "data_prep/make_submission.py": ["predictions/test/{name}.nii.gz"],
    "evaluation/compute_metrics.py": ["validation/labels/{name}.nii.gz", "predictions/validation/{name}.nii.gz"],
    "evaluation/make_gallery.py": [
        "validation/labels/{name}.nii.gz",
        "predictions/validation/{name}.nii.gz",
        "validation/images/{name}_0000.nii.gz",
    ],
}


@dataclass(frozen=True)
class Job:
    command: Command
    what: str  # kind of the damage, for the tables
    name: str
    role: Role | None = None
    damage: Damage | None = None
    several: bool = False
    flag: WrongFlag | None = None
    argument: tuple[str, OddName] | None = None  # flag and odd name
    case_name: OddName | None = None

    @property
    def key(self) -> str:
        """Names the run in every list, and is the seed of what it draws."""
        return f"{self.command.name} | {self.role.pattern if self.role else self.what} | {self.name}{' | two' if self.several else ''}"

    @property
    def seed(self) -> int:
        return int(hashlib.sha256(self.key.encode(errors="surrogateescape")).hexdigest()[:8], 16)


def all_jobs(canary: str) -> list[Job]:
    """Every one there is."""
    by_name = {command.name: command for command in COMMANDS}
    jobs = [
        Job(command, role.kind, damage.name, role, damage, several)
        for command in COMMANDS
        for role in command.roles
        for damage in KINDS[role.kind]
        for several in ((False, True) if role.several else (False,))
    ]
    jobs += [
        Job(by_name[wrong.command], "flag", f"{wrong.flag or f'argument {wrong.position}'} {wrong.value}", flag=wrong)
        for wrong in WRONG_FLAGS
    ]
    odd = odd_names(canary)
    jobs += [
        Job(command, "name in a flag", f"{flag} {name.text!r}", argument=(flag, name))
        for command in COMMANDS
        for flag in command.names
        for name in odd
    ]
    jobs += [
        Job(by_name[command], "name of a case", repr(name.text), case_name=name)
        for command in CASE_NAMES_OF
        for name in odd
        if not name.leads_out
    ]
    return jobs


def thinned(jobs: list[Job], number: int, seed: int) -> list[Job]:
    """`number` of them, spread over commands and kinds, then over damages; the same ones for the same seed.

    In turns: each turn takes from every pair of a command and one of its inputs the job whose damage was taken least so far.
    """
    generator = np.random.default_rng(seed)
    groups = defaultdict(list)
    for index in generator.permutation(len(jobs)):
        job = jobs[index]
        groups[job.command.name, job.role.pattern if job.role else job.what].append(job)
    taken: dict[tuple[str, str], int] = defaultdict(int)
    chosen: list[Job] = []
    while len(chosen) < number and any(groups.values()):
        for group in groups.values():
            if group and len(chosen) < number:
                best = min(range(len(group)), key=lambda place: taken[group[place].what, group[place].name])
                job = group.pop(best)
                taken[job.what, job.name] += 1
                chosen.append(job)
    return chosen
