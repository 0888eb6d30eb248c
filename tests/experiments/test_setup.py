"""What the shell scripts do before they run anything: show their help, and set the environment up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.redraw import redraw

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted({path.name for path in (ROOT / "experiments").glob("*.sh")} - {"driver.sh", "show_help.sh"})
PIP = "import sys; print(*sys.argv[1:], file=open({log!r}, 'a'))\n"


@pytest.fixture
def checkout(tmp_path):
    """The shell scripts and what they read, in a folder without an environment."""
    shutil.copytree(ROOT / "experiments", tmp_path / "checkout" / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / "checkout")
    (tmp_path / "checkout" / "nnunetv2").symlink_to(ROOT / "nnunetv2")
    return tmp_path / "checkout"


def run(*command, cwd):
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HOME": str(cwd)}
    return subprocess.run(["bash", *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_shown_before_anything_is_installed(name, checkout):
    before = sorted(os.listdir(checkout))
    found = run(f"experiments/{name}", "--help", cwd=checkout)
    assert found.returncode == 0 and f"bash experiments/{name}" in found.stdout and not found.stderr
    assert sorted(os.listdir(checkout)) == before


@pytest.mark.slow
def test_going_back_to_earlier_pins_installs_them_again(checkout):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    log, packages = checkout / "log", next((checkout / ".venv").glob("lib*/python*/site-packages"))
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(PIP.format(log=str(log)))
    pins, installed = checkout / "constraints.txt", []
    for content in ("torch==1", "torch==1", "torch==2", "torch==1"):
        pins.write_text(content)
        assert run("experiments/setup_env.sh", cwd=checkout).returncode == 0
        installed.append(len(log.read_text().splitlines()))
    assert installed == [2, 2, 4, 6]


@pytest.mark.slow
def test_setup_refuses_an_option_that_it_does_not_know(checkout):
    found = run("experiments/setup_env.sh", "--no-vnv", cwd=checkout)
    assert found.returncode == 2 and "--no-vnv" in found.stderr and not (checkout / ".venv").exists()


def test_a_study_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match="error: .*speed.json"):
        redraw("", lambda *_: None, [str(tmp_path / "speed")])
