"""A name that serves for no file ends an experiment before anything has run."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", ["run_fold0.sh", "run_cv.sh"])
@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-x", "a\nb", "x" * 201, "a*"])
def test_a_name_that_leads_elsewhere_is_refused_at_once(script, name, tmp_path):
    found = subprocess.run(["bash", str(ROOT / "experiments" / script), "--name", name, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=20)
    assert found.returncode == 2 and "--name" in found.stderr and len(found.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["TEAM", "my team", "Gr\u00fcn-2.v3", "$(touch ran)", "a;b"])
def test_other_names_pass(name, tmp_path):
    found = subprocess.run(["bash", "-c", f'source "{ROOT}/experiments/check_name.sh"; check_name "$1"', "_", name], cwd=tmp_path, timeout=20)
    assert found.returncode == 0 and not list(tmp_path.iterdir())
