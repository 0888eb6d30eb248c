"""Write run.json, the protocol of a run for its report, and print the figures a run ends with.

    python -m experiments.record_run --out results/fold0 --name MYTEAM --device cuda --mode exact --plans PLANS.json \
        --configuration 3d_fullres --fold MODEL/fold_0
    python -m experiments.record_run --out results/fold0 --summary      # the closing table alone
"""

import argparse
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from evaluation.result_shapes import Metrics, RunRecord
from experiments.file_shapes import Refit, Stages
from nnunetv2.configuration import available_cores
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.cpu_flags import cpu_model, vector_units
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription, carried, description_of, description_of_dataset
from nnunetv2.utilities.file_shapes import DatasetJson, Splits
from nnunetv2.utilities.files import load_json, save_json

TARGETS = {"whole_pancreas.dsc.mean": 0.91, "lesion.dsc.mean": 0.31, "subtype.macro_f1": 0.70}  # the quiz's, on its validation cases


def hardware() -> str:
    """CPU model, what it multiplies with, and number of usable cores."""
    units = vector_units()
    return f"{cpu_model()}{f' with {units}' if units else ''}, {available_cores()} cores"


def shown_command(driver: str, arguments: Sequence[str]) -> str:
    """`bash experiments/DRIVER.sh ARGUMENTS` or `python -m experiments.DRIVER ARGUMENTS` as results keep it: absolute paths become relative to the repository, so that no machine's folders are told."""
    root = Path(__file__).resolve().parents[1]
    told = [os.path.relpath(argument, root) if os.path.isabs(argument) else argument for argument in arguments]
    start = ["bash", f"experiments/{driver}"] if driver.endswith(".sh") else ["python", "-m", f"experiments.{driver}"]
    return shlex.join([*start, *told])


def code_commit() -> str:
    """Commit of the code that runs, with `+` where files differ from it; `unknown` outside a git checkout."""
    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}{'+' if changed else ''}" if commit else "unknown"


def environment(device: str) -> dict[str, str]:
    import torch

    versions = {"Python": platform.python_version(), "PyTorch": torch.__version__, "system": platform.system()}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        return {"GPU": f"{card.name}, {card.total_memory / 2**30:.0f} GiB", "CUDA": torch.version.cuda or ""} | versions
    return {"CPU": hardware()} | versions


def optimiser_in_words(group: dict) -> str:
    """By the settings that a checkpoint keeps of it."""
    if "muon" in group:
        return f"Muon for convolutions, momentum {group['momentum']:g}, AdamW for the rest"
    if "betas" in group:
        return f"Adam or AdamW, betas {group['betas'][0]:g} and {group['betas'][1]:g}"
    return f"SGD, {'Nesterov ' if group.get('nesterov') else ''}momentum {group.get('momentum', 0):g}"


def training_protocol(fold: Path, description: DataDescription) -> dict:
    """Hyper-parameters as the checkpoint holds them."""
    from nnunetv2.utilities.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(fold / "checkpoint_final.pth")
    schedule = checkpoint["schedule"]
    return {
        "trainer": checkpoint.get("trained_by", checkpoint["trainer_name"]), "epochs": schedule["num_epochs"],
        "iterations_per_epoch": schedule["num_iterations_per_epoch"], "seed": schedule["seed"],
        "optimiser": optimiser_in_words(checkpoint["optimizer_state"]["param_groups"][0]), "initial_learning_rate": schedule["initial_lr"], "weight_decay": schedule["weight_decay"],
        "loss": "soft Dice + cross-entropy, deep supervision" + (f"; weighted cross-entropy for the {description.task_words}" if description.task else ""),
    }


def class_evidence(fold: Path) -> dict:
    """{"class_evidence": ...} of the fold's refit; {} without one."""
    file = fold / "class_head_refit.json"
    found = load_json(file, Refit, partial=True).get("evidence") if file.is_file() else None
    return {} if found is None else {"class_evidence": found}


def provenance(fold: Path) -> dict:
    """Code, machine and hashes of data, split, plans and weights, from the record of the fold's training."""
    from nnunetv2.utilities.data_manifest import read_manifest
    from nnunetv2.utilities.manifest import origin, value_hash, weights_hash

    manifest = read_manifest(fold)
    training = manifest.get("training", {})
    parts = {name: value_hash(training[key]) for name, key in (("data", "cases"), ("split", "split"), ("plans", "plans")) if key in training}
    return {**origin(), "training_code": manifest.get("code"), **parts, "seed": training.get("settings", {}).get("seed"),
            "weights": weights_hash(fold / "checkpoint_final.pth")}


def plan(plans_file: Path, configuration: str) -> dict:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # imports torch

    entry = PlansManager(plans_file).get_configuration(configuration).configuration
    architecture = entry["architecture"]["arch_kwargs"]
    return {
        "patch_size": entry["patch_size"], "batch_size": entry["batch_size"], "spacing_mm": entry["spacing"],
        "median_size_in_voxels": entry["median_image_size_in_voxels"], "stages": architecture["n_stages"],
        "features_per_stage": architecture["features_per_stage"], "blocks_per_stage": architecture["n_blocks_per_stage"],
    }


def record(args: argparse.Namespace) -> None:
    """Collect run.json; figures of stages come from work/stages.json."""
    raw = args.raw or args.out / "work" / "nnUNet_raw" / THE_QUIZ.dataset
    description = description_of_dataset(load_json(raw / "dataset.json", DatasetJson), raw / "dataset.json")
    first = load_json(raw / "splits_final.json", Splits)[0]
    images = list((raw / "imagesTs").glob("*_0000.nii.gz"))
    env = environment(args.device)
    save_json({
        "synthetic": args.synthetic, **({"phantom": True} if args.phantom else {}), **carried(description), "name": args.name, "commit": code_commit(), "device": env.get("GPU") or env["CPU"], "inference_mode": args.mode,
        "data": {"training": len(first["train"]), "validation": len(first["val"]), "test": len(images)},
        "stages": [{"stage": stage["stage"], "seconds": stage["seconds"]} for stage in load_json(args.out / "work" / "stages.json", Stages)],
        "environment": env, "training": training_protocol(args.fold, description), **class_evidence(args.fold),
        "provenance": provenance(args.fold), "plan": plan(args.plans, args.configuration),
    }, args.out / "run.json")


def summary(out: Path) -> None:
    """Print the figures that the task is judged by, and where the time went."""
    metrics, run = load_json(out / "metrics.json", Metrics), load_json(out / "run.json", RunRecord)
    stages = load_json(out / "work" / "stages.json", Stages)
    subtype = metrics.get("subtype", {})
    description = description_of(metrics)
    rows = [(f"{structure.title[:1].lower()}{structure.title[1:]} DSC", interval(metrics[key]["dsc"]), TARGETS.get(f"{key}.dsc.mean"))
            for key, structure in description.structures.items() if not description.is_quiz or structure in description.drawn]
    if subtype:
        rows.append((f"{description.task_words} macro-F1", f"{subtype['macro_f1']:.3f}  {bounds(subtype['macro_f1_ci'])}", TARGETS["subtype.macro_f1"]))
    kind = "SYNTHETIC DATA, no patients: " if run["synthetic"] else f"{description.banner(False)}: " if description.banner(False) else ""
    print(f"\n{kind}{metrics['n_cases']} validation cases, 95 % intervals")
    for name, value, target in rows:
        print(f"  {name:<20} {value:<28}" + (f" quiz target {target:.2f}" if target is not None and description.is_quiz else ""))
    print("  seconds: " + ", ".join(f"{stage['stage']} {stage['seconds']:.0f}" for stage in stages)
          + f"; all {sum(stage['seconds'] for stage in stages):.0f}")


def interval(value: dict) -> str:
    return f"{value['mean']:.3f}  ({value['ci_low']:.3f} to {value['ci_high']:.3f})"


def bounds(ci: dict | list) -> str:
    low, high = (ci["ci_low"], ci["ci_high"]) if isinstance(ci, dict) else ci
    return f"({low:.3f} to {high:.3f})"


@script
def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--summary", action="store_true", help="print the closing table and write nothing")
    parser.add_argument("--name", help="name of the team or run")
    parser.add_argument("--device", choices=("cuda", "cpu", "mps"), help="what it ran on")
    parser.add_argument("--mode", help="inference mode of the predictions")
    parser.add_argument("--plans", type=Path, help="plans JSON")
    parser.add_argument("--configuration", help="configuration of the plans")
    parser.add_argument("--fold", type=Path, help="folder of the trained fold")
    parser.add_argument("--raw", type=Path, help="raw dataset (default: the quiz's below --out)")
    parser.add_argument("--synthetic", action="store_true", help="the data were made up")
    parser.add_argument("--phantom", action="store_true", help="by data_prep/make_phantom.py, in its plain manner")
    args = parser.parse_args()
    summary(args.out) if args.summary else record(args)


if __name__ == "__main__":
    main()
