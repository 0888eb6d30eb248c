"""The manual builds without a warning, and what README and manual tell people to type exists."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.options import PRESETS

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("[a-z]*/README.md")])
HANDED_ON = {  # programs that shell scripts hand options on to
    "run_speed": ("experiments/run_speed.py", "experiments/run_speed.sh"),
    "experiments/driver.sh": ("experiments/options.py",),
    "experiments.time_to_quality": ("experiments/time_to_quality.py",),
    "experiments.lidc": ("experiments/lidc.py", "experiments/class_study.py"),
    "experiments.cues": ("experiments/cues.py", "experiments/class_study.py"),
    "tests.conformance.run": ("tests/conformance/run.py",),
    "experiments.real": ("experiments/real.py",),
    "experiments.robustness": ("experiments/robustness.py",),
    "add_scheduler_flag": ("nnunetv2/utilities/cluster.py",),
}
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)  # language, content
INLINE = re.compile(r"`((?:bash|python) [^`\n]+|nnUNetv2_\w+ [^`\n]+)`")


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of each command in a shell block or in code font of README, manual and room pages; comments are left out."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shell = [block for language, block in BLOCK.findall(text) if language in ("", "bash")]
        for block in [*shell, *INLINE.findall(text)]:
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.split("  #")[0], comments=True) if not line.startswith("data/") else []
                if words and re.fullmatch(r"bash|python|nnUNetv2_\w+", words[0]):
                    found.append((page.name, words))
    return found


def script_of(words: list[str]) -> Path | None:
    """The file that a command runs; None for commands of pytest and the like."""
    if words[0].startswith("nnUNetv2_"):
        return REPOSITORY / "nnunetv2/cli"
    if words[1] == "-m":
        return (
            REPOSITORY / f"{words[2].replace('.', '/')}.py" if words[2].startswith(("experiments", "tests")) else None
        )
    return REPOSITORY / words[1]


def options_of(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words[1:] if re.match(r"--?[A-Za-z]", word) and word != "-m"]


def text_of(script: Path) -> str:
    """Source of what a command may be given: of all commands for a folder, and of the program that a script hands options on to."""
    files = sorted(script.glob("*.py")) if script.is_dir() else [script]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    further = [name for key, names in HANDED_ON.items() if key in text for name in names]
    return text + "".join((REPOSITORY / name).read_text(encoding="utf-8") for name in further)


def test_there_are_commands_to_check():
    assert len(commands()) > 60


def test_every_command_exists():
    setup = (REPOSITORY / "setup.py").read_text()
    missing = [
        (page, words[:3])
        for page, words in commands()
        if (script := script_of(words)) is not None
        and not (script.exists() and (script.is_file() or words[0].removeprefix("nnUNetv2_") in setup))
    ]
    assert missing == []


@pytest.mark.slow
def test_every_option_is_known():
    unknown = [
        (page, words[:2], option)
        for page, words in commands()
        if (script := script_of(words)) is not None and script.exists()
        for option in options_of(words)
        if not re.search(rf"""["' ({{|]{re.escape(option)}["'|) \]]""", text_of(script))
    ]
    assert unknown == []


def test_the_training_page_names_the_main_jobs_lengths():
    preset, page = PRESETS["main_job"], " ".join((REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8").split())
    for data, length in (("With data of your own the default is", preset.real), ("on SYNTHETIC data it is", preset.synthetic)):
        assert f"{data} {length.epochs} epochs of {length.iterations}" in page


def test_pages_are_ascii():
    """A reader's terminal shows them as they are; dashes and arrows are typed."""
    assert [page.name for page in PAGES if not page.read_text(encoding="utf-8").isascii()] == []


@pytest.mark.slow
def test_manual_builds_without_a_warning(tmp_path):
    if find_spec("material") is None:
        assert not os.environ.get("CI"), "mkdocs-material is missing: pip install -c constraints.txt mkdocs-material"
        pytest.skip("mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert result.returncode == 0 and "WARNING" not in result.stderr, result.stderr
    assert (tmp_path / "site/benchmarks/index.html").is_file()
