"""Programs that lay out data do not mix them with data that lie in their folder already."""

import pytest

from data_prep.make_phantom import make_phantom
from data_prep.quiz_layout import refuse_other_data
from nnunetv2.utilities.errors import InputError


def test_made_up_cases_do_not_join_real_ones(tmp_path):
    real = tmp_path / "train" / "subtype0" / "quiz_0_001_0000.nii.gz"
    real.parent.mkdir(parents=True)
    real.touch()
    with pytest.raises(InputError, match="quiz_0_001_0000.nii.gz"):
        make_phantom(tmp_path, "smoke", counts=(3, 0, 0), processes=1)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [real]


@pytest.mark.parametrize("name", ["train/class1/a.nii.gz", "test/a.nii.gz", "dataset_description.json", "SYNTHETIC.txt"])
def test_data_of_every_layout_count_as_other_data(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"holds data already.*{name}"):
        refuse_other_data(tmp_path)
