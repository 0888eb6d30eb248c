"""docs/security.md: every guard and test that its table names exists, and each test file tests something."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (REPOSITORY / "docs" / "security.md").read_text().splitlines()
    if re.match(r"\|.*`(nnunetv2|data_prep|evaluation|report)/", line)
]


def paths(cell: str) -> list[Path]:
    return [REPOSITORY / name for name in re.findall(r"`([^`]+)`", cell)]


def test_the_table_has_rows():
    assert len(ROWS) > 10 and all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_guard_and_tests_of_a_row_exist(row):
    _, _, code, tests = row
    assert paths(code) and all(path.exists() for path in paths(code))
    assert paths(tests) and all("def test_" in path.read_text() for path in paths(tests))


DECODERS = re.compile(r"(pickle\.(load|loads|Unpickler)|zipfile\.ZipFile|urllib\.request\.urlopen|torch\.load|\w*\.?ReadImage|ctypes\.CDLL|blosc2\.open)$")
WRITERS = {"nnunetv2/model_sharing/model_export.py", "data_prep/make_submission.py"}  # they make zip files


def decodes(file: Path) -> bool:
    """Whether a module calls what unpacks pickles, zips, images, libraries or addresses."""
    return any(isinstance(node, ast.Call) and DECODERS.match(ast.unparse(node.func)) for node in ast.walk(ast.parse(file.read_text())))


@pytest.mark.slow
def test_every_module_that_decodes_what_comes_from_outside_is_in_the_table():
    listed = {path for row in ROWS for path in paths(row[2])}
    folders = [path for path in listed if path.is_dir()]
    callers = {file for room in ("nnunetv2", "data_prep", "evaluation", "report") for file in (REPOSITORY / room).rglob("*.py") if decodes(file)}
    unlisted = {str(file.relative_to(REPOSITORY)) for file in callers - listed if not any(folder in file.parents for folder in folders)}
    assert unlisted <= WRITERS, "name their guard in docs/security.md"
