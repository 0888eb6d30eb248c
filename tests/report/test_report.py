"""The report, built by LaTeX from a small run. Without LaTeX these tests are skipped, except where CI installs it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.compute_metrics import main as compute_metrics
from evaluation.make_figures import main as make_figures
from report import tables
from report.make_inputs import main as make_inputs
from report.make_inputs import read_inputs
from report.tables import TABLES
from report.tex import escape, number, setting, values_of
from tests.evaluation.small_run import image_options, status_of, table_options, write_run

pytestmark = pytest.mark.slow

REPORT = Path(__file__).parents[2] / "report"
RUN = {"name": "TEAM", "device": "2 CPU cores", "inference_mode": "exact", "data": {"training": 60, "validation": 4, "test": 6},
       "stages": [{"stage": "train", "seconds": 330.0}, {"stage": "predict_test", "seconds": 30.0}],
       "environment": {"CPU": "4 & 2 cores_x"}, "training": {"trainer": "nnUNetTrainer", "optimiser": "SGD, momentum 0.99", "initial_learning_rate": 0.01, "weight_decay": 3e-05},
       "plan": {"patch_size": [48, 80, 96], "stages": 5},
       "class_evidence": {"blocks": {"network": {"weight": 0.25, "macro_f1_alone": 0.71}, "inner_parts": {"weight": 0.0, "macro_f1_alone": 0.41},
                                     "texture": {"weight": 0.62, "macro_f1_alone": 0.77}},
                          "left_out": {"macro_f1": 0.73, "p": 0.0005, "chance_95": [0.25, 0.42], "evidence_found": True, "cases": 60}}}
CONFORMANCE = {"command": "bash experiments/run_conformance.sh", "rows": [{"what": "logits", "difference": 1e-7, "bound": "1e-5 of the largest", "pass": True},
                        {"what": "plans", "difference": "patch_size", "bound": "equal", "pass": False}]}
SPEED = {"environment": {"CPU": "a CPU"}, "synthetic": True, "command": "bash experiments/run_speed.sh", "rows": {"exact": {
    "cases_a_run": 3, "seconds_a_case": {"median": 60.0, "min": 50.0, "max": 70.0}, "times_faster": 2.53, "peak_memory_gib": 2,
    "against_truth": {"whole_mean": 0.912, "lesion_mean": 0.62}, "against_upstream": {"changed": 1e-7}}}}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("report"))
    compute_metrics(["--pred", str(folder / "prediction"), "--ref", str(folder / "reference"), "--out", str(folder), "--bootstrap", "50",
                     "--jobs", "1", "--synthetic", *table_options(folder)])
    make_figures(["--results", str(folder), *image_options(folder)])
    (folder / "run.json").write_text(json.dumps(RUN))
    (folder / "speed.json").write_text(json.dumps(SPEED))
    (folder / "conformance.json").write_text(json.dumps(CONFORMANCE))
    return folder


def build(results: Path, *options: str, path: str | None = None) -> subprocess.CompletedProcess:
    environment = os.environ | ({"PATH": path} if path else {})
    return subprocess.run(["/bin/bash", str(REPORT / "build.sh"), "--results", str(results), "--shared", str(results), *options],
                          capture_output=True, text=True, env=environment, timeout=300)


def text_of(pdf: Path) -> list[str]:
    """The pages' text, with spaces and minus signs made plain."""
    text = subprocess.run(["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    return [re.sub(r"\s+", " ", page.replace("\u2212", "-")) for page in text.split("\f")[:-1]]


@pytest.fixture(scope="module")
def latex() -> None:
    missing = [program for program in ("latexmk", "pdflatex", "pdftotext") if shutil.which(program) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{missing} not installed: bash report/build.sh names the packages; pdftotext is in poppler-utils")
    if missing:
        pytest.skip(f"{missing} not installed")


@pytest.fixture(scope="module")
def pages(run, latex) -> list[str]:
    result = build(run)
    assert result.returncode == 0, result.stderr
    return text_of(run / "TEAM_results.pdf")


@pytest.fixture(scope="module")
def text(pages) -> str:
    return " ".join(pages)


def shown(value: dict) -> str:
    return "{mean:.3f} [{ci_low:.3f}, {ci_high:.3f}]".format(**value)


def test_the_report_says_what_the_class_rests_on(text):
    assert "macro-F1 of 0.730" in text and "0.25 to 0.42" in text and "no evidence" not in text
    assert "texture 0.62 0.77 inner parts 0.00 0.41" in text and "the network's features 0.25 0.71" in text.replace("\u2019", "'")


def test_no_evidence_is_said(run, tmp_path):
    for file in ("metrics.json", "run.json"):
        shutil.copy(run / file, tmp_path / file)
    found = json.loads((tmp_path / "run.json").read_text())
    found["class_evidence"]["left_out"] |= {"p": 0.3, "evidence_found": False}
    (tmp_path / "run.json").write_text(json.dumps(found))
    make_inputs(["--results", str(tmp_path), "--shared", str(tmp_path), "--name", "T", "--out", str(tmp_path / "built")])
    assert "\\setvalue{evidence.none}" in (tmp_path / "built" / "values.tex").read_text()


def test_results_are_those_of_the_json(run, text):
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"lesion DSC of {shown(metrics['lesion']['dsc'])}" in text
    assert f"whole-pancreas DSC of {shown(metrics['whole_pancreas']['dsc'])}" in text
    low, high = metrics["subtype"]["macro_f1_ci"]
    assert f"macro-F1 of {metrics['subtype']['macro_f1']:.3f} [{low:.3f}, {high:.3f}]" in text
    assert f"{metrics['subtype']['brier']:.3f}" in text and "1 of 4" in text


def test_every_page_says_synthetic(pages):
    assert all("SYNTHETIC DATA" in page for page in pages) and 4 <= len(pages) <= 6


def test_settings_of_the_run_are_printed(text):
    assert all(part in text for part in ("48 × 80 × 96", "4 & 2 cores_x", "6 minutes in all", "Training cases: 60"))


def test_speed_rows_are_printed_with_their_data(text):
    assert re.search(r"exact 60\.00 2\.5 2\.0", text) and "up to 3 cases (SYNTHETIC data; a CPU)" in text


def test_commands_stand_in_the_appendix(text):
    body, appendix = text.split(" A Commands ")
    assert "bash experiments/run_speed.sh" in appendix and "bash experiments/run_speed.sh" not in body


def test_only_failed_comparisons_are_listed(text):
    assert "1 of 2 comparisons" in text and "plans patch_size equal" in text and "of the largest" not in text


def test_studies_that_are_not_there_are_left_out(text):
    assert "Parts of the class head" not in text


def test_failed_cases_are_listed(text):
    assert "1 of 4 cases failed" in text and "lesion not found, wrong subtype" in text


def test_an_empty_folder_still_makes_a_report(tmp_path, latex):
    result = build(tmp_path, "--name", "NOTHING")
    assert result.returncode == 0, result.stderr
    text = " ".join(text_of(tmp_path / "NOTHING_results.pdf"))
    assert "Evaluation: not run." in text and "SYNTHETIC" not in text


def test_failed_cases_with_long_names_stay_on_the_page(run, tmp_path, latex):
    text = (run / "metrics.json").read_text()
    for name, long in (("0", "serous_cystadenoma"), ("1", "mucinous_cystic_neoplasm"), ("2", "neuroendocrine_tumour")):
        text = text.replace(f'"{name}"', f'"{long}"').replace(f'"p_{name}"', f'"p_{long}"')
    (tmp_path / "metrics.json").write_text(text.replace("quiz_1_003", "hospital_of_a_long_name_patient_0001_series_003"))
    result = build(tmp_path, "--name", "LONG", "--keep", str(tmp_path / "kept"))
    assert result.returncode == 0, result.stderr
    log = (tmp_path / "kept" / "report.log").read_text(errors="replace").replace("\n", "")  # TeX breaks its lines anywhere
    of_table = log[log.index("table_failures.tex"):][:60]  # TeX complains at the end of the paragraph, behind the file
    assert "neoplasm" in (tmp_path / "kept" / "table_failures.tex").read_text() and "Overfull" not in of_table


def test_missing_latex_is_named_with_its_packages(run, tmp_path):
    for tool in ("dirname", "sed"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    result = build(run, path=str(tmp_path))
    assert result.returncode == 3 and "latexmk" in result.stderr and "apt-get install -y --no-install-recommends latexmk" in result.stderr


def test_the_check_alone_writes_nothing(tmp_path, latex):
    assert build(tmp_path, "--check").returncode == 0 and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert build(tmp_path / "nowhere").returncode == 2


def test_every_value_in_the_sources_exists_in_a_full_run(run, tmp_path):
    """A misspelt key would print "not run" for ever."""
    make_inputs(["--results", str(run), "--shared", str(run), "--out", str(tmp_path)])
    known = set(re.findall(r"\\setvalue\{([^}]+)\}", (tmp_path / "values.tex").read_text()))
    optional = {"ablation.command", "ablation.n", "ablation.data", "ablation.machine",  # this run has no ablation beside it
                "data.source", "data.licence"}  # and its data are the quiz's
    used = {key for source in REPORT.glob("*.tex") for key in re.findall(r"\\val\{([^}#]+)\}", source.read_text())}
    assert used - known - optional == set()


def test_every_table_in_the_sources_exists():
    used = {key for source in REPORT.glob("*.tex") for key in re.findall(r"\\results\{([^}#]+)\}", source.read_text())}
    assert used == set(TABLES)


def test_tables_of_nothing_are_not_run(tmp_path):
    inputs = read_inputs(tmp_path, tmp_path)
    assert {draw(inputs) for draw in TABLES.values()} == {r"\notrun"}


def test_special_characters_are_escaped():
    assert escape("50% & a_b") == r"50\% \& a\_\allowbreak{}b"


def test_brackets_and_stars_do_not_belong_to_the_row_above():
    assert escape("[5cm]*") == "{[}5cm{]}{*}"


def test_hyphens_and_commas_stay_as_they_are_typed():
    assert escape("--a ---b ,,c") == "-{}-a -{}-{}-b ,{},c"


def test_half_an_interval_is_left_out():
    assert values_of({"f": 0.7, "f_ci": [0.6, None]})["f"] == "0.700"


@pytest.mark.parametrize("value, text", [(0.5, "0.500"), (-0.25, "$-$0.250"), (None, "--"), (1e-7, r"$1.0\cdot 10^{-7}$"), (3, "3"), (0.0, "0.000")])
def test_numbers_for_print(value, text):
    assert number(value) == text


def test_settings_are_written_as_people_do():
    assert [setting(value) for value in (0.01, 3e-05, [32, 64])] == ["0.01", r"$3\cdot 10^{-5}$", "32, 64"]


def test_values_carry_their_interval():
    values = values_of({"a": {"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 3}, "f": 0.7, "f_ci": [0.6, 0.8]})
    assert (values["a"], values["a.mean"], values["a.n"]) == ("0.500~[0.400,~0.600]", "0.500", "3")
    assert (values["f"], values["f.plain"]) == ("0.700~[0.600,~0.800]", "0.700")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".hidden", "-x", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    assert status_of(make_inputs, ["--results", str(tmp_path), "--shared", str(tmp_path), f"--name={name}", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_figures_of_a_former_run_are_not_in_the_report(tmp_path):
    for name in ("distributions", "confusion_matrix", "overlays"):
        (tmp_path / "figures").mkdir(exist_ok=True)
        (tmp_path / "figures" / f"{name}.pdf").touch()
    (tmp_path / "figures/figures.json").write_text(json.dumps({"figures": ["distributions"], "overlays": []}))
    assert status_of(make_inputs, ["--results", str(tmp_path), "--shared", str(tmp_path), "--name", "X", "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").glob("figure_*")] == ["figure_distributions.pdf"]


def test_control_characters_do_not_reach_latex():
    assert escape("a\nb\x1b[1mc\r\nd") == "a b?{[}1mc d"


def test_letters_with_accents_are_letters_in_the_report():
    assert escape("Gr\u00f6\u00dfe A\u0301 \u65e5") == r'Gr{\"{o}}{\ss}e {\'{A}} ?'
    assert escape("\u00ef") == r'{\"{\i}}'


def values_of_run(tmp_path: Path, run: dict, metrics: dict | None = None) -> str:
    for name, content in (("run.json", run), ("metrics.json", metrics)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    assert status_of(make_inputs, ["--results", str(tmp_path), "--shared", str(tmp_path), "--name", "X", "--out", str(tmp_path / "built")]) == 0
    return (tmp_path / "built" / "values.tex").read_text()


def test_the_phantom_is_described_where_the_cases_are_the_phantoms_alone(tmp_path, latex):
    """Synthetic data of other makers, here a kidney, are no bent pancreas with three subtypes; and MR has no CT numbers."""
    kidney = {"name": "Kidney", "organ": "kidney", "labels": {"background": 0, "kidney": 1, "tumour": 2}, "source": "drawn by hand", "real": False, "channel_names": {"0": "T2"},
              "classification": {"name": "grade", "classes": ["low", "high"]}}
    values_of_run(tmp_path, RUN | {"synthetic": True, "data_description": kidney})
    assert build(tmp_path).returncode == 0
    text = " ".join(text_of(tmp_path / "TEAM_results.pdf"))
    assert "This run used synthetic cases: drawn by hand." in text
    assert "tapering" not in text and "CT numbers" not in text and "kidney probability" in text and "Licence" not in text
    values_of_run(tmp_path, RUN | {"synthetic": True, "phantom": True})
    assert build(tmp_path).returncode == 0
    assert "a bent, tapering pancreas" in " ".join(text_of(tmp_path / "TEAM_results.pdf"))


def test_latex_reads_no_file_of_the_system(run, latex, tmp_path):
    """The commands that a name would need, straight in the source: the compiler itself refuses."""
    folder, secret = tmp_path / "report", tmp_path / "secret.txt"
    shutil.copytree(REPORT, folder)
    secret.write_text("TOPSECRET")
    (folder / "report.tex").write_text(rf"\documentclass{{article}}\begin{{document}}PAGE \InputIfFileExists{{{secret}}}{{}}{{}}"
                                       rf"\immediate\write18{{touch {tmp_path / 'ran'}}}\end{{document}}")
    (tmp_path / "evaluation").symlink_to(REPORT.parent / "evaluation")
    (tmp_path / "nnunetv2").symlink_to(REPORT.parent / "nnunetv2")
    result = subprocess.run(["/bin/bash", str(folder / "build.sh"), "--results", str(run), "--shared", str(run), "--keep", str(tmp_path / "kept")],
                            capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "ran").exists()
    page = " ".join(text_of(tmp_path / "kept/report.pdf"))
    assert "PAGE" in page and "TOPSECRET" not in page


def test_many_structures_stand_below_each_other(monkeypatch):
    structures = {f"s{i}": SimpleNamespace(title=f"Part {i}") for i in range(6)}
    monkeypatch.setattr(tables, "description_of", lambda metrics: SimpleNamespace(structures=structures))
    score = {"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 2}
    block = {"dsc": score, "nsd_2mm": score, "hd95_mm": score, "empty": {"missed": {"count": 1, "n": 2}, "false_alarm": {"count": 0, "n": 2}}}
    text = tables.segmentation({"metrics": {"n_cases": 2, **dict.fromkeys(structures, block)}})
    rows = [line for line in text.splitlines() if line.startswith("Part ")]
    assert len(rows) == 6 and all(row.count("&") == 5 and "1 of 2 & 0 of 2" in row for row in rows)
