"""Does a folder still fit what its manifest says of it?

    nnUNetv2_verify results/fold0

Knows the folders of a trained model, of predictions, of a preprocessed dataset, of a converted one, and of a whole run.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2.utilities.data_manifest import data_changes, read_manifest
from nnunetv2.utilities.dataset_files import get_filenames_of_train_images_and_targets
from nnunetv2.utilities.derived_manifest import STEP
from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.file_shapes import DatasetJson, FileShape, Splits
from nnunetv2.utilities.files import is_there, load_json
from nnunetv2.utilities.manifest import (
    MANIFEST_FILE, changes, code_version, dataset_identity, file_hash, plans_identity, quick_hash, value_hash, weights_hash,
)
from nnunetv2.utilities.prediction_manifest import comparable, read_prediction_manifest


class Scores(FileShape):
    """What is read of metrics.json."""

    class _Row(FileShape):
        case: str

    class _Provenance(FileShape):
        predictions: str
        masks: str

    cases: list[_Row]
    provenance: _Provenance | None = None


@dataclass
class Findings:
    """Lines on what fits, what does not, and what could not be looked at."""

    fits: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def judge(self, what: str, problems: list[str]) -> None:
        """Note `what` as fitting, or each of `problems`."""
        if problems:
            self.misfits += [f"{what}: {problem}" for problem in problems]
        else:
            self.fits.append(what)

    def __iadd__(self, other: "Findings") -> "Findings":
        self.fits, self.misfits, self.unknown = self.fits + other.fits, self.misfits + other.misfits, self.unknown + other.unknown
        return self


def report(folder: str | Path) -> int:
    """Print the findings; the exit status, 1 on any misfit."""
    found = verify(Path(folder))
    for title, lines in (("fits", found.fits), ("cannot be checked", found.unknown)):
        if lines:
            print(f"{title}:\n{list_some(lines, 200)}")
    counts = f"{len(found.misfits)} misfit(s), {len(found.fits)} thing(s) fit, {len(found.unknown)} cannot be checked."
    if found.misfits:
        print(f"error: {folder}: {counts} Restore what changed, or run its stage again; does not fit:\n{list_some(found.misfits, 200)}", file=sys.stderr)
        return 1
    print(f"{folder}: {counts}")
    return 0


def verify(folder: Path) -> Findings:
    """Everything below `folder` that has a manifest. InputError when there is nothing to compare it with."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Name a model, predictions, a preprocessed dataset or the results of a run.")
    folder = folder.resolve()
    if folder.name.startswith("fold_"):
        folder = folder.parent
    if (folder / "work").is_dir():
        return _verify_run(folder)
    if any(folder.glob("fold_*/checkpoint_*.pth")):
        return _verify_model(folder)
    if read_prediction_manifest(folder)["cases"]:
        return _verify_predictions(folder)
    manifest = read_manifest(folder)
    if "sources" in manifest:
        return _verify_raw(folder, manifest)
    if "planned" in manifest or "preprocessed" in manifest:
        return _verify_preprocessed(folder, _raw_of(folder))
    raise InputError(f"{folder} has no {MANIFEST_FILE}: nothing is known of how it came about (nnU-Net's own folders have none). Make it anew with "
                     "this version to have one.")


def _verify_run(out: Path) -> Findings:
    """Results of run_fold0.sh or run_cv.sh: every stage against the one before it."""
    found = Findings()
    for raw in sorted(path.parent for path in (out / "work" / "nnUNet_raw").glob("*/dataset.json")):
        manifest = read_manifest(raw)
        found += _verify_raw(raw, manifest) if "sources" in manifest else Findings(unknown=[f"{raw}: no manifest"])
    for dataset in sorted(path.parent for path in (out / "work" / "nnUNet_preprocessed").glob(f"*/{MANIFEST_FILE}")):
        found += _verify_preprocessed(dataset, out / "work" / "nnUNet_raw" / dataset.name)
    for model in sorted({path.parents[1] for path in (out / "work" / "nnUNet_results").glob("*/*/fold_*/checkpoint_*.pth")}):
        found += _verify_model(model)
    for folder in sorted(path for path in (out / "predictions").glob("*") if path.is_dir()):
        known = read_prediction_manifest(folder)["cases"]
        found += _verify_predictions(folder) if known else Findings(unknown=[f"{folder}: no manifest"])
    for metrics in sorted(out.glob("metrics.json")):
        found += _verify_metrics(metrics)
    return found


def _verify_raw(folder: Path, manifest: dict) -> Findings:
    """A converted dataset against the files it was made from."""
    found, source = Findings(), Path(manifest["data"])
    if not source.is_dir():
        found.unknown.append(f"{folder}: the data it was made from, {source}, is not here")
    else:
        files = {path: known for files in manifest["sources"].values() for path, known in files.items()}
        absent = [path for path in files if not (source / path).is_file()]
        changed = [path for path in files if path not in absent and quick_hash(source / path) != files[path]]
        found.judge(f"{folder}: the data it was made from", [f"{path} is gone" for path in absent] + [f"{path} changed" for path in changed])
    tables = [name for name, known in manifest["tables"].items() if not (folder / name).is_file() or file_hash(folder / name) != known]
    found.judge(f"{folder}: its tables", [f"{name} is missing or was edited" for name in tables])
    return found


def _verify_preprocessed(folder: Path, raw: Path | None) -> Findings:
    """A preprocessed dataset: its cases whole, and the raw one as it was."""
    from nnunetv2.preprocessing.case_store import is_complete

    found = Findings()
    for identifier, cases in read_manifest(folder).get("preprocessed", {}).items():
        where = folder / identifier
        found.judge(f"{where}: {len(cases)} cases", [f"{case} is missing or damaged" for case in cases if not is_complete(where, case)])
        if raw is None or not (raw / "dataset.json").is_file():
            found.unknown.append(f"{where}: the raw dataset is not here")
            continue
        splits = folder / "splits_final.json"
        train = sorted({case for fold in load_json(splits, Splits) for case in fold["train"]}) if is_there(splits) else []
        differences = data_changes(folder, raw, identifier, train)
        if differences is None:
            found.unknown.append(f"{where}: no record of the plan it belongs to")
        else:
            found.judge(f"{where} against {raw}", differences)
            new = sorted(set(get_filenames_of_train_images_and_targets(raw, load_json(raw / "dataset.json", DatasetJson))) - set(cases))
            found.judge(f"{where}: all cases of {raw}", [f"{case} was not preprocessed" for case in new])
    return found


def _raw_of(preprocessed: Path) -> Path | None:
    from nnunetv2 import paths

    folder = paths.path_if_set("nnUNet_raw")
    return None if folder is None else folder / preprocessed.name


def _verify_model(folder: Path) -> Findings:
    """A trained model: every fold's checkpoints and plans against the record of its training."""
    found = Findings()
    for fold in sorted(folder.glob("fold_*")):
        training = read_manifest(fold)
        if "training" not in training:
            found.unknown.append(f"{fold}: no record of its training")
            continue
        for name, known in training["checkpoints"].items():
            path = fold / name
            problems = ["is gone"] if not path.is_file() else [] if weights_hash(path) == known else ["is not the one that the training or refit wrote"]
            found.judge(str(path), problems)
        found.judge(f"{fold / MANIFEST_FILE}: plans and labels", list(_plans_problems(folder, training["training"])))
        if training["code"]["source"] != code_version()["source"]:
            found.unknown.append(f"{fold}: trained with other code ({training['code'].get('commit') or training['code']['source']}) than runs here")
    return found


def _plans_problems(model: Path, training: dict) -> Iterator[str]:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    missing = [name for name in ("plans.json", "dataset.json") if not (model / name).is_file()]
    if missing:
        yield from (f"{model / name} is gone" for name in missing)
        return
    plans = PlansManager(model / "plans.json")
    configuration = model.name.rpartition("__")[2]
    yield from changes(training["plans"], plans_identity(plans.plans, plans.get_configuration(configuration).configuration))
    yield from changes(training["dataset"], dataset_identity(load_json(model / "dataset.json", DatasetJson)))


def _verify_predictions(folder: Path) -> Findings:
    """Masks against what was written, images against what was read, the model against what predicted."""
    found, manifest = Findings(), read_prediction_manifest(folder)
    cases, made_with = manifest["cases"], manifest["made_with"]
    masks, images = [], []
    last_used = value_hash(comparable(made_with))
    is_derived = STEP in made_with["settings"]  # masks made of others have as many makers as these
    for name, entry in cases.items():
        if entry["sha256"] is None:
            masks.append(f"{name}: its prediction was not finished")
        elif not (folder / name).is_file():
            masks.append(f"{name} is gone")
        elif file_hash(folder / name) != entry["sha256"]:
            masks.append(f"{name} was changed after its prediction")
        if entry["made_with"] is None:
            found.unknown.append(f"{folder / name}: it was there before, and no record says which model made it")
        elif not is_derived and entry["made_with"] != last_used:
            masks.append(f"{name} was predicted by another model or with other settings than the rest")
        images += [f"{path} changed since {name} was predicted" for path, (*_, known) in entry["inputs"].items()
                   if known is not None and Path(path).is_file() and quick_hash(path) != known]
    ending = load_json(folder / "dataset.json", DatasetJson, partial=True)["file_ending"] if is_there(folder / "dataset.json") else _ending_of(cases)
    masks += [f"{path.name} is of another origin" for path in sorted(folder.glob(f"*{ending}")) if path.name not in cases and not path.name.startswith(".")]
    found.judge(f"{folder}: {len(cases)} masks", masks)
    gone = [path for entry in cases.values() for path in entry["inputs"] if not Path(path).is_file()]
    found.judge(f"{folder}: the images", images)
    if gone:
        found.unknown.append(f"{folder}: {len(gone)} image(s) are not where they were, {gone[0]} among them")
    if n_unknown := made_with["settings"].get("of_unknown_origin"):
        found.unknown.append(f"{folder}: there is no record of {n_unknown} of the models behind it")
    for path, known in made_with["model"]["checkpoints"].items():
        if not Path(path).is_file():
            found.unknown.append(f"{folder}: its model is not at {path} any more")
        else:
            found.judge(f"{folder}: the model {path}", [] if weights_hash(path) == known else ["has other weights now"])
    return found


def _ending_of(masks: Iterable[str]) -> str:
    """The one that post-processed masks have, whose folder lacks a dataset.json."""
    suffixes = Path(next(iter(masks))).suffixes
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def _verify_metrics(path: Path) -> Findings:
    """Scores against the masks that they were computed from."""
    metrics = load_json(path, Scores)
    provenance = metrics.get("provenance")
    folder = None if provenance is None else Path(provenance["predictions"])
    if folder is None or not folder.is_dir():
        return Findings(unknown=[f"{path}: the masks it scored are not here, or not recorded"])
    masks = {file.name.removesuffix(".nii.gz"): file for file in folder.rglob("*.nii.gz") if not file.name.startswith(".")}
    cases = [row["case"] for row in metrics["cases"]]
    by_case = {case: file_hash(masks[case]) for case in cases if case in masks}
    found = Findings()
    found.judge(f"{path}: the masks it scored", [] if value_hash(by_case) == provenance["masks"] else [f"{folder} holds other masks now; score them again"])
    return found
