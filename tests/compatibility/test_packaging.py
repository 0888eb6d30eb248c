"""What setup.py promises: sources that the oldest Python reads, and a wheel with every file that the code reads."""

import ast
from distutils.core import run_setup  # setuptools' own, which it puts in place of the removed one
from pathlib import Path

import pytest
import setuptools  # noqa: F401  # before distutils is looked up

ROOT = Path(__file__).parents[2]
OLDEST = (3, 10)
PACKAGES = ("nnunetv2", "dynamic_network_architectures")
SOURCES = sorted(path for folder in (*PACKAGES, "data_prep", "evaluation", "report", "experiments", "tests") for path in (ROOT / folder).rglob("*.py"))


def newer_syntax(text: str) -> list[int]:
    """Lines with what OLDEST cannot parse; the parser lets a star in an index through whatever version it is asked for."""
    tree = ast.parse(text, feature_version=OLDEST)
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple)
            and any(isinstance(part, ast.Starred) for part in node.slice.elts) and not _in_brackets(text, node.slice)]


def _in_brackets(text: str, index: ast.Tuple) -> bool:
    return (ast.get_source_segment(text, index) or "").startswith("(")


@pytest.mark.slow
def test_every_source_parses_on_the_oldest_python():
    assert {str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := newer_syntax(path.read_text()))} == {}


@pytest.mark.parametrize("text", ["a[:, *b]", "a[*b]"])
def test_a_star_in_an_index_is_found(text):
    assert newer_syntax(text) == [1]


def test_a_star_in_brackets_in_an_index_is_none():
    assert newer_syntax("a[(slice(None), *b)]") == []


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages(monkeypatch):
    monkeypatch.chdir(ROOT)
    build = run_setup("setup.py", stop_after="init").get_command_obj("build_py")
    build.ensure_finalized()
    built = {Path(source, name) for _, source, _, names in build.data_files for name in names}
    built |= {Path(file) for _, _, file in build.find_all_modules()}
    wanted = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*")
              if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")}
    kernels = {path for path in wanted if path.parent == Path("nnunetv2/inference/engines/winograd/kernels")}
    assert wanted <= built and {"dispatch.cpp", "gemm.h", "winograd.h"} <= {path.name for path in kernels}
