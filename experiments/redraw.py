"""Tables and figures of a study written anew from its .json, as `python -m experiments.speed_table results/speed` does."""

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import load_json


@script
def redraw(description: str, write: Callable[[dict, Path], None], arguments: Sequence[str] | None = None) -> None:
    """Call `write` with the content of NAME.json and the path NAME for each NAME on the command line; one that is not there ends with its name."""
    parser = Parser(description)
    parser.add_argument("names", nargs="+", type=Path, metavar="NAME", help="a study's .json, without its ending")
    for name in parser.parse_args(arguments).names:
        write(load_json(name.with_name(f"{name.name}.json"), AnyObject), name)
