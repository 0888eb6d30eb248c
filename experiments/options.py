"""Options, lengths and seeds of the experiments. Standard library alone, so that a wrong option ends a script before anything is installed.

    python -m experiments.options experiments/run_fold0.sh main_job --data data --name MYTEAM     # checks; status 2 and one line where something is wrong

experiments/driver.sh does this with the system's Python, then sets the environment up and runs `python -m experiments.main_job`.
"""

import argparse
import getpass
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.commands import Parser, real_number, whole_number
from nnunetv2.utilities.safe_names import name_problem

TRAINER = "nnUNetTrainer"
SHOWN = 100  # status of --help: the driver ends well and sets nothing up


@dataclass(frozen=True)
class Length:
    """Of a training: epochs, and iterations an epoch."""

    epochs: int
    iterations: int
    val_iterations: int

    def flags(self) -> list[str]:
        """Of nnUNetv2_train."""
        return [text for name, value in vars(self).items() for text in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Preset:
    """What an experiment takes where its options say nothing. synthetic: on made-up cases, for 2 CPU cores; real: for a GPU."""

    synthetic: Length
    real: Length = Length(100, 250, 50)
    jobs: int = 1  # trainings at a time on made-up cases
    short_recipe: str = TRAINER  # trainer on made-up cases

    def flags(self, args: argparse.Namespace, synthetic: bool) -> list[str]:
        """Of nnUNetv2_train: the hours that are given, else the length."""
        return ["--hours", str(args.hours)] if args.hours else self.length(args, synthetic).flags()

    def trainer(self, args: argparse.Namespace, synthetic: bool) -> str:
        return args.trainer or (self.short_recipe if synthetic else TRAINER)

    def length(self, args: argparse.Namespace, synthetic: bool) -> Length:
        preset = self.synthetic if synthetic else self.real
        return Length(*(getattr(preset, name) if getattr(args, name) is None else getattr(args, name) for name in ("epochs", "iterations", "val_iterations")))


PRESETS = {
    "main_job": Preset(Length(12, 20, 4), short_recipe="nnUNetTrainerMuon"),
    "cross_validation": Preset(Length(12, 20, 4), short_recipe="nnUNetTrainerMuon"),
    "ablation": Preset(Length(12, 20, 4), jobs=2, short_recipe="nnUNetTrainerShort"),
    "training_choices": Preset(Length(12, 25, 4), jobs=2),
}

# Of synthetic cases. Each set serves one purpose, so that no setting is judged on the cases that it was chosen on.
SEEDS = {
    "main_job": 2026,  # the first to see its validation cases is the run that is reported
    "train_quiz_size": 7,
    "ablation_new_cases": 4713,
    "training_choices_new_cases": 4715,
    "accuracy": 4716,  # of both painters
    "accuracy_training": 4724,  # of the model in the other painter's world
    "abdomen": 4718,
    "abdomen_training": 4720,
    "time_to_quality": 4721,
    "cues": 4722,
    "cues_other_scanner": 4723,
}
DEVELOPMENT_SEEDS = (2027, 4711, 4800, 4801, 4802)  # settings were worked out on these (docs/lab-notes.md); nothing is reported on them


def file_name(text: str) -> str:
    """Type of a flag: a part of a file's name."""
    if (problem := name_problem(text)) is not None:
        raise argparse.ArgumentTypeError(f"{text!r} {problem}; letters, digits, '_', '-' and '.' are always safe")
    return text


def user_name() -> str:
    """The user's name as far as it serves in a file's name."""
    try:
        return re.sub(r"[^A-Za-z0-9_-]", "_", getpass.getuser()) or "MYTEAM"
    except (KeyError, OSError):  # a container's user may have no name
        return "MYTEAM"


def run_name(args: argparse.Namespace, synthetic: bool) -> str:
    return args.name or ("SYNTHETIC" if synthetic else user_name())


def _any(description: str, out: str, what: str = "folder of the results") -> Parser:
    parser = Parser(description, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path(out), help=f"{what} (default {out})")
    parser.add_argument("--no-venv", action="store_true", help="use the environment that is active (Colab, Kaggle, conda)")
    return parser


def _staged(description: str, out: str) -> Parser:
    """Of what begins with the data."""
    parser = _any(description, out)
    parser.add_argument("--device", choices=("cuda", "cpu", "mps"), help="default: a GPU if there is one")
    parser.add_argument("--from", dest="from_stage", metavar="STAGE", help="do this stage and all after it again")
    return parser


def _common(description: str, out: str, preset: Preset) -> Parser:
    parser = _staged(description, out)
    parser.add_argument("--data", type=Path, help="folder in the quiz's layout, or with a dataset_description.json (default: data/ if it is there, else synthetic CTs)")
    for name, what in (("epochs", "of a training"), ("iterations", "per epoch"), ("val_iterations", "per epoch, of the pseudo Dice")):
        parser.add_argument(f"--{name}", type=whole_number(1), help=f"{what} (default {getattr(preset.real, name)}, on synthetic data {getattr(preset.synthetic, name)})")
    return parser


def _named(parser: Parser) -> Parser:
    parser.add_argument("--name", type=file_name, help="of the submission and the report (default: yours; SYNTHETIC for synthetic data)")
    parser.add_argument("--hours", type=real_number(0, above=True), help="training, refit and validation end in this time, instead of --epochs and --iterations")
    parser.add_argument("--trainer", type=file_name, metavar="NAME", help="training recipe, see docs/training.md (default: nnUNetTrainer; on synthetic data nnUNetTrainerMuon)")
    parser.add_argument("--fast", action="store_true", help="predict in mode fast, see docs/inference-modes.md")
    return parser


def main_job() -> Parser:
    parser = _named(_common(MAIN_JOB, "results/fold0", PRESETS["main_job"]))
    parser.add_argument("--synthetic_seed", type=whole_number(0, 2**32 - 1), default=SEEDS["main_job"], metavar="N",
                        help=f"of the synthetic CTs (default {SEEDS['main_job']}: those of the reported run)")
    parser.add_argument("--gpu_memory", type=real_number(0, above=True), metavar="GB", help="what the planner fills; little for a quick look on a CPU")
    return parser


def cross_validation() -> Parser:
    parser = _named(_common(CROSS_VALIDATION, "results/cv", PRESETS["cross_validation"]))
    parser.add_argument("--fold", type=int, choices=range(1, 6), help="this fold alone, for instance one notebook session per fold")
    parser.add_argument("--gpus", type=str.split, default=[], metavar='"0 1"', help="share the folds out over these GPUs")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of weights, batches and augmentation")
    return parser


def _study(description: str, out: str, preset: Preset) -> Parser:
    """Of a study that trains variants over folds inside the training cases."""
    parser = _common(description, out, preset)
    parser.add_argument("--folds", type=whole_number(2), default=3, help="folds inside the training cases (default 3)")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of weights, batches and augmentation")
    parser.add_argument("--views", type=int, choices=(8, 4, 2, 1), help="mirrored views of refit and prediction (default 8, on synthetic data 2)")
    parser.add_argument("--jobs", type=whole_number(1), help=f"trainings at a time; they share the cores, or one GPU (default 1, on synthetic data {preset.jobs})")
    parser.add_argument("--train", type=whole_number(8), default=189, help="synthetic training cases (default 189: two thirds are as many as the main job trains on)")
    parser.add_argument("--new_cases", type=whole_number(0), default=99, help="synthetic cases besides, to judge calibration and averaging on (default 99; 0: none)")
    return parser


def ablation() -> Parser:
    parser = _study(ABLATION, "results/ablation", PRESETS["ablation"])
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="rows of the table (default: all)")
    return parser


def training_choices() -> Parser:
    parser = _study(TRAINING_CHOICES, "results/training_choices", PRESETS["training_choices"])
    parser.add_argument("--only_folds", type=whole_number(1), nargs="+", metavar="K", help="run and score these of them (default: all)")
    return parser


def train_quiz_size() -> Parser:
    parser = _staged(TRAIN_QUIZ_SIZE, "results/quiz_size")
    parser.add_argument("--train", type=whole_number(8), default=63, help="training cases (default 63)")
    parser.add_argument("--validation", type=whole_number(0), default=12, help="validation cases (default 12)")
    parser.add_argument("--iterations", type=_four_numbers, metavar="COARSE,MIDDLE,CROPS,FULL", help="in all (default 60,100,40,12, on a GPU 0,0,0,1000)")
    return parser


def _four_numbers(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+){2},[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: four numbers, the last not 0, such as 60,100,40,12")
    return tuple(map(int, text.split(",")))


def _measured(description: str, out: str) -> Parser:
    """Of a measurement on a finished model; what is not listed goes to run_speed.py."""
    parser = _any(description, out, "folder of the work; the table is OUT.json and OUT.md")
    parser.add_argument("--run", type=Path, default=Path("results/fold0"), help="a finished run on synthetic data (default results/fold0)")
    return parser


def accuracy() -> Parser:
    parser = _measured(ACCURACY, "results/accuracy")
    parser.add_argument("--n", type=whole_number(1), default=36, help="new synthetic cases (default 36)")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=SEEDS["accuracy"], help="of these cases")
    parser.add_argument("--world", choices=("abdomen", "cells"), default="abdomen", help="their painter; cells: another one than the main job's (default abdomen)")
    return parser


def abdomen() -> Parser:
    parser = _measured(ABDOMEN, "results/abdomen")
    parser.add_argument("--keep_model", action="store_true", help="leave the model as it is, and train the coarse one alone")
    parser.add_argument("--iterations", type=whole_number(1), default=480, help="of each training (default 480)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--seconds_from", type=Path, default=Path("results/history/accuracy_avx2.json"), help="seconds per window, from which upstream's time with TTA is derived on a CPU")
    return parser


MAIN_JOB = """The main job: a folder of pancreas CTs in; masks, subtypes, metrics, figures, submission and report out.

  bash experiments/run_fold0.sh                                   synthetic data, 2 CPU cores, 3 to 15 minutes
  bash experiments/run_fold0.sh --data data --name MYTEAM         the quiz's data on a GPU (16 GB are enough)
  bash experiments/run_fold0.sh --data data --epochs 50 --fast    fewer epochs, coarse-to-fine inference
  bash experiments/run_fold0.sh --data data --hours 3.5           training, refit and validation end within 3.5 hours
  bash experiments/run_fold0.sh --data data --from train          train again, keep what came before
  bash experiments/run_fold0.sh --data FOLDER                     other data, with a dataset_description.json (docs/your-data.md)

A rerun after a kill goes on where it stopped. Stages: data convert plan preprocess train predict_validation predict_test metrics
figures gallery submission report."""

CROSS_VALIDATION = """Cross-validation inside the training cases (folds 1-5): out-of-fold figures, and an ensemble for the test set.

  bash experiments/run_cv.sh --data data --name MYTEAM                    all folds one after the other, then the rest
  bash experiments/run_cv.sh --data data --gpus "0 1"                     folds shared out over two GPUs
  bash experiments/run_cv.sh --data data --fold 3                         this fold alone, e.g. one notebook session a fold
  bash experiments/run_cv.sh --epochs 10 --iterations 30                  synthetic data, 2 CPU cores, about an hour

A rerun after a kill goes on where it stopped. --hours counts for each fold's training, refit and validation. Written to OUT:
predictions/{out_of_fold,test} (masks, subtype tables), metrics.json, radiomics/, with_radiomics/ (mean of both, and whether it is
better), NAME_results.zip. The validation cases of the quiz are not used at all."""

ABLATION = """Which part of the class head earns its keep: trains the variants of experiments/ablation.py over the same folds, and fits the blocks one at a time.

  bash experiments/run_ablation.sh                                        synthetic data, 3 folds, 2 CPU cores, about two hours
  bash experiments/run_ablation.sh --data data --folds 5 --epochs 100     the quiz's training cases on a GPU
  bash experiments/run_ablation.sh --variants naive chosen chosen_refit   some of the rows

Resumable by variant and fold. Written: OUT.json and OUT.md. The folds lie inside the training cases. No other case is read, but for
new ones (--new_cases) that are made to judge the refitted head on when the data are synthetic."""

TRAINING_CHOICES = """Settle choices of the training by out-of-fold figures, each against the training as it is (experiments/training_choices.py).

  bash experiments/run_training_choices.sh                                  synthetic data, 3 folds, 2 CPU cores
  bash experiments/run_training_choices.sh --data data --folds 5            the quiz's training cases on a GPU
  bash experiments/run_training_choices.sh --only_folds 1                   a part of it

Resumable by choice and fold. Written: OUT.json and OUT.md. The folds lie inside the training cases. No other case is read, but for
new ones (--new_cases) that are made when the data are synthetic."""

TRAIN_QUIZ_SIZE = """A trained model of the quiz's image size on SYNTHETIC CTs, for run_speed.sh: masks worth comparing, on a CPU within an hour,
on a GPU in minutes.

  bash experiments/train_quiz_size.sh                     63 training cases into results/quiz_size
  bash experiments/train_quiz_size.sh --device cuda       the same on a GPU

A rerun after a kill goes on where it stopped. One iteration at full size takes a CPU most of a minute. So there the planned network is
first trained on coarser grids, from there on parts of patches, and only last on whole ones (experiments/coarse_to_fine_plans.py);
0 iterations leave one out."""

ACCURACY = """What each inference mode costs a trained model: time, agreement and scores on new SYNTHETIC cases, beside nnU-Net 2.8.1.

  bash experiments/run_fold0.sh && bash experiments/run_accuracy.sh     the main job's model, 36 new cases

In the world of another painter, unlike the first:

  python data_prep/make_phantom.py data_cells --preset demo --cues --world cells --seed 4724
  bash experiments/run_fold0.sh --data data_cells --out results/fold0_cells --trainer nnUNetTrainerShort --epochs 12 --iterations 40 --val_iterations 2 --gpu_memory 0.18
  bash experiments/run_accuracy.sh --run results/fold0_cells --world cells --out results/accuracy_cells --n 96

Other options go to experiments/run_speed.py (--help there)."""

ABDOMEN = """Full-size CTs: time, memory and agreement of upstream and of the modes on a SYNTHETIC abdomen of 512 x 512 x 200 voxels.

  bash experiments/run_fold0.sh && bash experiments/run_accuracy.sh && bash experiments/run_abdomen.sh
  bash experiments/run_abdomen.sh --iterations 800 --rows fast 'fast, ROI model'
  bash experiments/train_quiz_size.sh --device cuda && bash experiments/run_abdomen.sh --run results/quiz_size --keep_model --device cuda

The main job's model has seen the pancreas and its surroundings alone, and in a whole abdomen takes other tissue for pancreas. So it is first
trained on with SYNTHETIC abdomens, once on its own grid and once on one twice as coarse; the second model finds the boxes
(nnUNetv2_predict -roi_model). With --keep_model only the coarse one is trained. On a CPU upstream runs without TTA.
Other options go to experiments/run_speed.py (--help there). A rerun after a kill goes on where it stopped."""

PARSERS: dict[str, Callable[[], Parser]] = {"main_job": main_job, "cross_validation": cross_validation, "ablation": ablation,
                                            "training_choices": training_choices, "train_quiz_size": train_quiz_size,
                                            "accuracy": accuracy, "abdomen": abdomen}
PASS_ON = ("accuracy", "abdomen")  # options that they do not know are run_speed.py's


def parse(experiment: str, arguments: list[str] | None = None, command: str | None = None) -> argparse.Namespace:
    """The options of an experiment; ends the process with one line where they are wrong. command: what --help calls it."""
    parser = PARSERS[experiment]()
    parser.prog = command or parser.prog
    args, rest = parser.parse_known_args(arguments)
    args.rest = rest
    if args.rest and experiment not in PASS_ON:
        parser.error(f"unknown option {' '.join(args.rest)}")
    if getattr(args, "hours", None) is not None and (args.epochs, args.iterations, args.val_iterations) != (None, None, None):
        parser.error("--hours chooses the length itself; leave --epochs, --iterations and --val_iterations away")
    if wrong := [fold for fold in getattr(args, "only_folds", None) or () if fold > args.folds]:
        parser.error(f"--only_folds {' '.join(map(str, wrong))}: the folds are 1 to {args.folds}")
    if getattr(args, "data", None) is not None and not args.data.is_dir():
        parser.error(f"--data {args.data} is not a folder")
    return args


if __name__ == "__main__":
    try:
        parse(sys.argv[2], sys.argv[3:], command=f"bash {sys.argv[1]}")
    except SystemExit as end:
        sys.exit(end.code or SHOWN)
