"""Data with a description of their own in the quiz's layout: labels, classes, patients and names that are not the quiz's."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data_prep.case_checks import Inspection, summary_table
from data_prep.check_dataset import check_dataset
from data_prep.check_submission import check_submission
from data_prep.convert_quiz import convert, stratified_folds
from data_prep.lidc_to_quiz import SOURCE, TASKS, read_nodules, split_by_patient
from data_prep.lidc_to_quiz import convert as convert_lidc
from data_prep.make_submission import make_submission
from data_prep.msd_to_quiz import convert as convert_msd
from data_prep.oriented_files import write_oriented
from data_prep.quiz_layout import Case, _spelled_in_two_ways
from nnunetv2.utilities.csv_files import read_csv, write_rows
from nnunetv2.utilities.data_description import QUIZ, THE_QUIZ, DataDescription, DescriptionShape, read_description
from nnunetv2.utilities.errors import InputError
from tests.data_prep.conftest import to_image

NODULES = {"name": "Nodules", "labels": {"background": 0, "nodule": 1}, "lesion": "nodule", "patients": "patients.csv",
           "classification": {"name": "malignancy", "classes": ["low", "high"], "labels": "classes.csv"}, "source": "made up for tests"}
HIPPOCAMPUS = {"name": "Hippocampus", "organ": "hippocampus", "channel_names": {"0": "MRI"},
               "labels": {"background": 0, "anterior": 1, "posterior": 2}}


def volume(label: int = 1) -> np.ndarray:
    values = np.zeros((6, 7, 8), np.uint8)
    values[1:5, 1:4, 2:6] = label
    return values


def write_case(folder: Path, name: str, label: int | None = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_image(volume(50).astype(np.int16) - 800), str(folder / f"{name}_0000.nii.gz"))
    if label is not None:
        sitk.WriteImage(to_image(volume(label)), str(folder / f"{name}.nii.gz"))


@pytest.fixture
def nodules(tmp_path) -> Path:
    """Six labelled cases of three training patients and one validation patient, and a test case."""
    data = tmp_path / "data"
    cases = {"a1": ("train", "p1", "low"), "a2": ("train", "p1", "high"), "b": ("train", "p2", "low"), "c": ("train", "p3", "high"), "v": ("validation", "p4", "low")}
    for name, (split, _, _) in cases.items():
        write_case(data / split, name)
    write_case(data / "test", "t", None)
    (data / "classes.csv").write_text("case,malignancy\n" + "".join(f"{name},{of[2]}\n" for name, of in cases.items()))
    (data / "patients.csv").write_text("case,patient\nt,p5\n" + "".join(f"{name},{of[1]}\n" for name, of in cases.items()))
    (data / "dataset_description.json").write_text(json.dumps(NODULES))
    return data


def test_the_quiz_is_described_as_it_is():
    assert DescriptionShape.problems(QUIZ) == []
    assert {key: s.labels for key, s in THE_QUIZ.structures.items()} == {"whole_pancreas": (1, 2), "lesion": (2,), "normal_pancreas": (1,)}


@pytest.mark.slow
def test_commas_in_names_of_cases_and_classes_stay_in_their_field(tmp_path):
    task = NODULES["classification"] | {"classes": ["a,b", "high"]}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_description.json").write_text(json.dumps({**NODULES, "classification": task, "patients": None}))
    cases = {"y,1": "a,b", "x": "high"}
    for name in cases:
        write_case(tmp_path / "data" / "train", name)
    write_case(tmp_path / "data" / "validation", "v")
    write_rows(tmp_path / "data" / "classes.csv", [["case", "malignancy"], *cases.items(), ["v", "high"]])
    convert(tmp_path / "data", tmp_path / "raw", processes=1)
    raw = tmp_path / "raw" / "Dataset777_Nodules"
    assert {row["case"]: row["malignancy"] for row in read_csv(raw / "classes.csv").rows} == cases | {"v": "high"}
    assert check_dataset(raw, processes=1)[1] == []


def test_one_label_is_one_structure():
    description = DataDescription(NODULES)
    assert list(description.structures) == ["nodule"] and description.lesion == description.whole


def test_without_a_lesion_each_label_is_drawn():
    description = DataDescription(HIPPOCAMPUS)
    assert list(description.structures) == ["whole_hippocampus", "anterior", "posterior"] and description.lesion is None
    assert [structure.key for structure in description.drawn] == ["anterior", "posterior"]


@pytest.mark.parametrize("change, named", [
    ({"labels": {"background": 0, "nodule": 2}}, "without gaps"),
    ({"lesion": "tumour"}, "tumour"),
    ({"name": "../x"}, "name"),
    ({"classification": {"name": "Malignancy", "classes": ["a", "b"]}}, "classification.name"),
    ({"classification": {"name": "m", "classes": ["a", "a"]}}, "different names"),
    ({"labels": {"background": 0, "cases": 1}, "lesion": None}, "must not be called 'cases'"),
    ({"window": [5, 1]}, "window"),
])
def test_a_wrong_description_is_named(tmp_path, change, named):
    (tmp_path / "dataset_description.json").write_text(json.dumps(NODULES | change))
    with pytest.raises(InputError, match=named):
        read_description(tmp_path)


@pytest.mark.slow
def test_conversion_carries_names_labels_and_classes(nodules, tmp_path):
    convert(nodules, tmp_path / "raw", processes=1)
    raw = tmp_path / "raw" / "Dataset777_Nodules"
    written = json.loads((raw / "dataset.json").read_text())
    assert written["labels"] == NODULES["labels"] and written["data_description"] == NODULES and written["holdout"] == ["v"]
    assert written["classification"] == {"name": "malignancy", "classes": ["low", "high"], "labels": "classes.csv", "lesion_labels": [1]}
    assert (raw / "classes.csv").read_text().splitlines() == ["case,malignancy", "a1,low", "a2,high", "b,low", "c,high", "v,low"]
    assert check_dataset(raw, 1)[1] == []


@pytest.mark.slow
def test_folds_keep_patients_together(nodules, tmp_path):
    convert(nodules, tmp_path / "raw", processes=1)
    folds = json.loads((tmp_path / "raw" / "Dataset777_Nodules" / "splits_final.json").read_text())[1:]
    assert len(folds) == 3 and all(({"a1", "a2"} <= set(fold["val"])) or not {"a1", "a2"} & set(fold["val"]) for fold in folds)


def test_folds_without_patients_are_as_before():
    cases = {f"c{i:02d}": str(i % 3) for i in range(20)}
    assert stratified_folds(cases) == stratified_folds(cases, patients={name: name for name in cases})


@pytest.mark.slow
@pytest.mark.parametrize("table, line, named", [
    ("patients.csv", "v,p1", "patient p1 is in train and validation"),
    ("patients.csv", "v,P1", "P1 and p1 may be one patient"),
    ("classes.csv", "v,maybe", "'maybe' is none of low, high"),
    ("classes.csv", None, "v is missing"),
])
def test_a_wrong_table_is_named(nodules, tmp_path, table, line, named):
    rows = [row for row in (nodules / table).read_text().splitlines() if not row.startswith("v,")] + ([line] if line else [])
    (nodules / table).write_text("\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=named):
        convert(nodules, tmp_path / "raw", processes=1)


@pytest.mark.parametrize(("names", "n"), [(["7", "007", "7.0"], 1), (["A", "a"], 1), (["7", "70", "p7", "P8"], 0), (["1.5", "15"], 0)])
def test_patients_that_may_be_one_are_named(names, n):
    assert len(_spelled_in_two_ways(names, Path("patients.csv"))) == n


def test_a_label_of_no_structure_is_named(nodules, tmp_path):
    write_case(nodules / "train", "b", 2)
    with pytest.raises(ValueError, match="a mask may hold 0 and 1"):
        convert(nodules, tmp_path / "raw", processes=1)


def test_classes_may_be_told_by_folders(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "validation"):
        for name in ("low", "high"):
            write_case(data / split / f"malignancy{name}", f"{split}-{name}")
    described = {key: value for key, value in NODULES.items() if key != "patients"} | {"classification": {"name": "malignancy", "classes": ["low", "high"]}}
    (data / "dataset_description.json").write_text(json.dumps(described))
    found = convert(data, tmp_path / "raw", processes=1)
    assert {case.case.name: case.case.subtype for case in found} == {f"{split}-{name}": name for split in ("train", "validation") for name in ("low", "high")}


def test_data_without_classes_have_no_table(tmp_path):
    data = tmp_path / "data"
    for split, name in (("train", "a"), ("train", "b"), ("validation", "c")):
        write_case(data / split, name, 2)
    (data / "dataset_description.json").write_text(json.dumps(HIPPOCAMPUS))
    convert(data, tmp_path / "raw", processes=1)
    raw = tmp_path / "raw" / "Dataset777_Hippocampus"
    written = json.loads((raw / "dataset.json").read_text())
    assert "classification" not in written and not list(raw.glob("*.csv")) and written["channel_names"] == {"0": "MRI"}
    assert len(json.loads((raw / "splits_final.json").read_text())) == 3


@pytest.mark.parametrize("described, table", [(NODULES, "malignancy_results.csv"), (HIPPOCAMPUS, None)])
def test_submission_follows_the_description(tmp_path, described, table):
    description = DataDescription(described)
    for folder, name, label in (("test", "t", None), ("pred", "t", 1)):
        write_case(tmp_path / folder, name, label)
    (tmp_path / "pred" / "t_0000.nii.gz").unlink()
    if table:
        (tmp_path / "pred" / table).write_text("Names,Malignancy\nt.nii.gz,high\n")
    make_submission(tmp_path / "pred", tmp_path / "test", tmp_path / "X_results.zip", 1, description)
    assert check_submission(tmp_path / "X_results.zip", tmp_path / "test", 1, description) == []


def lidc(folder: Path) -> Path:
    """Four made-up nodules of three patients in the layout of the LIDC crops, one of them with flipped axes."""
    rows = {"n1": ("p1", "0"), "n2": ("p1", "2"), "n3": ("p2", "1"), "n4": ("p3", "2")}
    for name in rows:
        for part, array in (("image", volume(50).astype(np.int16)), ("nodule_mask", volume())):
            (folder / part).mkdir(parents=True, exist_ok=True)
            flipped = (-1, 0, 0, 0, -1, 0, 0, 0, 1) if name == "n4" else (1, 0, 0, 0, 1, 0, 0, 0, 1)
            sitk.WriteImage(to_image(array, direction=flipped), str(folder / part / f"{name}.nii.gz"))
    (folder / "nodules.csv").write_text("case,patient_id,class3,Texture\n" + "".join(f"{name},{p},{c},Solid\n" for name, (p, c) in rows.items()))
    return folder


def test_nodules_become_data_that_convert(tmp_path):
    splits = convert_lidc(lidc(tmp_path / "lidc"), tmp_path / "data", processes=1)
    assert splits["n1"] == splits["n2"]
    described = read_description(tmp_path / "data")
    assert described.task == "malignancy" and "LIDC-IDRI" in described.banner(False) and described.banner(False).startswith("REAL")


def test_flipped_files_are_turned_and_keep_their_world_content(tmp_path):
    source = lidc(tmp_path / "lidc") / "image" / "n4.nii.gz"
    write_oriented(source, tmp_path / "turned.nii.gz")
    before, after = sitk.ReadImage(str(source)), sitk.ReadImage(str(tmp_path / "turned.nii.gz"))
    assert after.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    point = before.TransformIndexToPhysicalPoint((2, 1, 1))
    assert after[after.TransformPhysicalPointToIndex(point)] == before[2, 1, 1] == 50


def test_a_rating_of_no_class_is_named(tmp_path):
    folder = lidc(tmp_path / "lidc")
    (folder / "nodules.csv").write_text((folder / "nodules.csv").read_text().replace("n3,p2,1", "n3,p2,7"))
    with pytest.raises(InputError, match="n3: class3 '7' is in no class"):
        convert_lidc(folder, tmp_path / "data", processes=1)


def test_two_images_of_one_case_of_a_decathlon_set_are_named(tmp_path):
    for part, names in (("imagesTr", ("h_1", "h_1_0000")), ("labelsTr", ("h_1",))):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "Set", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a"}}))
    with pytest.raises(InputError, match="h_1.nii.gz: h_1_0000.nii.gz beside it is an image of h_1 too"):
        convert_msd(tmp_path, tmp_path / "data", processes=1)


@pytest.mark.slow
def test_decathlon_set_becomes_data_that_convert(tmp_path):
    for part, array in (("imagesTr", volume(90).astype(np.int16)), ("labelsTr", volume(2))):
        (tmp_path / "set" / part).mkdir(parents=True)
        for k in range(8):
            sitk.WriteImage(to_image(array), str(tmp_path / "set" / part / f"h_{k}.nii.gz"))
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"name": "Hippocampus", "modality": {"0": "MRI"}, "licence": "CC-BY-SA 4.0",
                                                               "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}))
    convert_msd(tmp_path / "set", tmp_path / "data", processes=1)
    found = convert(tmp_path / "data", tmp_path / "raw", processes=1)
    assert len(found) == 8 and found[0].volumes_ml["posterior"] > 0 and found[0].volumes_ml["anterior"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_real_rating_has_a_class_and_no_patient_is_in_two_splits(task):
    if not SOURCE.is_dir():
        pytest.skip(f"the REAL LIDC crops are not in {SOURCE}")
    nodules = read_nodules(SOURCE, TASKS[task])
    splits = split_by_patient(nodules, list(TASKS[task].classes), 0)
    of_patient = {(nodule.patient, splits[nodule.name]) for nodule in nodules}
    assert len(of_patient) == len({patient for patient, _ in of_patient})
    assert {(splits[nodule.name], nodule.label) for nodule in nodules} == {(split, label) for split in ("train", "validation", "test") for label in TASKS[task].classes}


def test_columns_of_the_table_stay_apart_whatever_they_hold():
    wide = (10.123, 2.987, 2.987)
    found = [Inspection(Case(name, "train", Path(name), Path(name), "low"), shape=(10, 200, 300), spacing=spacing, volumes_ml={"nodule": 1234.5})
             for name, spacing in (("a", wide), ("b", tuple(10 * mm for mm in wide)))]
    assert "10.123-101.230 x 2.987-29.870 x 2.987-29.870  1234.5 / 1234.5 / 1234.5" in summary_table(found, DataDescription(NODULES))


def test_healthy_cases_of_data_whose_one_label_is_the_lesion_are_taken(nodules):
    write_case(nodules / "train", "b", label=0)
    assert "note: 1 without a nodule: b" in summary_table(convert(nodules, "", dry_run=True, processes=1), read_description(nodules))


def test_names_that_later_stages_would_write_to_one_file_are_named_by_the_check(tmp_path):
    (tmp_path / "dataset_description.json").write_text(json.dumps({"name": "Balls", "labels": {"background": 0, "ball": 1}}))
    for split, name in (("train", "p1"), ("train", "p1_seg"), ("train", "q2"), ("validation", "Q2")):
        write_case(tmp_path / split, name)
    with pytest.raises(ValueError, match=r"share a file; rename one of each(.|\n)*p1 and p1_seg: p1_seg.b2nd(.|\n)*q2 and Q2"):
        convert(tmp_path, "", dry_run=True, processes=1)
