"""`manifest.json` of a folder of predictions: which model and settings made them, from which images, and what was written.

    {"code", "machine", "written", "made_with": {"model", "settings"}, "makers": {HASH: {"model", "settings"}},
     "cases": {"a.nii.gz": {"made_with": HASH, "inputs": {PATH: [size, mtime_ns, quick hash]}, "sha256": ...}}}

`made_with` is what the last run used, `makers` what each case was made with. A case whose mask a run means to write over has also `before`,
size and time of the old one, until the new one is there. A mask that is kept keeps its `sha256`: one that was edited since shows as such.

Parts of one prediction (`-num_parts`) write one each, `manifest_part_I_of_N.json`.
"""

import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from nnunetv2.utilities.errors import InputError, list_some, name_some
from nnunetv2.utilities.file_shapes import Manifest
from nnunetv2.utilities.files import is_there, load_json, save_json
from nnunetv2.utilities.manifest import changes, file_hash, origin, quick_hash, value_hash, weights_hash


def model_record(checkpoints: Sequence[Path], plans: Mapping, dataset_json: Mapping) -> dict[str, Any]:
    """What tells a trained model from all others; `trained_on`: cases, None where a fold has no record of them. No files: a network handed over.

    `trained_on_at_least`: what the other folds' records say then.
    """
    folds = [load_json(path, Manifest) if is_there(path := checkpoint.with_name("manifest.json")) else {} for checkpoint in checkpoints]
    known = [fold["training"]["split"]["train"] for fold in folds if "training" in fold]
    cases, is_all = sorted(set().union(*known)), bool(folds) and len(known) == len(folds)
    return {"checkpoints": {str(path): weights_hash(path) for path in checkpoints if path.is_file()}, "plans": value_hash(plans),
            "dataset_json": value_hash(dataset_json), "trained_on": cases if is_all else None, **({} if is_all or not known else {"trained_on_at_least": cases})}


class PredictionManifest:
    """The manifest of one run into `folder`. cases: mask file name -> image files. makers: of cases that `made_with` does not say enough of."""

    def __init__(self, folder: Path, made_with: Mapping[str, Any], cases: Mapping[str, Sequence[str]], part_id: int = 0, num_parts: int = 1,
                 makers: Mapping[str, Mapping[str, Any]] | None = None):
        self.folder, self.made_with, self.cases, self.makers = folder, made_with, cases, makers or {}
        self.path = folder / (f"manifest_part_{part_id}_of_{num_parts}.json" if num_parts > 1 else "manifest.json")
        self.earlier = read_prediction_manifest(folder)

    def changed_inputs(self) -> set[str]:
        """Masks that a run which goes on must make anew: their images are others now, or an earlier run meant to write over them and did not.

        Raises InputError when masks in the folder were made by another model or with other settings: they would be mixed.
        """
        now = value_hash(comparable(self.made_with))
        known = {name: self.earlier["cases"][name] for name in self.cases if name in self.earlier["cases"] and (self.folder / name).is_file()}
        outdated = {name for name, entry in known.items() if entry.get("before") == _stamp(self.folder / name)}
        other = sorted(name for name, entry in known.items() if name not in outdated and entry["made_with"] not in (None, now))
        if other:
            before = self.earlier["makers"].get(known[other[0]]["made_with"], self.earlier["made_with"])
            found = changes(comparable(before), comparable(self.made_with)) or ["the model or the settings"]
            raise InputError(f"{self.folder} holds {len(other)} masks that were predicted otherwise, {other[0]} among them:\n{list_some(found)}\n"
                             "Predict into another folder, or without --continue_prediction, which predicts them anew.")
        return outdated | {name for name, entry in known.items() if {path: stamp[:2] for path, stamp in entry["inputs"].items()} != _stamps(self.cases[name])
                           and not self._was_edited(name)}  # somebody's work

    def begin(self, to_do: Set[str]) -> None:
        """Write which run this is, and the sizes and times of the images, before the masks `to_do` are predicted; others are kept."""
        own, used, edited = {}, {}, []
        hashes: dict[int, str] = {}  # of what masks are made with, by its id: it lists all training cases, and many masks share it
        for name, files in self.cases.items():
            inputs = {path: [*stamp, None] for path, stamp in _stamps(files).items()}
            if name in to_do:
                made_with = self.makers.get(name, self.made_with)
                if id(made_with) not in hashes:
                    hashes[id(made_with)] = value_hash(comparable(made_with))
                maker = hashes[id(made_with)]
                used[maker] = made_with
                own[name] = {"made_with": maker, "inputs": inputs, "sha256": None}
                if (self.folder / name).is_file():
                    own[name]["before"] = _stamp(self.folder / name)  # tells it from the one that takes its place
            elif self._was_edited(name):  # what was recorded stays, since it is not what is there
                own[name] = self.earlier["cases"][name]
                edited.append(name)
            else:  # one of unknown origin stays so
                earlier = self.earlier["cases"].get(name, {})
                own[name] = {"made_with": earlier.get("made_with"), "inputs": inputs, "sha256": earlier.get("sha256")}
        if edited:
            print(f"{self.folder}: {len(edited)} mask(s) are not the ones that were recorded; they are kept, and nnUNetv2_verify names them: {name_some(edited)}. "
                  "Delete those that are to be predicted again.")
        kept = {name: entry for name, entry in self._own_earlier().items() if name not in own and (self.folder / name).is_file()}
        cases = kept | own
        needed = {entry["made_with"] for entry in cases.values()}
        makers = {maker: made_with for maker, made_with in (self.earlier["makers"] | used).items() if maker in needed}
        self.edited = set(edited)
        self.content = {**origin(), "made_with": self.made_with, "makers": makers, "cases": cases}
        save_json(self.content, self.path)

    def finish(self) -> None:
        """Add the hashes of images and masks, of those masks that were written, or kept and never recorded to the end."""
        for name in self.cases.keys() - self.edited:
            entry, mask = self.content["cases"][name], self.folder / name
            if mask.is_file() and entry.get("before") != _stamp(mask):
                entry.pop("before", None)
                entry["sha256"] = entry["sha256"] or file_hash(mask)
                entry["inputs"] = {path: [*stamp[:2], quick_hash(path) if os.path.isfile(path) else None] for path, stamp in entry["inputs"].items()}
        save_json(self.content, self.path)

    def _was_edited(self, name: str) -> bool:
        """Whether the mask is there and is not the one whose hash was recorded."""
        known = self.earlier["cases"].get(name, {}).get("sha256")
        return known is not None and (self.folder / name).is_file() and file_hash(self.folder / name) != known

    def _own_earlier(self) -> dict[str, Any]:
        return load_json(self.path, Manifest).get("cases", {}) if is_there(self.path) else {}


def comparable(made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Without the paths of the checkpoints: a model that was moved is the same. Nor with what manifests did not always have."""
    model = {key: value for key, value in made_with["model"].items() if key != "trained_on_at_least"}
    return {"settings": made_with["settings"], "model": model | {"checkpoints": sorted(model["checkpoints"].values())}}


def read_prediction_manifest(folder: Path) -> dict[str, Any]:
    """Those of all parts as one, the latest last; {"made_with": {}, "makers": {}, "cases": {}} without any.

    Manifests that were written before there were `makers` know what their last run used alone.
    """
    merged: dict[str, Any] = {"made_with": {}, "makers": {}, "cases": {}}
    contents = [content for path in sorted(folder.glob("manifest*.json")) if "made_with" in (content := load_json(path, Manifest))]
    for content in sorted(contents, key=lambda content: str(content.get("written", ""))):
        last = {value_hash(comparable(content["made_with"])): content["made_with"]}
        merged = {**content, "makers": merged["makers"] | last | content.get("makers", {}), "cases": merged["cases"] | content["cases"]}
    return merged


def maker_of(manifest: Mapping[str, Any], mask: str) -> Mapping[str, Any] | None:
    """What `mask` of a folder with this manifest was made with; None where nobody can tell."""
    return manifest["makers"].get(manifest["cases"].get(mask, {}).get("made_with"))


def known_training_cases(made_with: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Cases that any of these was trained on, as far as there are records, sorted; None without any record."""
    lists = [maker["model"].get("trained_on_at_least", maker["model"]["trained_on"]) for maker in made_with]
    return sorted(set().union(*(cases for cases in lists if cases is not None))) if any(cases is not None for cases in lists) else None


def trained_on(folder: Path, cases: Sequence[str], ending: str = ".nii.gz") -> list[str]:
    """Those of `cases` that the model which made their mask in `folder` was trained on, sorted; [] where nothing is known of it.

    A mask of unknown origin may be of any model that wrote there.
    """
    manifest = read_prediction_manifest(folder)
    anything = set(known_training_cases(list(manifest["makers"].values())) or ())
    known = {maker: set(known_training_cases([made_with]) or ()) for maker, made_with in manifest["makers"].items()}
    makers = {case: manifest["cases"].get(f"{case}{ending}", {}).get("made_with") for case in cases}
    return sorted(case for case, maker in makers.items() if case in known.get(maker, anything))


def _stamps(files: Sequence[str]) -> dict[str, list[int]]:
    """path -> [size, mtime_ns]; a file that is missing is left out, and reported where it is read."""
    return {os.path.abspath(path): _stamp(path) for path in files if os.path.isfile(path)}


def _stamp(path: str | os.PathLike) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
