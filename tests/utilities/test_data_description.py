"""What a dataset.json says of its data when it holds no description."""

from pathlib import Path

import pytest

from nnunetv2.utilities.data_description import FILE, KEY, DataDescription, DescriptionShape, description_of_dataset, read_description
from nnunetv2.utilities.errors import InputError

WHERE = Path("raw/Dataset005_Prostate/dataset.json")


def content(labels: dict, **further) -> dict:
    return {"channel_names": {"0": "T2", "1": "ADC"}, "labels": labels, "file_ending": ".nii.gz", **further}


def described(labels: dict, values_alone: bool = False, **further) -> DataDescription:
    return description_of_dataset(content(labels, **further), WHERE, values_alone)


def labels_of(description: DataDescription) -> dict[str, tuple[int, ...]]:
    return {key: structure.labels for key, structure in description.structures.items()}


def test_labels_go_by_their_own_names_and_none_is_the_lesion_for_its_name():
    found = described({"background": 0, "lesion": 1, "organ": 2})
    assert labels_of(found) == {"whole_foreground": (1, 2), "lesion": (1,), "organ": (2,)}
    assert found.lesion is None and found.task is None and not found.is_quiz


@pytest.mark.parametrize("labels", [{"background": 0, "pancreas": 1, "lesion": 2}, {"lesion": "2", "background": "0", "Pancreas": "1"}])
def test_the_quizs_labels_are_the_quiz(labels):
    assert described(labels).is_quiz


def test_the_quizs_labels_with_another_class_task_keep_that_task():
    found = described({"background": 0, "pancreas": 1, "lesion": 2}, classification={"name": "grade", "classes": [1, 2], "labels": "grades.csv"})
    assert (found.task, found.classes, found.is_quiz) == ("grade", ("1", "2"), False) and found.lesion.labels == (2,)


def test_the_class_task_names_the_lesion():
    found = described({"background": 0, "cyst": 1, "organ": 2}, classification={"name": "kind", "classes": ["a", "b"], "labels": "c.csv", "lesion_labels": [1]})
    assert (found.task, found.classes, found.lesion.key) == ("kind", ("a", "b"), "cyst")


def test_a_description_in_the_file_counts():
    own = {"name": "Other", "labels": {"background": 0, "node": 1}}
    assert labels_of(described({"background": 0, "a": 1, "b": 2}, **{KEY: own})) == {"node": (1,)}


def test_names_that_no_structure_can_have_become_words():
    found = described({"background": 0, "left_kidney": 1, "1st rib": 2, "a b": 3, "a-b": 4, "cases": 5}, name="Dataset005_My Set")
    assert found.content["labels"] == {"background": 0, "left kidney": 1, "label 2": 2, "label 3": 3, "label 4": 4, "label 5": 5}
    assert found.content["name"] == "MySet" and DescriptionShape.problems(found.content) == []


def test_data_are_named_after_their_folder_and_say_whether_they_are_made_up():
    found = described({"background": 0, "gland": 1}, synthetic=True)
    assert found.title == "Prostate" and found.made_up and not found.is_ct


ODD = {"background": 0, "whole gland": [1, 2], "core": 2, "ignore": 3}


def test_regions_and_voxels_to_ignore_are_refused_by_name():
    with pytest.raises(InputError, match=r"dataset.json: labels \{'whole gland': \[1, 2\], 'ignore': 3\} are regions, .*evaluate_simple"):
        described(ODD)


def test_readers_of_values_alone_take_regions_apart():
    found = described(ODD, values_alone=True)
    assert found.label_values == (0, 1, 2, 3) and found.label_names == ["label 1", "core", "ignore"]


def test_more_labels_than_can_be_scored_are_refused_but_may_be_checked():
    many = {"background": 0} | {f"rib {number}": number for number in range(1, 25)}
    with pytest.raises(InputError, match="own labels and class task cannot serve as one"):
        described(many)
    assert described(many, values_alone=True).label_values == tuple(range(25))


def test_a_description_that_a_person_wrote_is_to_be_corrected_and_not_deleted(tmp_path):
    (tmp_path / FILE).write_text('{"name": "Liver", "labels": {"background": 0, "L\u00e4sion": 1}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"Correct it \(docs/your-data.md\)\.\n.*letters A to Z"):
        read_description(tmp_path)
