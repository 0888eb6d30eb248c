"""README and generated pages: short, of files that exist, and with no figure that the results do not give."""

import re
from pathlib import Path

import pytest

from experiments import generated_text
from experiments.generated_text import BLOCK, filled, main, stale_pages
from experiments.main_job_record import record
from experiments.results_index import STUDIES, index_table
from nnunetv2.utilities.files import load_json, save_json
from tests.evaluation.small_run import status_of

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
VERSIONS = {"2.8.1", "3.10", "2.0"}
METRICS = {
    "n_cases": 4,
    "whole_pancreas": {"dsc": {"mean": 0.8, "ci_low": 0.7, "ci_high": 0.9}},
    "lesion": {"dsc": {"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6}},
    "subtype": {"macro_f1": 0.7, "macro_f1_ci": [0.5, 0.8]},
}
RUN = {
    "synthetic": True,
    "commit": "abc",
    "environment": {"CPU": "x"},
    "data": {"training": 3},
    "stages": [{"stage": "train", "seconds": 60.0}],
}


def test_readme_is_at_most_100_lines_of_120_characters():
    lines = README.splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 120


def test_readme_is_at_most_500_words():
    assert len(README.split()) <= 500


@pytest.mark.slow
def test_generated_blocks_are_what_the_results_give():
    assert [str(page) for page in stale_pages()] == []


def test_readme_has_no_figure_outside_generated_blocks():
    by_hand = re.sub(r"```.*?```|`[^`]*`", "", BLOCK.sub("", README), flags=re.DOTALL)
    assert set(re.findall(r"\d+\.\d+(?:\.\d+)?|\d+ ?%", by_hand)) <= VERSIONS


def test_links_of_readme_and_index_lead_to_files():
    for page in (REPOSITORY / "README.md", REPOSITORY / "results/README.md"):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_places_that_readme_says_to_edit_exist():
    table = README.split("## Where to edit")[1].split("##")[0]
    paths = [path for path in re.findall(r"`([\w/.]+(?:\.py|/))`", table)]
    assert len(paths) >= 6
    assert [path for path in paths if not (REPOSITORY / path).exists() and not list(REPOSITORY.glob(f"*/{path}"))] == []


@pytest.mark.slow
def test_every_study_is_in_the_index():
    assert all(f"{study.file}." in index_table() for study in STUDIES)


def test_a_json_without_a_study_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.results_index.RESULTS", tmp_path)
    save_json({}, tmp_path / "new.json")
    with pytest.raises(ValueError, match="no study names.*new"):
        index_table()


def test_a_stale_page_is_named_and_then_rewritten(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated speed -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(generated_text, "pages", lambda: [page])
    monkeypatch.setattr(generated_text, "REPOSITORY", tmp_path)
    assert status_of(main, ["--check"]) == 1 and "page.md" in capsys.readouterr().err and "old" in page.read_text()
    assert main([]) == 0 and main(["--check"]) == 0
    assert (
        page.read_text().startswith("before\n")
        and page.read_text().endswith("after\n")
        and "nnU-Net 2.8.1" in page.read_text()
    )


def test_an_unknown_block_is_refused():
    with pytest.raises(KeyError, match="nonsense"):
        filled("<!-- generated nonsense -->\n<!-- end -->")


def test_a_main_job_is_kept_with_its_figures(tmp_path):
    save_json(METRICS, tmp_path / "metrics.json")
    save_json(RUN, tmp_path / "run.json")
    record(tmp_path, "command", tmp_path / "kept.json")
    kept = load_json(tmp_path / "kept.json")
    assert kept["rows"][2] == {"name": "subtype macro-F1", "target": 0.7, "mean": 0.7, "ci_low": 0.5, "ci_high": 0.8}
    assert kept["seconds"] == 60.0 and kept["n"] == 4 and kept["commit"] == "abc"


def test_a_run_on_real_data_is_not_kept(tmp_path):
    save_json(METRICS, tmp_path / "metrics.json")
    save_json(RUN | {"synthetic": False}, tmp_path / "run.json")
    with pytest.raises(ValueError, match="real data"):
        record(tmp_path, "command", tmp_path / "kept.json")
