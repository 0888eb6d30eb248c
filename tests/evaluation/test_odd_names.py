"""Names that mean something to a program: every table, picture and page shows them as they are, and none runs or overwrites another's."""

import csv
import json

import pytest

from evaluation.case_pairs import find_masks
from evaluation.compute_metrics import main as compute_metrics
from evaluation.figure_style import STYLE
from evaluation.make_figures import draw_case_overlays, shortened
from evaluation.make_figures import main as make_figures
from evaluation.make_gallery import main as make_gallery
from nnunetv2.evaluation.evaluate_predictions import list_files
from nnunetv2.utilities.errors import InputError
from report.make_inputs import main as make_inputs
from tests.evaluation.small_run import CASES, image_options, table_options, write_run

pytestmark = pytest.mark.slow

ODD = dict(zip(CASES, ["p.1", "p.2[ab]*?", r"=1+<script>$\frac\input{s}_^2%#&~", "long " * 25 + "name"]))
FAILED = ODD["quiz_1_003"]


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory):
    """A run with these names, scored, drawn and in a gallery."""
    folder = write_run(tmp_path_factory.mktemp("odd"))
    for case, odd in ODD.items():
        for path in list(folder.glob(f"*/{case}*.nii.gz")):
            path.rename(path.with_name(path.name.replace(case, odd)))
        for path in folder.rglob("*.csv"):
            path.write_text(path.read_text().replace(case, odd))
    assert compute_metrics(["--pred", str(folder / "prediction"), "--ref", str(folder / "reference"), "--out", str(folder), "--bootstrap", "50",
                            "--jobs", "1", "--synthetic", *table_options(folder)]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "savefig.dpi", 40)  # the names matter here
        index = draw_case_overlays(metrics, folder / "images", folder / "reference", folder / "prediction", folder / "figures")
    (folder / "figures/figures.json").write_text(json.dumps({"synthetic": True, "figures": [], "overlays": index}))
    assert make_gallery(["--results", str(folder), *image_options(folder)]) == 0
    return folder


def test_all_cases_are_scored(odd_run):
    assert {row["case"] for row in json.loads((odd_run / "metrics.json").read_text())["cases"]} == set(ODD.values())


def test_a_formula_in_a_table_is_text(odd_run):
    with open(odd_run / "per_case.csv", newline="") as file:
        names = {row["case"] for row in csv.DictReader(file)}
    assert f"'{FAILED}" in names and not any(name.startswith("=") for name in names)


def test_every_overlay_has_a_file_of_its_own(odd_run):
    overlays = json.loads((odd_run / "figures/figures.json").read_text())["overlays"]
    assert len({entry["file"] for entry in overlays}) == len(overlays) >= 3
    assert all((odd_run / "figures" / f"{entry['file']}{ending}").is_file() for entry in overlays for ending in (".png", ".pdf"))


def test_names_that_differ_behind_a_dot_keep_their_pictures(odd_run, tmp_path, monkeypatch):
    monkeypatch.setitem(STYLE, "savefig.dpi", 40)
    for name in ("p.1", "p.2"):
        assert make_figures(["--overlay", str(tmp_path / name), "--image", str(odd_run / "images/p.1_0000.nii.gz")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"p.1.png", "p.1.pdf", "p.2.png", "p.2.pdf"}


def test_no_name_ends_the_gallerys_script(odd_run):
    page = (odd_run / "gallery.html").read_text()
    assert "<script>$" not in page and "\\u003cscript>$" in page


def test_no_name_of_a_case_reaches_latex_as_a_command(odd_run, tmp_path):
    assert make_inputs(["--results", str(odd_run), "--shared", str(odd_run), "--name", "TEAM", "--out", str(tmp_path)]) == 0
    sources = "".join(path.read_text() for path in tmp_path.glob("*.tex"))
    assert not any(command in sources for command in (r"\frac", r"\input", "^2")) and r"\$\textbackslash{}frac\textbackslash{}input\{s\}" in sources
    assert not list(tmp_path.glob("figure_overlay_*"))  # their names would stand in a source


def test_long_names_lose_their_middle():
    assert shortened("a" * 30 + "b" * 70 + "c" * 30) == "a" * 30 + "\u2026" + "c" * 30 and shortened("quiz_0_001") == "quiz_0_001"


def test_masks_whose_names_are_not_utf8_are_named(tmp_path):
    (tmp_path / b"bad\xff.nii.gz".decode(errors="surrogateescape")).touch()
    (tmp_path / "good.nii.gz").touch()
    for listing in (find_masks, lambda folder: list_files(folder, ".nii.gz")):
        with pytest.raises(InputError, match="not UTF-8"):
            listing(tmp_path)
