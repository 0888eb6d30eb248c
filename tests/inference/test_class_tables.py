import numpy as np

from nnunetv2.inference.class_tables import ClassTables
from nnunetv2.utilities.classification import ClassificationTask

TASK = ClassificationTask("subtype", ("a", "b", "c"), "subtypes.csv", (2,))


def test_names_and_columns(tmp_path):
    tables = ClassTables(TASK, tmp_path)
    tables.add("case_2.nii.gz", np.array([0.1, 0.7, 0.2]))
    tables.add("case_1.nii.gz", np.array([0.5, 0.25, 0.25]))
    assert (tmp_path / "subtype_results.csv").read_text() == "Names,Subtype\ncase_1.nii.gz,a\ncase_2.nii.gz,b\n"
    assert (tmp_path / "subtype_probabilities.csv").read_text() == (
        "Names,p_a,p_b,p_c\ncase_1.nii.gz,0.500000,0.250000,0.250000\ncase_2.nii.gz,0.100000,0.700000,0.200000\n")


def test_rows_of_an_earlier_run_stay_while_their_mask_is_there(tmp_path):
    for name in ("kept.nii.gz", "gone.nii.gz"):
        ClassTables(TASK, tmp_path).add(name, np.array([1.0, 0.0, 0.0]))
        (tmp_path / name).touch()
    (tmp_path / "gone.nii.gz").unlink()
    tables = ClassTables(TASK, tmp_path)
    tables.add("new.nii.gz", np.array([0.0, 0.0, 1.0]))
    assert tables.names() == {"kept.nii.gz", "new.nii.gz"}


def test_a_case_done_again_replaces_its_row(tmp_path):
    ClassTables(TASK, tmp_path).add("x.nii.gz", np.array([1.0, 0.0, 0.0]))
    ClassTables(TASK, tmp_path).add("x.nii.gz", np.array([0.0, 1.0, 0.0]))
    assert (tmp_path / "subtype_results.csv").read_text() == "Names,Subtype\nx.nii.gz,b\n"


def test_table_of_other_classes_is_replaced(tmp_path):
    other = ClassificationTask("subtype", ("0", "1"), "subtypes.csv", (2,))
    ClassTables(other, tmp_path).add("x.nii.gz", np.array([1.0, 0.0]))
    (tmp_path / "x.nii.gz").touch()
    tables = ClassTables(TASK, tmp_path)
    tables.add("y.nii.gz", np.array([0.0, 1.0, 0.0]))
    assert tables.names() == {"y.nii.gz"}


def test_parts_lose_no_row_though_each_writes_the_same_table(tmp_path):
    parts = [ClassTables(TASK, tmp_path, part, 2) for part in range(2)]
    parts[0].add("a.nii.gz", np.array([1.0, 0.0, 0.0]))
    parts[1].add("b.nii.gz", np.array([0.0, 1.0, 0.0]))
    (tmp_path / "subtype_probabilities.csv").unlink()  # as if the other part had just overwritten it
    parts[0].add("c.nii.gz", np.array([0.0, 0.0, 1.0]))
    assert parts[1].names() == {"a.nii.gz", "b.nii.gz", "c.nii.gz"}


def test_a_later_run_in_one_part_removes_what_parts_left(tmp_path):
    ClassTables(TASK, tmp_path, 1, 2).add("a.nii.gz", np.array([1.0, 0.0, 0.0]))
    ClassTables(TASK, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["subtype_probabilities.csv", "subtype_results.csv"]
