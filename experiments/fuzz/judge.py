"""Whether a command met what it was given well. Strict and automatic: every check must hold."""

import os
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from experiments.campaigns.forked import Outcome
from experiments.campaigns.listing import leftovers

LONGEST = 4000  # characters of a message, plus 400 for each damaged file
ERROR = re.compile(r"^(?:\S+: )?error: ", re.MULTILINE)  # argparse puts the program's name before it
REMEDY = re.compile(
    r"\b(check|restore|keep|delete|rename|run|give|use|choose|export|repair|remove|free|must|expected|expects|make|write|copy|fetch|name|put|wait|install|convert|fix|set|trust|resume|"
    r"train|plan|preprocess|predict|restart|correct|mend|turn|move|only|instead|should|known|available|try|add|leave|lower|raise|compress|replace|resample|pass|need|needs|"
    r"store|save|split|merge|order|list|allowed|invalid choice|are there|there are|counts? from)\b|--|\bgzip\b",
    re.IGNORECASE,
)


@dataclass
class Case:
    """What was done to a command's input, and what may follow."""

    named: list[str]  # the message must show each of these: files, cases, values
    must_fail: bool
    writes: tuple[str, ...]
    canary: Path
    any_named: list[str] = field(default_factory=list)  # the message must show one of these
    survivors: list[str] = field(default_factory=list)  # files that must be there whatever failed
    results: list[str] = field(default_factory=list)  # files that must be there when the command ends well


def judge(case: Case, outcome: Outcome, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is not as it should be; empty when all is."""
    problems = []
    text = outcome.stdout + outcome.stderr
    if outcome.reason:
        problems.append({"time": "hangs", "memory": "takes more memory than the input justifies"}.get(outcome.reason, outcome.reason))
    elif outcome.status < 0:
        problems.append(f"dies of signal {-outcome.status}")
    if case.canary.exists():
        problems.append("runs or writes what the input asks for")
    if "Traceback (most recent call last)" in text:
        last = next((line for line in reversed(outcome.stderr.splitlines()) if line and not line.startswith(" ")), "")
        problems.append(f"traceback: {last[:160]}")
    elif outcome.status == 0:
        problems += ["is taken as if nothing were wrong"] if case.must_fail else []
        problems += [f"ends well without {file}" for file in case.results if file not in after]
    elif outcome.status is not None and outcome.status > 0:
        problems += message_problems(case, outcome)
    allowed = case.writes
    lost = [path for path in before if path not in after]
    changed = [path for path in before if path in after and after[path] != before[path]]
    new = [path for path in after if path not in before]
    problems += [f"lost: {path}" for path in lost if not _within(path, allowed)]
    problems += [f"changed: {path}" for path in changed if not _within(path, allowed) and not path.endswith("/")]
    problems += [
        f"written elsewhere: {path}" for path in new if not _within(path, allowed) and not path.startswith(("home/.cache", "home/.config"))
    ]
    problems += [f"left over: {path}" for path in leftovers(new)]
    problems += [f"lost with the damaged ones: {path}" for path in case.survivors if path not in after]
    return problems


def message_problems(case: Case, outcome: Outcome) -> list[str]:
    """Of the one message that a refusal consists of."""
    found = list(ERROR.finditer(outcome.stderr))
    if not found:
        return [f"status {outcome.status} without a line that begins with 'error:'"]
    message = outcome.stderr[found[0].start() :]
    problems = [f"{len(found)} error messages"] if len(found) > 1 else []
    if len(message) > LONGEST + 400 * len(case.named):
        problems.append(f"a message of {len(message)} characters")
    problems += [f"does not name {_printable(name)}" for name in case.named if not names(message, name)]
    if case.any_named and not any(names(message, name) for name in case.any_named):
        problems.append(f"does not name any of {len(case.any_named)} damaged files")
    if not REMEDY.search(message):
        problems.append("no word of a remedy or of what is expected")
    return problems


def names(message: str, name: str) -> bool:
    """Whether `name`, a path, a case or a value, appears in the message in any spelling that a reader would know again."""
    base = os.path.basename(name) or name
    case = re.sub(r"(_0000)?\.(nii\.gz|nii|nrrd|mha|b2nd|pkl|npz)$", "", base)
    case = case.removesuffix("_seg")
    for form in {base, name} | ({case} if len(case) > 3 else set()):
        for spelling in (
            form,
            repr(form)[1:-1],
            form.encode("ascii", "backslashreplace").decode(),
            os.fsencode(form).decode(errors="backslashreplace"),
        ):
            if spelling and (spelling in message or (len(spelling) > 60 and spelling[:20] in message)):
                return True
    return name == ""


def _within(path: str, parts: tuple[str, ...]) -> bool:
    """Whether `path` is one of `parts`, lies below one, or is a folder above one."""
    plain = path.rstrip("/")
    return any(plain == part or plain.startswith(f"{part}/") or part.startswith(f"{plain}/") or fnmatchcase(plain, part) for part in parts)


def _printable(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode()[:80]
