"""Train a fold, on one device or on several GPUs, then predict its validation cases.

    nnUNetv2_train 777 3d_fullres 0 -p nnUNetResEncUNetMPlans --epochs 100
"""

import os
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing as mp

from nnunetv2 import paths
from nnunetv2.preprocessing.recipe import refuse_other_recipe, trained_on_lock
from nnunetv2.training.class_head_refit import refit_trained
from nnunetv2.training.log_sinks import check_switches
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.registry import find_trainer
from nnunetv2.training.nnUNetTrainer.training_state import as_trained, checkpoint_problems, not_the_same
from nnunetv2.training.time_budget import Length, Pacing, length_in, measure_speed, spent_before
from nnunetv2.training.torchrun import meet, under_torchrun
from nnunetv2.utilities.checkpoint import check_contents, load_checkpoint, load_network_weights, load_pretrained_weights
from nnunetv2.utilities.data_manifest import refuse_changed_data
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import DatasetJson, Plans
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.folder_lock import folder_lock, reading_lock
from nnunetv2.utilities.plans_handling.plans_handler import plans_from
from nnunetv2.utilities.safe_names import plain_name

LENGTHS = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")
CONTINUE_FROM = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")  # the first that exists


@dataclass(frozen=True)
class TrainingJob:
    """What makes a trainer; goes to the processes of a training on several GPUs as it is."""

    dataset: str
    configuration: str
    fold: int | str
    trainer: str
    plans_identifier: str
    overrides: dict[str, int | bool] = field(default_factory=dict)  # trainer attributes
    pretrained_weights: str | None = None
    continue_training: bool = False
    batch_size: int | None = None
    same_task: bool = False  # take the pretrained segmentation layers and class head too

    def make_trainer(self, device: torch.device) -> nnUNetTrainer:
        folder = Path(paths.nnUNet_preprocessed) / self.dataset
        plans_file = folder / f"{plain_name(self.plans_identifier, 'plans', '-p')}.json"
        if not plans_file.is_file():
            raise FileNotFoundError(f"There are no plans {plans_file}. Run nnUNetv2_plan_and_preprocess, or name other plans with -p.")
        plans = load_json(plans_file, Plans, partial=True)
        if self.batch_size is not None:  # into the plans that the trained model keeps, so they say what was used
            plans["configurations"].setdefault(self.configuration, {})["batch_size"] = self.batch_size
        with plans_from(plans_file):
            trainer = find_trainer(self.trainer)(plans=plans, configuration=self.configuration, fold=self.fold,  # by name, as nnU-Net does: a trainer of
                                                 dataset_json=load_json(folder / "dataset.json", DatasetJson), device=device)  # another author may order them otherwise
        for name, value in self.overrides.items():
            setattr(trainer, name, value)
        return trainer

    def train(self, device: torch.device, pacing: Pacing | None = None) -> nnUNetTrainer:
        trainer = self.make_trainer(device)
        trainer.pacing = pacing
        trainer.start_weights = self.pretrained_weights
        checkpoint = self._checkpoint_to_continue(trainer) if self.continue_training else None
        if checkpoint is not None:
            trainer.load_checkpoint(str(checkpoint))  # text, as nnU-Net hands it over: those of other authors ask for its type
        else:
            if self.continue_training:
                print(f"{trainer.output_folder} has no checkpoint to continue from; the training starts.")
            if self.pretrained_weights is not None and not trainer.was_initialized:
                trainer.initialize()
            if self.pretrained_weights is not None and self.same_task:
                load_network_weights(trainer.module, as_trained(load_checkpoint(self.pretrained_weights)))
            elif self.pretrained_weights is not None:
                load_pretrained_weights(trainer.module, self.pretrained_weights)
            if trainer.local_rank == 0:
                set_aside_other_training(trainer)
        trainer.run_training()
        return trainer

    @staticmethod
    def _checkpoint_to_continue(trainer: nnUNetTrainer) -> Path | None:
        """The first of CONTINUE_FROM that is of this training, None if there is no checkpoint; InputError if all are of others."""
        present = [file for name in CONTINUE_FROM if (file := Path(trainer.output_folder) / name).is_file()]
        if not present:
            return None
        if not trainer.was_initialized:
            trainer.initialize()
        problems = {}
        for path in present:
            content = load_checkpoint(path, lazy=True)
            check_contents(content, path)
            problems[path] = checkpoint_problems(trainer, content)
            if not problems[path]:
                return path
        raise InputError(not_the_same(str(present[0]), problems[present[0]], trainer=trainer))


def paced(job: TrainingJob, device: torch.device, hours: float | None, patience: int | None) -> tuple[TrainingJob, Pacing | None]:
    """The job with the schedule's length that fits `hours`, as measured, or that of the training which it continues, and what keeps to it."""
    if hours is None and patience is None:
        return job, None
    epochs_free, iterations_free = (name not in job.overrides for name in ("num_epochs", "num_iterations_per_epoch"))
    pacing = Pacing(hours, patience, epochs_free=epochs_free)
    trainer = job.make_trainer(device)
    folder = Path(trainer.output_folder)
    earlier = next((folder / name for name in CONTINUE_FROM if job.continue_training and (folder / name).is_file()), None)
    if earlier is not None:
        schedule = load_checkpoint(earlier, lazy=True).get("schedule", {})
        lengths = {name: schedule[name] for name in LENGTHS if name in schedule}
        if hours is not None:
            pacing = Pacing(hours, patience, *spent_before(folder), epochs_free)
    elif hours is not None:
        pacing.speed = measure_speed(trainer)
        wanted = Length(trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch)
        length = length_in(hours * 3600 - pacing.spent, pacing.speed, wanted, epochs_free, iterations_free)
        lengths = dict(zip(LENGTHS, (length.epochs, length.iterations, length.validation_iterations)))
        print(f"A step takes {pacing.speed.train_step:.3g} s, validation{'' if trainer.class_task is None else ' and refit'} afterwards about "
              f"{pacing.speed.afterwards / 60:.1f} min: {length.epochs} epoch(s) of {length.iterations} iteration(s) fit {hours:g} hours.")
    else:
        lengths = {}
    return replace(job, overrides=job.overrides | lengths), pacing


def set_aside_other_training(trainer: nnUNetTrainer) -> None:
    """Move what another training left in the fold's folder into a folder in it, so that its checkpoints pass for this one's nowhere.

    What the same training left stays, and is written over.
    """
    folder = Path(trainer.output_folder)
    checkpoints = sorted(folder.glob("checkpoint_*.pth"))
    if checkpoints and not trainer.was_initialized:
        trainer.initialize()
    if all(_identity_in(path) == trainer.identity for path in checkpoints):
        return
    number = 1
    while (aside := folder / f"earlier_{number}").exists():
        number += 1
    aside.mkdir()
    for path in sorted(folder.iterdir()):
        if not path.name.startswith((".", "earlier_")) and path != trainer.log_file:
            path.rename(aside / path.name)
    print(f"{folder} held a training with other data, plans or settings; it is now in {aside}.")


def _identity_in(checkpoint: Path) -> dict | None:
    """None for a checkpoint without one, or one that cannot be read: neither is of a training that may go on."""
    try:
        content = load_checkpoint(checkpoint, lazy=True)
    except (RuntimeError, ValueError):
        return None
    return content.get("identity") if isinstance(content, dict) else None


def run_training(dataset_name_or_id: str | int, configuration: str, fold: int | str, trainer_class_name: str = "nnUNetTrainer",
                 plans_identifier: str = "nnUNetPlans", pretrained_weights: str | None = None, num_gpus: int = 1,
                 export_validation_probabilities: bool = False, continue_training: bool = False, only_run_validation: bool = False,
                 disable_checkpointing: bool = False, val_with_best: bool = False, device: torch.device = torch.device("cuda"),
                 epochs: int | None = None, iterations: int | None = None, val_iterations: int | None = None, seed: int | None = None,
                 batch_size: int | None = None, final_validation: bool = True, same_task: bool = False,
                 hours: float | None = None, patience: int | None = None, refit: bool = True) -> None:
    """Train fold `fold` and write its validation predictions; see `nnUNetv2_train --help` for the arguments.

    epochs, iterations, val_iterations, seed: None leaves the trainer's values; batch_size: None leaves the plans' value;
    final_validation: False leaves the validation cases to a later prediction; same_task: the pretrained weights know the same
    labels and classes, so their segmentation layers and class head are taken over as well; refit: False leaves the class head of the
    checkpoints as gradient descent left it. hours, patience: see time_budget.py.
    """
    fold = fold_from_text(fold)
    lengths = {"num_epochs": epochs, "num_iterations_per_epoch": iterations, "num_val_iterations_per_epoch": val_iterations}
    several = under_torchrun()
    check_switches()
    _check_arguments(pretrained_weights, num_gpus, continue_training, only_run_validation, disable_checkpointing, val_with_best, device)
    _check_length(lengths | {"batch_size": batch_size}, hours, patience, num_gpus)
    if several and (hours is not None or patience is not None or num_gpus > 1 or disable_checkpointing):
        raise ValueError("Under torchrun the number of processes is torchrun's: leave -num_gpus, --hours, --patience and --disable_checkpointing away.")
    # what is not asked for stays as the trainer has it: one of another author may set its seed, and some write no checkpoints
    asked = lengths | {"seed": seed, "disable_checkpointing": disable_checkpointing or None}
    overrides = {name: value for name, value in asked.items() if value is not None}
    job = TrainingJob(maybe_convert_to_dataset_name(dataset_name_or_id), configuration, fold, trainer_class_name, plans_identifier,
                      overrides, pretrained_weights, continue_training, batch_size, same_task)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True

    if several and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    first = not several or os.environ["RANK"] == "0"
    trainer = job.make_trainer(device)
    if trainer.disable_checkpointing and not only_run_validation and (num_gpus > 1 or several):
        final_validation = val_with_best = False  # the result of several processes is their checkpoint
    refuse_changed_data(job.dataset, trainer.configuration_manager.data_identifier, trainer.train_cases)
    refuse_other_recipe(job.dataset, trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json)
    cases_lock = trained_on_lock(trainer.configuration_manager.data_identifier)
    with (folder_lock(trainer.output_folder, "training", f"fold {fold} is trained or validated") if first else nullcontext(),
          reading_lock(trainer.preprocessed_dataset_folder_base, cases_lock, f"fold {fold} is trained") if first else nullcontext()):
        if only_run_validation:
            trainer = _trained(job, device, "checkpoint_final.pth")
        elif several:
            _train_as_rank(job, device, meet)
            if first and not trainer.disable_checkpointing:
                trainer = _trained(job, device, "checkpoint_final.pth")
        elif num_gpus > 1:
            address = f"tcp://127.0.0.1:{free_port()}"
            mp.spawn(_train_rank, args=(job, num_gpus, device.type, address), nprocs=num_gpus)
            if not trainer.disable_checkpointing:
                trainer = _trained(job, device, "checkpoint_final.pth")  # one process validates, from what the others wrote
        else:
            trainer = train_in_this_process(job, device, hours, patience)
        if not first:
            return  # the first process refits and validates
        if refit and not (only_run_validation or trainer.disable_checkpointing) and trainer.class_task is not None:
            torch.backends.cudnn.benchmark = False
            if refit_trained(trainer.output_folder_base, fold, device, trainer.dataset_class) and final_validation:
                trainer = _trained(job, device, "checkpoint_final.pth")
        if val_with_best:
            trainer = _trained(job, device, "checkpoint_best.pth")
        if final_validation:
            torch.backends.cudnn.benchmark = False  # whole cases have many sizes, and each would be tried out anew, for seconds
            trainer.perform_actual_validation(export_validation_probabilities)


def train_in_this_process(job: TrainingJob, device: torch.device, hours: float | None, patience: int | None) -> nnUNetTrainer:
    job, pacing = paced(job, device, hours, patience)
    return job.train(device, pacing)


def _trained(job: TrainingJob, device: torch.device, checkpoint: str) -> nnUNetTrainer:
    """Trainer with the weights of a finished training; its schedule is taken as it was."""
    trainer = job.make_trainer(device)
    path = Path(trainer.output_folder) / checkpoint
    for name, value in load_checkpoint(path).get("schedule", {}).items():
        setattr(trainer, name, value)
    trainer.to_validate = True
    trainer.load_checkpoint(str(path))
    return trainer


def _train_rank(rank: int, job: TrainingJob, world_size: int, device_type: str, address: str) -> None:
    """One process of a training on several GPUs. Several CPU processes work too, which the tests use."""

    def join(backend: str) -> bool:
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=world_size)
        return False

    _train_as_rank(job, torch.device(device_type, rank) if device_type == "cuda" else torch.device(device_type), join)


def _train_as_rank(job: TrainingJob, device: torch.device, join: Callable[[str], bool]) -> None:
    """join: makes the process group for a backend; whether an earlier attempt at this training was lost and is to be gone on with."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    again = join("nccl" if device.type == "cuda" else "gloo")
    try:
        replace(job, continue_training=job.continue_training or again).train(device)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def fold_from_text(fold: int | str) -> int | str:
    if fold == "all" or isinstance(fold, int):
        return fold
    if not fold.isdecimal():
        raise ValueError(f"fold {fold!r} is neither 'all' nor a whole number.")
    return int(fold)


def _check_length(numbers: dict[str, int | None], hours: float | None, patience: int | None, num_gpus: int) -> None:
    """Raises ValueError for a length that is no training, or that several processes cannot keep; None is the trainer's own."""
    if (hours is not None or patience is not None) and num_gpus > 1:
        raise ValueError("--hours and --patience are for a training in one process; leave -num_gpus away, or give --epochs.")
    if hours is not None and not 0 < hours < 1e5:
        raise ValueError(f"--hours is {hours}; it must be above 0.")
    if wrong := {name: value for name, value in numbers.items() if value is not None and value < 1}:
        raise ValueError(f"Epochs, iterations and batch size must be at least 1, got {wrong}.")


def _check_arguments(pretrained_weights: str | None, num_gpus: int, continue_training: bool, only_run_validation: bool,
                     disable_checkpointing: bool, val_with_best: bool, device: torch.device) -> None:
    problems = []
    if continue_training and only_run_validation:
        problems.append("--c continues a training, --val only validates: give one of them")
    if continue_training and pretrained_weights is not None:
        problems.append(f"a continued training has its weights, leave -pretrained_weights {pretrained_weights} away")
    if disable_checkpointing and val_with_best:
        problems.append("--val_best needs the checkpoints that --disable_checkpointing leaves out")
    if disable_checkpointing and num_gpus > 1:
        problems.append("several GPUs hand their result over as a checkpoint, --disable_checkpointing is for one")
    if num_gpus > 1 and device.type == "mps":
        problems.append("-num_gpus needs cuda")
    if device.type == "cuda" and torch.cuda.device_count() < num_gpus:
        problems.append(f"{num_gpus} GPU(s) wanted, {torch.cuda.device_count()} found; -device cpu trains without, slowly")
    if problems:
        raise ValueError("; ".join(problems) + ".")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
