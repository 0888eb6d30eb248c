"""The gallery in a real browser: Debian's chromium. Without it these tests are skipped, except where CI installs it."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.make_gallery import MASK_STEP, build, main
from tests.evaluation.small_run import image_options, labels, status_of, write_run

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
         "--disable-sync --virtual-time-budget=5000").split()
# acts as a user would and leaves what the page then shows in an element that the dumped document holds
SCRIPT = """<script>
const wait = () => new Promise(done => setTimeout(done, 100));
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const cases = () => [...document.querySelectorAll("tbody tr")].map(tr => tr.dataset.case.slice(-3)).join(" ");
const ink = () => {
  const c = document.getElementById("overlay");
  return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some(value => value);
};
addEventListener("load", async () => {
  const seen = {};
  await wait();
  seen.banner = !document.getElementById("banner").hidden;
  seen.start = [cases(), document.querySelector("[aria-selected=true]").dataset.case, document.getElementById("sliceout").value, ink()];
  document.querySelectorAll("th button")[2].click(); seen.sorted = cases();
  document.querySelectorAll("th button")[2].click(); seen.reversed = cases();
  press("ArrowRight"); seen.slice = document.getElementById("sliceout").value;
  press("t"); press("p"); seen.hidden = ink();
  press("f"); seen.failed = cases();
  press("ArrowDown"); await wait();
  seen.title = document.getElementById("title").textContent;
  seen.subtype = document.getElementById("subtype").innerText;
  const out = document.createElement("pre"); out.id = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);
});
</script>"""


@pytest.fixture(scope="module")
def page(scored_run) -> str:
    metrics = json.loads((scored_run / "metrics.json").read_text())
    return build(metrics, scored_run / "images", scored_run / "reference", scored_run / "prediction")


def data_of(page: str) -> dict:
    return json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S).group(1))


def test_nothing_is_fetched_from_anywhere(page):
    assert not re.search(r'(src|href)\s*=\s*"|url\(|@import|https?:', page)


def test_every_case_of_the_json_is_there(page, scored_run):
    metrics = json.loads((scored_run / "metrics.json").read_text())
    assert [case["lesion_dsc"] for case in data_of(page)["cases"]] == [row["lesion_dsc"] for row in metrics["cases"]]


def test_mask_picture_holds_truth_and_prediction(page):
    case = next(case for case in data_of(page)["cases"] if case["case"] == "quiz_1_003")
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(case["masks"].partition(",")[2]))))
    (width, height), grid, z = case["size"], case["grid"], 2
    codes = sheet[z // grid * height:, z % grid * width:][:height, :width] // MASK_STEP
    assert (codes % 4 == labels()[z]).all() and (codes // 4 == labels(lesion=False)[z]).all()


def test_the_viewer_opens_at_the_lesion(page):
    assert {case["start"] for case in data_of(page)["cases"]} == {2}  # slices 1 to 4 hold it


def test_a_case_name_cannot_end_the_data(page):
    assert page.count("</script>") == 2


def test_a_missing_image_is_named(tmp_path, scored_run, capsys):
    write_run(tmp_path)
    shutil.copy(scored_run / "metrics.json", tmp_path)
    (tmp_path / "images" / "quiz_1_002_0000.nii.gz").unlink()
    assert status_of(main, ["--results", str(tmp_path), *image_options(tmp_path)]) == 1
    assert "quiz_1_002_0000.nii.gz is not in" in capsys.readouterr().err


def test_every_damaged_file_is_named_at_once(tmp_path, scored_run, capsys):
    write_run(tmp_path)
    shutil.copy(scored_run / "metrics.json", tmp_path)
    damaged = [tmp_path / "images" / "quiz_1_002_0000.nii.gz", tmp_path / "reference" / "quiz_1_002.nii.gz", tmp_path / "prediction" / "quiz_0_001.nii.gz"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-20])
    assert status_of(main, ["--results", str(tmp_path), *image_options(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert all(str(path) in said for path in damaged) and not (tmp_path / "gallery.html").exists()


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory) -> dict:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed: apt-get install -y --no-install-recommends chromium")
        pytest.skip("chromium is not installed")
    folder: Path = tmp_path_factory.mktemp("gallery")
    (folder / "gallery.html").write_text(page.replace("</body>", SCRIPT + "</body>"))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "gallery.html").as_uri()]
    document = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', document, re.S)
    assert found, "the page's script did not get to its end"
    return json.loads(found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_browser_shows_the_first_case_with_its_contours(seen):
    assert seen["start"] == ["001 002 003 004", "quiz_0_001", "3 / 6", True]


def test_browser_carries_the_synthetic_banner(seen):
    assert seen["banner"] is True


def test_a_click_on_a_heading_sorts_and_another_reverses(seen):
    assert seen["sorted"] == "003 001 002 004" and seen["reversed"] == "001 002 004 003"


def test_arrow_keys_change_the_slice(seen):
    assert seen["slice"] == "4 / 6"


def test_keys_hide_both_overlays(seen):
    assert seen["hidden"] is False


def test_filter_leaves_only_failures(seen):
    assert seen["failed"] == "003" and seen["title"] == "quiz_1_003: lesion not found, wrong subtype"


def test_subtype_and_probabilities_are_shown(seen):
    assert "true 1, predicted 0" in seen["subtype"] and "0.300" in seen["subtype"]
