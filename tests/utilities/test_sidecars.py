"""The spacing of TIFF volumes lies in files of its own."""

import pytest

from nnunetv2.utilities.data_manifest import hash_cases
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.own_output import own_files_of_postprocessed
from nnunetv2.utilities.sidecars import sidecars


def test_images_share_the_file_of_their_case_and_masks_have_their_own(tmp_path):
    for name in ("images/a.json", "labels/a.json", "images/b.json", "images/a_0000.nii.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    files = ["images/a_0000.tif", "images/a_0001.tif", "labels/a.tif", "images/b_0000.nii.gz"]
    assert sidecars(tmp_path / name for name in files) == [tmp_path / "images/a.json", tmp_path / "labels/a.json"]


def test_a_corrected_spacing_is_another_case(tmp_path):
    files = {"images": [str(tmp_path / "a_0000.tif")], "label": str(tmp_path / "a.tif")}
    for path in (*files["images"], files["label"]):
        (tmp_path / path).write_bytes(b"II")
    (tmp_path / "a.json").write_text('{"spacing": [1, 1, 1]}')
    before = hash_cases(tmp_path, {"a": files})
    assert hash_cases(tmp_path, {"a": files}) == before
    (tmp_path / "a.json").write_text('{"spacing": [2, 1, 1]}')
    assert hash_cases(tmp_path, {"a": files}) != before


def test_what_lies_beside_post_processed_masks_is_made_anew_with_them(tmp_path):
    for name in ("a.tif", "a.json", "summary.json"):
        (tmp_path / name).write_text("{}")
    assert {path.name for path in own_files_of_postprocessed(tmp_path, ["a.tif"])} == {"a.tif", "a.json", "summary.json"}
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InputError, match="b.json"):
        own_files_of_postprocessed(tmp_path, ["a.tif"])
