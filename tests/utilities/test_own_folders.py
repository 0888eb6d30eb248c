"""Folders that are filled anew: what the former run wrote goes, what is somebody's stays and is named."""

import shutil
from pathlib import Path

import pytest

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.own_folders import overlaps, rewritten


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / name).write_text(f"content of {name}")
    return {name: tmp_path / "in" / name for name in "abc"}


def fill(folder: Path, sources: dict[str, Path], links: bool = False) -> list[str]:
    """Fill `folder` with them; the names that are there afterwards."""
    with rewritten({folder: sources}, [folder.parent / "in"]):
        for name, source in sources.items():
            (folder / name).symlink_to(source) if links else shutil.copy2(source, folder / name)
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("links", [False, True])
def test_what_the_former_run_wrote_goes(sources, tmp_path, links):
    assert fill(tmp_path / "out", {"a": sources["a"], "b": sources["b"]}, links) == ["a", "b"]
    assert fill(tmp_path / "out", {"c": sources["c"]}, links) == ["c"]
    assert (tmp_path / "in" / "a").read_text() == "content of a"


def test_files_of_others_stay_and_are_all_named(sources, tmp_path):
    fill(tmp_path / "out", {"a": sources["a"], "b": sources["b"]})
    (tmp_path / "out" / "b").write_text("corrected by hand")
    (tmp_path / "out" / "mine").write_text("mine")
    (tmp_path / "out" / "folder").mkdir()
    before = sorted((tmp_path / "out").iterdir())
    with pytest.raises(InputError, match="(?s)Nothing was written.*out/b: no run .*out/folder: .*out/mine: .*move it away"):
        fill(tmp_path / "out", {"c": sources["c"]})
    assert sorted((tmp_path / "out").iterdir()) == before and (tmp_path / "out" / "b").read_text() == "corrected by hand"


def test_a_folder_with_files_and_no_note_is_refused(sources, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("mine, and called alike")
    with pytest.raises(InputError, match="out/a: no run"):
        fill(tmp_path / "out", {"a": sources["a"]})


@pytest.mark.parametrize("links", [False, True])
def test_runs_that_left_no_note_are_known_by_what_would_be_written_now(sources, tmp_path, links):
    fill(tmp_path / "out", sources, links)
    (tmp_path / "out" / ".written.json").unlink()
    assert fill(tmp_path / "out", sources, links) == ["a", "b", "c"]


def test_half_a_file_of_a_killed_run_is_replaced(sources, tmp_path):
    with pytest.raises(KeyboardInterrupt), rewritten({tmp_path / "out": sources}, [tmp_path / "in"]):
        (tmp_path / "out" / "a").write_text("content")
        raise KeyboardInterrupt
    assert fill(tmp_path / "out", {"b": sources["b"]}) == ["b"]


def test_a_file_in_the_folders_place_is_named(sources, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out: no run"):
        fill(tmp_path / "out", sources)


@pytest.mark.parametrize("output", ["in", "in/below", ".", "link"])
def test_an_output_that_is_holds_or_lies_in_an_input_is_refused(sources, tmp_path, output):
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(InputError, match="is, holds or lies in .*in; name another folder"), rewritten({tmp_path / output: {}}, [tmp_path / "in"]):
        raise AssertionError
    assert (tmp_path / "in" / "a").read_text() == "content of a"


def test_two_outputs_must_not_lie_in_one_another(tmp_path):
    assert len(overlaps([tmp_path / "a", tmp_path / "a" / "b", tmp_path / "ab"], [tmp_path / "c"])) == 1
