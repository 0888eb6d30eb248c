import json
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import sklearn.metrics as sk
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from evaluation import figures, figures_of_runs
from evaluation.image_files import find_image
from evaluation.make_figures import main
from evaluation.overlays import CaseImages
from evaluation.selection import MOST_FAILURES, failures, noteworthy, quality
from nnunetv2.utilities.data_description import DataDescription
from nnunetv2.utilities.errors import InputError
from tests.evaluation.small_run import image_options, labels, save_image


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Every figure that was saved, in order; each once, though it is written as PDF and as PNG."""
    saved: list[Figure] = []

    def remember(self, path, **options):
        if self not in saved:
            saved.append(self)
        path.write_bytes(b"")
    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


@pytest.fixture
def metrics(scored_run) -> dict:
    return json.loads((scored_run / "metrics.json").read_text())


def row(case: str = "a", **changes) -> dict:
    return {"case": case, "whole_pancreas_dsc": 0.9, "whole_pancreas_outcome": "present", "lesion_dsc": 0.5, "lesion_outcome": "present",
            "lesion_detected": 1.0, "subtype_true": "1", "subtype_predicted": "1"} | changes


def points(drawing: Figure, panel: int) -> np.ndarray:
    clouds = [collection.get_offsets() for collection in drawing.axes[panel].collections if isinstance(collection, PathCollection)]
    return np.concatenate(clouds)


@pytest.mark.slow
def test_every_case_is_a_point_in_the_distributions(metrics, drawn, tmp_path):
    figures.distributions(metrics, tmp_path / "f")
    lesion = points(drawn[0], 1)
    assert sorted(lesion[np.abs(lesion[:, 0]) < 0.5, 1]) == [0, 1, 1, 1]  # DSC stands at place 0


@pytest.mark.slow
def test_a_missed_lesion_is_in_the_size_figure(metrics, drawn, tmp_path):
    figures.lesion_size(metrics, tmp_path / "f")
    assert "missed (n = 1)" in [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]


def test_confusion_matrix_shows_the_counts_of_the_json(metrics, drawn, tmp_path):
    figures.confusion_matrix(metrics, tmp_path / "f")
    shown = [int(text.get_text().split()[0]) for text in drawn[0].axes[0].texts]
    assert shown == [1, 0, 0, 1, 1, 0, 0, 0, 1]


def test_long_names_of_classes_do_not_run_into_each_other_below_the_matrix(metrics, drawn, tmp_path):
    long = [f"serous cystadenoma, grade {k}" for k in range(3)]
    block = metrics["subtype"] | {"classes": long, "per_class": {name: {"n": 1} for name in long}}
    figures.confusion_matrix(metrics | {"subtype": block}, tmp_path / "f")
    ax = drawn[0].axes[0]
    below = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in zip(below, below[1:]))
    assert ax.get_window_extent().width / drawn[0].dpi > 1.2  # inches that are left for the cells


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legends(metrics, drawn, tmp_path):
    text = json.dumps(metrics).replace('"subtype_true": "2"', '"subtype_true": "_2"').replace('"2"', '"_2"').replace('"p_2"', '"p__2"')
    figures.roc_and_reliability(json.loads(text), tmp_path / "f")
    for ax in drawn[0].axes:
        assert any("_2" in entry.get_text() for entry in ax.get_legend().get_texts())
    figures_of_runs.training_curves({"dice_per_class_or_region": [[0.1], [0.2]]}, tmp_path / "g", "", labels=["_duct"])
    assert "_duct" in drawn[1].axes[1].get_legend().get_texts()[0].get_text()


@pytest.mark.filterwarnings("error")
def test_twenty_classes_with_long_names_leave_room_for_the_curves(metrics, drawn, tmp_path):
    names = [f"a_class_with_quite_a_long_name_{k}" for k in range(20)]
    block, cases = metrics["subtype"], []
    for k, name in enumerate(names):
        cases.append(metrics["cases"][0] | {"case": f"c{k}", "subtype_true": name, "subtype_predicted": name} | {f"p_{other}": 0.05 for other in names})
    block |= {"classes": names, "per_class": {name: block["per_class"]["0"] for name in names}}
    metrics["cases"] = cases
    for draw in (figures.lesion_size, figures.roc_and_reliability):
        draw(metrics, tmp_path / draw.__name__)
    for drawing in drawn:
        drawing.draw_without_rendering()
        legends = [*drawing.legends, *(legend for ax in drawing.axes if (legend := ax.get_legend()))]
        for legend in legends:
            assert drawing.bbox.contains(*legend.get_window_extent().min) and drawing.bbox.contains(*legend.get_window_extent().max)
        for ax in drawing.axes:
            box = ax.get_window_extent()
            assert box.width > 80 and box.height > 80
            if drawing.legends:
                assert not box.overlaps(drawing.legends[0].get_window_extent())


@pytest.mark.filterwarnings("error")
def test_a_single_case_has_no_roc_and_says_so(metrics, drawn, tmp_path):
    metrics["cases"] = metrics["cases"][:1]
    for values in metrics["subtype"]["per_class"].values():
        values["auroc"] = None
    figures.roc_and_reliability(metrics, tmp_path / "f")
    assert drawn[0].axes[0].get_legend() is None and "undefined" in drawn[0].axes[0].texts[0].get_text()


def test_points_of_thousands_of_cases_leave_the_reliability_diagram_readable(metrics, drawn, tmp_path):
    few = {name: values["reliability"] for name, values in metrics["subtype"]["per_class"].items()}
    figures.roc_and_reliability(metrics, tmp_path / "few")
    for name, values in metrics["subtype"]["per_class"].items():
        values["reliability"] = [point | {"n": 1000 * point["n"]} for point in few[name]]
    figures.roc_and_reliability(metrics, tmp_path / "many")
    areas = [max(cloud.get_sizes().max() for cloud in drawing.axes[1].collections if isinstance(cloud, PathCollection)) for drawing in drawn]
    assert areas[0] == 6 + 4 * max(point["n"] for points in few.values() for point in points)  # as it was
    assert areas[0] < areas[1] < 500


@pytest.mark.slow
@pytest.mark.parametrize("draw", [figures.distributions, figures.lesion_size, figures.volume_agreement, figures.confusion_matrix,
                                  figures.roc_and_reliability])
def test_synthetic_is_written_on_every_figure(metrics, drawn, tmp_path, draw):
    draw(metrics, tmp_path / "f")
    assert drawn[0].get_suptitle() == "SYNTHETIC DATA"


@pytest.mark.slow
def test_real_data_is_not_called_synthetic(metrics, drawn, tmp_path):
    figures.distributions(metrics | {"synthetic": False}, tmp_path / "f")
    assert drawn[0].get_suptitle() == ""


@pytest.mark.slow
def test_roc_curve_has_scikit_learns_area():
    rng = np.random.default_rng(0)
    positive, score = rng.random(40) < 0.4, np.round(rng.random(40), 1)
    assert sk.auc(*figures.roc_curve(positive, score)) == pytest.approx(sk.roc_auc_score(positive, score))


def test_training_curves_without_a_class_task_have_two_panels(drawn, tmp_path):
    figures_of_runs.training_curves({"train_losses": [1, 0.5], "val_losses": [1, 0.6], "ema_fg_dice": [0.1, 0.2]}, tmp_path / "f", "")
    assert len(drawn[0].axes) == 2


def test_speed_rows_without_dsc_are_left_out(drawn, tmp_path):
    rows = {"exact": {"seconds_a_case": {"median": 2.0}, "against_truth": {"whole_mean": 0.9, "lesion_mean": 0.5}},
            "fast": {"seconds_a_case": {"median": 1.0}, "against_truth": {}}}
    figures_of_runs.speed_accuracy({"rows": rows}, tmp_path / "f")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["exact"]


@pytest.mark.parametrize("changes, reason", [
    ({"whole_pancreas_dsc": 0.79}, "pancreas DSC below 0.80"), ({"lesion_detected": 0.0}, "lesion not found"),
    ({"lesion_outcome": "false_alarm", "lesion_detected": None}, "lesion where there is none"), ({"subtype_predicted": "2"}, "wrong subtype")])
def test_each_failure_is_named(changes, reason):
    assert failures(row()) == [] and failures(row(**changes)) == [reason]


def test_a_healthy_case_in_which_nothing_was_found_is_not_the_worst():
    lone = DataDescription({"name": "N", "labels": {"background": 0, "nodule": 1}, "lesion": "nodule"})
    rows = [{"case": name, "nodule_dsc": dsc, "nodule_detected": 1.0, "nodule_outcome": "present"} for name, dsc in (("a", 0.9), ("b", 0.5), ("c", 0.7))]
    healthy = {"case": "h", "nodule_dsc": None, "nodule_detected": None, "nodule_outcome": "both_empty"}
    assert noteworthy([*rows, healthy], lone) == {"a": ["best"], "c": ["median"], "b": ["worst"]}
    assert noteworthy([healthy], lone) == {"h": ["best", "median", "worst"]}


def test_best_median_worst_and_failures_are_chosen():
    rows = [row(case, lesion_dsc=dsc) for case, dsc in {"a": 0.1, "b": 0.9, "c": 0.5, "e": 0.6}.items()]
    rows.append(row("d", lesion_dsc=0.4, lesion_detected=0.0))
    assert noteworthy(rows) == {"b": ["best"], "c": ["median"], "a": ["worst"], "d": ["lesion not found"]}


def test_of_many_failures_the_worst_are_shown():
    rows = [row(f"f{i:03d}", lesion_dsc=i / 1000, lesion_detected=0.0) for i in range(2 * MOST_FAILURES)]
    found = noteworthy(rows)
    best = f"f{2 * MOST_FAILURES - 1:03d}"
    assert set(found) - {best} <= {f"f{i:03d}" for i in range(MOST_FAILURES + 1)} and len(found) == MOST_FAILURES + 1
    assert found["f000"] == ["worst", "lesion not found"] and found[best] == ["best", "lesion not found"]


def test_quality_leaves_out_what_is_undefined():
    assert quality(row(lesion_dsc=None)) == 0.9


def test_overlays_cut_through_the_lesion(tmp_path):
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[0:3], mask[4, 5, 6] = 1, 2
    case = CaseImages("a", mask.astype(np.float32), mask, mask, (1.0, 1.0, 1.0))
    assert case.centre() == (4, 5, 6)


def test_without_any_mask_the_middle_is_shown():
    empty = np.zeros((6, 8, 4), np.uint8)
    assert CaseImages("a", empty.astype(np.float32), empty, empty, (1.0, 1.0, 1.0)).centre() == (3, 4, 2)


def test_flipped_images_are_turned_to_the_patients_axes(tmp_path):
    image = sitk.GetImageFromArray(labels())
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    case = CaseImages.read("a", tmp_path / "a.nii.gz", tmp_path / "a.nii.gz", None)
    assert (case.reference == labels()[:, :, ::-1]).all() and not case.prediction.any()


def test_masks_of_another_size_are_refused(tmp_path):
    image, mask = save_image(labels(), tmp_path / "a_0000.nii.gz"), save_image(labels()[1:], tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match="a.nii.gz has"):
        CaseImages.read("a", image, mask, None)


@pytest.mark.slow
def test_command_draws_figures_and_an_index_of_overlays(scored_run, drawn):
    assert main(["--results", str(scored_run), *image_options(scored_run)]) == 0
    index = json.loads((scored_run / "figures" / "figures.json").read_text())
    assert {"quiz_1_003"} == {overlay["case"] for overlay in index["overlays"] if "lesion not found" in overlay["reasons"]}
    assert {path.stem for path in (scored_run / "figures").glob("*.pdf")} == {path.stem for path in (scored_run / "figures").glob("*.png")}
    assert set(index["figures"]) <= {path.stem for path in (scored_run / "figures").glob("*.pdf")}


@pytest.mark.slow
def test_figures_of_a_former_run_go_and_other_files_stay(metrics, drawn, tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    former = ("confusion_matrix", "overlay_gone", "overlays")
    for name in (*former, "mine"):
        (folder / f"{name}.pdf").touch()
    (tmp_path / "mine.pdf").touch()
    (folder / "figures.json").write_text(json.dumps({"figures": ["confusion_matrix", "mine", "../mine"],
                                                     "overlays": [{"case": "gone", "reasons": [], "file": "overlay_gone"}]}))
    (tmp_path / "metrics.json").write_text(json.dumps({key: value for key, value in metrics.items() if key != "subtype"}))
    assert main(["--results", str(tmp_path)]) == 0
    assert not [name for name in former if (folder / f"{name}.pdf").exists()]
    assert (folder / "mine.pdf").exists() and (tmp_path / "mine.pdf").exists() and (folder / "lesion_size.pdf").exists()


@pytest.mark.slow
def test_one_overlay_is_a_vector_pdf_and_a_png(scored_run, tmp_path):
    case = "quiz_1_003.nii.gz"
    assert main(["--overlay", str(tmp_path / "picture.png"), "--image", str(scored_run / "images" / "quiz_1_003_0000.nii.gz"),
                 "--ref", str(scored_run / "reference" / case), "--pred", str(scored_run / "prediction" / case)]) == 0
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "picture.pdf").read_bytes()[:4] == b"%PDF"


def test_labels_that_no_mask_may_hold_are_named(tmp_path):
    image, mask = tmp_path / "a_0000.nii.gz", tmp_path / "a.nii.gz"
    save_image(np.zeros((3, 4, 5), np.float32), image)
    save_image(np.full((3, 4, 5), 255, np.uint8), mask)
    with pytest.raises(ValueError, match=r"a\.nii\.gz holds .*255.*labels must be \[0, 1, 2\]"):
        CaseImages.read("a", image, mask, None, (0, 1, 2))


def test_training_curves_name_the_labels(drawn, tmp_path):
    log = {"train_losses": [1, 0.5], "val_losses": [1, 0.6], "dice_per_class_or_region": [[0.1, 0.2, 0.3]] * 2}
    figures_of_runs.training_curves(log, tmp_path / "f", "", labels=["anterior", "posterior"])
    names = [text.get_text() for text in drawn[0].axes[1].get_legend().get_texts()]
    assert names == ["anterior", "posterior", "label 3"]


def test_of_many_labels_the_training_curves_give_the_number(drawn, tmp_path):
    log = {"train_losses": [1, 0.5], "val_losses": [1, 0.6], "dice_per_class_or_region": [np.arange(9) / 10] * 2}
    figures_of_runs.training_curves(log, tmp_path / "f", "", labels=["anterior"])
    assert [text.get_text() for text in drawn[0].axes[1].get_legend().get_texts()] == ["9 labels"]
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn[0].axes[1].get_lines()}) == 9


def test_many_structures_are_drawn_in_rows(drawn, tmp_path, monkeypatch):
    structures = {f"s{i}": SimpleNamespace(title=f"Part {i}") for i in range(6)}
    monkeypatch.setattr(figures, "description_of", lambda metrics: SimpleNamespace(structures=structures))
    monkeypatch.setattr(figures, "stamp_of", lambda metrics: "")
    names = ("dsc", "nsd_1mm", "nsd_2mm")
    summary = {"n": 1, "mean": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    figures.distributions({"cases": [{f"{key}_{name}": 0.5 for key in structures for name in names}], **{key: dict.fromkeys(names, summary) for key in structures}}, tmp_path / "f")
    assert [ax.get_title() for ax in drawn[0].axes if ax.get_visible()] == [f"Part {i} (n = 1)" for i in range(6)] and len(drawn[0].axes) == 8


@pytest.mark.slow
def test_nine_classes_have_a_look_each(metrics, drawn, tmp_path):
    names = [f"c{k}" for k in range(9)]
    cases = [metrics["cases"][0] | {"case": name, "subtype_true": name, "lesion_reference_ml": 1.0, "lesion_detected": 1.0, "lesion_dsc": 0.5}
             | {f"p_{other}": float(other == name) for other in names} for name in names]
    of_class = {"n": 1, "auroc": 1.0, "reliability": [{"probability": 1.0, "frequency": 1.0, "n": 1}]}
    many = metrics | {"cases": cases, "subtype": metrics["subtype"] | {"classes": names, "confusion_matrix": np.eye(9, dtype=int).tolist(),
                                                                       "per_class": dict.fromkeys(names, of_class)}}
    for draw in (figures.lesion_size, figures.confusion_matrix, figures.roc_and_reliability):
        draw(many, tmp_path / "f")
    size, matrix, _ = drawn
    clouds = [cloud for cloud in size.axes[0].collections if isinstance(cloud, PathCollection) and len(cloud.get_offsets())]
    assert len({(cloud.get_facecolor().tobytes(), cloud.get_paths()[0].vertices.tobytes()) for cloud in clouds}) == 9
    assert matrix.get_figwidth() > 2.9 and matrix.axes[0].texts[0].get_text() == "1"


@pytest.mark.slow
def test_without_any_lesion_the_size_figure_says_so(metrics, drawn, tmp_path):
    cases = [case | {"lesion_reference_ml": 0.0, "lesion_detected": None, "lesion_dsc": None} for case in metrics["cases"]]
    lesion = metrics["lesion"] | {"detection": metrics["lesion"]["detection"] | {"by_size_tertile": []}}
    figures.lesion_size(metrics | {"cases": cases, "lesion": lesion}, tmp_path / "f")
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["no case has a lesion"] and axes.get_xscale() == "linear"


def test_two_images_of_one_name_are_not_chosen_from(tmp_path):
    for part in ("new", "old"):
        (tmp_path / part).mkdir()
    (tmp_path / "new" / "a_0000.nii.gz").touch()
    (tmp_path / "old" / "a_0000.nii.gz").symlink_to(tmp_path / "new" / "a_0000.nii.gz")
    assert find_image(tmp_path, "a").name == "a_0000.nii.gz"
    (tmp_path / "old" / "a_0000.nii.gz").unlink()
    (tmp_path / "old" / "a_0000.nii.gz").touch()
    with pytest.raises(InputError, match="a_0000.nii.gz is in .* 2 times: .*new.*old"):
        find_image(tmp_path, "a")
