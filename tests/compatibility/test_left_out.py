"""Every public name of upstream is at its path, or is left out on purpose; asking for such a module says so."""

import ast
import importlib
import subprocess
from pathlib import Path

import pytest

from nnunetv2.compatibility.table import LEFT_OUT
from tests.conformance.bench import reference_python

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer")


def upstream_folder() -> Path:
    """nnunetv2 of the reference environment; nothing of it is run."""
    if not reference_python().exists():
        pytest.skip("no reference environment: `bash experiments/run_conformance.sh` builds it, or set NNUNET_UPSTREAM_PYTHON")
    program = "import importlib.util; print(importlib.util.find_spec('nnunetv2').origin)"
    found = subprocess.run([reference_python(), "-I", "-c", program], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip()).parent


def public_names(source: str) -> list[str]:
    """Functions, classes and values that stand at the top of a module, without those that begin with an underscore."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def left_out(path: str) -> bool:
    return path.startswith(tuple(LEFT_OUT))


def test_public_names_are_read_off_a_module():
    assert public_names("import a\nb = c = 1\n_d = 2\ndef e(): f = 1\nclass G: pass") == ["b", "c", "e", "G"]


@pytest.mark.slow
def test_every_public_name_of_upstream_is_here_or_left_out(monkeypatch):
    for variable in FOLDERS:
        monkeypatch.setenv(variable, f"/nowhere/{variable}")
    root = upstream_folder()
    missing, read = [], 0
    for file in sorted(root.rglob("*.py")):
        module = ".".join(file.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        names = [name for name in public_names(file.read_text(encoding="utf-8")) if not left_out(f"{module}.{name}")]
        if left_out(module):
            continue
        read += len(names)
        try:
            here = importlib.import_module(module)
        except ModuleNotFoundError:
            missing.append(module)
            continue
        missing += [f"{module}.{name}" for name in names if not hasattr(here, name)]
    assert missing == [] and read > 200


@pytest.mark.parametrize("module", [
    "nnunetv2.dataset_conversion.Dataset027_ACDC", "nnunetv2.batch_running", "nnunetv2.batch_running.collect_results_custom_Decathlon",
    "nnunetv2.inference.JHU_inference", "nnunetv2.training.nnUNetTrainer.primus.primus_trainers", "nnunetv2.tests.test_paths"])
def test_asking_for_what_is_left_out_says_why(module):
    reason = next(reason for prefix, reason in LEFT_OUT.items() if module.startswith(prefix))
    with pytest.raises(ModuleNotFoundError, match="left out of this fork") as error:
        importlib.import_module(module)
    assert str(error.value).endswith(f"{reason}.") and module.startswith(error.value.name)


def test_a_file_of_ones_own_is_found_before_what_is_left_out(tmp_path, monkeypatch):
    from nnunetv2 import dataset_conversion

    (tmp_path / "Dataset777_Own.py").write_text("ANSWER = 42\n")
    monkeypatch.setattr(dataset_conversion, "__path__", [*dataset_conversion.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    assert importlib.import_module("nnunetv2.dataset_conversion.Dataset777_Own").ANSWER == 42
