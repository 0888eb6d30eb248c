"""The manifest of masks that were made of other predictions: ensembles, post-processed and gathered ones.

Each is made with all that its sources were made with, so that what these were trained on is known of it too.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.manifest import file_hash, value_hash
from nnunetv2.utilities.prediction_manifest import PredictionManifest, comparable, known_training_cases, maker_of, model_record

STEP = "step"  # key of the settings that tells masks made of others


@dataclass(frozen=True)
class Source:
    """A file that a mask was made of, and what that was made with."""

    file: Path
    made_with: Mapping[str, Any]


def source_in(manifest: Mapping[str, Any], mask: str, file: Path) -> Source:
    """`file` (the mask itself or what lies beside it) of a folder with this manifest.

    One that nobody has a record of, or that was edited since, may be of any model that wrote there.
    """
    maker = maker_of(manifest, mask)
    if maker is None or (file.name == mask and manifest["cases"][mask]["sha256"] not in (None, file_hash(file))):
        maker = {"model": {"checkpoints": {}, "trained_on": known_training_cases(list(manifest["makers"].values()))}, "settings": {}}
    return Source(file, maker)


def made_by_fold(fold: Path, plans: Mapping, dataset_json: Mapping) -> dict[str, Any]:
    """What the masks in `fold`/validation were made with."""
    return {"model": model_record([fold / "checkpoint_final.pth"], plans, dataset_json), "settings": {STEP: "validation"}}


@contextmanager
def derived_manifest(folder: Path, settings: Mapping[str, Any], sources: Mapping[str, Sequence[Source]], to_do: Set[str] | None = None,
                     old: Sequence[Path] = ()) -> Iterator[None]:
    """Masks are written into `folder` within the block. settings: with STEP; sources: by mask file name; to_do: all but those that are kept.

    old: files there that are deleted first. FolderBusy while another run writes masks there.
    """
    with folder_lock(folder, "prediction", f"{settings[STEP]} masks are written"):
        for path in old:
            path.unlink(missing_ok=True)
        with _recorded(folder, settings, sources, to_do):
            yield


@contextmanager
def _recorded(folder: Path, settings: Mapping[str, Any], sources: Mapping[str, Sequence[Source]], to_do: Set[str] | None) -> Iterator[None]:
    """The manifest of `folder` tells before the block what is going to be written, and after it what was."""
    # worked out once for masks of the same models, not once a mask: each lists all training cases
    parents = {tuple(id(source.made_with) for source in found): [source.made_with for source in found] for found in sources.values()}
    made = {key: _made_of(settings, made_with) for key, made_with in parents.items()}
    makers = {name: made[tuple(id(source.made_with) for source in found)] for name, found in sources.items()}
    of_all = {id(made_with): made_with for made_of in parents.values() for made_with in made_of}
    of_all = {value_hash(comparable(made_with)): made_with for made_with in of_all.values()}
    manifest = PredictionManifest(folder, _made_of(settings, list(of_all.values())), {name: [str(source.file) for source in found] for name, found in sources.items()},
                                  makers=makers)
    manifest.begin(sources.keys() if to_do is None else to_do)
    try:
        yield
    finally:  # a case that failed does not make the others of unknown origin
        manifest.finish()


def _made_of(settings: Mapping[str, Any], parents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    models = [parent["model"] for parent in parents]
    return {
        "model": {"checkpoints": {path: weights for model in models for path, weights in model["checkpoints"].items()},
                  "trained_on": known_training_cases(parents)},
        "settings": {**settings, "made_of": sorted(value_hash(comparable(parent)) for parent in parents),
                     "of_unknown_origin": sum(not model["checkpoints"] for model in models)},
    }
