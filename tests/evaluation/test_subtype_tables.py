import numpy as np
import pytest

from evaluation.subtype_tables import read_predictions, read_probabilities, read_truth

CLASSES = ["0", "1", "2"]


def table(tmp_path, text: str):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_names_lose_their_suffix(tmp_path):
    assert read_predictions(table(tmp_path, "Names,Subtype\nquiz_168.nii.gz,2\n"), CLASSES) == {"quiz_168": "2"}


def test_columns_are_found_by_name_not_by_place(tmp_path):
    assert read_predictions(table(tmp_path, "Subtype,Names\n2,quiz_168.nii.gz\n"), CLASSES) == {"quiz_168": "2"}
    assert read_probabilities(table(tmp_path, "Names,p_2,p_0,p_1\na.nii.gz,.7,.2,.1\n"), CLASSES)["a"] == pytest.approx([0.2, 0.1, 0.7])


def test_exchanged_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not a mask file name"):
        read_predictions(table(tmp_path, "Names,Subtype\n2,quiz_168.nii.gz\n"), CLASSES)


def test_a_wrong_header_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lacks the column.*header is name,class"):
        read_truth(table(tmp_path, "name,class\na,0\n"))


def test_every_bad_row_is_listed(tmp_path):
    with pytest.raises(ValueError) as error:
        read_predictions(table(tmp_path, "Names,Subtype\na.nii.gz,7\nb.nii.gz,\na.nii.gz,1\nc,1\n"), CLASSES)
    assert all(part in str(error.value) for part in ("'7'", "line 3", "a.nii.gz is there 2 times", "'c'"))


@pytest.mark.parametrize("row", ["a.nii.gz,.5,.4,.3", "a.nii.gz,-.1,.6,.5", "a.nii.gz,x,.5,.5"])
def test_what_is_no_distribution_is_refused(tmp_path, row):
    with pytest.raises(ValueError, match="sum to 1"):
        read_probabilities(table(tmp_path, f"Names,p_0,p_1,p_2\n{row}\n"), CLASSES)


def test_rounded_probabilities_are_rescaled(tmp_path):
    probabilities = read_probabilities(table(tmp_path, "Names,p_0,p_1,p_2\na.nii.gz,.333,.333,.333\n"), CLASSES)["a"]
    assert np.sum(probabilities) == pytest.approx(1, abs=1e-12)


def test_the_mark_of_a_missing_lesion_is_read_and_may_be_absent(tmp_path):
    rows = "a.nii.gz,.7,.2,.1,0\nb.nii.gz,.7,.2,.1,unknown"
    assert read_probabilities(table(tmp_path, f"Names,p_0,p_1,p_2,lesion_found\n{rows}\n"), CLASSES).keys() == {"a", "b"}
    with pytest.raises(ValueError, match="a.nii.gz: lesion_found is 'yes'; it must be one of 1, 0, unknown"):
        read_probabilities(table(tmp_path, "Names,p_0,p_1,p_2,lesion_found\na.nii.gz,.7,.2,.1,yes\n"), CLASSES)
