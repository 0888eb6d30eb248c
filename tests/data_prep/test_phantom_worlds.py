"""The second painter, the other scanner, and what phantom.json says of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, label

from data_prep.make_phantom import PRESETS, is_plain_phantom, make_phantom, render
from data_prep.phantom_cues import LEVELS, Drawn, draw
from data_prep.phantom_worlds import WORLDS, Manner

QUIET = replace(PRESETS["demo"], noise_hu=0.0)
MIDDLE = {cue: 1 for cue in LEVELS} | {"mixed": 1}


def drawn(**classes: int) -> Drawn:
    """Every cue at its middle level but those given; one lesion."""
    chosen = MIDDLE | {"number": 0, "calcification": 0, "nodule": 0, "texture": 0, "shape": 0} | classes
    return Drawn(chosen, {cue: float(LEVELS[cue][k]) for cue, k in chosen.items() if cue in LEVELS})


def painted(world: str, what: Drawn, scanner: str = "standard", preset=QUIET):
    return render(preset, what.classes["texture"], np.random.default_rng(5), what, Manner(True, world, scanner))


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_a_lesion_is_as_large_and_as_bright_as_drawn(world):
    for size, attenuation in ((0, 0), (2, 2)):
        image, labels, spacing = painted(world, drawn(size=size, attenuation=attenuation))
        ball = 4 / 3 * np.pi * LEVELS["size"][size] ** 3
        assert (labels == 2).sum() * spacing.prod() == pytest.approx(ball, rel=0.3)
        assert image[labels == 2].mean() == pytest.approx(LEVELS["attenuation"][attenuation], abs=12)  # blur lets the surroundings in


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_the_gland_is_as_bright_as_drawn(world):
    def gland(k: int) -> float:
        image, labels, _ = painted(world, drawn(gland=k))
        return float(np.median(image[labels == 1]))

    assert gland(0) - gland(2) == pytest.approx(LEVELS["gland"][0] - LEVELS["gland"][2], abs=6)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_number_means_further_lesions(world):
    def pieces(k: int) -> int:
        _, labels, _ = painted(world, drawn(number=k, place=1, size=0))
        return label(labels == 2)[1]

    assert pieces(0) == 1 and pieces(2) >= 2


@pytest.mark.slow
def test_worlds_are_unlike_each_other_and_a_seed_gives_one_image():
    what = draw(np.random.default_rng(3))
    one, again, other = (painted(world, what)[0] for world in ("cells", "cells", "abdomen"))
    assert np.array_equal(one, again)
    assert one.shape == other.shape and abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5


@pytest.mark.slow
def test_the_other_scanner_is_noisier_and_softer_and_brightens_the_gland():
    what = drawn()
    standard, labels, _ = painted("abdomen", what)
    other, same, _ = painted("abdomen", what, "other")
    assert np.array_equal(labels, same)  # anatomy stays
    inside = binary_erosion(labels == 1, iterations=2)  # where the softer kernel lets no fat in
    assert np.median(other[inside]) - np.median(standard[inside]) == pytest.approx(10, abs=5)
    sharp, soft = (np.abs(np.diff(image, axis=0)).mean() for image in (standard, other))
    assert soft < sharp
    noisy = [painted("cells", what, scanner, PRESETS["demo"])[0] - painted("cells", what, scanner)[0] for scanner in ("standard", "other")]
    assert noisy[1].std() / noisy[0].std() == pytest.approx(1.7, rel=0.02)


@pytest.mark.slow
def test_the_manner_is_written_down_and_the_plain_one_is_what_it_was(tmp_path):
    make_phantom(tmp_path, "smoke", counts=(3, 0, 0), processes=1, manner=Manner(True, "cells", "other"))
    written = json.loads((tmp_path / "phantom.json").read_text())
    assert (written["world"], written["scanner"]) == ("cells", "other") and (tmp_path / "cues.csv").is_file()
    assert Manner().settings() == {}
    with pytest.raises(ValueError, match="made with other settings"):
        make_phantom(tmp_path, "smoke", counts=(3, 0, 0), processes=1)


def test_only_data_made_in_the_plain_manner_are_what_the_report_describes(tmp_path):
    assert not is_plain_phantom(tmp_path)
    for manner, plain in ((Manner(), True), (Manner(cues=True), False), (Manner(scanner="other"), False)):
        (tmp_path / "phantom.json").write_text(json.dumps({"preset": "demo", **manner.settings()}))
        assert is_plain_phantom(tmp_path) == plain


def test_a_world_without_cues_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Add --cues"):
        Manner(world="cells")
    with pytest.raises(ValueError, match="choose of abdomen, cells, and of standard, other"):
        Manner(scanner="new")
