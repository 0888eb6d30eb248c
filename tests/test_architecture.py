"""Which room may import which: docs/architecture.md draws the picture, these tests hold it."""

import pytest
import ast
import re
from functools import lru_cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("dynamic_network_architectures", "nnunetv2", "data_prep", "evaluation", "report", "experiments")
# rooms of one line stand side by side and import nothing from each other; a room imports from lines below its own
LEVELS = (
    ("dynamic_network_architectures",),
    ("nnunetv2.paths", "nnunetv2.configuration"),
    ("nnunetv2.utilities",),
    ("nnunetv2.imageio",),
    ("nnunetv2.preprocessing", "nnunetv2.class_evidence"),
    ("nnunetv2.experiment_planning", "nnunetv2.dataset_conversion", "nnunetv2.evaluation", "evaluation"),
    ("nnunetv2.inference",),
    ("nnunetv2.training",),
    ("nnunetv2.ensembling", "nnunetv2.postprocessing", "data_prep"),
    ("nnunetv2.model_sharing", "nnunetv2.verification"),
    ("report", "nnunetv2.cli", "nnunetv2.compatibility"),
    ("nnunetv2.run",),
    ("experiments",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
LIGHT = ("nnunetv2.imageio", "nnunetv2.utilities")  # what evaluation and report may use of nnunetv2
# arrows that point upward or sideways today: (module, imported room)
TO_MEND = {
    ("nnunetv2.inference.model_loading", "nnunetv2.training"),  # a trainer may build a network of its own, which prediction needs
    ("nnunetv2.utilities.plans_handling.plans_handler", "nnunetv2.imageio"),
    ("nnunetv2.utilities.plans_handling.plans_handler", "nnunetv2.preprocessing"),
    ("nnunetv2.utilities.overlay_plots", "nnunetv2.imageio"),
    ("nnunetv2.utilities.overlay_plots", "nnunetv2.preprocessing"),
    ("nnunetv2.evaluation.accumulate_cv_results", "nnunetv2.inference"),  # for the tables of classes
    ("nnunetv2.evaluation.find_best_configuration", "nnunetv2.ensembling"),
    ("nnunetv2.evaluation.find_best_configuration", "nnunetv2.postprocessing"),
}
CIRCLE_TO_MEND = {
    "nnunetv2.preprocessing.preprocessors",
    "nnunetv2.preprocessing.preprocessors.default_preprocessor",
    "nnunetv2.utilities.plans_handling.plans_handler",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


@lru_cache
def modules() -> dict[str, ast.Module]:
    return {
        module_name(path): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
    }


def imported(tree: ast.AST) -> set[str]:
    """Modules of this repository that the nodes of `tree` import."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules() else node.module
                for alias in node.names
            }
    return {name for name in names if name.split(".")[0] in PACKAGES}


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "nnunetv2" else parts[0]


@lru_cache
def arrows() -> set[tuple[str, str]]:
    """(module, other room that it imports) wherever in the module the import stands."""
    return {
        (module, room_of(name))
        for module, tree in modules().items()
        for name in imported(tree)
        if module != "nnunetv2" and room_of(name) not in (room_of(module), "nnunetv2")
    }


def runs_at_import(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported: no functions, nothing for type checkers alone."""

    def kept(node: ast.stmt) -> bool:
        for_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        return not for_checkers and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))

    return ast.Module([node for node in tree.body if kept(node)], [])


@pytest.mark.slow
def test_every_room_has_its_place():
    assert {room_of(module) for module in modules() if module != "nnunetv2"} == set(LEVEL)


@pytest.mark.slow
def test_arrows_point_downward():
    upward = {(module, room) for module, room in arrows() if LEVEL[room] >= LEVEL[room_of(module)]}
    assert sorted(upward - TO_MEND) == []


@pytest.mark.slow
def test_no_mended_arrow_is_still_listed():
    assert sorted(TO_MEND - arrows()) == []


@pytest.mark.slow
def test_scorers_use_only_light_rooms_of_nnunetv2():
    scorers = {
        (module, room)
        for module, room in arrows()
        if room_of(module) in ("evaluation", "report") and room.startswith("nnunetv2")
    }
    assert sorted((module, room) for module, room in scorers if room not in LIGHT) == []


def test_scorers_never_import_torch():
    for module, tree in modules().items():
        if room_of(module) in ("evaluation", "report"):
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {name for name in names if name.split(".")[0] == "torch"}, module


def test_only_experiments_import_data_prep():
    assert {room_of(module) for module, room in arrows() if room == "data_prep"} <= {"experiments"}


@pytest.mark.slow
def test_imports_form_no_circle():
    left = {module: imported(runs_at_import(tree)) & modules().keys() for module, tree in modules().items()}
    while ends := {module for module, needs in left.items() if not needs & left.keys()} | (
        left.keys() - set().union(*left.values())
    ):
        left = {module: needs for module, needs in left.items() if module not in ends}
    assert sorted(left.keys() - CIRCLE_TO_MEND) == []


def test_the_manual_draws_these_levels():
    picture = re.search(r"```\n(experiments\n.*?)```", (REPOSITORY / "docs/architecture.md").read_text(), re.DOTALL)[1]
    drawn = [set(line.split(", ")) for line in picture.strip().splitlines()]
    assert drawn == [set(rooms) for rooms in reversed(LEVELS)]
