"""JSON of the wrong shape: what any JSON file can suffer, and what each of this code base's files can say wrongly."""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.fuzz.damage import FILE_SYSTEM, Damage, constant, replace, rewriting

OTHER_VALUES: list[Any] = [None, [], {}, "text", -1, 0, 1.5, True, [[]], {"a": {"b": []}}, 10**400, float("nan"), "../../x", [None], ""]


def _drop_a_key(content: Any, generator: np.random.Generator) -> Any:
    """Without one key of one of its objects."""
    objects = [node for _, _, node in _nodes(content) if isinstance(node, dict) and node]
    if not objects:
        return None
    node = objects[generator.integers(len(objects))]
    del node[list(node)[generator.integers(len(node))]]
    return content


def mutated(content: Any, generator: np.random.Generator) -> Any:
    """A copy with one value, drawn evenly over depths, exchanged for one of another kind."""
    content = copy.deepcopy(content)
    nodes = list(_nodes(content))
    depths = sorted({depth for depth, _, _ in nodes})
    depth = depths[generator.integers(len(depths))]
    places = [place for found, place, _ in nodes if found == depth and place is not None]
    if not places:
        return OTHER_VALUES[generator.integers(len(OTHER_VALUES))]
    parent, key = places[generator.integers(len(places))]
    parent[key] = OTHER_VALUES[generator.integers(len(OTHER_VALUES))]
    return content


def _nodes(content: Any, depth: int = 0, place: tuple | None = None) -> Iterator[tuple[int, tuple | None, Any]]:
    yield depth, place, content
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(entries):
        yield from _nodes(value, depth + 1, (content, key))


def tree(name: str, change: Callable[[Any, np.random.Generator], Any], must_fail: bool = True) -> Damage:
    """A damage to the parsed content."""

    def apply(content: bytes, generator: np.random.Generator) -> bytes:
        return json.dumps(change(json.loads(content), generator)).encode()

    return rewriting(name, apply, must_fail)


def setting(name: str, path: str, value: Any, must_fail: bool = True) -> Damage:
    """One entry changed: `path` goes down by dots; `*` takes the first key there is."""

    def apply(file: Path, _: np.random.Generator, canary: Path) -> None:
        content = json.loads(file.read_bytes())
        *parents, last = path.split(".")
        node = content
        for key in parents:
            node = node[next(iter(node)) if key == "*" else int(key) if isinstance(node, list) else key]
        node[int(last) if isinstance(node, list) else last] = json.loads(json.dumps(value).replace("CANARY", str(canary)))
        replace(file, json.dumps(content).encode())

    return Damage(name, apply, must_fail)


ANY = [
    constant("empty", b""),
    constant("null", b"null"),
    constant("an empty list", b"[]"),
    constant("an empty object", b"{}"),
    constant("a number", b"42"),
    constant("a string", b'"plans"'),
    constant("not JSON", b"{this is: not JSON}"),
    constant("random bytes", np.random.default_rng(6).bytes(500)),
    constant("100,000 brackets", b"[" * 100_000),
    constant("100,000 nested objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    constant("not UTF-8", b'{"labels": "\xe9\xff"}'),
    constant("a number of 5,000 digits", b'{"labels": ' + b"9" * 5000 + b"}"),
    rewriting("cut in half", lambda content, _: content[: len(content) // 2]),
    rewriting("in UTF-16", lambda content, _: content.decode().encode("utf-16")),
    rewriting("with a byte order mark", lambda content, _: b"\xef\xbb\xbf" + content, must_fail=False),
    rewriting(
        "a key twice",
        lambda content, _: content.rstrip()[:-1] + (b', "labels": 3, "labels": 4}' if content.rstrip().endswith(b"}") else b", 3]"),
        must_fail=False,
    ),
    tree("inside a list", lambda content, _: [content, 1]),
    tree("all values null", lambda content, _: _nulls(content)),
    *(tree(f"a key missing, {n}", _drop_a_key, must_fail=False) for n in range(1, 4)),
    *(tree(f"a value of another kind, {n}", mutated, must_fail=False) for n in range(1, 8)),
    *FILE_SYSTEM,
]


def _nulls(content: Any) -> Any:
    return dict.fromkeys(content) if isinstance(content, dict) else [None] * len(content) if isinstance(content, list) else None


LABELS = [
    setting("labels a list", "labels", ["background", "pancreas"]),
    setting("labels of text", "labels", {"background": "zero", "pancreas": "one"}),
    setting("no background", "labels", {"pancreas": 1, "lesion": 2}, must_fail=False),
    setting("a label twice", "labels", {"background": 0, "a": 1, "b": 1}, must_fail=False),
    setting("labels with a gap", "labels", {"background": 0, "pancreas": 1, "lesion": 5}),
    setting("a label of a billion", "labels", {"background": 0, "a": 10**9}),
    setting("no channels", "channel_names", {}),
    setting("channels a string", "channel_names", "CT"),
    setting("channel of no number", "channel_names", {"CT": 0}, must_fail=False),
    setting("200,000 channels", "channel_names", {str(n): "CT" for n in range(200_000)}),
    setting("ending with a folder", "file_ending", "/../../x.nii.gz"),
    setting("no ending", "file_ending", ""),
    setting("unknown ending", "file_ending", ".xyz"),
    setting("ending a number", "file_ending", 5),
    setting("reader that runs code", "overwrite_image_reader_writer", "subprocess.Popen", must_fail=False),
]
CLASSES = [
    setting("classification a list", "classification", [1]),
    setting("class table outside", "classification.labels", "/etc/passwd"),
    setting("class table above", "classification.labels", "../../subtypes.csv"),
    setting("class name with a path", "classification.name", "../../x"),
    setting("class name absolute", "classification.name", "/srv/x"),
    setting("classes a string", "classification.classes", "012"),
    setting("no classes", "classification.classes", []),
    setting("a class twice", "classification.classes", ["0", "0", "1"]),
    setting("class with a path", "classification.classes", ["../0", "1", "2"]),
    setting("class null", "classification.classes", [None, "1", "2"]),
]
EVIL_CASES = [
    setting(
        f"case {name!r} in dataset.json",
        "dataset",
        {name: {"images": ["imagesTr/quiz_0_001_0000.nii.gz"], "label": "labelsTr/quiz_0_001.nii.gz"}},
    )
    for name in ("../../escaped", "CANARY", "/etc/cron.d/x", "", "..", "a/b", "-rf", "x\ny")
]
DATASET = ANY + LABELS
RAW_DATASET = (
    ANY
    + LABELS
    + CLASSES
    + EVIL_CASES
    + [
        setting("numTraining text", "numTraining", "many", must_fail=False),
        setting("dataset a string", "dataset", "imagesTr"),
        setting("dataset of missing files", "dataset", {"a": {"images": ["nowhere.nii.gz"], "label": "nowhere.nii.gz"}}),
        setting("holdout of unknown cases", "holdout", ["nobody"], must_fail=False),
        setting("holdout a number", "holdout", 3),
    ]
)
# Planning looks at the fingerprint and at no image
DATASET_TO_PLAN = [dataclasses.replace(damage, must_fail=damage.must_fail and damage.name != "dataset of missing files") for damage in RAW_DATASET]
SPLITS = ANY + [
    tree("a fold without val", lambda folds, _: [{"train": folds[0]["train"]}]),
    tree(
        "names with endings",
        lambda folds, _: [{part: [f"{name}.nii.gz" for name in names] for part, names in fold.items()} for fold in folds],
    ),
    tree("one object", lambda folds, _: folds[0]),
    tree("a case in both lists", lambda folds, _: [{"train": fold["train"] + fold["val"][:1], "val": fold["val"]} for fold in folds]),
    tree("unknown cases", lambda folds, _: [{"train": ["nobody"], "val": ["nobody else"]}] * len(folds)),
    tree(
        "a case twice",
        lambda folds, _: [{"train": fold["train"] + fold["train"][:1], "val": fold["val"]} for fold in folds],
        must_fail=False,
    ),
    tree("names of numbers", lambda folds, _: [{"train": [1, 2], "val": [3]}] * len(folds)),
    tree("paths for names", lambda folds, _: [{"train": ["../../x"], "val": ["/etc/passwd"]}] * len(folds)),
    tree("no training case", lambda folds, _: [{"train": [], "val": fold["val"]} for fold in folds]),
]
