"""The beginning of most experiments: data, conversion, planning and preprocessing, each skipped when done."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.convert_quiz import table_name
from data_prep.make_phantom import is_plain_phantom
from experiments.options import SEEDS, TRAINER
from experiments.pipeline import Pipeline, Stage, enter
from nnunetv2.utilities.data_description import THE_QUIZ, read_description
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import Plans
from nnunetv2.utilities.files import load_json

PLANS, CONFIGURATION = "nnUNetResEncUNetMPlans", "3d_fullres"
SMALL_MEMORY = "0.18"  # GB: a batch of 2, as for the quiz's cases; by itself the planner would fill 8 GB with small synthetic ones


@dataclass(frozen=True)
class Prepared:
    """Where things are. task, table: name of the class task and file of its classes, empty without one."""

    out: Path
    work: Path
    raw: Path
    preprocessed: Path
    results: Path
    task: str
    table: str
    synthetic: bool
    device: str
    trainer: str = TRAINER
    phantom: bool = False  # synthetic by make_phantom.py, in its plain manner

    @property
    def model(self) -> Path:
        return self.results / f"{self.trainer}__{PLANS}__{CONFIGURATION}"

    @property
    def test_images(self) -> Path | None:
        """Folder of the test images; None for data without."""
        return self.raw / "imagesTs" if (self.raw / "imagesTs").is_dir() else None

    @property
    def synthetic_flag(self) -> list[str]:
        return ["--synthetic"] if self.synthetic else []

    @property
    def described(self) -> list[str]:
        """Of programs that need names of labels and classes."""
        return ["--dataset", str(self.raw / "dataset.json")]

    def classes(self, tables: Path) -> list[str]:
        """Of the scorer, for classes predicted in folder `tables`; none without a class task."""
        return ["--subtypes", str(tables / f"{self.task}_results.csv"), "--truth", str(self.raw / self.table)] if self.task else []


def prepare(args: argparse.Namespace, phantom: tuple[str, ...] = (), alone: bool = True) -> tuple[Pipeline, Prepared]:
    """Run the first four stages. phantom: further flags of make_phantom.py. alone: False where several runs share the folder."""
    out = args.out.absolute()
    pipeline = Pipeline(out / "work", alone)
    work = pipeline.work
    folders = enter(work)
    data = args.data or (Path("data") if Path("data").is_dir() else None)
    made_up = data is None
    _refuse_other_data(out, folders.values(), THE_QUIZ.dataset if data is None else read_description(data).dataset)
    if args.from_stage:
        pipeline.forget_from(args.from_stage)
    if data is None:
        print("NO DATA GIVEN: THIS RUN USES SYNTHETIC CTS. ITS FIGURES SAY NOTHING ABOUT PATIENTS.", flush=True)
        data = work / "synthetic_data"
        pipeline.run(Stage("data", ["python", "data_prep/make_phantom.py", data, "--preset", "demo", "--seed", str(getattr(args, "synthetic_seed", SEEDS["main_job"])), *phantom], [data]))
    data = data.absolute()
    description = read_description(data)
    synthetic = made_up or (data / "SYNTHETIC.txt").exists() or description.made_up
    if synthetic and not made_up:
        print(f"THE DATA IN {data} ARE SYNTHETIC. THE FIGURES SAY NOTHING ABOUT PATIENTS.", flush=True)
    if not synthetic and (banner := description.banner(synthetic=False)):
        print(banner, flush=True)

    memory = str(args.gpu_memory) if getattr(args, "gpu_memory", None) else SMALL_MEMORY if made_up else None
    prepared = Prepared(out, work, *(folder / description.dataset for folder in folders.values()), description.task or "",
                        table_name(description) or "", synthetic, args.device or best_device(), phantom=description.is_quiz and is_plain_phantom(data))
    pipeline.run(Stage("convert", ["python", "data_prep/convert_quiz.py", "--data", data, "--out", folders["nnUNet_raw"]], [prepared.raw], [data]))
    pipeline.run(Stage("plan", ["nnUNetv2_plan_and_preprocess", "-d", "777", "-pl", "nnUNetPlannerResEncM", "--verify_dataset_integrity", "--clean", "--no_pp",
                                *(["-gpu_memory_target", memory] if memory else [])], [prepared.preprocessed], [prepared.raw]))
    configurations = load_json(prepared.preprocessed / f"{PLANS}.json", Plans, partial=True)["configurations"]
    if CONFIGURATION not in configurations:
        raise InputError(f"{data}: the scans are single slices, planned as {', '.join(configurations)}; this job segments volumes. For slices call nnUNetv2_train "
                         f"and nnUNetv2_predict with -c 2d, nnUNet_raw={folders['nnUNet_raw']} and the other two folders beside it.")
    pipeline.run(Stage("preprocess", ["nnUNetv2_preprocess", "-d", "777", "-plans_name", PLANS, "-c", CONFIGURATION],
                       [prepared.preprocessed / f"nnUNetPlans_{CONFIGURATION}"]))
    return pipeline, prepared


def _refuse_other_data(out: Path, folders: Iterable[Path], dataset: str) -> None:
    """InputError where `out` holds a run on data of another name: two datasets would share the number 777. Nothing of it has been touched then."""
    others = sorted({path.name for folder in folders for path in folder.glob(f"{dataset.partition('_')[0]}_*")} - {dataset})
    if others:
        raise InputError(f"{out} holds a run on {', '.join(others)}, and the data given are {dataset}. Choose another folder with --out, or delete that one.")


def best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
