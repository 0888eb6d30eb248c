import pytest

from nnunetv2.utilities.classification import ClassificationTask

DECLARED = {"name": "subtype", "classes": ["0", "1", "2"], "labels": "subtypes.csv"}


@pytest.fixture
def task():
    return ClassificationTask.from_dataset_json({"classification": DECLARED}, [1, 2])


@pytest.fixture
def table(tmp_path):
    def write(text):
        (tmp_path / "subtypes.csv").write_text(text, encoding="utf-8")
        return tmp_path
    return write


def test_dataset_without_the_key_has_no_task():
    assert ClassificationTask.from_dataset_json({}, [1, 2]) is None


def test_lesion_is_the_highest_label_by_default(task):
    assert task == ClassificationTask("subtype", ("0", "1", "2"), "subtypes.csv", (2,))


@pytest.mark.parametrize(("change", "message"), [
    ({"classes": ["0"]}, "two or more"), ({"classes": ["0", "0"]}, "different"), ({"lesion_labels": [3]}, r"lesion_labels \[3\]"),
    ({"lesion_labels": []}, "lesion_labels")])
def test_unusable_declaration_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ClassificationTask.from_dataset_json({"classification": DECLARED | change}, [1, 2])


def test_all_missing_keys_are_named():
    with pytest.raises(ValueError, match="'name' is missing; key 'labels' is missing"):
        ClassificationTask.from_dataset_json({"classification": {"classes": ["a", "b"]}}, [1])


def test_labels_are_indices_into_the_classes(tmp_path, table):
    task = ClassificationTask("grade", ("low", "high"), "subtypes.csv", (1,))
    assert task.read_labels(table("case,grade\nx,high\ny,low\n"), ["x", "y"]) == {"x": 1, "y": 0}


def test_rows_of_other_cases_may_be_anything(task, table):
    assert task.read_labels(table("case,subtype\nval1,hidden\na,1\nval2\n\nb,2\nval1,0\n"), ["a", "b"]) == {"a": 1, "b": 2}


def test_case_without_a_row_is_left_out(task, table):
    assert task.read_labels(table("case,subtype\na,1\n"), ["a", "b"]) == {"a": 1}


def test_byte_order_mark_and_spaces_are_tolerated(task, table):
    assert task.read_labels(table("\ufeffcase, subtype\na, 2 \n"), ["a"]) == {"a": 2}


def test_all_bad_rows_of_asked_cases_are_listed(task, table):
    folder = table("case,subtype\na,3\nb,\nc,1\nc,2\nd,0\nd,0\n")
    with pytest.raises(ValueError, match=r"(?s)3 bad row.*a: '3'.*b: ''.*c: two rows, '1' and '2'"):
        task.read_labels(folder, ["a", "b", "c", "d"])


@pytest.mark.parametrize(("case", "written"), [("case_3", "case_3.nii.gz"), ("case_3", "case_3_0000.nii.gz"), ("case_3", "Case_3"), ("007", "7")])
def test_a_case_under_another_spelling_is_not_left_out_in_silence(task, table, case, written):
    with pytest.raises(ValueError, match=f"1 bad row.*\n *{written}: the case is called {case}"):
        task.read_labels(table(f"case,subtype\na,1\n{written},2\n"), ["a", case])


@pytest.mark.parametrize("other", ["case_3_0000", "case_33", "validation.nii.gz", "07x"])
def test_other_names_are_other_cases(task, table, other):
    assert task.read_labels(table(f"case,subtype\na,1\n{other},?\n"), ["a", "case_3", "7x"]) == {"a": 1}


def test_the_file_of_a_case_that_has_its_row_may_stand_beside_it(task, table):
    assert task.read_labels(table("case,subtype\ncase_3,1\ncase_3.nii.gz,?\n"), ["case_3"]) == {"case_3": 1}


def test_accents_may_be_composed_or_not(tmp_path, table):
    composed, decomposed = "z\u00e9ro", "ze\u0301ro"
    task = ClassificationTask("grade", (composed, "un"), "subtypes.csv", (1,))
    assert task.read_labels(table(f"case,grade\n{composed},{decomposed}\n"), [decomposed]) == {decomposed: 0}


def test_absent_column_is_named_with_the_header(task, table):
    with pytest.raises(ValueError, match=r"column\(s\) 'subtype'; its header is case,class"):
        task.read_labels(table("case,class\na,1\n"), ["a"])


def test_absent_table_is_named(task, tmp_path):
    with pytest.raises(FileNotFoundError, match="subtypes.csv"):
        task.read_labels(tmp_path, ["a"])
