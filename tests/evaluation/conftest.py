from pathlib import Path

import pytest

from evaluation.compute_metrics import main
from tests.evaluation.small_run import table_options, write_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run that the test may change; see small_run.py."""
    return write_run(tmp_path)


@pytest.fixture(scope="session")
def scored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, scored as synthetic data, metrics.json in the folder itself. Not to be changed."""
    folder = write_run(tmp_path_factory.mktemp("scored"))
    assert main(["--pred", str(folder / "prediction"), "--ref", str(folder / "reference"), "--out", str(folder), "--bootstrap", "50",
                 "--jobs", "1", "--synthetic", *table_options(folder)]) == 0
    return folder
