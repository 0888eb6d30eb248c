"""What the commands share: parsers that show an example, errors as one line, devices checked before use."""

import argparse
import os
import sys
import textwrap

from nnunetv2.utilities.commands import Parser, whole_number
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.trusted_names import TRUST_VARIABLE, trust


class _Trust(argparse.Action):
    """Passes the flag's packages on to this process and those that it starts."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            trust(values)
        except InputError as error:
            parser.error(str(error))


def make_parser(command: str, description: str, example: str, names_classes: bool = True) -> argparse.ArgumentParser:
    """Parser of `nnUNetv2_<command>` whose help ends with a command line to copy.

    names_classes: the command reads files that name classes or functions (plans, dataset.json), so it has --trust.
    """
    _refuse_lost_folder()
    parser = Parser(textwrap.fill(description, 110), prog=f"nnUNetv2_{command}", epilog=f"example:\n  {example}")
    if names_classes:
        parser.add_argument("--trust", action=_Trust, metavar="PACKAGE[,PACKAGE]", help="(fork) packages whose classes and functions plans may name "
                            f"and so run; adds to ${TRUST_VARIABLE}. Without it a file names only what is known here")
    return parser


def _refuse_lost_folder() -> None:
    """Libraries of torch cannot be loaded from a folder that somebody deleted, and say something else."""
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.exit("error: the current folder has been deleted. Change to one that is there (cd ~) and run the command again.")


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that `device_from_name` reads."""
    parser.add_argument("-device", type=_device_name, default=os.environ.get("nnUNet_device", "cuda"),
                        help="cuda, cpu or mps; default: $nnUNet_device, else cuda. CUDA_VISIBLE_DEVICES picks a card")


def _device_name(text: str) -> str:
    if text not in ("cuda", "cpu", "mps"):
        raise argparse.ArgumentTypeError(f"{text!r} must be cuda, cpu or mps (pick a card with CUDA_VISIBLE_DEVICES)")
    return text


def device_from_name(name: str):
    """torch.device for `-device`; a device this machine lacks is refused here, not by the first tensor."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        sys.exit("error: -device cuda: no CUDA device is visible here; use -device cpu, or check nvidia-smi")
    if name == "mps" and not torch.backends.mps.is_available():
        sys.exit("error: -device mps: not available on this machine; use -device cpu")
    return torch.device(name)


def fold(value: str) -> int | str:
    """A fold is an index into splits_final.json or the word `all`."""
    return value if value == "all" else whole_number(0)(value)


FIVE_FOLDS = (0, 1, 2, 3, 4)  # of the flags that take folds, where none are given
processes = whole_number(0)  # type of the flags that give a number of processes or threads; 0 and 1 do one case after the other


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `model_folder` reads."""
    parser.add_argument("-d", required=True, help="dataset id or name")
    parser.add_argument("-c", required=True, help="configuration")
    parser.add_argument("-p", default="nnUNetPlans", help="plans name")
    parser.add_argument("-tr", default="nnUNetTrainer", help="trainer")


def add_trained_folds_flags(parser: argparse.ArgumentParser) -> None:
    """`add_model_flags`, and which checkpoints of the model to work on."""
    add_model_flags(parser)
    parser.add_argument("-f", nargs="+", type=fold, required=True, help="folds")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint name")


def model_folder(args: argparse.Namespace) -> str:
    """nnUNet_results/Dataset/Trainer__Plans__configuration from the flags -d -tr -p -c. A trainer that is named by its path is imported: the model's
    network may be of its making."""
    from nnunetv2.utilities.dataset_files import get_output_folder

    if ":" in args.tr:
        from nnunetv2.training.nnUNetTrainer.registry import find_trainer

        find_trainer(args.tr)
    return str(get_output_folder(args.d, args.tr, args.p, args.c))
