from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nnunetv2.inference.class_tables import ClassTables, SharedClassTables
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.folder_lock import FolderBusy, prediction_lock
from nnunetv2.utilities.parallel import in_processes
from tests.inference.full_disk import no_file_larger_than

TASK = ClassificationTask("subtype", ("a", "b", "c"), "subtypes.csv", (2,))


def test_names_and_columns(tmp_path):
    tables = ClassTables(TASK, tmp_path)
    tables.add("case_2.nii.gz", np.array([0.1, 0.7, 0.2]))
    tables.add("case_1.nii.gz", np.array([0.5, 0.25, 0.25]), lesion_found=False)
    for name in ("case_1.nii.gz", "case_2.nii.gz"):
        (tmp_path / name).touch()
    tables.finish()
    assert (tmp_path / "subtype_results.csv").read_text() == "Names,Subtype\ncase_1.nii.gz,a\ncase_2.nii.gz,b\n"
    assert (tmp_path / "subtype_probabilities.csv").read_text() == (
        "Names,p_a,p_b,p_c,lesion_found\ncase_1.nii.gz,0.500000,0.250000,0.250000,0\ncase_2.nii.gz,0.100000,0.700000,0.200000,unknown\n")


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
    (tmp_path / "a.nii.gz").touch()
    ClassTables(TASK, tmp_path).begin()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "subtype_probabilities.csv", "subtype_results.csv"]
    assert ClassTables(TASK, tmp_path).names() == {"a.nii.gz"}


def test_a_row_is_appended_and_the_rest_left_as_it_is(tmp_path):
    tables = ClassTables(TASK, tmp_path)
    tables.add("b.nii.gz", np.array([1.0, 0.0, 0.0]))
    inode = (tmp_path / "subtype_results.csv").stat().st_ino
    tables.add("a.nii.gz", np.array([0.0, 1.0, 0.0]))
    assert (tmp_path / "subtype_results.csv").stat().st_ino == inode
    assert (tmp_path / "subtype_results.csv").read_text() == "Names,Subtype\nb.nii.gz,a\na.nii.gz,b\n"


def test_rows_of_masks_that_are_made_anew_go_first(tmp_path):
    for name in ("kept.nii.gz", "again.nii.gz"):
        ClassTables(TASK, tmp_path).add(name, np.array([1.0, 0.0, 0.0]))
        (tmp_path / name).touch()
    ClassTables(TASK, tmp_path).begin({"again.nii.gz"})
    assert ClassTables(TASK, tmp_path).names() == {"kept.nii.gz"}


def test_a_row_that_a_killed_process_was_writing_is_no_row(tmp_path):
    ClassTables(TASK, tmp_path).add("a.nii.gz", np.array([1.0, 0.0, 0.0]))
    (tmp_path / "a.nii.gz").touch()
    for table, half in (("subtype_probabilities.csv", "b.nii.gz,0.1000"), ("subtype_results.csv", "b.ni")):
        with open(tmp_path / table, "a") as file:
            file.write(half)
    tables = ClassTables(TASK, tmp_path)
    assert tables.names() == {"a.nii.gz"}
    tables.add("c.nii.gz", np.array([0.0, 0.0, 1.0]))
    assert (tmp_path / "subtype_results.csv").read_text() == "Names,Subtype\na.nii.gz,a\nc.nii.gz,c\n"


def test_a_row_that_the_disk_does_not_take_leaves_the_table_whole(tmp_path):
    tables = ClassTables(TASK, tmp_path)
    tables.add("a.nii.gz", np.array([1.0, 0.0, 0.0]))
    before = (tmp_path / "subtype_probabilities.csv").read_bytes()
    with no_file_larger_than(len(before) + 10), pytest.raises(OSError, match="subtype_probabilities.csv"):
        tables.add("b.nii.gz", np.array([0.0, 1.0, 0.0]))
    assert (tmp_path / "subtype_probabilities.csv").read_bytes() == before
    tables.add("b.nii.gz", np.array([0.0, 1.0, 0.0]))
    assert tables.names() == {"a.nii.gz", "b.nii.gz"}


def test_a_part_that_was_killed_leaves_its_rows_to_the_next_run(tmp_path):
    killed = ClassTables(TASK, tmp_path, 0, 2)
    for name in ("a.nii.gz", "b.nii.gz"):
        killed.add(name, np.array([1.0, 0.0, 0.0]))
        (tmp_path / name).touch()
    again = ClassTables(TASK, tmp_path, 0, 2)
    assert again.names() == {"a.nii.gz", "b.nii.gz"}
    again.begin({"b.nii.gz"})
    again.finish()
    assert ClassTables(TASK, tmp_path).names() == {"a.nii.gz"}


def test_many_rows_at_once_are_sorted(tmp_path):
    ClassTables(TASK, tmp_path).add_all({"b.nii.gz": np.array([1.0, 0.0, 0.0]), "a.nii.gz": np.array([0.0, 1.0, 0.0])}, {})
    assert (tmp_path / "subtype_results.csv").read_text() == "Names,Subtype\na.nii.gz,b\nb.nii.gz,a\n"


def test_a_row_costs_the_same_however_many_there_are(tmp_path):
    """By the files, which stay the ones they were; seconds tell more about other work on the machine."""
    tables = ClassTables(TASK, tmp_path)
    tables.add_all({f"case_{i:04d}.nii.gz": np.array([1.0, 0.0, 0.0]) for i in range(3000)}, {})
    inodes = [(tmp_path / name).stat().st_ino for name in ("subtype_results.csv", "subtype_probabilities.csv")]
    for i in range(5):
        tables.add(f"more_{i}.nii.gz", np.array([1.0, 0.0, 0.0]))
    assert [(tmp_path / name).stat().st_ino for name in ("subtype_results.csv", "subtype_probabilities.csv")] == inodes


@pytest.mark.parametrize("num_parts", [1, 2])
def test_a_row_whose_mask_could_not_be_written_goes_in_the_end(tmp_path, num_parts):
    tables = ClassTables(TASK, tmp_path, 0, num_parts)
    for name in ("a.nii.gz", "b.nii.gz"):
        tables.add(name, np.array([1.0, 0.0, 0.0]))
    (tmp_path / "a.nii.gz").touch()
    tables.finish()
    assert (tmp_path / "subtype_results.csv").read_text() == "Names,Subtype\na.nii.gz,a\n"


def add_shared(folder, first, n):
    """Each row by tables of its own, as separate calls of a predictor add them; masks come later."""
    for i in range(first, first + n):
        SharedClassTables(TASK, folder).add(f"{i:03d}.nii.gz", np.array([0.2, 0.5, 0.3]))


@pytest.mark.slow
def test_calls_of_many_threads_and_processes_lose_no_row(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda first: add_shared(tmp_path, first, 5), range(0, 40, 5)))
    in_processes(add_shared, {f"{first}": (tmp_path, first, 20) for first in (40, 60)}, 2, "adding")
    assert ClassTables(TASK, tmp_path).names() == {f"{i:03d}.nii.gz" for i in range(80)}


def test_a_shared_row_replaces_the_one_of_its_mask_alone(tmp_path):
    for name, certain in (("x.nii.gz", 0), ("y.nii.gz", 1), ("x.nii.gz", 2)):
        SharedClassTables(TASK, tmp_path).add(name, np.eye(3)[certain])
    assert (tmp_path / "subtype_results.csv").read_text() == "Names,Subtype\nx.nii.gz,c\ny.nii.gz,b\n"


def test_a_table_of_other_classes_gives_way_to_a_shared_row(tmp_path):
    ClassTables(ClassificationTask("subtype", ("a", "b"), "subtypes.csv", (2,)), tmp_path).add("x.nii.gz", np.array([1.0, 0.0]))
    SharedClassTables(TASK, tmp_path).add("y.nii.gz", np.array([0.0, 0.0, 1.0]))
    assert ClassTables(TASK, tmp_path).names() == {"y.nii.gz"}


def test_a_shared_row_does_not_come_into_a_runs_folder(tmp_path):
    with prediction_lock(tmp_path), pytest.raises(FolderBusy):
        SharedClassTables(TASK, tmp_path).add("x.nii.gz", np.array([1.0, 0.0, 0.0]))
