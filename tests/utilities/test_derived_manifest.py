"""What masks made of other predictions inherit: all that their sources were trained on."""

import pytest

from nnunetv2.utilities.derived_manifest import STEP, derived_manifest, source_in
from nnunetv2.utilities.files import save_json
from nnunetv2.utilities.folder_lock import FolderBusy, prediction_lock
from nnunetv2.utilities.prediction_manifest import PredictionManifest, comparable, read_prediction_manifest, trained_on
from nnunetv2.verification import verify


def predict(folder, weights, training_cases, *names):
    folder.mkdir(exist_ok=True)
    made_with = {"model": {"checkpoints": {f"/nowhere/{weights}.pth": weights}, "trained_on": training_cases}, "settings": {}}
    manifest = PredictionManifest(folder, made_with, {f"{name}.nii.gz": () for name in names})
    manifest.begin({f"{name}.nii.gz" for name in names})
    for name in names:
        (folder / f"{name}.nii.gz").write_text(weights)
    manifest.finish()


def derive(folder, sources, *names, settings=None):
    manifests = {source: read_prediction_manifest(source) for source in sources}
    made_of = {f"{name}.nii.gz": [source_in(manifests[source], f"{name}.nii.gz", source / f"{name}.nii.gz") for source in sources] for name in names}
    with derived_manifest(folder, settings or {STEP: "ensemble"}, made_of):
        for name in made_of:
            (folder / name).write_text("derived")


@pytest.fixture
def folders(tmp_path):
    predict(tmp_path / "first", "first", ["a"], "a", "b", "c")
    predict(tmp_path / "second", "second", ["b"], "a", "b", "c")
    return [tmp_path / "first", tmp_path / "second"]


def test_what_any_source_was_trained_on_counts(folders, tmp_path):
    derive(tmp_path / "out", folders, "a", "b", "c")
    assert trained_on(tmp_path / "out", ["a", "b", "c"]) == ["a", "b"]


def test_a_mixed_folder_stays_apart_case_by_case(folders, tmp_path):
    predict(folders[0], "third", ["c"], "c")
    derive(tmp_path / "out", folders[:1], "a", "b", "c")
    derive(tmp_path / "further", [tmp_path / "out"], "a", "b", "c", settings={STEP: "postprocessing"})
    assert trained_on(tmp_path / "further", ["a", "b", "c"]) == ["a", "c"]


def test_a_mask_that_was_edited_may_be_of_any_model_of_its_folder(folders, tmp_path):
    predict(folders[0], "third", ["b"], "c")
    (folders[0] / "b.nii.gz").write_text("by hand")
    derive(tmp_path / "out", folders[:1], "a", "b", "c")
    assert trained_on(tmp_path / "out", ["a", "b", "c"]) == ["a", "b"]


def test_sources_without_a_record_are_told(folders, tmp_path):
    (folders[1] / "manifest.json").unlink()
    derive(tmp_path / "out", folders, "a", "b")
    found = verify(tmp_path / "out")
    assert trained_on(tmp_path / "out", ["a", "b"]) == ["a"] and not found.misfits
    assert any("no record of 1 of the models behind it" in line for line in found.unknown)


def test_sources_and_masks_that_change_are_misfits(folders, tmp_path):
    derive(tmp_path / "out", folders, "a", "b")
    save_json({"file_ending": ".nii.gz"}, tmp_path / "out" / "dataset.json")
    assert not verify(tmp_path / "out").misfits
    (folders[0] / "a.nii.gz").write_text("another")
    (tmp_path / "out" / "b.nii.gz").write_text("another")
    assert ["b.nii.gz was changed" in line or "first/a.nii.gz changed since a.nii.gz" in line for line in verify(tmp_path / "out").misfits] == [True, True]


def test_masks_written_before_a_failure_are_recorded(folders, tmp_path):
    sources = {f"{name}.nii.gz": [source_in(read_prediction_manifest(folders[0]), f"{name}.nii.gz", folders[0] / f"{name}.nii.gz")] for name in "ab"}
    with pytest.raises(RuntimeError), derived_manifest(tmp_path / "out", {STEP: "ensemble"}, sources):
        (tmp_path / "out" / "a.nii.gz").write_text("derived")
        raise RuntimeError
    cases = read_prediction_manifest(tmp_path / "out")["cases"]
    assert cases["a.nii.gz"]["sha256"] is not None and cases["b.nii.gz"]["sha256"] is None


def test_a_second_run_into_the_folder_is_refused(folders, tmp_path):
    with prediction_lock(tmp_path / "out"), pytest.raises(FolderBusy, match="out is in use by another run .*cases are predicted"):
        derive(tmp_path / "out", folders, "a")
    assert not (tmp_path / "out").exists()


def test_former_files_are_deleted_within_the_lock_alone(folders, tmp_path):
    former = tmp_path / "out" / "former.nii.gz"
    former.parent.mkdir()
    former.touch()
    with prediction_lock(tmp_path / "out"), pytest.raises(FolderBusy), derived_manifest(former.parent, {STEP: "ensemble"}, {}, old=[former]):
        pass
    assert former.exists()
    with derived_manifest(former.parent, {STEP: "ensemble"}, {}, old=[former]):
        assert not former.exists()


def test_what_masks_were_made_with_is_worked_out_once_however_many_there_are(tmp_path, monkeypatch):
    asked = []

    def counted(made_with):
        asked.append(made_with)
        return comparable(made_with)

    monkeypatch.setattr("nnunetv2.utilities.derived_manifest.comparable", counted)
    monkeypatch.setattr("nnunetv2.utilities.prediction_manifest.comparable", counted)
    numbers = []
    for n in (3, 30):
        names = [f"case_{i}" for i in range(n)]
        sources = [tmp_path / f"{which}_{n}" for which in ("first", "second")]
        for source in sources:
            predict(source, source.name, ["a"], *names)
        asked.clear()
        derive(tmp_path / f"out_{n}", sources, *names)
        assert trained_on(tmp_path / f"out_{n}", [*names, "a"]) == ["a"]
        numbers.append(len(asked))
    assert numbers[0] == numbers[1]
