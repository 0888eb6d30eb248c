"""The README's Python example, run as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_readme_example_predicts_a_folder(model_folder, image_folder, tmp_path, monkeypatch):
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL_FOLDER").symlink_to(model_folder)
    (tmp_path / "imagesTs").symlink_to(image_folder)
    exec(example, {})
    assert len(list((tmp_path / "masks").glob("case_*.nii.gz"))) == 3
    assert (tmp_path / "masks/subtype_results.csv").is_file()
