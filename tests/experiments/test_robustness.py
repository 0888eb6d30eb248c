"""The study of what should not matter: agreement of masks, and what a mode misses."""

import numpy as np
import pytest
import SimpleITK as sitk

from experiments import robustness
from experiments.robustness import between_modes, compare, model_with_reader
from experiments.robustness_report import draw, markdown
from experiments.scan_variants import Scan, cropped, variants_of
from nnunetv2.utilities.files import load_json
from tests.evaluation.small_run import status_of
from tests.inference.tiny_model import save_model, smooth_ct, tiny_dataset_json, tiny_network, tiny_plans

pytestmark = pytest.mark.slow

LABELS = {"organ": 1, "lesion": 2}


@pytest.fixture
def scan():
    """12 x 12 x 12 voxels of 10 mm: one is a millilitre."""
    return Scan(np.zeros((12, 12, 12), np.float32), np.diag([10.0, 10, 10, 1]))


@pytest.fixture
def model_folder(tmp_path):
    save_model(tmp_path / "model", tiny_plans(), tiny_dataset_json(), [tiny_network()])
    return tmp_path / "model"


def mask(folder, variant, *boxes):
    """A mask of the variant with label k + 1 in the k-th box of its grid."""
    folder.mkdir(exist_ok=True)
    values = np.zeros(variant.scan.array.shape, np.uint8)
    for label, box in enumerate(boxes, start=1):
        values[box] = label
    sitk.WriteImage(variant.scan.image(values), str(folder / f"{variant.case}.nii.gz"))


def test_a_variants_mask_is_compared_where_both_grids_reach(scan, tmp_path):
    own = next(iter(variants_of(scan, ())))
    crop = {variant.name: variant for variant in cropped(scan)}["x low"]  # two voxels less
    mask(tmp_path / "m", own, np.s_[0:2, 0:2, 0:4])
    mask(tmp_path / "m", crop, np.s_[0:2, 0:2, 0:1])
    _, row = compare([own, crop], scan, tmp_path / "m", LABELS)
    assert row["covered"] == pytest.approx(10 / 12) and row["voxels_differ"] == 4
    assert row["dsc"] == {"organ": pytest.approx(2 * 4 / (8 + 4)), "lesion": None} and row["ml"]["organ"] == 4.0


@pytest.mark.parametrize(
    "voxels, missed", [(1, []), (2, [{"variant": "scan, as it is", "label": "lesion", "exact_ml": 2.0}])]
)
def test_a_label_of_more_than_a_millilitre_that_a_mode_lacks_is_listed(scan, tmp_path, voxels, missed):
    own = next(iter(variants_of(scan, ())))
    mask(tmp_path / "exact", own, np.s_[0:2, 0:2, 0:4], np.s_[5:6, 5:6, 5 : 5 + voxels])
    mask(tmp_path / "fast", own, np.s_[0:2, 0:2, 0:4])
    exact, fast = between_modes({"exact": tmp_path / "exact", "fast": tmp_path / "fast"}, [own], LABELS)
    assert exact["missed"] == [] and exact["differ"] == 0 and fast["missed"] == missed
    assert fast["dsc"] == {"organ": 1.0, "lesion": 0.0} and fast["ml"]["lesion"] == voxels


def test_a_model_that_turns_its_images_differs_by_its_reader_alone(model_folder, tmp_path):
    turning = model_with_reader(model_folder, "0", "SimpleITKIOWithReorient", tmp_path / "turning")
    own = load_json(model_folder / "plans.json")
    assert load_json(turning / "plans.json") == own | {"image_reader_writer": "SimpleITKIOWithReorient"}
    assert (turning / "fold_0").resolve() == (model_folder / "fold_0").resolve()


def test_without_the_scans_it_says_so_and_ends_well(tmp_path, capsys):
    assert status_of(robustness.main, ["--folder", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 0
    assert "REAL CTs are left out" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_scans_that_are_not_there_are_all_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"a\.nii\.gz, b\.nii\.gz"):
        robustness.main(["--folder", str(tmp_path), "--scans", "a", "b", "--out", str(tmp_path / "out")])


@pytest.mark.slow
def test_a_study_of_a_small_scan_from_files_to_picture(model_folder, tmp_path):
    """Turned first, all 48 ways of storing the axes give one mask to the voxel."""
    Scan(smooth_ct((14, 16, 18)), np.diag([1.0, 1, 2, 1])).write(tmp_path / "cts" / "a.nii.gz")
    given = [
        "--folder",
        str(tmp_path / "cts"),
        "--scans",
        "a",
        "--axes_of",
        "a",
        "--groups",
        "axes",
        "intensity",
        "--modes",
        "exact",
        "fast",
        "--axes_modes",
        "exact",
        "fast",
    ]
    out = tmp_path / "study"
    assert status_of(robustness.main, [*given, "--model", str(model_folder), "--out", str(out)]) == 0
    result = load_json(out.with_suffix(".json"))
    rows = result["scans"][0]["variants"]
    turned = [row for row in rows if row["reader"] == "SimpleITKIOWithReorient"]
    assert len(turned) == 2 * 48 and all(row["voxels_differ"] == 0 for row in turned)
    assert len([row for row in rows if row["group"] == "intensity"]) == 2 * 6
    assert (
        "turned first | `exact` | 48 | 48 | 0 % |" in markdown(result) and out.with_suffix(".png").stat().st_size > 5000
    )
    draw(result, out)
