"""make_submission and check_submission: every way in which a zip can be wrong."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.check_submission import check_submission, check_table, main
from data_prep.make_submission import main as pack_command
from data_prep.make_submission import make_submission
from nnunetv2.utilities.folder_lock import FolderBusy, prediction_lock
from tests.data_prep.conftest import tiny_labels

TABLE = "subtype_results.csv"


@pytest.fixture
def predictions(quiz, tmp_path) -> Path:
    folder = tmp_path / "predictions"
    folder.mkdir()
    for number in (5, 6):
        quiz.write(tiny_labels(), folder / f"quiz_{number:03d}.nii.gz")
    (folder / TABLE).write_text("Names,Subtype\nquiz_005.nii.gz,0\nquiz_006.nii.gz,2\n")
    (folder / "subtype_probabilities.csv").write_text("not part of a submission")
    return folder


def pack(predictions: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as content:
        for file in predictions.iterdir():
            if file.name != "subtype_probabilities.csv":
                content.write(file, file.name)
    return archive


def problems_of(quiz, predictions: Path, tmp_path: Path) -> str:
    return "\n".join(check_submission(pack(predictions, tmp_path / "X_results.zip"), quiz.root / "test", processes=1))


def test_submission_holds_exactly_masks_and_table(quiz, predictions, tmp_path):
    archive = tmp_path / "out" / "X_results.zip"
    make_submission(predictions, quiz.root / "test", archive, processes=1)
    with zipfile.ZipFile(archive) as content:
        assert sorted(content.namelist()) == ["quiz_005.nii.gz", "quiz_006.nii.gz", TABLE]
    assert check_submission(archive, quiz.root / "test", processes=1) == []


def test_same_predictions_give_the_same_bytes(quiz, predictions, tmp_path):
    for name in ("a.zip", "b.zip"):
        make_submission(predictions, quiz.root / "test", tmp_path / name, processes=1)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_bad_submission_leaves_the_former_one(quiz, predictions, tmp_path):
    archive = tmp_path / "X_results.zip"
    archive.write_bytes(b"former")
    (predictions / TABLE).write_text("Names,Subtype\n")
    with pytest.raises(ValueError, match="quiz_005.nii.gz is missing"):
        make_submission(predictions, quiz.root / "test", archive, processes=1)
    assert archive.read_bytes() == b"former" and list(tmp_path.glob(".*")) == []


def test_all_missing_predictions_are_named(quiz, predictions, tmp_path):
    for file in predictions.glob("quiz_*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"quiz_005.nii.gz: missing.*\n.*quiz_006.nii.gz: missing"):
        make_submission(predictions, quiz.root / "test", tmp_path / "X_results.zip", processes=1)


def test_extra_and_missing_files_are_found(quiz, predictions, tmp_path):
    (predictions / "quiz_005.nii.gz").rename(predictions / "quiz_007.nii.gz")
    found = problems_of(quiz, predictions, tmp_path)
    assert "quiz_005.nii.gz: missing" in found and "quiz_007.nii.gz: does not belong there" in found


def test_files_in_a_folder_of_the_zip_are_found(quiz, predictions, tmp_path):
    with zipfile.ZipFile(tmp_path / "X_results.zip", "w") as content:
        for file in predictions.iterdir():
            content.write(file, f"masks/{file.name}")
    found = "\n".join(check_submission(tmp_path / "X_results.zip", quiz.root / "test", processes=1))
    assert "masks/quiz_005.nii.gz: does not belong there" in found and f"{TABLE}: missing" in found


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "message"), [
    (tiny_labels().astype(np.float32), ": stored as float32"),
    (tiny_labels().astype(np.int16), ": stored as int16"),
    (tiny_labels() * 2, ": values 4"),
    (tiny_labels()[:-1], " has (z, y, x) = (5, 7, 8) voxels, must have (6, 7, 8)")])
def test_bad_masks_are_found(quiz, predictions, tmp_path, labels, message):
    quiz.write(labels, predictions / "quiz_006.nii.gz")
    found = problems_of(quiz, predictions, tmp_path)
    assert f"quiz_006.nii.gz{message}" in found and "quiz_005" not in found


def test_a_mask_with_another_geometry_is_found(quiz, predictions, tmp_path, flipped):
    array, geometry = flipped(tiny_labels())
    quiz.write(array, predictions / "quiz_005.nii.gz", **geometry)
    assert "quiz_005.nii.gz lies up to 5.4 mm off" in problems_of(quiz, predictions, tmp_path)


def test_truncated_mask_is_found(quiz, predictions, tmp_path):
    file = predictions / "quiz_005.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert "quiz_005.nii.gz is damaged" in problems_of(quiz, predictions, tmp_path)


@pytest.mark.parametrize(("table", "message"), [
    ("Subtype,Names\n0,quiz_005.nii.gz\n", "first line is 'Subtype,Names'"),
    ("", "is empty; its first line must hold the columns Names,Subtype"),
    ("Names,Subtype\nquiz_005.nii.gz,3\nquiz_006.nii.gz,1\n", "Subtype '3' is none of"),
    ("Names,Subtype\nquiz_005.nii.gz,1.0\nquiz_006.nii.gz,1\n", "Subtype '1.0' is none of"),
    ("Names,Subtype\nquiz_005.nii.gz,1\n", "quiz_006.nii.gz is missing"),
    ("Names,Subtype\nquiz_005.nii.gz,1\nquiz_005.nii.gz,1\nquiz_006.nii.gz,1\n", "quiz_005.nii.gz is listed 2 times"),
    ("Names,Subtype\nquiz_005,1\nquiz_005.nii.gz,1\nquiz_006.nii.gz,1\n", "quiz_005 is no mask"),
    ("Names,Subtype\nquiz_005.nii.gz,1,0\nquiz_006.nii.gz,1\n", "line 2: 3 field(s) under 2 columns")])
def test_bad_tables_are_found(table, message):
    assert message in "\n".join(check_table(table.encode(), {"quiz_005.nii.gz", "quiz_006.nii.gz"}))


def test_a_good_table_has_no_problems():
    assert check_table(b"Names,Subtype\r\nquiz_005.nii.gz,0\r\n", {"quiz_005.nii.gz"}) == []


def test_no_zip_at_all_is_reported(quiz, tmp_path):
    (tmp_path / "X_results.zip").write_bytes(b"no zip")
    assert "cannot be read as a zip" in check_submission(tmp_path / "X_results.zip", quiz.root / "test")[0]


@pytest.mark.parametrize("place", ["options of a member", "length of a member"])
def test_a_damaged_zip_is_reported(quiz, tmp_path, place):
    archive, of_options = tmp_path / "X_results.zip", place.startswith("options")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA if of_options else zipfile.ZIP_STORED) as content:
        content.writestr(TABLE, "Names,Subtype\n" * 100)
    packed = bytearray(archive.read_bytes())
    entry = packed.index(b"PK\x01\x02")
    for where in [30 + len(TABLE) + 4] if of_options else [entry + 22, entry + 26]:  # both sizes, packed and unpacked, grow
        packed[where] = 255
    archive.write_bytes(packed)
    problems = check_submission(archive, quiz.root / "test", processes=1)
    # which of both says so depends on the version of Python's zipfile
    assert len(problems) == 1 and ("cannot be read as a zip" in problems[0] or "is damaged; make it again" in problems[0]) and "()" not in problems[0]


def test_command_line_wants_the_right_file_name(quiz, predictions, tmp_path, capsys):
    archive = pack(predictions, tmp_path / "X.zip")
    with pytest.raises(SystemExit, match="must be named NAME_results.zip"):
        main([str(archive), "--test", str(quiz.root / "test"), "-np", "1"])
    main([str(pack(predictions, tmp_path / "X_results.zip")), "--test", str(quiz.root / "test"), "-np", "1"])
    assert "2 masks and subtype_results.csv, ready to hand in" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "-x", "a\nb"])
def test_a_name_that_leads_out_of_the_folder_is_refused(quiz, predictions, tmp_path, name):
    with pytest.raises(SystemExit, match="--name"):
        pack_command(["--pred", str(predictions), "--test", str(quiz.root / "test"), f"--name={name}", "--out", str(tmp_path / "out")])
    assert not list(tmp_path.rglob("*_results.zip"))


def test_nothing_is_handed_in_while_masks_are_written(quiz, predictions, tmp_path):
    with prediction_lock(predictions), pytest.raises(FolderBusy, match="predictions is in use by another run"):
        make_submission(predictions, quiz.root / "test", tmp_path / "X_results.zip", processes=1)
