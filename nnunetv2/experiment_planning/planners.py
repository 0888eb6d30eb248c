"""The planners that `-pl` names: those of this package, and of modules that people put beside them."""

import importlib
import pkgutil

import nnunetv2.experiment_planning as room
from nnunetv2.experiment_planning.experiment_planner import ExperimentPlanner
from nnunetv2.utilities.trusted_names import resolve


def available_planners() -> dict[str, type[ExperimentPlanner]]:
    """Name -> class of every planner below nnunetv2/experiment_planning."""
    for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        importlib.import_module(module.name)
    found, waiting = {}, [ExperimentPlanner]
    while waiting:
        planner = waiting.pop()
        found[planner.__name__] = planner
        waiting += planner.__subclasses__()
    return dict(sorted(found.items()))


def planner_by_name(name: str) -> type[ExperimentPlanner]:
    """The planner called `name`, or `package.module.Class` of a package that the user trusts; ValueError that lists those that there are."""
    planners = available_planners()
    if "." in name:
        return resolve(name, "planner", "-pl", planners, lambda found: isinstance(found, type) and issubclass(found, ExperimentPlanner))
    if name not in planners:
        raise ValueError(f"There is no planner {name!r}; choose one of {', '.join(planners)}. New ones go into a file below nnunetv2/experiment_planning.")
    return planners[name]
